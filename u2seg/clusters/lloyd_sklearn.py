"""Lloyd's iterations by scikit-learn."""

from __future__ import annotations

import warnings

import numpy as np
import numpy.typing as npt

from u2seg.clusters.base import CLUSTERERS


@CLUSTERERS.register("sklearn")
def lloyd_sklearn(
    descriptors: npt.NDArray[np.float32],
    initial: npt.NDArray[np.float32],
    iterations: int,
    seed: int,
) -> npt.NDArray[np.float32]:
    """Return centres after Lloyd's iterations; see ``Lloyd`` for the arguments.

    One OpenMP thread: scikit-learn adds the partial sums of its threads in whatever order they
    finish, so more threads would give other last digits on every run.
    """
    from sklearn.cluster import KMeans as SklearnKMeans
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    estimator = SklearnKMeans(
        n_clusters=len(initial), init=initial, n_init=1, max_iter=iterations, random_state=seed
    )
    with threadpool_limits(1, user_api="openmp"), warnings.catch_warnings():
        # Fewer distinct points than clusters: KMeans says so itself, with the numbers.
        warnings.simplefilter("ignore", ConvergenceWarning)
        estimator.fit(descriptors)
    return np.asarray(estimator.cluster_centers_, dtype=np.float32)
