"""Install Detectron2 beside u2seg, by the first of three routes that works.

1. An importable Detectron2 is left alone.
2. Upstream's repository at a pinned commit, if its host answers within seconds. This compiles
   C++ (about 15 minutes on one core) and needs gcc and torch.
3. The source distribution ``detectron2-cdo`` 0.5 of the package index. Its Python files equal
   upstream v0.5; its C++ sources are missing, so it is installed as a pure-Python distribution.
   ``u2seg.compat`` stands in for the compiled module, which nothing in u2seg needs.

Standard library and pip only. The Python that runs it is the one it installs into.
"""

from __future__ import annotations

import argparse
import base64
import functools
import hashlib
import html
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath

GIT_URL = "https://github.com/facebookresearch/detectron2"
# Upstream main of 2026-06-06. The abbreviated hash is what was recorded when this commit was
# built and tried; git and pip resolve it, and fail loudly should it ever become ambiguous.
GIT_COMMIT = "02b5c4e"
SDIST_PROJECT = "detectron2-cdo"
SDIST_VERSION = "0.5"
SDIST_NAME = "detectron2_cdo-0.5.tar.gz"
SDIST_SHA256 = "53c9e79e9cc943e80419c588ea44b5479507a8628ed14a4e06bd093e29311b18"
DEFAULT_INDEX = "https://pypi.org/simple"
MAX_BYTES = 64 << 20

WHEEL_PROJECT = "detectron2"
WHEEL_VERSION = "0.5+pure"
# Project folder in the source -> package it becomes (the mapping of upstream's setup.py).
PROJECTS = {
    "projects/PointRend/point_rend": "detectron2/projects/point_rend",
    "projects/DeepLab/deeplab": "detectron2/projects/deeplab",
    "projects/Panoptic-DeepLab/panoptic_deeplab": "detectron2/projects/panoptic_deeplab",
}
KEPT_SUFFIXES = (".py", ".yaml")
# What v0.5 imports, without its 2021 upper bounds, which today's packages need not obey.
REQUIREMENTS = (
    "Pillow>=7.1", "matplotlib", "pycocotools>=2.0.2", "termcolor>=1.1", "yacs>=0.1.6", "tabulate",
    "cloudpickle", "tqdm>4.29.0", "tensorboard", "fvcore>=0.1.5", "iopath>=0.1.7",
    "omegaconf>=2.1", "hydra-core>=1.1",
)  # fmt: skip


class InstallError(Exception):
    """A route that did not work; the message says why and what to do."""


def install(args: argparse.Namespace) -> int:
    """Install Detectron2; return the exit code: 0 installed or there already, 1 no route worked."""
    found, _ = import_host()
    if found and not args.force:
        say(f"Detectron2 {found} is importable: nothing to do")
        return 0
    if args.offline and not args.sdist:
        say("error: --offline needs --sdist FILE, a downloaded " + SDIST_NAME)
        return 2
    failures = []
    for name, route in routes(args):
        try:
            route()
        except InstallError as error:
            failures.append(f"{name}: {error}")
            say(f"{name}: {error}")
            continue
        found, reason = import_host()
        if found:
            say(f"installed Detectron2 {found} ({name}); check with: u2seg doctor")
            return 0
        failures.append(f"{name}: installed, but `import detectron2` fails: {reason}")
    print("error: Detectron2 could not be installed", file=sys.stderr)
    for failure in failures:
        print(f"  {failure}", file=sys.stderr)
    return 1


def routes(args: argparse.Namespace) -> list[tuple[str, Callable[[], None]]]:
    """Return (name, function) of the routes to try, in order."""
    git = ("upstream git", lambda: install_from_git(args.probe_seconds))
    index = ("source distribution", lambda: install_from_sdist(args.sdist))
    if args.sdist or args.route == "index":
        return [index]
    return [git] if args.route == "git" else [git, index]


def import_host() -> tuple[str, str]:
    """Return the version of this Python's Detectron2, or an empty string and why it is not one."""
    # A fresh process: modules and paths of this one may be older than the installation. The
    # working directory is another one lest a folder "detectron2" here is taken for the package.
    code = "import detectron2 as d; assert d.__file__; print(getattr(d, '__version__', 'unknown'))"
    command, elsewhere = [sys.executable, "-c", code], tempfile.gettempdir()
    result = subprocess.run(command, capture_output=True, text=True, cwd=elsewhere, check=False)
    if result.returncode == 0:
        return result.stdout.strip(), ""
    return "", (result.stderr.strip().splitlines() or ["no message"])[-1]


