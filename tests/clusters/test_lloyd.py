"""Lloyd's iterations: skipping changes nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import threadpoolctl

from u2seg.clusters import lloyd as module
from u2seg.clusters import rows as rows_module
from u2seg.clusters.kmeans import KMeans, mean_variance
from u2seg.clusters.lloyd import center_groups, farthest, lloyd, minibatch
from u2seg.clusters.rows import ArrayRows, FileRows, MappedRows, one_blas_thread_each, ordered
from u2seg.clusters.transform import fit_transform
from u2seg.config.schema import ClusterSettings, KMeansSettings


def plain(points: np.ndarray, centers: np.ndarray, iterations: int) -> np.ndarray:
    """Lloyd's iterations in double precision, every distance computed."""
    wide, centers = points.astype(float), centers.astype(float)
    for _ in range(iterations):
        gaps = np.linalg.norm(wide[:, None] - centers[None], axis=2)
        labels, nearest = gaps.argmin(axis=1), gaps.min(axis=1)
        counts = np.bincount(labels, minlength=len(centers))
        held, empty = counts > 0, np.flatnonzero(counts == 0)
        centers[held] = [wide[labels == k].mean(axis=0) for k in np.flatnonzero(held)]
        centers[empty] = wide[np.sort(np.argsort(-nearest, kind="stable")[: len(empty)])]
    return centers


def test_one_iteration_by_hand() -> None:
    # 0 and 2 are nearer to 1, 7 and 9 to 6: means 1 and 8; shifts 0 and 2.
    rows = ArrayRows(np.array([[0], [2], [7], [9]], dtype=np.float32))
    start = np.array([[1], [6]], dtype=np.float32)
    centers, done = lloyd(rows, start, 1, 0.0)
    assert (centers.tolist(), done) == ([[1.0], [8.0]], 1)


@pytest.mark.parametrize("iterations", [1, 2, 7])
@pytest.mark.parametrize("offset", [0.0, 30.0])
def test_skipping_changes_nothing(
    iterations: int, offset: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows_module, "BLOCK_ROWS", 100)
    monkeypatch.setattr(module, "BLOCK_ROWS", 100)
    monkeypatch.setattr(module, "DENSE_ROWS", 30)
    monkeypatch.setattr(module, "GROUP_SIZE", 6)
    rng = np.random.default_rng(iterations)
    points = (rng.standard_normal((555, 5)) + offset).astype(np.float32)
    points[:200] += 3 * rng.standard_normal((200, 1)).astype(np.float32)
    start = points[rng.choice(555, 37, replace=False)]
    centers, _ = lloyd(ArrayRows(points), start, iterations, 0.0)
    np.testing.assert_allclose(centers, plain(points, start, iterations), atol=2e-5)


@pytest.mark.parametrize("dense", [0.0, 1.0])
def test_bounds_hold_after_every_iteration(dense: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "DENSE", dense)
    rng = np.random.default_rng(0)
    points = rng.standard_normal((300, 6)).astype(np.float32)
    state = module._State(
        ArrayRows(points), points[:12].copy(), np.repeat(np.arange(3), 4).astype(np.int64)
    )
    for _ in range(6):
        module.move(state.sums, state.counts, *state.step(0))
        gaps = np.linalg.norm(points[:, None].astype(float) - state.centers[None], axis=2)
        own = gaps[np.arange(300), state.labels]
        np.testing.assert_allclose(own, gaps.min(axis=1), atol=1e-5)
        assert (state.upper >= own - 1e-5).all()
        gaps[np.arange(300), state.labels] = np.inf
        others = gaps.reshape(300, 3, 4).min(axis=2)
        assert (state.lower <= others + 1e-5).all()
        counts = np.bincount(state.labels, minlength=12)
        np.testing.assert_array_equal(state.counts, counts)
        for k in np.flatnonzero(counts):
            np.testing.assert_allclose(state.sums[k], points[state.labels == k].sum(0), atol=1e-4)
        state.update(state.rows)


def test_converged_rows_are_not_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    # Two tight groups far apart: after the first pass nothing can change.
    points = np.repeat(np.float32([[0, 0], [99, 99]]), 40, axis=0)
    points += np.random.default_rng(0).random((80, 2), dtype=np.float32)
    read: list[int] = []
    rows = ArrayRows(points)
    monkeypatch.setattr(rows, "block", lambda start: read.append(start) or points[start:])
    centers, done = lloyd(rows, points[[0, 40]], 9, 0.0)
    assert (read, done) == ([0], 2)
    np.testing.assert_allclose(centers, [points[:40].mean(0), points[40:].mean(0)], rtol=1e-6)


