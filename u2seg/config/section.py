"""A section of settings whose members, the implementations, have settings of their own.

``MASKS.PROPOSER`` is a key of the section, ``MASKS.MASKCUT.TAU`` one of a member. Members that
come with the package are fields; those that plug-ins register are in ``extras``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, TypeVar

from u2seg.errors import UserError

T = TypeVar("T")
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


def shares(section: str, settings: object, *keys: str) -> None:
    """Raise UserError unless the values of these keys are in 0..1."""
    for key in keys:
        value = getattr(settings, key)
        require(0 <= value <= 1, f"{section}.{key.upper()}", value, "0..1")


def at_least(least: float, section: str, settings: object, *keys: str) -> None:
    """Raise UserError unless the values of these keys are large enough."""
    for key in keys:
        value = getattr(settings, key)
        require(value >= least, f"{section}.{key.upper()}", value, f">= {least}")


def one_of(key: str, value: str, allowed: Sequence[str]) -> None:
    """Raise UserError unless ``value`` is allowed."""
    require(value in allowed, key, value, "one of " + ", ".join(allowed))


@dataclass(frozen=True)
class Section:
    """Base of such sections.

    Args:
        extras: Settings of members that plug-ins registered.
    """

    extras: tuple[Any, ...] = field(default=(), kw_only=True)

    def of(self, kind: type[T]) -> T:
        """Return the settings of a member; its defaults if none were given."""
        for value in [*(getattr(self, f.name) for f in fields(self)), *self.extras]:
            if type(value) is kind:
                return value
        return kind()


@dataclass(frozen=True)
class CrfSettings:
    """The dense CRF that refines masks (CutLER commit cca0a27, maskcut/crf.py).

    Args:
        iterations: Mean-field iterations, >= 1.
        gaussian_sxy, gaussian_weight: Smoothness kernel: pixels, >= 0.01; weight.
        bilateral_sxy, bilateral_srgb, bilateral_weight: Appearance kernel: pixels, grey levels
            0..255, both >= 0.01; weight.
    """

    SECTION: ClassVar[str] = "MASKS.DENSE_CRF"
    iterations: int = 10
    gaussian_sxy: float = 3.0
    gaussian_weight: float = 7.0
    bilateral_sxy: float = 50.0
    bilateral_srgb: float = 5.0
    bilateral_weight: float = 10.0

    def __post_init__(self) -> None:
        at_least(1, self.SECTION, self, "iterations")
        at_least(0.01, self.SECTION, self, "gaussian_sxy", "bilateral_sxy", "bilateral_srgb")
