"""The plug-ins are imported by the package, as a user's are, not by pytest, and go at the end."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest

collect_ignore_glob = ["plugins/*"]


@pytest.fixture(autouse=True, scope="module")
def forgotten() -> Iterator[None]:
    """Leave the tables of the package as they were: other tests list their members."""
    from u2seg import registry
    from u2seg.clusters.describe import DESCRIPTORS
    from u2seg.config import plugins
    from u2seg.masks.base import MASK_PROPOSERS
    from u2seg.modeling.student import STUDENTS
    from u2seg.panoptic.relabel import RELABEL_RULES
    from u2seg.semantics import SEMANTIC_SEGMENTERS

    tables = [DESCRIPTORS, MASK_PROPOSERS, RELABEL_RULES, SEMANTIC_SEGMENTERS, STUDENTS]
    for table in tables:
        table.names()  # their own members are there
    kept = [
        copy.deepcopy({k: v for k, v in vars(t).items() if isinstance(v, dict)}) for t in tables
    ]
    settings, loaded = copy.deepcopy(registry.SETTINGS), dict(plugins._loaded)
    yield
    for table, before in zip(tables, kept, strict=True):
        vars(table).update(before)
    registry.SETTINGS.clear()
    registry.SETTINGS.update(settings)
    plugins._loaded.clear()
    plugins._loaded.update(loaded)