def test_the_cut_into_files_memory_and_threads_change_no_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = np.random.default_rng(2).standard_normal((9000, 70)).astype(np.float32)
    settings = ClusterSettings(
        num_clusters=60, whiten="pca", pca=50, kmeans=KMeansSettings(iterations=12)
    )
    resident, found = FileRows.resident, []
    for name, cuts, limit, threads in (
        ("a", [4000, 8000], 1 << 30, 1),
        ("b", list(range(64, 9000, 64)), 0, 2),
        ("c", [], 0, 5),
    ):
        (tmp_path / name).mkdir()
        paths = [tmp_path / name / f"{index:04d}.npy" for index in range(len(cuts) + 1)]
        for path, part in zip(paths, np.split(points, cuts), strict=True):
            np.save(path, part)
        monkeypatch.setattr(MappedRows, "resident", lambda self, n=limit: resident(self, n))
        monkeypatch.setattr(rows_module, "default_threads", lambda count=threads: count)
        with threadpoolctl.threadpool_limits(threads):
            rows = FileRows(paths)
            model = KMeans.from_settings(settings).fit(fit_transform(rows, settings).rows(rows))
        found.append((model.cluster_centers_.tobytes(), model.labels_.tobytes(), model.inertia_))
    assert found[0] == found[1] == found[2]


def test_every_call_multiplies_with_one_thread_and_more_are_allowed_again() -> None:
    def blas(_: object = None) -> set[int]:
        infos = threadpoolctl.threadpool_info()
        return {i["num_threads"] for i in infos if "numpy" in i["filepath"]}

    with threadpoolctl.threadpool_limits(2):
        with one_blas_thread_each() as in_order:
            assert list(in_order(blas, range(3))) == [{1}] * 3
        assert blas() == {2}


def test_the_tolerance_is_a_share_of_the_variance() -> None:
    # Variances 4 and 0, mean 2. The only shift is that of one centre from 1 to 2: 1 <= 0.5 * 2.
    points = np.array([[0, 7], [4, 7]], dtype=np.float32)
    assert mean_variance(ArrayRows(points)) == 2.0
    start = np.array([[1, 7]], dtype=np.float32)
    for tolerance, iterations in ((1.0, 1), (0.99, 2)):
        _, done = lloyd(ArrayRows(points), start, 9, tolerance)
        assert done == iterations


def test_groups_of_centres_are_neighbours_and_none_is_empty() -> None:
    near = np.array([[0, 0], [9, 9], [0, 1], [9, 8], [1, 0]], dtype=np.float32)
    assert center_groups(near, 2).tolist() == [0, 1, 0, 1, 0]
    assert sorted(set(center_groups(np.ones((5, 2), np.float32), 3).tolist())) == [0, 1, 2]


def test_results_come_in_order_with_a_bounded_lead() -> None:
    from concurrent.futures import ThreadPoolExecutor

    begun: list[int] = []
    with ThreadPoolExecutor(1) as pool:
        results = ordered(pool, 3, lambda i: begun.append(i) or i, range(20))
        assert next(results) == 0
        assert len(begun) <= 4
        assert list(results) == list(range(1, 20))


def test_farthest_takes_no_point_that_lies_on_its_centre() -> None:
    assert farthest(np.array([0.0, 2.0, 0.0, 5.0]), 3).tolist() == [3, 1]
    assert farthest(np.zeros(3), 2).tolist() == []
    assert farthest(np.array([1.0]), 5).tolist() == [0]


def test_a_mini_batch_moves_centres_to_the_running_mean() -> None:
    # One batch of everything from [0] and [10]: 0 and 2 have the mean 1, 9 keeps its own.
    rows = ArrayRows(np.array([[0], [2], [9]], dtype=np.float32))
    start = np.array([[0], [10]], dtype=np.float32)
    centers, passes = minibatch(rows, start, 1, 0.0, 0, batch_size=3)
    assert (centers.tolist(), passes) == ([[1.0], [9.0]], 1)
    # The second batch counts as much as the first: no centre forgets.
    centers, _ = minibatch(rows, start, 2, 0.0, 0, batch_size=3)
    assert centers.tolist() == [[1.0], [9.0]]


def test_mini_batches_are_made_only_when_asked() -> None:
    points = np.random.default_rng(0).standard_normal((500, 4)).astype(np.float32)
    full = KMeans(9, max_iter=5).fit(points)
    batches = KMeans(9, max_iter=5, batch_size=50).fit(points)
    again = KMeans(9, max_iter=5, batch_size=50).fit(points)
    assert not np.array_equal(full.cluster_centers_, batches.cluster_centers_)
    assert batches.cluster_centers_.tobytes() == again.cluster_centers_.tobytes()
    assert batches.inertia_ < 1.2 * full.inertia_
