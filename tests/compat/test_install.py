"""The installer: its checks, its wheel, its routes. Nothing is downloaded or installed here."""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from u2seg.cli import execute
from u2seg.commands import COMMANDS
from u2seg.compat import install as installer


def run(*words: str) -> int:
    doctor = COMMANDS["doctor"]
    return execute(doctor.parser(), doctor.run, ["--install-detectron2", *words])


TREE = {
    "detectron2/__init__.py": "__version__ = '0.5'\n",
    "detectron2/model_zoo/__init__.py": "",
    "detectron2/model_zoo/configs/Base.yaml": "A: 1\n",
    "detectron2/projects/__init__.py": "",
    "detectron2/layers/csrc/vision.cpp": "int x;\n",
    "projects/PointRend/point_rend/__init__.py": "point = 1\n",
    "projects/DeepLab/deeplab/__init__.py": "",
    "projects/Panoptic-DeepLab/panoptic_deeplab/model.py": "",
    "projects/PointRend/README.md": "",
    "tools/train_net.py": "",
    "LICENSE": "Apache",
    "setup.py": "raise SystemExit('must never run')\n",
}


def make_archive(path: Path, members: dict[str, str], top: str = "detectron2_cdo-0.5/") -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, text in members.items():
            info = tarfile.TarInfo(f"{top}{name}")
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text.encode()))
    return path


def test_digest_mismatch_names_file_and_both_digests(tmp_path: Path) -> None:
    path = tmp_path / "x.tar.gz"
    path.write_bytes(b"damaged")
    found = hashlib.sha256(b"damaged").hexdigest()
    with pytest.raises(installer.InstallError) as caught:
        installer.check_sha256(path, "0" * 64)
    for part in (str(path), found, "0" * 64, "nothing was installed"):
        assert part in str(caught.value)
    installer.check_sha256(path, found)


def test_a_damaged_archive_is_named(tmp_path: Path) -> None:
    whole = make_archive(tmp_path / "a.tar.gz", TREE).read_bytes()
    cut = tmp_path / "cut.tar.gz"
    cut.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(installer.InstallError, match=r"cannot unpack .*cut\.tar\.gz"):
        installer.extract(cut, tmp_path / "out")


def build(tmp_path: Path) -> Path:
    archive = make_archive(tmp_path / "a.tar.gz", TREE)
    return installer.build_wheel(installer.extract(archive, tmp_path / "out"), tmp_path)


def test_wheel_holds_the_package_its_projects_and_configs(tmp_path: Path) -> None:
    with zipfile.ZipFile(build(tmp_path)) as wheel:
        names = set(wheel.namelist())
    info = "detectron2-0.5+pure.dist-info"
    assert names == {
        "detectron2/__init__.py",
        "detectron2/model_zoo/__init__.py",
        "detectron2/model_zoo/configs/Base.yaml",
        "detectron2/projects/__init__.py",
        "detectron2/projects/point_rend/__init__.py",
        "detectron2/projects/deeplab/__init__.py",
        "detectron2/projects/panoptic_deeplab/model.py",
        *(f"{info}/{name}" for name in ("METADATA", "WHEEL", "LICENSE", "RECORD")),
    }


def pip(*arguments: str) -> str:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_pip_installs_and_lists_the_wheel(tmp_path: Path) -> None:
    """Into a folder of its own; pip checks name, metadata and RECORD on the way."""
    target = tmp_path / "site"
    wheel = build(tmp_path)
    pip("install", "--no-deps", "--no-index", "--target", str(target), str(wheel))
    assert "detectron2 0.5+pure" in " ".join(pip("list", "--path", str(target)).split())
    code = "import detectron2.projects.point_rend as p; print(p.point)"
    result = subprocess.run(
        [sys.executable, "-S", "-c", f"import sys; sys.path.insert(0, {str(target)!r}); {code}"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert result.stdout.strip() == "1"
    record = (target / "detectron2-0.5+pure.dist-info" / "RECORD").read_text()
    digest_row = next(r for r in record.splitlines() if r.startswith("detectron2/__init__.py,"))
    assert digest_row.endswith(f",{len(TREE['detectron2/__init__.py'])}")


PAGE = """<a href="../../files/detectron2_cdo-0.4.tar.gz#sha256=1">old</a>
<a href="../../files/detectron2_cdo-0.5.tar.gz#sha256=2" data-x>new</a>"""


def test_index_page_link() -> None:
    base = "https://index.org/simple/detectron2-cdo/"
    found = installer.find_link(PAGE, base, installer.SDIST_NAME)
    assert found == "https://index.org/files/detectron2_cdo-0.5.tar.gz"
    with pytest.raises(ValueError, match="lists no detectron2_cdo-9"):
        installer.find_link(PAGE, base, "detectron2_cdo-9.tar.gz")


def test_the_main_index_stays_when_an_extra_one_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "https://extra.org/simple/ file:///opt/pypi")
    monkeypatch.setattr(
        installer.subprocess, "run", lambda *_a, **_k: SimpleNamespace(returncode=1)
    )
    assert installer.index_urls() == [installer.DEFAULT_INDEX, "https://extra.org/simple"]
    monkeypatch.setenv("PIP_INDEX_URL", "https://mirror.org/simple")
    assert installer.index_urls()[0] == "https://mirror.org/simple"


def test_the_probe_gives_up_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = tmp_path / "git"
    slow.write_text("#!/bin/sh\nexec sleep 30\n")
    slow.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    start = time.monotonic()
    assert not installer.host_answers("https://host.invalid/x", 0.5)
    assert time.monotonic() - start < 25  # git alone would take 30


@pytest.fixture
def nothing_installed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Detectron2 is absent, and appears once a route has run; return the routes run."""
    ran: list[str] = []
    monkeypatch.setattr(
        installer, "import_host", lambda: ("0.5", "") if ran else ("", "No module named 'torch'")
    )
    return ran


def test_the_index_follows_a_host_that_does_not_answer(
    nothing_installed, monkeypatch, capsys
) -> None:
    monkeypatch.setattr(installer, "host_answers", lambda _url, _seconds: False)
    monkeypatch.setattr(
        installer, "install_from_sdist", lambda _file: nothing_installed.append("index")
    )
    assert run("--probe-seconds", "2") == 0
    assert nothing_installed == ["index"]
    assert "does not answer within 2 s" in capsys.readouterr().out


def test_no_route_is_exit_code_1_with_all_reasons(nothing_installed, monkeypatch, capsys) -> None:
    def fail(_argument: object) -> None:
        raise installer.InstallError("no luck")

    monkeypatch.setattr(installer, "install_from_git", fail)
    monkeypatch.setattr(installer, "install_from_sdist", fail)
    assert run() == 1
    errors = capsys.readouterr().err
    assert "upstream git: no luck" in errors
    assert "source distribution: no luck" in errors


def test_import_host_tells_version_or_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "detectron2"
    package.mkdir()
    (package / "__init__.py").write_text("__version__ = '9'\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert installer.import_host() == ("9", "")
    (package / "__init__.py").write_text("import no_such_torch\n")
    assert installer.import_host() == (
        "", "ModuleNotFoundError: No module named 'no_such_torch'"
    )  # fmt: skip
