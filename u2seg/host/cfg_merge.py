"""Merge plain dictionaries and ``KEY VALUE`` words into a Detectron2 config, refusing typos.

Detectron2's ``merge_from_file`` may fall back to unsafe YAML, and yacs fails on ``1`` for ``1.0``
and on ``true``; here files come in as dictionaries from ``u2seg.io.yamlfile`` and every value is
brought to the type of its default or refused by name.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence
from typing import Any

from u2seg.config.words import coerce, flatten, override_pairs, parse_value, unknown_key
from u2seg.errors import UserError

Flat = dict[str, Any]
"""Full key, e.g. ``SOLVER.BASE_LR`` -> value."""
_MAY_BE_NULL = ("SOLVER.WEIGHT_DECAY_BIAS", "SOLVER.WEIGHT_DECAY_NORM")
"""Numbers of which null means: as ``SOLVER.WEIGHT_DECAY``."""
_FOREIGN = (
    "(Keys that the code of another project adds cannot be used here: leave them out of a copy.)"
)


def merge_values(cfg: Any, values: Flat, source: str) -> None:
    """Set full keys of ``cfg`` to values from YAML."""
    known = flatten(cfg)
    for key, value in values.items():
        node, leaf = _find(cfg, key, known, source)
        node[leaf] = _taken(key, value, node[leaf], source)


def merge_words(cfg: Any, words: Sequence[str]) -> Flat:
    """Set keys of ``cfg`` to words of a command line and return what was set.

    Text keys take the word as it stands; all others are read as YAML, then as a Python literal
    such as ``(60000, 80000)``.
    """
    given: Flat = {}
    known = flatten(cfg)
    for key, text in override_pairs(words):
        node, leaf = _find(cfg, key, known, "command line")
        default = node[leaf]
        value = text if isinstance(default, str) else parse_value(text)
        node[leaf] = given[key] = _taken(key, value, default, "command line")
    return given


def _taken(key: str, value: Any, default: Any, source: str) -> Any:
    if key in _MAY_BE_NULL:
        return None if value is None else coerce(key, value, 0.0, source)
    return coerce(key, value, default, source)


def _find(cfg: Any, key: str, known: Flat, source: str) -> tuple[Any, str]:
    """Return (node, last part) of a full key that must name a leaf of ``cfg``."""
    if key not in known:
        error = unknown_key(key, known, source)
        raise error if "Did you" in str(error) else UserError(f"{error}. {_FOREIGN}")
    *parents, leaf = key.split(".")
    return functools.reduce(operator.getitem, parents, cfg), leaf
