"""Students in the host's registries and in our own, their inference and their checkpoints."""

from __future__ import annotations

import importlib

from u2seg.compat import prepare_host

prepare_host()


def register() -> None:
    """Put this package's models into Detectron2's registries; harmless if repeated."""
    for name in ("cascade", "heads"):
        importlib.import_module(f"u2seg.modeling.{name}")
