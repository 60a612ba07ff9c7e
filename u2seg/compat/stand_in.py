"""A stand-in for ``detectron2._C``: importable, and honest when something of it is used.

Rotated boxes, the old deformable convolution and the fast COCO evaluator live in the compiled
module; nothing of u2seg needs them. Plain ROIAlign and NMS come from torchvision.
"""

from __future__ import annotations

import importlib.machinery
import sys
from types import ModuleType
from typing import Any, NoReturn

_EXPLANATION = "not compiled (stand-in of u2seg.compat)"


class StandIn(ModuleType):
    """A module whose every function raises when called."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)

        def missing(*_args: Any, **_kwargs: Any) -> NoReturn:
            raise NotImplementedError(
                f"{self.__name__}.{name} is compiled C++, which this Detectron2 lacks: rotated "
                "boxes, the old deformable convolution and the fast COCO evaluator need a "
                "compiled Detectron2 (python dev/install_detectron2.py --force --route git)"
            )

        return missing

    @staticmethod
    def get_compiler_version() -> str:
        """Return what the host's environment report prints as the compiler."""
        return _EXPLANATION

    @staticmethod
    def get_cuda_version() -> str:
        """Return what the host's environment report prints as the CUDA version."""
        return _EXPLANATION

    @staticmethod
    def has_cuda() -> bool:
        """Return False: there are no CUDA kernels here."""
        return False


def install(name: str) -> StandIn:
    """Put a stand-in into ``sys.modules`` and into its parent package; return it.

    Args:
        name: Dotted module name; its parent must be imported.

    Examples:
        >>> import sys, types
        >>> sys.modules["parent"] = types.ModuleType("parent")
        >>> module = install("parent._C")
        >>> from parent import _C
        >>> _C.nms_rotated(1)
        Traceback (most recent call last):
            ...
        NotImplementedError: parent._C.nms_rotated is compiled C++, which this Detectron2 lacks: ...
        >>> del sys.modules["parent"], sys.modules["parent._C"]
    """
    module = StandIn(name)
    module.__spec__ = importlib.machinery.ModuleSpec(name, loader=None)
    parent, _, child = name.rpartition(".")
    sys.modules[name] = module
    setattr(sys.modules[parent], child, module)
    return module


def is_stand_in(module: object) -> bool:
    """Return whether a module is a stand-in of ours."""
    return isinstance(module, StandIn)
