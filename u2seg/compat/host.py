"""Find the installed Detectron2 and make it work with the other libraries installed.

Supported: upstream main and 0.6 (compiled), and the Python files of 0.5 without compiled ops
(``u2seg.compat.install``). What a host's code does not need is left as it is.
"""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import importlib.util
import json
import logging
import re
import sys
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

from u2seg.compat import libraries, stand_in
from u2seg.errors import UserError
from u2seg.io.packaged import install_command

logger = logging.getLogger(__name__)

HOST = "detectron2"
COMPILED = "detectron2._C"
INSTALL_COMMAND = "u2seg doctor --install-detectron2"

_prepared = False


def prepare_host() -> None:
    """Make ``import detectron2`` and all this package uses of it work; harmless if repeated.

    Old names are given back to Pillow and NumPy where the host's code still uses them, and a
    stand-in takes the place of the compiled module if that is missing or cannot be loaded.
    """
    global _prepared
    if _prepared:
        return
    version, folder = host_version(), host_folder()
    if folder is None:
        raise UserError(
            f"Detectron2 is not installed{_mere_folder()}, and training and prediction need it: "
            f"run `{INSTALL_COMMAND}` (the label stages do not need it)"
        )
    try:
        code = "".join(path.read_text("utf-8") for path in sorted(folder.rglob("*.py")))
        libraries.mend_pillow(code)
        libraries.mend_numpy(code)
        libraries.mend_pkg_resources(code)
        libraries.quiet_torch()
        importlib.import_module(HOST)
    except ImportError as error:
        if error.name in ("fcntl", "resource"):  # not on Windows; nothing to install
            raise
        raise UserError(
            f"Detectron2 {version} in {folder} cannot be imported ({error}): install its "
            f"requirements with `{install_command('train')}`, or install it anew with "
            f"`{INSTALL_COMMAND} --force`"
        ) from error
    _ensure_compiled_module()
    _prepared = True


def host_folder() -> Path | None:
    """Return the folder of the Detectron2 that would be imported; None if there is none.

    A folder of that name without ``__init__.py``, as that of a clone, is none.
    """
    spec = importlib.util.find_spec(HOST)
    return Path(spec.origin).parent if spec and spec.origin else None


def host_version() -> str:
    """Return the version of the Detectron2 that would be imported; empty if there is none.

    ``"0.5+pure"`` is the source distribution without compiled ops. Nothing is imported: the
    version is that of the installed distribution if the code is its own, else what the code says
    of itself, or ``"unknown"``.
    """
    folder = host_folder()
    if folder is None:
        return ""
    installed = _distribution(folder)
    if installed is not None:
        return installed.version
    told = re.search(r'^__version__ = "([^"]+)"', (folder / "__init__.py").read_text("utf-8"), re.M)
    return told[1] if told else "unknown"


def host_keys() -> frozenset[str]:
    """Return the full keys of the installed Detectron2's configs; none if there is none.

    They are read from its source, so that labelling can ask without importing it.
    """
    folder = host_folder()
    path = folder / "config" / "defaults.py" if folder else None
    if path is None or not path.is_file():
        return frozenset()
    keys: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Attribute):
            keys |= _leaves(ast.unparse(node.targets[0]).partition(".")[2], node.value)
    return frozenset(keys)


def _leaves(name: str, value: ast.expr) -> set[str]:
    """Return the keys that ``_C.<name> = value`` makes; a ``CN()`` alone makes none."""
    if isinstance(value, ast.Call) and ast.unparse(value.func) == "CN":
        return set().union(*(_leaves(name, each) for each in value.args))
    if isinstance(value, ast.Dict):
        pairs = zip(value.keys, value.values, strict=True)
        return set().union(
            *(
                _leaves(f"{name}.{key.value!s}", each)
                for key, each in pairs
                if isinstance(key, ast.Constant)
            )
        )
    return {name}


def host_origin() -> str:
    """Return where that Detectron2 came from, in words with its folder; empty if there is none."""
    folder = host_folder()
    if folder is None:
        return ""
    installed = _distribution(folder)
    if installed is None:
        origin = "not installed, on the path"
    elif installed.version.endswith("+pure"):
        origin = "source distribution of the package index, Python files only"
    else:
        source = _direct_url(installed)
        commit = source.get("vcs_info", {}).get("commit_id", "")
        origin = f"git commit {commit[:12]}" if commit else "installed by other means"
    return f"{origin}, in {folder}"


def _distribution(folder: Path) -> importlib.metadata.Distribution | None:
    """Return the installed distribution that a folder's code is of; None if of none."""
    try:
        installed = importlib.metadata.distribution(HOST)
    except importlib.metadata.PackageNotFoundError:
        return None
    home = Path(str(installed.locate_file(HOST)))
    if home.resolve() == folder.resolve():
        return installed
    source = _direct_url(installed)
    editable = source.get("dir_info", {}).get("editable", False)
    root = unquote(urlparse(source.get("url", "")).path)
    return installed if editable and folder.resolve().is_relative_to(Path(root).resolve()) else None


def _direct_url(installed: importlib.metadata.Distribution) -> dict[str, Any]:
    """Return pip's record of where a distribution came from (PEP 610); empty without."""
    try:
        return dict(json.loads(installed.read_text("direct_url.json") or "{}"))
    except ValueError:
        return {}


def _mere_folder() -> str:
    """Say that a folder without ``__init__.py`` has the name, as the top of a clone has."""
    spec = importlib.util.find_spec(HOST)
    places = list(spec.submodule_search_locations or ()) if spec else []
    return f" (the folder {places[0]} is not the package)" if places else ""


def has_compiled_ops() -> bool:
    """Return whether the host's own C++ module is loaded (calls ``prepare_host``)."""
    prepare_host()
    return not stand_in.is_stand_in(sys.modules.get(COMPILED))


def name_machines(rank: int, world: int, local_world: int) -> None:
    """Tell the host which processes of a group share a machine, as its own ``launch`` does.

    All processes must call this, in a group of torch that they have joined.
    """
    import torch.distributed as dist
    from detectron2.utils import comm

    create = getattr(comm, "create_local_process_group", None)
    if create is not None:  # newer than 0.6
        create(local_world)
        return
    for first in range(0, world, local_world):
        ranks = list(range(first, first + local_world))
        group = dist.new_group(ranks)
        if rank in ranks:
            comm._LOCAL_PROCESS_GROUP = group


def _ensure_compiled_module() -> None:
    try:
        importlib.import_module(COMPILED)
    except ImportError as error:
        if not isinstance(error, ModuleNotFoundError):
            # Typical after a change of torch: the library is there and no longer fits.
            logger.warning(
                "Detectron2's compiled module cannot be loaded (%s); going on without it. "
                "Rebuild Detectron2 to have it back.",
                error,
            )
        stand_in.install(COMPILED)
        stand_in.install_ops(HOST)
