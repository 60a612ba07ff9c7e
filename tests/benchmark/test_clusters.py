"""The benchmark of clustering: every row at a small size, and that nothing is left behind."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest

from benchmarks import clusters
from benchmarks.clusters import Sizes, descriptors, make_rows, table
from benchmarks.machine import Rates
from benchmarks.setting import Setting
from u2seg.clusters.rows import FileRows
from u2seg.errors import StageError

SMALL = Sizes(
    count=3000, subset=1000, dim=16, clusters=40, iterations=3, shard=400, small=500, few=10
)
SETTING = Setting(1, 1, Rates(1e11, 1e10), None)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    clusters.streamed.cache_clear()


@pytest.mark.parametrize("name", list(make_rows(SMALL)))
def test_every_row_is_measured_and_leaves_nothing(name: str, tmp_path: Path) -> None:
    row = make_rows(SMALL)[name].measure(SETTING)
    assert row.name == name
    assert row.ours > 0 and row.peer > 0
    assert not list(tmp_path.glob("u2seg-clusters-*"))
    if name.startswith("iteration"):
        assert "mean of 3 iterations" in row.note
    if name == "memory":
        # A process with these libraries cannot be smaller, nor this table make it larger.
        assert 0.05 < row.ours < 1 and row.met


def test_other_centres_miss_the_target(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clusters, "ours", lambda paths, start, iterations: (start * 1.2, 3))
    assert make_rows(SMALL)["iteration"].measure(SETTING).met is False


def test_two_rows_share_one_streamed_run(monkeypatch: pytest.MonkeyPatch) -> None:
    modes = []
    found = {"peak_gb": 1.0, "iteration_s": 1.0, "fit_s": 1.0, "fit_iterations": 1}
    monkeypatch.setattr(clusters, "_child", lambda task: modes.append(task["mode"]) or found)
    for name in ("million", "memory"):
        make_rows(SMALL)[name].measure(SETTING)
    assert modes == ["fit", "load"]


def test_the_subset_in_memory_is_the_begin_of_the_table_on_disk() -> None:
    with table(SMALL, SMALL.count) as paths:
        rows = FileRows(paths)
        assert (len(rows), rows.dim, len(paths)) == (3000, 16, 8)
        np.testing.assert_array_equal(rows.read(400, 800), descriptors(400, 16, 1))
    assert not paths[0].exists()


def test_descriptors_have_groups_or_none() -> None:
    grouped, noise = descriptors(4000, 16, 0), descriptors(4000, 16, 0, groups=0)
    np.testing.assert_allclose(noise.std(axis=0), 1, atol=0.06)
    # Noise 1 and middles 1.5: a variance of 3.25, divided by 1 + d.
    wanted = np.sqrt(3.25 / (1 + np.arange(16)))
    np.testing.assert_allclose(grouped.std(axis=0), wanted, rtol=0.15)


def test_a_failing_child_is_told() -> None:
    with pytest.raises(StageError, match="cluster worker 'load' failed"):
        clusters._child({"mode": "load", "folder": "/nowhere", "threads": 1, "sizes": {}})
