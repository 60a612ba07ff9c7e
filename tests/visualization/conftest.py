"""Reports without drawn charts, which take most of the time; tests of charts draw them."""

from __future__ import annotations

import pytest

from u2seg.visualization import charts

DRAWN = ("test_charts.py", "test_page_is_whole", "test_a_missing_library")


@pytest.fixture(autouse=True)
def plain_charts(request, monkeypatch):
    if not any(name in request.node.nodeid for name in DRAWN):
        monkeypatch.setattr(charts, "_svg", lambda *_: '<svg role="img"></svg>')
