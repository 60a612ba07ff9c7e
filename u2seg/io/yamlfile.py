"""YAML settings with ``_BASE_`` chains, read safely.

Detectron2's own loader may fall back to ``yaml.unsafe_load``; this one never executes anything:
no Python tags, no aliases (an alias bomb explodes when copied), no URLs, no cycles.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from u2seg.errors import UserError
from u2seg.io.packaged import PREFIX, config_path, name_hint
from u2seg.io.paths import expand_home

BASE_KEY = "_BASE_"
MAX_BYTES = 1 << 20


class _PlainLoader(yaml.SafeLoader):
    """SafeLoader that refuses tags, aliases and duplicate keys."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.events.AliasEvent):
            raise yaml.YAMLError("aliases (*name) are not allowed in settings")
        tag = getattr(self.peek_event(), "tag", None)  # type: ignore[no-untyped-call]
        if tag is not None:  # SafeLoader's own tags too: !!int and others fail in many ways
            raise yaml.YAMLError(f"tags ({tag}) are not allowed in settings")
        return super().compose_node(parent, index)

    def construct_scalar(self, node: Any) -> Any:
        value = super().construct_scalar(node)
        return expand_home(value) if isinstance(value, str) else value

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise yaml.YAMLError("a list or mapping cannot be a key")
            if key_node.value in seen:
                raise yaml.YAMLError(f"key {key_node.value!r} is given twice")
            seen.add(key_node.value)
        return super().construct_mapping(node, deep)


def parse_yaml(text: str) -> Any:
    """Return the value of YAML text; raises yaml.YAMLError, executes nothing."""
    return yaml.load(text, Loader=_PlainLoader)  # noqa: S506 - a SafeLoader


def load_yaml(path: Path | str) -> dict[str, Any]:
    """Return a YAML file as nested dictionaries, its ``_BASE_`` chain merged below it.

    Args:
        path: The file, or ``u2seg/NAME`` of a packaged config; ``_BASE_`` in it is a path
            relative to it (or absolute), or such a name.

    Returns:
        Merged settings without ``_BASE_``, ``~/`` in front of paths expanded; values of the file
        win over those of its bases.

    Raises:
        UserError: if a file is missing, larger than 1 MiB, not a mapping, holds a tag, an alias
            or a key twice, names an URL as base, or the chain has a cycle.
    """
    return _load(config_path(path), ())


def base_of(path: Path) -> Path | None:
    """Return the file that ``_BASE_`` of a settings file names; None if it has none.

    Raises:
        UserError: as ``load_yaml``.
    """
    return _split(path)[0]


def _load(path: Path, above: tuple[Path, ...]) -> dict[str, Any]:
    resolved = path.resolve()
    if resolved in above:
        chain = " -> ".join(str(p) for p in (*above, resolved))
        raise UserError(f"{BASE_KEY} chain has a cycle: {chain}")
    base, content = _split(path)
    return content if base is None else merge(_load(base, (*above, resolved)), content)


def _split(path: Path) -> tuple[Path | None, dict[str, Any]]:
    content = _read(path)
    base = content.pop(BASE_KEY, None)
    if base is None:
        return None, content
    if not isinstance(base, str) or "://" in base:
        raise UserError(f"{path}: {BASE_KEY} must be the path of a local file, got {base!r}")
    beside = path.parent / base
    return (
        config_path(base) if base.startswith(PREFIX) and not beside.is_file() else beside
    ), content


def _read(path: Path) -> dict[str, Any]:
    try:
        if path.exists() and not path.is_file():  # a device or pipe might never end
            raise UserError(f"cannot read {path}: not a regular file")
        if path.stat().st_size > MAX_BYTES:
            raise UserError(f"{path} is larger than {MAX_BYTES} bytes: not a settings file")
        content = parse_yaml(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"config file {path} does not exist{name_hint(path)}") from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} is not plain YAML: {error}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold a mapping, found {type(content).__name__}")
    return content


def merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Return ``base`` with ``over`` merged into it, key by key, neither modified.

    Examples:
        >>> merge({"A": {"x": 1, "y": 2}}, {"A": {"y": 3}})
        {'A': {'x': 1, 'y': 3}}
    """
    result = dict(base)
    for key, value in over.items():
        below = result.get(key)
        both = isinstance(below, dict) and isinstance(value, dict)
        result[key] = merge(below, value) if both else value  # type: ignore[arg-type]
    return result
