"""Load weights that came from anywhere without executing them.

``torch.load(weights_only=True)`` plus an allow-list of NumPy scalar reconstruction, which the
published U2Seg and CutLER files contain, and ``argparse.Namespace``, in which DINO's training
checkpoints keep their options. ``.pkl`` files (Detectron2's zoo, CutLER's DINO R50) go through an
unpickler that knows arrays, scalars and containers and nothing else.
"""

from __future__ import annotations

import argparse
import collections
import io
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from u2seg.errors import UserError
from u2seg.io.atomic import sha256_file
from u2seg.io.checksums import verify

_NUMPY_GLOBALS = {
    (module, name)
    for module in ("numpy.core.multiarray", "numpy._core.multiarray")
    for name in ("_reconstruct", "scalar")
} | {("numpy", "ndarray"), ("numpy", "dtype")}
_PLAIN_GLOBALS = {("collections", "OrderedDict"), ("_codecs", "encode")}
_HTML = re.compile(rb"\s*<(!doctype|html|head|\?xml|!--)", re.IGNORECASE)
_LFS = b"version https://git-lfs.github.com/spec/"


# The one in Python: that in C takes memory for whatever number a damaged file names.
class _ArrayUnpickler(pickle._Unpickler):
    """Unpickler that can build containers, NumPy arrays and NumPy scalars only."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _PLAIN_GLOBALS:
            return collections.OrderedDict if name == "OrderedDict" else _latin1
        if (module, name) in _NUMPY_GLOBALS:
            import numpy
            import numpy._core.multiarray as multiarray

            special = {"ndarray": None, "dtype": numpy.dtype, "_reconstruct": _empty_array}
            return special[name] if name in special else getattr(multiarray, name)
        raise pickle.UnpicklingError(f"refuses to load {module}.{name}")


def _load_build(unpickler: Any) -> None:
    """Give an object its state: nothing that outlives the file, such as a function."""
    import numpy

    target = unpickler.stack[-2]
    if not isinstance(target, numpy.ndarray | numpy.dtype | collections.OrderedDict):
        raise pickle.UnpicklingError(f"refuses to change {type(target).__name__}")
    pickle._Unpickler.dispatch[pickle.BUILD[0]](unpickler)


_ArrayUnpickler.dispatch = {**pickle._Unpickler.dispatch, pickle.BUILD[0]: _load_build}


def _empty_array(*_: Any) -> Any:
    """Return an array for its state to be put in; of no size, whatever a damaged file asks for."""
    import numpy

    return numpy.empty(0)


def _latin1(text: str, encoding: str = "latin1") -> bytes:
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"refuses the codec {encoding!r}")
    return text.encode("latin1")


def load_checkpoint(
    path: Path | str, sha256: str = "", *, strangers: bool = False
) -> dict[str, Any]:
    """Return the content of a checkpoint file.

    Args:
        path: ``.pth`` / ``.pt`` (PyTorch), ``.safetensors`` or ``.pkl`` (arrays, as in
            Detectron2's model zoo).
        sha256: Expected hexadecimal digest; empty means that of ``<path>.sha256``, if there is
            such a file.
        strangers: Accept objects of other packages, such as the options in a checkpoint of
            PyTorch Lightning, as empty ones: nothing is imported or run for them. (PyTorch >= 2.6.)

    Returns:
        The mapping in the file; tensors are on the CPU, arrays stay NumPy.

    Raises:
        UserError: if the file is missing, its digest differs, it is damaged, is not a mapping,
            asks for more memory than there is, or holds anything but tensors, arrays, numbers,
            text, containers and ``argparse.Namespace``.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(
            f"weight file {path} does not exist; give a local file, or an http(s) URL where "
            "there is network"
        )
    if sha256:
        found = sha256_file(path)
        if found != sha256.lower():
            raise UserError(
                f"{path} has sha256 {found}, expected {sha256}: the download is damaged or it "
                "is another file"
            )
    else:
        verify(path)
    with path.open("rb") as file:
        refuse_other_kinds(file.read(1024), path)
    try:
        _refuse_script(path)
        content = _load(path, strangers)
    except (UserError, ModuleNotFoundError):  # a library that is missing is not the file's fault
        raise
    except MemoryError as error:
        raise UserError(
            f"{path} asks for more memory than there is: it is damaged, or too large for this "
            "machine"
        ) from error
    except Exception as error:
        reason = _reason(error)
        raise UserError(f"cannot load {path} safely: {reason}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold a mapping of tensors, found {type(content).__name__}")
    return content


def plain_names(weights: Mapping[str, Any]) -> dict[str, Any]:
    """Return weights without what ``torch.compile`` and data parallel training put into names.

    Examples:
        >>> plain_names({"module._orig_mod.module.a.b": 1, "backbone._orig_mod.c": 2})
        {'a.b': 1, 'backbone.c': 2}

    Raises:
        UserError: if two names become one.
    """
    names = (str(name).replace("_orig_mod.", "") for name in weights)
    plain = [re.sub(r"^(module\.)+", "", name) for name in names]
    twice = next((name for name, count in collections.Counter(plain).items() if count > 1), "")
    if twice:
        raise UserError(f"the weights hold {twice} twice, with a prefix and without")
    return dict(zip(plain, weights.values(), strict=True))


def refuse_other_kinds(head: bytes, name: Path | str) -> None:
    """Raise UserError for what comes in place of weights, saying what it is.

    Args:
        head: How the file begins, 1024 bytes or all of it.
        name: What to call it.
    """
    if not head:
        raise UserError(f"{name} is empty (0 bytes): the download failed")
    if _HTML.match(head.removeprefix(b"\xef\xbb\xbf")):
        kind = "an error message" if b"<?xml" in head[:64] else "an HTML page"
        raise UserError(
            f"{name} is {kind}, not a checkpoint: the download failed. Delete it and "
            "download the file again"
        )
    if head.startswith(_LFS):
        raise UserError(
            f"{name} is a Git LFS pointer, not the file itself: run git lfs pull in its repository"
        )


def _refuse_script(path: Path) -> None:
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        script = any(name.endswith("/constants.pkl") for name in archive.namelist())
    if script:
        raise UserError(
            f"{path} is a TorchScript archive, a program with its weights; give the weights "
            "alone: torch.save(torch.jit.load(file).state_dict(), other), if you trust it"
        )


def _reason(error: Exception) -> str:
    """Return why a file was refused, without torch's advice to load it unsafely."""
    text = str(error)
    wanted = re.search(r"GLOBAL ([\w.]+)", text)
    if wanted:
        return f"it asks for {wanted[1]}, which is no tensor, array, number, text or container"
    if "weights_only" in text:
        detail = text.rpartition("WeightsUnpickler error:")[2].strip().splitlines()
        return f"it is damaged or no checkpoint ({detail[0]})" if detail else "it is damaged"
    return text if " " in text else f"it is damaged ({type(error).__name__} {text})".rstrip()


def _load(path: Path, strangers: bool) -> Any:
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    if path.suffix == ".pkl":
        return _ArrayUnpickler(io.BytesIO(path.read_bytes()), encoding="latin1").load()
    return load_torch(path, strangers=strangers)


def load_torch(path: Path | str, *, strangers: bool = False) -> Any:
    """Return ``torch.load(path, weights_only=True)`` with NumPy scalars and options allowed.

    Args:
        path: The file.
        strangers: As for ``load_checkpoint``.
    """
    import torch  # this module must import without torch

    # torch 2.4 has no safe_globals() context, so add and take away by hand.
    before = torch.serialization.get_safe_globals()
    torch.serialization.add_safe_globals([*numpy_scalar_globals(), argparse.Namespace])
    try:
        find = getattr(torch.serialization, "get_unsafe_globals_in_checkpoint", None)
        if strangers and find:
            torch.serialization.add_safe_globals([_empty_class(name) for name in find(path)])
        return torch.load(path, map_location="cpu", weights_only=True)
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)


