"""Files outside the package that register implementations of their own.

``U2SEG.PLUGINS: [my_masks.py]`` names files; the entry points ``u2seg.plugins`` of installed
packages count everywhere. Each is imported once per process, before any name is looked up.
"""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import sys
import traceback
from collections.abc import Iterable, Sequence
from pathlib import Path

from u2seg.errors import UserError
from u2seg.io.atomic import sha256_bytes
from u2seg.registry import MODULES

GROUP = "u2seg.plugins"
_loaded: dict[Path, str] = {}


def load_plugins(paths: Sequence[str], config_file: Path | str | None = None) -> tuple[str, ...]:
    """Import plug-ins; return their absolute paths."""
    _load_installed()
    found = []
    for name in [paths] if isinstance(paths, str) else paths:
        if not isinstance(name, str):
            raise UserError(f"U2SEG.PLUGINS holds {name!r}, expected names of Python files")
        beside = Path(config_file).parent / name if config_file else Path(name)
        path = (beside if beside.is_file() else Path(name)).resolve()
        if not path.is_file():
            raise UserError(f"plug-in {name} (U2SEG.PLUGINS) does not exist; looked for {beside}")
        if path not in _loaded:
            _import(path)
        found.append(str(path))
    return tuple(found)


def plugin_digests(names: Iterable[str]) -> list[str]:
    """Return the SHA-256 of the files that registered these members: they decide the result."""
    modules = {module for name in names for module in MODULES.get(name, ())}
    return sorted(d for path, d in _loaded.items() if _module_name(path, d) in modules)


def _module_name(path: Path, digest: str) -> str:
    return f"u2seg_plugin_{path.stem}_{digest[:8]}"


def _import(path: Path) -> None:
    digest = sha256_bytes(path.read_bytes())
    name = _module_name(path, digest)
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UserError(f"plug-in {path} (U2SEG.PLUGINS) is no Python file: expected a .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look it up there
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise UserError(f"plug-in {path}{_line(error, path)} fails: {error!r}") from error
    _loaded[path] = digest


def _line(error: Exception, path: Path) -> str:
    if isinstance(error, SyntaxError):
        return f", line {error.lineno},"
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)]
    return f", line {lines[-1]}," if lines else ""


@functools.cache
def _load_installed() -> None:
    for point in importlib.metadata.entry_points(group=GROUP):
        try:
            point.load()
        except Exception as error:
            raise UserError(
                f"the plug-in {point.name} = {point.value} of an installed package fails: "
                f"{error!r}; uninstall or mend it"
            ) from error