def host_answers(url: str, seconds: float) -> bool:
    """Return whether a git host lists its references within ``seconds``; never hangs."""
    if shutil.which("git") is None:
        return False
    try:
        result = subprocess.run(
            ["git", "ls-remote", "--exit-code", url, "HEAD"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "GIT_TERMINAL_PROMPT": "0"},
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return False
    return result.returncode == 0


def install_from_git(probe_seconds: float, url: str = GIT_URL, commit: str = GIT_COMMIT) -> None:
    """Build and install upstream at the pinned commit."""
    if not host_answers(url, probe_seconds):
        raise InstallError(f"{url} does not answer within {probe_seconds:g} s (or git is missing)")
    say(f"building {url} at {commit}; this may take 15 minutes")
    # Its build imports torch, so it cannot be isolated; setuptools 80 dropped what it uses.
    run_pip("install", "setuptools<80", "wheel")
    source = f"detectron2 @ git+{url}.git@{commit}"
    run_pip("install", "--no-deps", "--no-build-isolation", source)


def install_from_sdist(local: Path | None) -> None:
    """Install the Python files of the checked source distribution."""
    with tempfile.TemporaryDirectory(prefix="detectron2-") as folder:
        work = Path(folder)
        archive = local if local is not None else fetch_sdist(work)
        check_sha256(archive, SDIST_SHA256)  # so it holds no more than it should
        source = extract(archive, work / "source")
        run_pip("install", "--no-deps", "--force-reinstall", str(build_wheel(source, work)))


def fetch_sdist(folder: Path) -> Path:
    """Download the source distribution into ``folder`` and return its path.

    Nothing of the package is executed, as pip would to learn its metadata.
    """
    reasons = []
    for index in index_urls():
        base, target = f"{index}/{SDIST_PROJECT}/", folder / SDIST_NAME
        try:
            address = find_link(_read_url(base).decode("utf-8"), base, SDIST_NAME)
            target.write_bytes(_read_url(address))
            return target
        except (OSError, ValueError) as error:
            reasons.append(f"{index}: {error}")
    raise InstallError(
        f"cannot download {SDIST_NAME} ({'; '.join(reasons)}). Fetch it elsewhere and pass "
        "--sdist FILE"
    )


def index_urls() -> list[str]:
    """Return the http(s) indexes pip is set up with, the main one (by default PyPI) first."""
    primary = pip_setting("index-url") or DEFAULT_INDEX
    addresses = [primary, *pip_setting("extra-index-url").split()]
    return [a.rstrip("/") for a in addresses if a.startswith(("http://", "https://"))]


def pip_setting(key: str) -> str:
    """Return a setting of pip, from its variable or its files, or an empty string."""
    variable = os.environ.get("PIP_" + key.replace("-", "_").upper())
    if variable:
        return variable
    command = [sys.executable, "-m", "pip", "config", "get", f"global.{key}"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    return result.stdout.strip() if result.returncode == 0 else ""


def find_link(page: str, base: str, name: str) -> str:
    """Return the absolute address of file ``name`` on a simple index page (PEP 503)."""
    for address in re.findall(r'href="([^"#]+)', page):
        absolute = urllib.parse.urljoin(base, html.unescape(address))
        if PurePosixPath(urllib.parse.urlparse(absolute).path).name == name:
            return absolute
    raise ValueError(f"the page lists no {name}")


def _read_url(url: str) -> bytes:
    if not url.startswith(("http://", "https://")):
        raise ValueError(f"refuses the address {url}")
    request = urllib.request.Request(url, headers={"User-Agent": "u2seg-installer"})  # noqa: S310
    with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
        content: bytes = answer.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise ValueError(f"{url} is larger than {MAX_BYTES >> 20} MiB")
    return content


def check_sha256(path: Path, expected: str) -> None:
    """Raise InstallError unless the file exists and has the expected SHA-256."""
    if not path.is_file():
        raise InstallError(f"{path} does not exist")
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != expected:
        raise InstallError(
            f"{path} has sha256 {found}, expected {expected}: the download is damaged or it is "
            "another file; nothing was installed"
        )


def extract(archive: Path, target: Path) -> Path:
    """Unpack a tar.gz of known content below ``target``; return its single top folder."""
    safely = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
    try:
        with tarfile.open(archive, "r:gz") as tar:
            tar.extractall(target, **safely)  # type: ignore[arg-type]  # noqa: S202
    except (tarfile.TarError, EOFError, OSError) as error:
        raise InstallError(f"cannot unpack {archive}: {error}") from error
    (top,) = target.iterdir()
    return top


def wheel_files(source: Path) -> dict[str, bytes]:
    """Return path in the wheel -> content, for the package, its projects and its configs."""
    if not (source / "detectron2" / "__init__.py").is_file():
        raise InstallError(f"{source.name} holds no package detectron2")
    folders = {"detectron2": "detectron2", **PROJECTS}
    if not (source / "detectron2" / "model_zoo" / "configs").is_dir():
        folders["configs"] = "detectron2/model_zoo/configs"
    files = {}
    for origin, package in folders.items():
        for path in sorted((source / origin).rglob("*")):
            if path.suffix in KEPT_SUFFIXES and path.is_file():
                files[f"{package}/{path.relative_to(source / origin).as_posix()}"] = (
                    path.read_bytes()
                )
    return files


def build_wheel(source: Path, folder: Path) -> Path:
    """Write a pure-Python wheel of ``source`` into ``folder`` and return its path.

    The wheel is the same byte for byte for the same source.
    """
    info = f"{WHEEL_PROJECT}-{WHEEL_VERSION}.dist-info"
    files = wheel_files(source)
    files[f"{info}/METADATA"] = _metadata().encode()
    files[f"{info}/WHEEL"] = (
        b"Wheel-Version: 1.0\nGenerator: install_detectron2\nRoot-Is-Purelib: true\n"
        b"Tag: py3-none-any\n"
    )
    licence = source / "LICENSE"
    if licence.is_file():
        files[f"{info}/LICENSE"] = licence.read_bytes()
    record = f"{info}/RECORD"
    files[record] = _record(files, record).encode()
    path = folder / f"{WHEEL_PROJECT}-{WHEEL_VERSION}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name)  # dated 1980: no clock in the file
            entry.external_attr = 0o644 << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            wheel.writestr(entry, content)
    return path


def _metadata() -> str:
    lines = [
        "Metadata-Version: 2.1",
        f"Name: {WHEEL_PROJECT}",
        f"Version: {WHEEL_VERSION}",
        f"Summary: Python files of {SDIST_PROJECT} {SDIST_VERSION} (Detectron2 v0.5), not compiled",
        f"Home-page: {GIT_URL}",
        "License: Apache-2.0",
        "Requires-Python: >=3.6",
    ]
    return "\n".join(lines + [f"Requires-Dist: {item}" for item in REQUIREMENTS]) + "\n"


def _record(files: dict[str, bytes], record: str) -> str:
    rows = []
    for name, content in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        rows.append(f"{name},sha256={digest},{len(content)}\n")
    return "".join(rows) + f"{record},,\n"


def run_pip(*arguments: str) -> None:
    """Run pip of this Python; InstallError with its last lines if it fails."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        lines = [line for line in re.split(r"[\r\n]+", result.stderr + result.stdout) if line]
        raise InstallError(f"`pip {' '.join(arguments)}` failed: {' | '.join(lines[-5:])}")


say = functools.partial(print, flush=True)  # long steps are announced before they start


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the installer to a parser."""
    group = parser.add_argument_group("Detectron2")
    group.add_argument(
        "--install-detectron2", action="store_true", help="install it into this environment"
    )
    group.add_argument(
        "--route", choices=("auto", "git", "index"), default="auto",
        help="auto (default): git if its host answers, else the package index",
    )  # fmt: skip
    group.add_argument("--sdist", type=Path, metavar="FILE", help="use this downloaded sdist")
    group.add_argument(
        "--probe-seconds", type=float, default=5.0, metavar="S",
        help="how long the git host may take to answer (default %(default)s)",
    )  # fmt: skip
    group.add_argument("--force", action="store_true", help="install even if one is there")
