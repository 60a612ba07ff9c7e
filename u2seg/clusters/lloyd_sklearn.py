"""Lloyd's iterations by scikit-learn, for tables that fit into memory."""

from __future__ import annotations

import warnings

import numpy as np

from u2seg.clusters.base import CLUSTERERS
from u2seg.clusters.rows import RESIDENT_BYTES, ArrayRows, Rows, Table
from u2seg.errors import UserError


@CLUSTERERS.register("sklearn")
def lloyd_sklearn(
    rows: Rows, initial: Table, iterations: int, tolerance: float, seed: int
) -> tuple[Table, int]:
    """Return centres and the number of iterations; see ``Lloyd`` for the arguments.

    One OpenMP thread: scikit-learn adds the partial sums of its threads in whatever order they
    finish, so more threads would give other last digits on every run.

    Raises:
        UserError: if the table is larger than ``RESIDENT_BYTES``: scikit-learn takes arrays.
    """
    from sklearn.cluster import KMeans as SklearnKMeans
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    table = rows.resident()
    if not isinstance(table, ArrayRows):
        raise UserError(
            f"U2SEG.CLUSTERS.KMEANS.BACKEND is 'sklearn', which needs all descriptors in memory: "
            f"{len(rows)} x {rows.dim} are more than {RESIDENT_BYTES >> 20} MiB. Set it to auto"
        )
    points = table.read(0, len(table))
    spread = float(np.mean(np.var(points, axis=0)))
    estimator = SklearnKMeans(
        n_clusters=len(initial),
        init=initial,
        n_init=1,
        max_iter=iterations,
        tol=tolerance / spread if spread > 0 else 0.0,  # scikit-learn multiplies by the spread
        random_state=seed,
    )
    with threadpool_limits(1, user_api="openmp"), warnings.catch_warnings():
        # Fewer distinct points than clusters: KMeans says so itself, with the numbers.
        warnings.simplefilter("ignore", ConvergenceWarning)
        estimator.fit(points)
    return np.asarray(estimator.cluster_centers_, dtype=np.float32), int(estimator.n_iter_)
