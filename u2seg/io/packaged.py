"""The configs that come along with the package, under names ``u2seg/NAME``.

In an installed package they lie in ``u2seg/configs``, in a clone in ``configs`` beside it.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib.metadata
import json
import urllib.parse
import urllib.request
from pathlib import Path

from u2seg.errors import UserError
from u2seg.io.paths import expand_home

PREFIX = "u2seg/"
_PACKAGE = Path(__file__).resolve().parents[1]


def clone() -> Path | None:
    """Return the root of the repository that this package is used from; None if installed."""
    return _PACKAGE.parent if (_PACKAGE.parent / "pyproject.toml").is_file() else None


def install_command(extras: str) -> str:
    """Return the command that installs extras of this package, as it was installed itself.

    Args:
        extras: Names with commas between; empty = the package alone.

    Examples:
        >>> "[labels,train]" in install_command("labels,train")
        True
    """
    if clone():
        return f'pip install -c constraints.txt -e ".[{extras}]"'.replace("[]", "")
    return f"pip install '{_origin()}[{extras}]'".replace("[]", "")


def _origin() -> str:
    """Return the wheel or folder that pip took this package from, or what stands for it."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError, ValueError):
        record = importlib.metadata.distribution("u2seg").read_text("direct_url.json")
        url = urllib.parse.urlsplit(json.loads(record or "{}").get("url", ""))
        path = urllib.request.url2pathname(url.path)
        if url.scheme == "file" and Path(path).exists():
            return path
    return "/path/to/wheel-or-source-of-u2seg"


def config_folder() -> Path:
    """Return the folder of the configs."""
    installed = _PACKAGE / "configs"
    return installed if installed.is_dir() else _PACKAGE.parent / "configs"


def config_names() -> dict[str, Path]:
    """Return the name of each config and its file, sorted; bases of others are left out.

    The name is that of the file if only one has it, else with its folder.

    Examples:
        >>> config_names()["u2seg/quickstart"].name
        'quickstart.yaml'
    """
    root = config_folder()
    files = [p for p in sorted(root.rglob("*.yaml")) if not p.name.startswith("Base-")]
    stems = [path.stem for path in files]
    return {
        PREFIX + (p.stem if stems.count(p.stem) == 1 else _long_name(p, root)): p for p in files
    }


def config_path(given: Path | str) -> Path:
    """Return the file that ``--config-file`` names: a path, or ``u2seg/NAME`` of a packaged one.

    Args:
        given: A file that exists goes before a name.

    Raises:
        UserError: if it begins with ``u2seg/`` and is neither.

    Examples:
        >>> config_path("u2seg/quickstart") == config_path("u2seg/quickstart/quickstart.yaml")
        True
        >>> config_path("mine.yaml").name
        'mine.yaml'
    """
    text = expand_home(str(given))
    path = Path(text)
    if not text.startswith(PREFIX) or path.is_file():
        return path
    name = text.removesuffix(".yaml")
    names = config_names()
    root = config_folder()
    found = names.get(name) or root / f"{name.removeprefix(PREFIX)}.yaml"
    if found.resolve().is_relative_to(root.resolve()) and found.is_file():
        return found
    stem = name.rpartition("/")[2]
    alike = [n for n in names if n.endswith(f"/{stem}")] or difflib.get_close_matches(name, names)
    hint = f"there are {', '.join(alike)}" if alike else "`u2seg configs` lists them"
    raise UserError(f"{text} is neither a file nor the name of a config that comes along: {hint}")


def name_hint(given: Path | str) -> str:
    """Return words on the configs of that stem, for a message on a file that is not there.

    Examples:
        >>> name_hint("quickstart.yaml")
        ' (u2seg/quickstart comes along; `u2seg configs` lists them)'
        >>> name_hint("mine")
        ''
    """
    stem = Path(given).name.removesuffix(".yaml")
    alike = ", ".join(name for name in config_names() if name.rpartition("/")[2] == stem)
    return f" ({alike} comes along; `u2seg configs` lists them)" if alike else ""


def _long_name(path: Path, root: Path) -> str:
    return path.relative_to(root).with_suffix("").as_posix()
