"""Build ``Settings`` from a YAML file and ``KEY VALUE`` overrides, refusing every typo.

One YAML serves both halves: labelling reads its ``U2SEG`` node and checks the names of Detectron2's
keys; training reads all of it through Detectron2's own config.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, cast

import yaml

from u2seg.config.plugins import load_plugins, plugin_digests
from u2seg.config.schema import Settings
from u2seg.config.section import Section
from u2seg.config.words import HOST_KEY, HOST_SECTIONS, coerce, flatten, override_pairs, unknown_key
from u2seg.config.words import ROOT as ROOT
from u2seg.errors import UserError
from u2seg.io.atomic import json_bytes
from u2seg.io.yamlfile import load_yaml, merge, parse_yaml
from u2seg.registry import SETTINGS

S = TypeVar("S", bound=Any)


def load_settings(
    config_file: Path | str | None,
    overrides: Sequence[str] = (),
    host_keys: Collection[str] = (),
) -> Settings:
    """Return the settings of a YAML file with overrides applied.

    Examples:
        >>> load_settings(None, ["U2SEG.MASKS.MASKCUT.TAU", "0.2"]).masks.maskcut.tau
        0.2
        >>> load_settings(None, ["U2SEG.RUN.THREAD", "2"])
        Traceback (most recent call last):
            ...
        u2seg.errors.UserError: unknown key U2SEG.RUN.THREAD. Did you mean U2SEG.RUN.THREADS?
    """
    tree: dict[str, Any] = load_yaml(config_file) if config_file else {}
    tree = merge(tree, overrides_tree(overrides))
    for key in map(str, tree):
        if key not in (ROOT, *HOST_SECTIONS):
            raise unknown_key(key, (ROOT, *HOST_SECTIONS))
    node = tree.pop(ROOT, None) or {}
    for key in flatten(tree):
        if host_keys and key not in host_keys:
            raise unknown_key(key, host_keys, "", "The installed Detectron2 has none such")
        if not HOST_KEY.fullmatch(key):
            raise UserError(f"unknown key {key}. Detectron2 writes its keys in capitals")
    if not isinstance(node, dict):
        raise UserError(f"{ROOT} must be a mapping of sections, found {node!r}")
    plugins = load_plugins(node.get("PLUGINS") or (), config_file)
    return settings_from_tree({**node, "PLUGINS": plugins})


def overrides_tree(overrides: Sequence[str]) -> dict[str, Any]:
    """Return overrides as nested dictionaries; values are parsed as YAML, Detectron2's are not.

    Examples:
        >>> overrides_tree(["U2SEG.RUN.SHARD_SIZE", "8"])
        {'U2SEG': {'RUN': {'SHARD_SIZE': 8}}}
    """
    tree: dict[str, Any] = {}
    for key, text in override_pairs(overrides):
        parts = key.split(".")
        value: Any = text
        if text and parts[0] not in HOST_SECTIONS:
            with contextlib.suppress(yaml.YAMLError, ValueError):
                value = parse_yaml(text)
        for part in reversed(parts):
            value = {part: value}
        tree = merge(tree, value)
    return tree


def settings_from_tree(node: dict[str, Any]) -> Settings:
    """Return ``Settings`` from nested upper-case dictionaries (the ``U2SEG`` node)."""
    settings: Settings = section_from_tree(Settings(), node, ROOT)
    return settings


def section_from_tree(default: S, content: Any, prefix: str) -> S:
    """Return a settings object with the values of ``content`` in place of its own."""
    if not isinstance(content, dict):
        raise UserError(f"{prefix} must be a mapping of keys, found {content!r}")
    known = {f.name.upper(): f for f in fields(default) if f.name != "extras"}
    plugged = _plugged(default, prefix)
    values: dict[str, Any] = {}
    inner = [
        f"{prefix}.{name}.{g.name.upper()}"
        for name, f in known.items()
        if is_dataclass(now := getattr(default, f.name))
        for g in fields(now)
    ]
    extras = {type(extra): extra for extra in getattr(default, "extras", ())}
    for key, value in content.items():
        full = f"{prefix}.{key}"
        if key not in known and key not in plugged:
            raise unknown_key(full, [*(f"{prefix}.{name}" for name in (*known, *plugged)), *inner])
        if key in plugged:
            extras[plugged[key]] = section_from_tree(plugged[key](), value, full)
            continue
        now = getattr(default, known[key].name)
        nested = is_dataclass(now)
        values[known[key].name] = (
            section_from_tree(now, value, full) if nested else coerce(full, value, now)
        )
    if extras:
        values["extras"] = tuple(extra for kind, extra in extras.items() if extra != kind())
    try:
        return replace(default, **values)
    except UserError:
        raise
    except (TypeError, ValueError) as error:  # a plug-in's own check
        raise UserError(f"{prefix}: {error}") from error


def _plugged(section: Any, prefix: str) -> dict[str, type]:
    """Return the nodes that plug-ins added to a section: name -> dataclass."""
    if not isinstance(section, Section):
        return {}
    own = {f.name.upper() for f in fields(section)}
    there = SETTINGS.get(prefix.rpartition(".")[2], {})
    return {name: kind for name, kind in there.items() if name not in own}


def settings_tree(settings: Settings) -> dict[str, Any]:
    """Return settings as the nested upper-case dictionaries of the ``U2SEG`` node."""
    tree: dict[str, Any] = section_tree(settings, ROOT)
    return tree


def section_tree(value: Any, prefix: str) -> Any:
    """Return a settings object as nested dictionaries with keys in capitals."""
    if not is_dataclass(value):
        return value
    names = [f.name for f in fields(value) if f.name != "extras"]
    tree = {n.upper(): section_tree(getattr(value, n), f"{prefix}.{n.upper()}") for n in names}
    for name, kind in _plugged(value, prefix).items():
        tree[name] = section_tree(cast("Section", value).of(kind), f"{prefix}.{name}")
    return tree


def settings_hash(*sections: Any) -> str:
    """Return the SHA-256 of some settings objects (classes, keys and values).

    Examples:
        >>> from u2seg.config.schema import MaskSettings
        >>> settings_hash(MaskSettings()) == settings_hash(MaskSettings(tiles=0))
        True
        >>> settings_hash(MaskSettings()) == settings_hash(MaskSettings(tiles=2))
        False
    """
    content = [[type(section).__name__, _canonical(section)] for section in sections]
    digests = plugin_digests(_texts(content))
    return hashlib.sha256(json_bytes([*content, *digests])).hexdigest()


def _texts(value: Any) -> Iterator[str]:
    """Yield the texts among nested values: names of members are some of them."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list | tuple):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _texts(item)


def _canonical(section: Any) -> dict[str, Any]:
    """Return keys and values; of what plug-ins added those that are not at their defaults."""
    tree: dict[str, Any] = asdict(section)
    tree.pop("plugins", None)  # where they lie; what they say is in their digests
    if isinstance(section, Section):
        given = [extra for extra in section.extras if extra != type(extra)()]
        tree["extras"] = sorted([type(extra).__name__, asdict(extra)] for extra in given)
    return tree


def add_u2seg_config(cfg: Any) -> None:
    """Add ``cfg.U2SEG`` with every default; harmless if it is there already."""
    if ROOT in cfg:
        return
    cfg[ROOT] = type(cfg)(settings_tree(Settings()))


def settings_from_cfg(cfg: Any) -> Settings:
    """Return the validated settings of ``cfg.U2SEG``; UserError for a bad value."""
    load_plugins(cfg[ROOT].PLUGINS)  # in a process that was handed the config alone
    return settings_from_tree(cfg[ROOT])
