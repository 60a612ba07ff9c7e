"""A stand-in for ``detectron2._C``: importable, and honest when something of it is used.

Rotated boxes, the old deformable convolution and the fast COCO evaluator live in the compiled
module; nothing of u2seg needs them. Plain ROIAlign and NMS come from torchvision.
"""

from __future__ import annotations

import importlib.machinery
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any, NoReturn

_EXPLANATION = "not compiled (stand-in of u2seg.compat)"
_OPERATORS = (
    "nms_rotated", "box_iou_rotated", "roi_align_rotated_forward", "roi_align_rotated_backward",
)  # fmt: skip


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


def install(name: str) -> StandIn:
    """Put a stand-in into ``sys.modules`` and into its parent package; return it."""
    module = StandIn(name)
    module.__spec__ = importlib.machinery.ModuleSpec(name, loader=None)
    parent, _, child = name.rpartition(".")
    sys.modules[name] = module
    setattr(sys.modules[parent], child, module)
    return module


def install_ops(namespace: str) -> None:
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


def is_stand_in(module: object) -> bool:
    """Return whether a module is a stand-in of ours."""
    return isinstance(module, StandIn)
