"""What is done to descriptors before K-means: whitening, PCA, unit length; fitted once.

Shapes: n descriptors of D dimensions, P principal components.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from u2seg.clusters.rows import MappedRows, Rows, Table, one_blas_thread_each
from u2seg.config.schema import ClusterSettings
from u2seg.errors import UserError

LEAST_VARIANCE = 1e-9
"""A direction with less than this share of the largest variance carries rounding errors only: it
is not whitened but set to 0."""


@dataclass(frozen=True)
class Transform:
    """x -> x @ matrix + offset, then perhaps unit length.

    Args:
        normalize: Scale the result to unit length.
        affine: (D + 1, P) float32: the matrix, and below it what is added; None = x itself.
    """

    normalize: bool
    affine: Table | None = None

    def __call__(self, descriptors: Table) -> Table:
        """Return (m, P) float32 of (m, D); the argument is not modified.

        Raises:
            UserError: if D is not what it was fitted for.

        Examples:
            >>> Transform(True)(np.float32([[3, 4]])).round(3).tolist()
            [[0.6000000238418579, 0.800000011920929]]
        """
        result = descriptors
        if self.affine is not None:
            if descriptors.shape[1] != len(self.affine) - 1:
                raise UserError(
                    f"descriptors have {descriptors.shape[1]} dimensions, the saved PCA is of "
                    f"{len(self.affine) - 1}: they come from different feature extractors"
                )
            # In double precision, how many rows are multiplied at once does not show in the result.
            wide = self.affine.astype(np.float64)
            result = (descriptors.astype(np.float64) @ wide[:-1] + wide[-1]).astype(np.float32)
        return normalize_rows(result) if self.normalize else result

    @property
    def trivial(self) -> bool:
        """Whether it leaves descriptors as they are."""
        return self.affine is None and not self.normalize

    def rows(self, rows: Rows) -> Rows:
        """Return a table as it is after the transform, computed when it is read."""
        if self.trivial:
            return rows
        dim = rows.dim if self.affine is None else self.affine.shape[1]
        return MappedRows(rows, self, dim)


def normalize_rows(descriptors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return rows scaled to unit Euclidean length; rows of zeros stay zero.

    Examples:
        >>> normalize_rows(np.array([[3, 4], [0, 0]], dtype=np.float32)).tolist()
        [[0.6000000238418579, 0.800000011920929], [0.0, 0.0]]
    """
    norms = np.linalg.norm(descriptors.astype(np.float64), axis=1, keepdims=True)
    lengths = np.where(norms > 0, norms, 1.0).astype(np.float32)
    return np.asarray(descriptors / lengths, dtype=np.float32)


def fit_transform(rows: Rows, settings: ClusterSettings) -> Transform:
    """Return the transform that ``whiten``, ``pca`` and ``normalize`` ask for.

    The covariance is summed up over all rows, block by block, in double precision.

    Args:
        rows: (n, D), n >= 1.
        settings: ``whiten``, ``pca`` and ``normalize`` are used.

    Raises:
        UserError: if ``pca`` exceeds D.

    Examples:
        The first column has a standard deviation of 2, the second of 1, the third of 0.

        >>> from u2seg.clusters.rows import ArrayRows
        >>> rows = ArrayRows(np.float32([[1, 1, 7], [5, 1, 7], [1, 3, 7], [5, 3, 7]]))
        >>> scale = fit_transform(rows, ClusterSettings(whiten="scale", normalize=False))
        >>> scale(rows.read(0, 2)).tolist()
        [[0.5, 1.0, 0.0], [2.5, 1.0, 0.0]]
    """
    if settings.whiten == "none" and not settings.pca:
        return Transform(settings.normalize)
    check_pca(settings, rows.dim)
    mean, covariance = moments(rows)
    if settings.whiten == "scale":
        scale = _inverse_deviations(np.diag(covariance))
        if not settings.pca:
            return Transform(settings.normalize, _stack(np.diag(scale), np.zeros(rows.dim)))
        # PCA of the scaled descriptors.
        matrix, _ = _components(covariance * np.outer(scale, scale), settings.pca)
        matrix = scale[:, None] * matrix
    else:
        matrix, variances = _components(covariance, settings.pca or rows.dim)
        if settings.whiten == "pca":
            matrix = matrix * _inverse_deviations(variances)
    return Transform(settings.normalize, _stack(matrix, -mean @ matrix))


def check_pca(settings: ClusterSettings, dim: int) -> None:
    """Raise UserError if ``pca`` asks for more components than descriptors have dimensions."""
    if settings.pca > dim:
        raise UserError(
            f"U2SEG.CLUSTERS.PCA is {settings.pca}, but descriptors have {dim} dimensions: lower it"
        )


def moments(rows: Rows) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return mean (D,) and covariance (D, D) of a table, divided by n, float64.

    Examples:
        >>> from u2seg.clusters.rows import ArrayRows
        >>> mean, covariance = moments(ArrayRows(np.float32([[1, 0], [3, 4]])))
        >>> mean.tolist(), covariance.tolist()
        ([2.0, 2.0], [[1.0, 2.0], [2.0, 4.0]])
    """
    # Around the first row, products lose fewer digits to cancellation than around 0.
    origin = rows.read(0, 1).astype(np.float64)[0]
    total, products = np.zeros(rows.dim), np.zeros((rows.dim, rows.dim))

    def sums(start: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        gap = rows.block(start) - origin
        return gap.sum(axis=0), gap.T @ gap

    with one_blas_thread_each() as in_order:
        for part, product in in_order(sums, rows.starts()):
            total += part
            products += product
    mean = total / len(rows)
    return origin + mean, products / len(rows) - np.outer(mean, mean)


def _components(
    covariance: npt.NDArray[np.float64], count: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return (D, count) principal directions, largest variance first, and their variances.

    The largest entry of every direction is positive, so that the sign does not depend on LAPACK.
    """
    with one_blas_thread_each():
        values, vectors = np.linalg.eigh(covariance)
    values, vectors = values[::-1][:count], vectors[:, ::-1][:, :count]
    largest = np.take_along_axis(vectors, np.abs(vectors).argmax(axis=0)[None], axis=0)
    return vectors * np.where(largest < 0, -1.0, 1.0), values


def _inverse_deviations(variances: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    alive = variances > LEAST_VARIANCE * max(float(variances.max()), 0.0)
    return np.where(alive, 1 / np.sqrt(np.where(alive, variances, 1.0)), 0.0)


def _stack(matrix: npt.NDArray[np.float64], bias: npt.NDArray[np.float64]) -> Table:
    return np.vstack([matrix, bias]).astype(np.float32)