def _empty_class(name: str) -> type:
    """Return a class called ``name`` whose objects take any arguments and state and keep none."""

    def ignore(*_: Any, **__: Any) -> None:
        pass

    module, _, own = name.rpartition(".")
    return type(own, (), {"__module__": module, "__init__": ignore, "__setstate__": ignore})


def numpy_scalar_globals() -> list[Any]:
    """Return the NumPy types and functions that a checkpoint may name, for the allow-list."""
    import numpy as np

    kinds = (
        np.bool_, np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32,
        np.uint64, np.float16, np.float32, np.float64,
    )  # fmt: skip
    # NumPy >= 1.25 pickles the concrete dtype class (np.dtypes.Int64DType, ...).
    dtypes = [type(np.dtype(kind)) for kind in kinds]
    modules = ("numpy.core.multiarray", "numpy._core.multiarray")
    rebuild = [_named(name, module) for module in modules for name in ("scalar", "_reconstruct")]
    return [np.dtype, np.ndarray, *kinds, *dtypes, *rebuild, _bytes_of_text()]


def _bytes_of_text() -> Any:
    """Return ``_codecs.encode`` for Latin-1 alone: torch 2.4 does not know it by itself."""

    def encode(text: str, encoding: str = "latin1") -> bytes:
        return _latin1(text, encoding)

    encode.__module__ = "_codecs"
    encode.__qualname__ = "encode"
    return encode


def _named(name: str, module: str) -> Any:
    """Return NumPy's function under one of its two historical names.

    The allow-list goes by ``__module__`` and ``__name__``; files of NumPy 1 and 2 differ.
    """
    from numpy._core import multiarray

    function = getattr(multiarray, name)

    def rebuild(*arguments: Any) -> Any:
        return function(*arguments)

    rebuild.__module__ = module
    rebuild.__name__ = rebuild.__qualname__ = name
    return rebuild
