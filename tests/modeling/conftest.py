"""Prepare Detectron2, where it is installed, before a test module imports from it."""

from __future__ import annotations

import importlib.util

if importlib.util.find_spec("detectron2") is not None:
    from u2seg.compat import prepare_host

    prepare_host()
