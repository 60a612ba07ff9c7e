"""K-means: contract, edge cases, and the inertia of the reference implementation."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from tests.shared import SHARED, needs_shared
from u2seg.clusters import kmeans as module
from u2seg.clusters.kmeans import KMeans
from u2seg.clusters.lloyd import assign
from u2seg.clusters.rows import ArrayRows, FileRows, Rows
from u2seg.clusters.transform import normalize_rows
from u2seg.config.schema import ClusterSettings, KMeansSettings
from u2seg.errors import UserError


def _blobs(per_blob: int = 20, blobs: int = 4, depth: int = 3) -> np.ndarray:
    rng = np.random.default_rng(3)
    centers = 20 * np.eye(blobs, depth)
    noise = 0.1 * rng.standard_normal((blobs * per_blob, depth))
    return (np.repeat(centers, per_blob, axis=0) + noise).astype(np.float32)


def test_well_separated_groups_are_found() -> None:
    points = _blobs(blobs=3)
    model = KMeans(3)
    assert model.fit(points) is model
    groups = model.labels_.reshape(3, 20)
    assert (groups == groups[:, :1]).all()
    assert len(set(groups[:, 0])) == 3
    for row in range(3):
        mean = points[row * 20 : row * 20 + 20].mean(axis=0)
        np.testing.assert_allclose(model.cluster_centers_[groups[row, 0]], mean, atol=1e-5)


def test_labels_centres_and_inertia_agree() -> None:
    points = np.random.default_rng(0).standard_normal((200, 8)).astype(np.float32)
    before = points.copy()
    model = KMeans(7).fit(points)
    labels, distances = assign(points, model.cluster_centers_)
    np.testing.assert_array_equal(model.labels_, labels)
    np.testing.assert_array_equal(model.predict(points), labels)
    assert model.inertia_ == pytest.approx(float(np.sum(distances**2)))
    assert model.cluster_centers_.dtype == np.float32
    np.testing.assert_array_equal(points, before)


def test_same_seed_same_bytes_other_seed_other_start() -> None:
    points = np.random.default_rng(0).standard_normal((300, 8)).astype(np.float32)
    runs = [KMeans(9, random_state=s, max_iter=2).fit(points) for s in (5, 5, 6)]
    centers = [run.cluster_centers_.tobytes() for run in runs]
    assert centers[0] == centers[1]
    assert centers[0] != centers[2]


def test_restarts_keep_the_best(monkeypatch: pytest.MonkeyPatch) -> None:
    points = np.random.default_rng(1).standard_normal((200, 4)).astype(np.float32)
    seen = []
    original = module._fill_empty

    def spy(x: Rows, c: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
        result = original(x, c)
        seen.append(result[2])
        return result

    monkeypatch.setattr(module, "_fill_empty", spy)
    model = KMeans(12, n_init=5).fit(points)
    assert len(seen) == 5
    assert len(set(seen)) > 1
    assert model.inertia_ == min(seen)


def test_more_clusters_than_masks_is_an_error_with_both_numbers() -> None:
    with pytest.raises(UserError, match=r"NUM_CLUSTERS is 5, but there are only 3 masks.*lower"):
        KMeans(5).fit(np.eye(3, dtype=np.float32))


def test_as_many_clusters_as_masks() -> None:
    model = KMeans(3).fit(np.eye(3, dtype=np.float32))
    assert sorted(model.labels_.tolist()) == [0, 1, 2]
    assert model.inertia_ == pytest.approx(0.0, abs=1e-12)


def test_fewer_distinct_points_than_clusters_warns_and_stays_finite(
    caplog: pytest.LogCaptureFixture,
) -> None:
    points = np.repeat(np.eye(2, dtype=np.float32), 6, axis=0)
    with caplog.at_level(logging.WARNING):
        model = KMeans(4).fit(points)
    assert np.isfinite(model.cluster_centers_).all()
    assert model.inertia_ == pytest.approx(0.0, abs=1e-6)
    assert "only 2 of 4 clusters have members" in caplog.text


def test_empty_clusters_are_seeded_at_the_farthest_points(
    caplog: pytest.LogCaptureFixture,
) -> None:
    # Nothing is nearest to the centre at 1e6; the point farthest from its own centre is 9.
    points = np.array([[0], [1], [9]], dtype=np.float32)
    centers = np.array([[0.5], [1e6]], dtype=np.float32)
    with caplog.at_level(logging.WARNING):
        filled, labels, inertia = module._fill_empty(ArrayRows(points), centers)
    assert filled.tolist() == [[0.5], [9.0]]
    assert labels.tolist() == [0, 0, 1]
    assert inertia == 0.5
    assert "1 of 2 clusters were empty" in caplog.text


def test_no_more_iterations_than_asked_and_fewer_where_it_converges() -> None:
    points = np.random.default_rng(0).standard_normal((2000, 8)).astype(np.float32)
    assert KMeans(20, max_iter=7, tol=0).fit(points).n_iter_ == 7
    assert KMeans(3, max_iter=100).fit(_blobs(blobs=3)).n_iter_ <= 5


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (np.ones(4, np.float32), "Expected 2D array"),
        (np.array([[np.nan, 1.0], [0, 1]], np.float32), "NaN"),
    ],
)
def test_bad_descriptors_are_refused(points: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        KMeans(1).fit(points)


def test_predict_before_fit_is_refused() -> None:
    with pytest.raises(NotFittedError):
        KMeans(1).predict(np.ones((1, 1), np.float32))


def test_predict_refuses_other_dimensions_and_bad_numbers() -> None:
    model = KMeans(1).fit(np.ones((2, 3), np.float32))
    with pytest.raises(UserError, match="X has 2 features, but KMeans is expecting 3"):
        model.predict(np.ones((1, 2), np.float32))
    with pytest.raises(ValueError, match="NaN"):
        model.predict(np.full((1, 3), np.nan, np.float32))


def test_settings_reach_the_model() -> None:
    settings = ClusterSettings(
        num_clusters=7,
        seed=9,
        kmeans=KMeansSettings(init="random", iterations=3, restarts=2, batch_size=50),
    )
    assert KMeans.from_settings(settings).get_params() == {
        "n_clusters": 7,
        "init": "random",
        "n_init": 2,
        "max_iter": 3,
        "tol": 1e-4,
        "batch_size": 50,
        "random_state": 9,
    }


def test_scikit_learn_takes_it_for_one_of_its_own() -> None:
    points = _blobs(blobs=3)
    model = KMeans(3, random_state=4).fit(points)
    copy = clone(model).set_params(n_clusters=2)
    assert not hasattr(copy, "labels_")
    assert (copy.n_clusters, copy.random_state, model.n_clusters) == (2, 4, 3)
    piped = make_pipeline(StandardScaler(), KMeans(3)).fit(points)
    assert len(set(piped.predict(points).tolist())) == 3
    np.testing.assert_array_equal(KMeans(3, random_state=4).fit_predict(points), model.labels_)
    assert (model.n_features_in_, model.cluster_centers_.shape) == (3, (3, 3))


@pytest.mark.filterwarnings("ignore")
@parametrize_with_checks([KMeans()])
def test_scikit_learn_s_own_checks_pass(estimator: KMeans, check: Any) -> None:
    check(estimator)


def test_tables_on_disk_are_checked_too(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.float32([[1, np.inf]]))
    with pytest.raises(ValueError, match="descriptors hold NaN or infinity"):
        KMeans(1).fit(FileRows([tmp_path / "a.npy"]))
    model = KMeans(1).fit(np.ones((2, 3), np.float32))
    with pytest.raises(ValueError, match="expecting 3 features"):
        model.predict(FileRows([tmp_path / "a.npy"]))


@pytest.mark.parametrize("name", ["n_clusters", "n_init", "max_iter"])
def test_counts_below_one_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        KMeans(1).set_params(**{name: 0}).fit(np.ones((2, 2)))


@pytest.mark.shared
@needs_shared("golden", "kmeans")
@pytest.mark.parametrize("normalize", [False, True])
def test_inertia_within_one_percent_of_the_reference(normalize: bool) -> None:
    folder = SHARED / "golden" / "kmeans"
    points = np.load(folder / "kmeans.npz")["X"]
    reference = np.load(folder / ("kmeans_l2.npz" if normalize else "kmeans.npz"))
    given = normalize_rows(points) if normalize else points
    model = KMeans(20, n_init=10).fit(given)
    gaps = given - model.cluster_centers_[model.labels_]
    assert float(np.sum(gaps.astype(float) ** 2)) == pytest.approx(model.inertia_, rel=1e-5)
    assert model.inertia_ <= 1.01 * float(reference["inertia"])


@pytest.mark.shared
@needs_shared("golden", "kmeans")
def test_assignment_to_the_reference_centres() -> None:
    reference = np.load(SHARED / "golden" / "kmeans" / "kmeans.npz")
    labels, distances = assign(reference["X"], reference["centers"])
    np.testing.assert_array_equal(labels, reference["labels"])
    assert float(np.sum(distances**2)) == pytest.approx(float(reference["inertia"]), rel=1e-5)
