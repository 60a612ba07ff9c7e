"""Keys and values of settings: words of a command line, types, and what is misspelt."""

from __future__ import annotations

import ast
import difflib
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from u2seg.errors import UserError
from u2seg.io.paths import expand_home
from u2seg.io.yamlfile import parse_yaml

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


def unknown_key(key: str, known: Iterable[str], source: str = "", otherwise: str = "") -> UserError:
    """Return the error that names the known key closest to one that is not known.

    Examples:
        >>> print(unknown_key("SOLVER.BASE_LRR", ["SOLVER.BASE_LR", "SEED"], "a.yaml"))
        unknown key SOLVER.BASE_LRR in a.yaml. Did you mean SOLVER.BASE_LR?
        >>> print(unknown_key("SOLVER", ["SOLVER.BASE_LR"]))
        unknown key SOLVER. Known are SOLVER.BASE_LR
    """
    known = [str(name) for name in known]
    section, _, last = key.rpartition(".")
    if any(name.startswith(f"{key}.") for name in known):  # a group of keys
        section, last = key, ""
    prefix = f"{section}." if section else ""
    near = [name for name in known if name.startswith(prefix)]
    # Only the last part is compared: with the sections in front everything looks alike.
    names = {name[len(prefix) :].replace(".", "_"): name for name in near}  # as flat keys had it
    names |= {name.rpartition(".")[2]: name for name in reversed(near)}
    close = difflib.get_close_matches(last.upper(), names, n=1)
    found = names[close[0]] if close else next(iter(difflib.get_close_matches(key, known, n=1)), "")
    below = dict.fromkeys(prefix + name[len(prefix) :].split(".")[0] for name in near)
    hint = f"Did you mean {found}?" if close or (found and not near) else otherwise
    where = f" in {source}" if source else ""
    return UserError(f"unknown key {key}{where}. {hint or 'Known are ' + ', '.join(below)}")


def coerce(key: str, value: Any, default: Any, source: str = "") -> Any:
    """Return ``value`` in the type of ``default``.

    Allowed: int -> float, number -> text, list <-> tuple, numbers and literals written as text,
    null -> empty text, and anything where the default is None. Floats are finite.

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
