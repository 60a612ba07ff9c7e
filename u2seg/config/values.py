"""Values from YAML and from command lines in the type of their defaults, or refused by name."""

from __future__ import annotations

import ast
import math
from collections.abc import Sequence
from typing import Any

import yaml

from u2seg.errors import UserError
from u2seg.io.yamlfile import parse_yaml


def coerce(key: str, value: Any, default: Any, source: str = "") -> Any:
    """Return ``value`` in the type of ``default``.

    Allowed: int -> float, number -> text, list <-> tuple, numbers and literals written as text,
    null -> empty text, and anything where the default is None. Floats are finite.

    Args:
        key: What the message names.
        value: As it was read.
        default: Of the key.
        source: Where it was read, for the message; empty = not said.

    Raises:
        UserError: for anything else.

    Examples:
        >>> coerce("SOLVER.BASE_LR", 1, 0.01), coerce("SOLVER.BASE_LR", "1e-3", 0.01)
        (1.0, 0.001)
        >>> coerce("SOLVER.STEPS", "(10, 20)", (30000,)), coerce("TEST.AUG", [1], (0.5,))
        ((10, 20), (1.0,))
        >>> coerce("MODEL.MASK_ON", "true", False)
        True
    """
    given = parse_value(value) if isinstance(value, str) and not isinstance(default, str) else value
    if default is None:
        return given
    if isinstance(default, str):
        if given is None or (isinstance(given, str | int | float) and not isinstance(given, bool)):
            return "" if given is None else str(given)
    elif isinstance(default, float):
        if not isinstance(given, bool) and (number := _finite(given)) is not None:
            return number
    elif isinstance(default, tuple | list):
        if isinstance(given, tuple | list) and _same_kind(given, default):
            return _like(given, default)
    elif type(given) is type(default):
        return given
    where = f" in {source}" if source else ""
    raise UserError(
        f"{key} is {value!r} ({type(value).__name__}){where}, expected "
        f"{type(default).__name__} such as {default!r}"
    )


def parse_value(text: str) -> Any:
    """Return text read as YAML, or as a Python literal; itself if it is neither.

    Examples:
        >>> parse_value("True"), parse_value("(1, 2)"), parse_value("cuda:1")
        (True, (1, 2), 'cuda:1')
    """
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        value = parse_yaml(text)
    except (yaml.YAMLError, ValueError):
        value = text
    if isinstance(value, str):
        try:
            return ast.literal_eval(value)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return text
    return value


def _finite(value: Any) -> float | None:
    """Return a finite number, or None if ``value`` is none."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _like(value: Any, default: Any) -> Any:
    """Return nested sequences as lists or tuples, whichever the default has at each depth."""
    if isinstance(default, float) and isinstance(value, int):
        return float(value)
    if not isinstance(value, tuple | list):
        return value
    inner = default[0] if isinstance(default, tuple | list) and default else value
    kind = type(default) if isinstance(default, tuple | list) else type(value)
    return kind([_like(item, inner) for item in value])


def _same_kind(value: Sequence[Any], default: Sequence[Any]) -> bool:
    """Whether the elements are numbers where the default's are, and likewise text and mappings."""
    for kind in (str, bool, int | float, dict):
        if default and all(isinstance(item, kind) for item in default):
            return all(isinstance(item, kind) for item in value)
    return True
