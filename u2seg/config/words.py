"""The ``KEY VALUE`` words of a command line: one reader for every command."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from u2seg.errors import UserError
from u2seg.io.paths import expand_home

ROOT = "U2SEG"
HOST_SECTIONS = (
    "VERSION", "MODEL", "INPUT", "DATASETS", "DATALOADER", "SOLVER", "TEST", "OUTPUT_DIR",
    "SEED", "CUDNN_BENCHMARK", "FLOAT32_PRECISION", "VIS_PERIOD", "GLOBAL",
)  # fmt: skip
"""Top-level nodes that belong to Detectron2; labelling checks their keys and no values."""
HOST_KEY = re.compile(r"[A-Z][A-Z0-9_]*(\.[A-Z0-9_]+)*")
_BOTH = re.compile(r"(\w+(?:\.\w+)*)=(.*)", re.DOTALL)


def override_pairs(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield (key, text) of ``KEY VALUE`` and ``KEY=VALUE``, in any mixture, ``~/`` expanded.

    Raises:
        UserError: for an option among them, a key without a value, or a value that is a key.

    Examples:
        >>> list(override_pairs(["SEED=4", "OUTPUT_DIR", "a=b"]))
        [('SEED', '4'), ('OUTPUT_DIR', 'a=b')]
        >>> list(override_pairs(["SOLVER.MAX_ITER", "U2SEG.MASKS.TAU", "0.9"]))
        Traceback (most recent call last):
            ...
        u2seg.errors.UserError: SOLVER.MAX_ITER has no value: U2SEG.MASKS.TAU is a key
    """
    late = [word for word in words if word.startswith("--")]
    if late:
        raise UserError(
            f"{late[0]} stands behind the first KEY VALUE pair, {' '.join(words[:2])[:100]}: "
            "options come first, so move it to the front"
        )
    rest = iter(words)
    for key in rest:
        if both := _BOTH.fullmatch(key):
            yield both[1], expand_home(both[2])
            continue
        value = next(rest, None)
        if value is None:
            raise UserError(
                f"overrides come in pairs KEY VALUE, got {len(words)} words: "
                f"{' '.join(words)[:200]}; the last has no value"
            )
        if is_key(value):
            raise UserError(f"{key} has no value: {value.partition('=')[0]} is a key")
        yield key, expand_home(value)


def words_of(settings: Mapping[str, Any] | Sequence[str]) -> list[str]:
    """Return settings as ``KEY VALUE`` words; words stay as they are.

    Examples:
        >>> words_of({"SOLVER": {"STEPS": [1, 2]}, "U2SEG.MASKS.TAU": 0.2, "SEED": 1})
        ['SOLVER.STEPS', '[1, 2]', 'U2SEG.MASKS.TAU', '0.2', 'SEED', '1']
    """
    if not isinstance(settings, Mapping):
        return [str(word) for word in settings]
    words = []
    for key, value in flatten(dict(settings)).items():
        plain = str(value) if isinstance(value, Path) else value
        words += [str(key), plain if isinstance(plain, str) else json.dumps(plain)]
    return words


def is_key(word: str) -> bool:
    """Return whether a word of a command line begins settings: ``SECTION.KEY``, ``KEY=VALUE``.

    Examples:
        >>> [is_key(word) for word in ("MODEL.DEVICE", "SEED=1", "a.jpg", "OUTPUT_DIR")]
        [True, True, False, False]
    """
    name, equals, _ = word.partition("=")
    first, dot, _ = name.partition(".")
    known = first in (ROOT, *HOST_SECTIONS) and HOST_KEY.fullmatch(name)
    return bool(known and (dot or equals))


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested dictionaries as full keys; an empty dictionary gives nothing.

    Examples:
        >>> flatten({"A": {"B": 1, "C": {"D": 2}}})
        {'A.B': 1, 'A.C.D': 2}
    """
    result: dict[str, Any] = {}
    for key, value in tree.items():
        full = f"{prefix}{key}"
        if isinstance(value, dict):
            result.update(flatten(value, f"{full}."))
        else:
            result[full] = value
    return result
