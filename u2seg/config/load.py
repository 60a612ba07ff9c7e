"""Build ``Settings`` from a YAML file and ``KEY VALUE`` overrides, refusing every typo.

One YAML serves both halves: labelling reads its ``U2SEG`` node and ignores Detectron2's nodes;
training reads all of it through Detectron2's own config.
"""

from __future__ import annotations

import difflib
import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import yaml

from u2seg.config.schema import SECTIONS, Settings
from u2seg.errors import UserError
from u2seg.io.atomic import json_bytes
from u2seg.io.yamlfile import load_yaml, merge, parse_yaml

ROOT = "U2SEG"
HOST_SECTIONS = (
    "VERSION", "MODEL", "INPUT", "DATASETS", "DATALOADER", "SOLVER", "TEST", "OUTPUT_DIR",
    "SEED", "CUDNN_BENCHMARK", "FLOAT32_PRECISION", "VIS_PERIOD", "GLOBAL",
)  # fmt: skip
"""Top-level nodes that belong to Detectron2; passed over here, checked there."""


def load_settings(config_file: Path | str | None, overrides: Sequence[str] = ()) -> Settings:
    """Return the settings of a YAML file with overrides applied.

    Args:
        config_file: YAML with an optional ``U2SEG`` node; None = all defaults.
        overrides: ``["U2SEG.MASKS.TAU", "0.2", ...]``; Detectron2 keys are passed over.

    Raises:
        UserError: for an unreadable file, an odd number of overrides, an unknown section or
            key (with the closest known one), a value of the wrong type or out of range.

    Examples:
        >>> load_settings(None, ["U2SEG.MASKS.TAU", "0.2"]).masks.tau
        0.2
        >>> load_settings(None, ["U2SEG.MASKS.TAO", "0.2"])
        Traceback (most recent call last):
            ...
        u2seg.errors.UserError: unknown key U2SEG.MASKS.TAO. Did you mean U2SEG.MASKS.TAU?
    """
    tree: dict[str, Any] = load_yaml(config_file) if config_file else {}
    tree = merge(tree, overrides_tree(overrides))
    for key in tree:
        _check_known(str(key), (ROOT, *HOST_SECTIONS))
    node = tree.get(ROOT) or {}
    if not isinstance(node, dict):
        raise UserError(f"{ROOT} must be a mapping of sections, found {node!r}")
    return settings_from_tree(node)


def overrides_tree(overrides: Sequence[str]) -> dict[str, Any]:
    """Return ``KEY VALUE`` pairs as nested dictionaries; values are parsed as YAML.

    Examples:
        >>> overrides_tree(["U2SEG.RUN.SHARD_SIZE", "8"])
        {'U2SEG': {'RUN': {'SHARD_SIZE': 8}}}
    """
    late = [word for word in overrides if word.startswith("--")]
    if late:
        raise UserError(
            f"{late[0]} stands behind the first KEY VALUE pair, {' '.join(overrides[:2])[:100]}: "
            "options come first, so move it to the front"
        )
    if len(overrides) % 2:
        raise UserError(
            f"overrides come in pairs KEY VALUE, got {len(overrides)} words: "
            f"{' '.join(overrides)[:200]}"
        )
    tree: dict[str, Any] = {}
    for key, text in zip(overrides[::2], overrides[1::2], strict=True):
        parts = key.split(".")
        if parts[0] in HOST_SECTIONS:
            continue
        try:
            value: Any = parse_yaml(text) if text else ""
        except (yaml.YAMLError, ValueError):
            value = text
        for part in reversed(parts):
            value = {part: value}
        tree = merge(tree, value)
    return tree


def settings_from_tree(node: dict[str, Any]) -> Settings:
    """Return ``Settings`` from nested upper-case dictionaries (the ``U2SEG`` node)."""
    known = [name.upper() for name in SECTIONS]
    sections: dict[str, Any] = {}
    for name, content in node.items():
        _check_known(f"{ROOT}.{name}", [f"{ROOT}.{k}" for k in known])
        if not isinstance(content, dict):
            raise UserError(f"{ROOT}.{name} must be a mapping of keys, found {content!r}")
        sections[str(name).lower()] = _section(str(name), content)
    return Settings(**sections)


def _section(name: str, content: dict[str, Any]) -> Any:
    kind = SECTIONS[name.lower()]
    defaults = {f.name.upper(): f.default for f in fields(kind)}
    values = {}
    for key, value in content.items():
        full = f"{ROOT}.{name}.{key}"
        _check_known(full, [f"{ROOT}.{name}.{k}" for k in defaults])
        values[str(key).lower()] = _coerce(full, value, defaults[key])
    return kind(**values)


def _coerce(key: str, value: Any, default: Any) -> Any:
    """Return ``value`` in the type of ``default``; int -> float and list -> tuple only."""
    if isinstance(default, bool) or isinstance(value, bool):
        if isinstance(default, bool) and isinstance(value, bool):
            return value
    elif isinstance(default, float):
        number = _finite(value)  # from text too: YAML 1.1 reads 1e-5 as text
        if number is not None:
            return number
    elif isinstance(default, tuple) and isinstance(value, list | tuple):
        kind = type(default[0]) if default else float  # an empty default stands for numbers
        items = tuple(_finite(item) if kind is float else item for item in value)
        if all(isinstance(item, kind) for item in items):
            return items
    elif isinstance(default, str) and value is None:
        return ""
    elif isinstance(default, str) and isinstance(value, int | float):
        return str(value)
    elif isinstance(value, type(default)):
        return value
    raise UserError(
        f"{key} is {value!r} ({type(value).__name__}), expected {type(default).__name__} "
        f"such as {default!r}"
    )


def _finite(value: Any) -> float | None:
    """Return a finite number, or None if ``value`` is none."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _check_known(key: str, known: Iterable[str]) -> None:
    known = list(known)
    if key in known:
        return
    # Only the last part is compared: with the sections in front everything looks alike.
    names = {name.rpartition(".")[2]: name for name in known}
    close = difflib.get_close_matches(key.rpartition(".")[2].upper(), names, n=1)
    hint = f"Did you mean {names[close[0]]}?" if close else f"Known are {', '.join(known)}"
    raise UserError(f"unknown key {key}. {hint}")


def settings_tree(settings: Settings) -> dict[str, dict[str, Any]]:
    """Return settings as the nested upper-case dictionaries of the ``U2SEG`` node."""
    return {
        section.upper(): {key.upper(): value for key, value in content.items()}
        for section, content in asdict(settings).items()
    }


def settings_hash(*sections: Any) -> str:
    """Return the SHA-256 of some settings objects (classes, keys and values).

    Examples:
        >>> from u2seg.config.schema import MaskSettings
        >>> settings_hash(MaskSettings()) == settings_hash(MaskSettings(tau=0.15))
        True
        >>> settings_hash(MaskSettings()) == settings_hash(MaskSettings(tau=0.2))
        False
    """
    content = [[type(section).__name__, asdict(section)] for section in sections]
    return hashlib.sha256(json_bytes(content)).hexdigest()
