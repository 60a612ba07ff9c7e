"""Merge plain dictionaries and ``KEY VALUE`` words into a Detectron2 config, refusing typos.

Detectron2's ``merge_from_file`` may fall back to unsafe YAML, and yacs fails on ``1`` for ``1.0``
and on ``true``; here files come in as dictionaries from ``u2seg.io.yamlfile`` and every value is
brought to the type of its default or refused by name.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

from u2seg.config.values import coerce, parse_value
from u2seg.config.words import flatten, override_pairs
from u2seg.errors import UserError

Flat = dict[str, Any]
"""Full key, e.g. ``SOLVER.BASE_LR`` -> value."""
_MAY_BE_NULL = ("SOLVER.WEIGHT_DECAY_BIAS", "SOLVER.WEIGHT_DECAY_NORM")
"""Numbers of which null means: as ``SOLVER.WEIGHT_DECAY``."""


def merge_values(cfg: Any, values: Flat, source: str) -> None:
    """Set full keys of ``cfg`` to values from YAML."""
    for key, value in values.items():
        node, leaf = _find(cfg, key, source)
        node[leaf] = _taken(key, value, node[leaf], source)


def merge_words(cfg: Any, words: Sequence[str]) -> Flat:
    """Set keys of ``cfg`` to words of a command line and return what was set.

    Text keys take the word as it stands; all others are read as YAML, then as a Python literal
    such as ``(60000, 80000)``.
    """
    given: Flat = {}
    for key, text in override_pairs(words):
        node, leaf = _find(cfg, key, "command line")
        default = node[leaf]
        value = text if isinstance(default, str) else parse_value(text)
        node[leaf] = given[key] = _taken(key, value, default, "command line")
    return given


def _taken(key: str, value: Any, default: Any, source: str) -> Any:
    if key in _MAY_BE_NULL:
        return None if value is None else coerce(key, value, 0.0, source)
    return coerce(key, value, default, source)


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
