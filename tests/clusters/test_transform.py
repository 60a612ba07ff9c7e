"""Whitening, PCA and unit length: hand-computed, beside SciPy and scikit-learn, and fitted once."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.cluster.vq import whiten
from sklearn.decomposition import PCA

from u2seg.clusters import rows as rows_module
from u2seg.clusters.rows import ArrayRows
from u2seg.clusters.transform import Transform, fit_transform, moments
from u2seg.config.schema import ClusterSettings
from u2seg.errors import UserError

CROSS = np.array([[3, 3], [-3, -3], [1, -1], [-1, 1]], dtype=np.float32) + 10
"""Around (10, 10): variance 9 along (1, 1) and 1 along (1, -1)."""


def fitted(points: np.ndarray, **options: object) -> np.ndarray:
    settings = ClusterSettings(**{"normalize": False, **options})  # type: ignore[arg-type]
    return fit_transform(ArrayRows(points), settings)(points)


def test_pca_by_hand() -> None:
    root = 2**0.5
    np.testing.assert_allclose(fitted(CROSS, pca=1), [[3 * root], [-3 * root], [0], [0]], atol=1e-5)
    whole = fitted(CROSS, pca=2)
    np.testing.assert_allclose(whole[:, 1] ** 2, [0, 0, 2, 2], atol=1e-5)


def test_pca_whitening_by_hand() -> None:
    # Variances along the two directions: 18 / 2 = 9 and 2 / 2 = 1, so both end at 1.
    got = fitted(CROSS, whiten="pca")
    np.testing.assert_allclose(got[:, 0], [2**0.5, -(2**0.5), 0, 0], atol=1e-5)
    np.testing.assert_allclose(np.cov(got.T, bias=True), np.eye(2), atol=1e-5)


def test_scaling_by_hand_does_not_centre() -> None:
    points = np.array([[1, 10], [5, 10], [1, 12], [5, 12]], dtype=np.float32)
    assert fitted(points, whiten="scale").tolist() == [[0.5, 10], [2.5, 10], [0.5, 12], [2.5, 12]]


def test_unit_length_comes_last() -> None:
    points = np.array([[0, 0], [6, 0], [0, 2], [6, 2]], dtype=np.float32)
    got = fitted(points, whiten="scale", normalize=True)
    # Deviations 3 and 1: (6, 2) becomes (2, 2), then (1, 1) / sqrt 2.
    np.testing.assert_allclose(got[3], [0.5**0.5, 0.5**0.5], rtol=1e-6)
    assert got[0].tolist() == [0, 0]


def test_as_scipy_and_scikit_learn_do() -> None:
    rng = np.random.default_rng(0)
    points = (rng.standard_normal((500, 6)) @ rng.standard_normal((6, 6)) + 3).astype(np.float32)
    np.testing.assert_allclose(fitted(points, whiten="scale"), whiten(points), rtol=1e-4)
    for settings in ({"pca": 4}, {"pca": 4, "whiten": "pca"}):
        model = PCA(4, whiten="whiten" in settings).fit(points.astype(float))
        got, wanted = fitted(points, **settings), model.transform(points)
        wanted *= np.sign(np.sum(got * wanted, axis=0))
        # scikit-learn divides by n - 1.
        factor = (500 / 499) ** 0.5 if "whiten" in settings else 1.0
        np.testing.assert_allclose(got, wanted * factor, atol=2e-3)
    scaled = fitted(points, whiten="scale", pca=3)
    wanted = PCA(3).fit_transform(whiten(points).astype(float))
    wanted *= np.sign(np.sum(scaled * wanted, axis=0))
    np.testing.assert_allclose(scaled, wanted, atol=2e-3)


def test_directions_without_variance_become_zero_not_infinite() -> None:
    points = np.random.default_rng(0).standard_normal((40, 3)).astype(np.float32)
    points = np.hstack([points, points[:, :1], np.full((40, 1), 7, np.float32)])
    got = fitted(points, whiten="pca")
    assert np.isfinite(got).all()
    np.testing.assert_allclose(got.var(axis=0), [1, 1, 1, 0, 0], atol=1e-3)
    assert fitted(points, whiten="scale")[:, 4].tolist() == [0] * 40
    assert fitted(np.ones((3, 2), np.float32), whiten="pca").tolist() == [[0, 0]] * 3


def test_moments_far_from_zero_keep_their_digits() -> None:
    points = np.random.default_rng(0).standard_normal((2000, 3)).astype(np.float32) + 4096
    mean, covariance = moments(ArrayRows(points))
    np.testing.assert_allclose(mean, points.mean(axis=0, dtype=float), rtol=1e-12)
    np.testing.assert_allclose(covariance, np.cov(points.T.astype(float), bias=True), rtol=1e-9)


def test_nothing_asked_nothing_done() -> None:
    transform = fit_transform(ArrayRows(CROSS), ClusterSettings(normalize=False))
    rows = ArrayRows(CROSS)
    assert transform.trivial
    assert transform.rows(rows) is rows


def test_tables_are_transformed_as_they_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows_module, "BLOCK_ROWS", 3)
    rows = ArrayRows(CROSS)
    transform = fit_transform(rows, ClusterSettings(pca=1))
    mapped = transform.rows(rows)
    assert (len(mapped), mapped.dim) == (4, 1)
    whole = np.concatenate([block for _, block in mapped.blocks()])
    np.testing.assert_allclose(whole, transform(CROSS), atol=1e-6)


def test_more_components_than_dimensions_are_refused() -> None:
    with pytest.raises(UserError, match=r"PCA is 3, but descriptors have 2 dimensions: lower it"):
        fitted(CROSS, pca=3)


def test_descriptors_of_another_width_are_refused() -> None:
    transform = Transform(False, np.zeros((3, 1), np.float32))
    with pytest.raises(UserError, match="5 dimensions, the saved PCA is of 2"):
        transform(np.zeros((1, 5), np.float32))
