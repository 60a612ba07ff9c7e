"""The ``U2SEG`` node of a yacs config, derived from the settings classes.

yacs refuses nodes of a foreign ``CfgNode`` class, so the node is made with ``type(cfg)``; this
module therefore needs no import of yacs or Detectron2.
"""

from __future__ import annotations

from typing import Any

from u2seg.config.load import ROOT, settings_from_tree, settings_tree
from u2seg.config.plugins import load_plugins
from u2seg.config.schema import Settings


def add_u2seg_config(cfg: Any) -> None:
    """Add ``cfg.U2SEG`` with every default; harmless if it is there already.

    Args:
        cfg: A Detectron2 or yacs ``CfgNode``; changed in place.
    """
    if ROOT in cfg:
        return
    cfg[ROOT] = type(cfg)(settings_tree(Settings()))


def settings_from_cfg(cfg: Any) -> Settings:
    """Return the validated settings of ``cfg.U2SEG``; UserError for a bad value."""
    load_plugins(cfg[ROOT].PLUGINS)  # in a process that was handed the config alone
    return settings_from_tree(cfg[ROOT])
