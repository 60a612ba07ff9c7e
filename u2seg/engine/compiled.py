"""``torch.compile`` for a part of a model, with the plain code to fall back on."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import nn

logger = logging.getLogger(__name__)
_MARK = "of_torch_compile"


def compile_forward(module: nn.Module, **options: Any) -> None:
    """Compile the forward pass of a module, in place; its parameter names stay as they are.

    Compilation happens at the first call. If it fails (no C++ compiler, say), the log tells why
    and the module goes on without it. Running out of memory is raised.

    Args:
        module: Its ``forward`` is replaced.
        options: Of ``torch.compile``; sizes are dynamic by default, as those of photographs are.
    """
    plain = module.forward
    compiled = torch.compile(plain, **{"dynamic": True, **options})

    def forward(*arguments: Any, **named: Any) -> Any:
        try:
            return compiled(*arguments, **named)
        except (RuntimeError, OSError, ImportError) as error:
            if memory_is_full(error):
                raise
            logger.warning(
                "U2SEG.TRAIN.COMPILE: torch.compile failed (%s: %s); going on without it",
                type(error).__name__,
                " ".join(line.strip() for line in str(error).splitlines()[:3]),
            )
            module.forward = plain
            return plain(*arguments, **named)

    forward.__dict__[_MARK] = True
    module.forward = forward


def is_compiled(module: nn.Module) -> bool:
    """Return whether ``compile_forward`` was called for a module and has not failed so far."""
    return hasattr(module.forward, _MARK)


def memory_is_full(error: Exception) -> bool:
    """Return whether an error of torch or of its libraries says that memory ran out.

    Examples:
        >>> memory_is_full(RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"))
        True
        >>> memory_is_full(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
        False
    """
    said = str(error).lower()
    signs = ("out of memory", "alloc_failed", "can't allocate memory", "not enough memory")
    return isinstance(error, MemoryError) or any(sign in said for sign in signs)
