"""Checks that sections of settings share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from u2seg.errors import UserError

MAX_SEED = 2**32 - 1
"""Largest seed that all libraries take."""
RESAMPLING = ("nearest", "bilinear", "bicubic", "lanczos")
"""Filters that resize photographs, see ``u2seg.io.images.FILTERS``."""


def require(ok: bool, key: str, value: Any, expected: str) -> None:
    """Raise UserError with key, value and what was expected, unless ``ok``.

    Examples:
        >>> require(-1 > 0, "MASKS.EPS", -1, "> 0")
        Traceback (most recent call last):
            ...
        u2seg.errors.UserError: U2SEG.MASKS.EPS is -1, expected > 0
    """
    if not ok:
        raise UserError(f"U2SEG.{key} is {value!r}, expected {expected}")


def one_of(key: str, value: str, allowed: Sequence[str]) -> None:
    """Raise UserError unless ``value`` is allowed."""
    require(value in allowed, key, value, "one of " + ", ".join(allowed))
