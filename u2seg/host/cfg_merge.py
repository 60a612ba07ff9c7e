"""Merge plain dictionaries and ``KEY VALUE`` words into a Detectron2 config, refusing typos.

Detectron2's ``merge_from_file`` may fall back to unsafe YAML, and yacs fails on ``1`` for ``1.0``
and on ``true``; here files come in as dictionaries from ``u2seg.io.yamlfile`` and every value is
brought to the type of its default or refused by name.
"""

from __future__ import annotations

import ast
import difflib
from collections.abc import Sequence
from typing import Any

import yaml

from u2seg.config.words import flatten, override_pairs
from u2seg.errors import UserError
from u2seg.io.yamlfile import parse_yaml

Flat = dict[str, Any]
"""Full key, e.g. ``SOLVER.BASE_LR`` -> value."""
_MAY_BE_NULL = ("SOLVER.WEIGHT_DECAY_BIAS", "SOLVER.WEIGHT_DECAY_NORM")
"""Numbers of which null means: as ``SOLVER.WEIGHT_DECAY``."""


def merge_values(cfg: Any, values: Flat, source: str) -> None:
    """Set full keys of ``cfg`` to values from YAML.

    Args:
        cfg: A yacs node that is not frozen; changed in place.
        values: As ``flatten`` returns.
        source: What the message names: the file.

    Raises:
        UserError: for an unknown key (with the closest known one) or a value that is not of
            the type of its default.
    """
    for key, value in values.items():
        node, leaf = _find(cfg, key, source)
        node[leaf] = coerce(key, value, node[leaf], source)


def merge_words(cfg: Any, words: Sequence[str]) -> Flat:
    """Set keys of ``cfg`` to words of a command line and return what was set.

    Text keys take the word as it stands; all others are read as YAML, then as a Python literal
    such as ``(60000, 80000)``.

    Raises:
        UserError: as ``merge_values`` and ``override_pairs``.
    """
    given: Flat = {}
    for key, text in override_pairs(words):
        node, leaf = _find(cfg, key, "command line")
        default = node[leaf]
        value = text if isinstance(default, str) else _parse(text)
        node[leaf] = given[key] = coerce(key, value, default, "command line")
    return given


def coerce(key: str, value: Any, default: Any, source: str = "") -> Any:
    """Return ``value`` in the type of ``default``.

    Allowed: int -> float, list <-> tuple, numbers and literals written as text, null -> empty
    text, null where it has a meaning, and anything where the default is None.

    Raises:
        UserError: for anything else.

    Examples:
        >>> coerce("SOLVER.BASE_LR", 1, 0.01)
        1.0
        >>> coerce("SOLVER.BASE_LR", "1e-3", 0.01)
        0.001
        >>> coerce("SOLVER.STEPS", "(10, 20)", (30000,))
        (10, 20)
        >>> coerce("MODEL.MASK_ON", "true", False)
        True
    """
    if isinstance(value, str) and not isinstance(default, str):
        value = _parse(value)
    if key in _MAY_BE_NULL:
        if value is None:
            return None
        default = 0.0
    if default is None or (type(value) is type(default) and not isinstance(value, tuple | list)):
        return value
    if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(default, str) and value is None:
        return ""
    both_sequences = isinstance(default, tuple | list) and isinstance(value, tuple | list)
    if both_sequences and _same_kind(value, default):
        return _like(value, default)
    where = f" in {source}" if source else ""
    raise UserError(
        f"{key} is {value!r} ({type(value).__name__}){where}, expected "
        f"{type(default).__name__} such as {default!r}"
    )


def _like(value: Any, default: Any) -> Any:
    """Return nested sequences as lists or tuples, whichever the default has at each depth."""
    if not isinstance(value, tuple | list):
        return value
    inner = default[0] if isinstance(default, tuple | list) and default else value
    kind = type(default) if isinstance(default, tuple | list) else type(value)
    return kind([_like(item, inner) for item in value])


def _same_kind(value: Sequence[Any], default: Sequence[Any]) -> bool:
    """Whether the elements are numbers where the default's are, and likewise text."""
    for kind in (str, bool, int | float):
        if default and all(isinstance(item, kind) for item in default):
            return all(isinstance(item, kind) for item in value)
    return True


def _parse(text: str) -> Any:
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


def _find(cfg: Any, key: str, source: str) -> tuple[Any, str]:
    """Return (node, last part) of a full key that must name a leaf of ``cfg``."""
    node, parts = cfg, key.split(".")
    for depth, part in enumerate(parts):
        if not isinstance(node, dict) or part not in node:
            raise UserError(_unknown(cfg, node, parts, depth, source))
        if depth < len(parts) - 1:
            node = node[part]
    if isinstance(node[parts[-1]], dict):
        known = ", ".join(f"{key}.{name}" for name in list(node[parts[-1]])[:6])
        raise UserError(f"{key} in {source} is a group of keys, not a value; it has {known}, ...")
    return node, parts[-1]


def _unknown(cfg: Any, node: Any, parts: list[str], depth: int, source: str) -> str:
    wrong = ".".join(parts)
    prefix = ".".join([*parts[:depth], ""]) if depth else ""
    message = f"unknown key {wrong} in {source}."
    if not isinstance(node, dict):
        return f"{message} {'.'.join(parts[:depth])} is a value, not a group of keys."
    here = difflib.get_close_matches(parts[depth], [str(k) for k in node], n=1)
    if here:
        rest = ".".join(parts[depth + 1 :])
        return f"{message} Did you mean {prefix}{here[0]}{'.' + rest if rest else ''}?"
    anywhere = difflib.get_close_matches(wrong, list(flatten(cfg)), n=1)
    if anywhere:
        return f"{message} Did you mean {anywhere[0]}?"
    return (
        f"{message} {prefix[:-1] or 'The top level'} has {', '.join(map(str, node))}. (Keys that "
        "the code of another project adds cannot be used here: leave them out of a copy.)"
    )
