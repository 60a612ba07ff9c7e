"""Find the installed Detectron2 and make it work with the other libraries installed.

Supported: upstream main and 0.6 (compiled), and the Python files of 0.5 without compiled ops
(``dev/install_detectron2.py``). Everything here is a no-op where it is not needed.
"""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import importlib.util
import json
import logging
import sys
from pathlib import Path

from u2seg.compat import libraries, stand_in
from u2seg.errors import UserError

logger = logging.getLogger(__name__)

HOST = "detectron2"
COMPILED = "detectron2._C"
INSTALL_COMMAND = "python dev/install_detectron2.py"

_prepared = False


def prepare_host() -> None:
    """Make ``import detectron2`` and all this package uses of it work; harmless if repeated.

    Old names that the host still uses are given back to Pillow and NumPy, and a stand-in takes
    the place of the compiled module if that is missing or cannot be loaded.

    Raises:
        UserError: if there is no Detectron2, or it cannot be imported; says what to run.
    """
    global _prepared
    if _prepared:
        return
    version = host_version()
    if not version:
        raise UserError(
            f"Detectron2 is not installed, and training and prediction need it: run "
            f"`{INSTALL_COMMAND}` from the repository (the label stages do not need it)"
        )
    try:
        libraries.mend_pillow()
        libraries.mend_numpy()
        libraries.mend_pkg_resources()
        libraries.quiet_torch()
        importlib.import_module(HOST)
    except ImportError as error:
        raise UserError(
            f"Detectron2 {version} cannot be imported ({error}): install its requirements with "
            f"`pip install -e .[train]`, or install it anew with `{INSTALL_COMMAND} --force`"
        ) from error
    _ensure_compiled_module()
    _prepared = True


def host_version() -> str:
    """Return the installed Detectron2's version, e.g. ``"0.6"``; empty if there is none.

    ``"0.5+pure"`` is the source distribution without compiled ops. Nothing is imported: the
    version is the distribution's, or ``"unknown"`` for a source tree that is only on the path.
    """
    if importlib.util.find_spec(HOST) is None:
        return ""
    try:
        return importlib.metadata.version(HOST)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def host_keys() -> frozenset[str]:
    """Return the full keys of the installed Detectron2's configs; none if there is none.

    They are read from its source, so that labelling can ask without importing it.
    """
    spec = importlib.util.find_spec(HOST)
    places = list(spec.submodule_search_locations or ()) if spec else []
    path = Path(places[0], "config", "defaults.py") if places else None
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
    """Return where the installed Detectron2 came from, in words; empty if there is none."""
    version = host_version()
    if not version:
        return ""
    if version.endswith("+pure"):
        return "source distribution of the package index, Python files only"
    try:
        record = importlib.metadata.distribution(HOST).read_text("direct_url.json")
        source = json.loads(record) if record else {}
    except (importlib.metadata.PackageNotFoundError, ValueError):
        source = {}
    commit = source.get("vcs_info", {}).get("commit_id", "")
    if commit:
        return f"git commit {commit[:12]}"
    return str(source.get("url") or "installed by other means")


def has_compiled_ops() -> bool:
    """Return whether the host's own C++ module is loaded (calls ``prepare_host``)."""
    prepare_host()
    return not stand_in.is_stand_in(sys.modules.get(COMPILED))


def name_machines(rank: int, world: int, local_world: int) -> None:
    """Tell the host which processes of a group share a machine, as its own ``launch`` does.

    All processes must call this, in a group of torch that they have joined.

    Args:
        rank: Number of this process.
        world: Number of processes.
        local_world: Processes per machine; those of one machine have successive numbers.
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
