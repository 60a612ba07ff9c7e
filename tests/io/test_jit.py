"""Compiled functions where numba cannot keep them on disk, or what it kept is damaged."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("numba", reason="numba is not installed")
import numba
from numba.core.caching import IndexDataCacheFile

from u2seg.io import jit


def add(a: int, b: int) -> int:
    return a + b


@pytest.fixture(autouse=True)
def nothing_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jit, "_told", [])


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    return tmp_path


def hits(function: Callable[..., Any]) -> int:
    return len(function.stats.cache_hits)  # type: ignore[attr-defined]


def test_what_is_kept_is_used_again(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    first, second = jit.compiled(add), jit.compiled(add)
    assert (first(2, 3), hits(first), second(2, 3), hits(second)) == (5, 0, 5, 1)
    assert list(folder.rglob("*.nbc"))
    assert caplog.text == jit.cache_problem() == ""


def test_without_a_cache_folder_it_is_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As in a read-only package without a home folder."""
    monkeypatch.setattr(jit._Cache._impl_class, "_locator_classes", [])
    first, second = jit.compiled(add), jit.njit(error_model="numpy", inline="always")(add)
    assert (first(2, 3), second(2, 3), second(4, 4)) == (5, 5, 8)
    assert caplog.text.count("set NUMBA_CACHE_DIR to a folder that can be written") == 1
    assert "no locator available" in jit.cache_problem()


@pytest.mark.parametrize("kind", ["*.nbi", "*.nbc"])
def test_a_damaged_cache_is_made_anew(
    folder: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    jit.compiled(add)(2, 3)
    for path in folder.rglob(kind):
        path.write_bytes(path.read_bytes()[:20])
    damaged = jit.compiled(add)
    assert (damaged(2, 3), hits(damaged)) == (5, 0)
    assert caplog.text.count("is damaged") == 1
    mended = jit.compiled(add)
    assert (mended(2, 3), hits(mended)) == (5, 1)


def test_a_full_disk_is_not_fatal(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(IndexDataCacheFile, "_save_index", full)
    assert jit.compiled(add)(2, 3) == 5
    assert "No space left on device" in caplog.text
