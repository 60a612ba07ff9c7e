"""Without Detectron2, tests marked ``d2`` are skipped and u2seg/modeling is not collected.

A test leaves PyTorch with as many threads as it found.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Generator

import pytest

import u2seg  # noqa: F401 - before torch, so that its idle threads sleep

HAS_HOST = importlib.util.find_spec("detectron2") is not None
REASON = "Detectron2 is not installed: u2seg doctor --install-detectron2"
# Its modules derive from Detectron2's classes, so importing them for doctests would fail.
collect_ignore_glob = [] if HAS_HOST else ["u2seg/modeling/*.py", "tests/modeling/tiny.py"]


def pytest_report_header() -> str:
    """Say in the header what is left out."""
    return "Detectron2: present" if HAS_HOST else f"{REASON}; d2 tests are skipped"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what is marked ``d2`` where Detectron2 is absent."""
    if HAS_HOST:
        return
    for item in items:
        if item.get_closest_marker("d2"):
            item.add_marker(pytest.mark.skip(reason=REASON))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol() -> Generator[None, object, object]:
    """Restore the number of threads: a benchmark's would slow all tests that follow it."""
    torch = sys.modules.get("torch")
    before = torch.get_num_threads() if torch else 0
    result = yield
    if torch and torch.get_num_threads() != before:
        torch.set_num_threads(before)
    return result
