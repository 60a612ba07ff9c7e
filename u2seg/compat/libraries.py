"""Names and habits of older libraries that Detectron2 0.5 and 0.6 still count on.

Each function mends one library, only where the name is gone and the host's code (one text) uses
it, and may be called again.
"""

from __future__ import annotations

import importlib
import importlib.resources
import importlib.util
import logging
import re
import sys
import warnings
from types import ModuleType

_NUMPY_ALIASES = {"bool": bool, "int": int, "float": float, "object": object, "str": str}


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
