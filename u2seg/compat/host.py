"""Find the installed Detectron2 and make it work with the other libraries installed.

Supported: upstream main and 0.6 (compiled), and the Python files of 0.5 without compiled ops
(``u2seg.compat.install``). What a host's code does not need is left as it is.
"""

from __future__ import annotations

import ast
import importlib
import importlib.machinery
import importlib.metadata
import importlib.resources
import importlib.util
import json
import logging
import re
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn
from urllib.parse import unquote, urlparse

from u2seg.errors import UserError
from u2seg.io.packaged import install_command

logger = logging.getLogger(__name__)

HOST = "detectron2"
COMPILED = "detectron2._C"
INSTALL_COMMAND = "u2seg doctor --install-detectron2"

_NUMPY_ALIASES = {"bool": bool, "int": int, "float": float, "object": object, "str": str}
_EXPLANATION = "not compiled (stand-in of u2seg.compat)"
_OPERATORS = (
    "nms_rotated", "box_iou_rotated", "roi_align_rotated_forward", "roi_align_rotated_backward",
)  # fmt: skip
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
        mend_pillow(code)
        mend_numpy(code)
        mend_pkg_resources(code)
        quiet_torch()
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
    return not isinstance(sys.modules.get(COMPILED), StandIn)


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
        install_stand_in(COMPILED)
        explain_operators(HOST)


def mend_pillow(code: str) -> None:
    """Give ``PIL.Image.LINEAR`` back (a default argument in 0.5 and 0.6); it is BILINEAR."""
    from PIL import Image

    if "Image.LINEAR" in code and not hasattr(Image, "LINEAR"):
        Image.LINEAR = Image.Resampling.BILINEAR  # type: ignore[attr-defined]


def mend_numpy(code: str) -> None:
    """Give ``np.int`` and its like back (in 0.5's dataset statistics and evaluators).

    They were other names of the Python types until NumPy 1.24.
    """
    import numpy as np

    for name, python_type in _NUMPY_ALIASES.items():
        if name not in vars(np) and re.search(rf"\bnp\.{name}\b", code):
            setattr(np, name, python_type)


def mend_pkg_resources(code: str) -> None:
    """Stand in for the one function of ``pkg_resources`` that the host's model zoo calls.

    setuptools 81 dropped the module, and Python 3.12 environments have no setuptools at all.
    """
    if "pkg_resources" not in code:
        return
    warnings.filterwarnings("ignore", message="pkg_resources is deprecated as an API")
    if "pkg_resources" in sys.modules or importlib.util.find_spec("pkg_resources") is not None:
        return
    module = ModuleType("pkg_resources")
    module.__dict__["resource_filename"] = resource_filename
    sys.modules["pkg_resources"] = module


def resource_filename(package: str, resource: str) -> str:
    """Return the path of a package's data file, as ``pkg_resources`` did.

    Examples:
        >>> resource_filename("u2seg", "py.typed").endswith("u2seg/py.typed")
        True
    """
    return str(importlib.resources.files(package).joinpath(resource))


def quiet_torch() -> None:
    """Keep torch from warning about calls that only the host can change.

    ``torch.meshgrid`` without ``indexing`` warns once per process, from C++: the call here uses
    that up. (A filter would be lost with the ``catch_warnings`` block it is set in.) The
    ``torch.cuda.amp`` classes the host's AMP trainer uses work as before. Newer hosts ask
    ``torch.fx`` whether a model is traced, which logs advice to them.
    """
    import torch

    logging.getLogger("torch.fx._symbolic_trace").addFilter(_no_advice_on_tracing)

    # That there is CUDA's compiler and no GPU concerns nobody who trains on a CPU.
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.meshgrid(torch.zeros(1), torch.zeros(1))
    warnings.filterwarnings(
        "ignore", message=r"`torch\.cuda\.amp\.", category=FutureWarning
    )  # fmt: skip


def _no_advice_on_tracing(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith("is_fx_tracing will return true")


class StandIn(ModuleType):
    """A module whose every function raises when called."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _missing(f"{self.__name__}.{name}")

    @staticmethod
    def get_compiler_version() -> str:
        """Return what the host's environment report prints as the compiler."""
        return _EXPLANATION

    get_cuda_version = get_compiler_version

    @staticmethod
    def has_cuda() -> bool:
        """Return False: there are no CUDA kernels here."""
        return False


def install_stand_in(name: str) -> StandIn:
    """Put a stand-in into ``sys.modules`` and into its parent package; return it."""
    module = StandIn(name)
    module.__spec__ = importlib.machinery.ModuleSpec(name, loader=None)
    parent, _, child = name.rpartition(".")
    sys.modules[name] = module
    setattr(sys.modules[parent], child, module)
    return module


def explain_operators(namespace: str) -> None:
    """Let ``torch.ops.<namespace>`` explain itself too: 0.5 calls one operator there, main all."""
    import torch

    operators = getattr(torch.ops, namespace)
    for name in _OPERATORS:
        if not hasattr(operators, name):
            setattr(operators, name, _missing(f"torch.ops.{namespace}.{name}"))


def _missing(name: str) -> Callable[..., NoReturn]:
    """Return a function that raises, naming what is missing."""

    def missing(*_args: Any, **_kwargs: Any) -> NoReturn:
        raise NotImplementedError(
            f"{name} is compiled C++, which this Detectron2 lacks: rotated boxes, the old "
            "deformable convolution and the fast COCO evaluator need a compiled Detectron2 "
            "(u2seg doctor --install-detectron2 --force --route git)"
        )

    return missing
