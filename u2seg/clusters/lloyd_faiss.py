"""Lloyd's iterations by faiss.

Source: ``faiss.Kmeans``. By default it trains on 256 points per centroid only and runs a fixed
number of iterations; here all points count, and it stops when the objective stands still.
"""

from __future__ import annotations

import logging

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from u2seg.clusters.base import CLUSTERERS

CHUNK = 5
"""Iterations between two looks at the objective."""
TOLERANCE = 1e-5
"""Stop when ``CHUNK`` iterations lower the objective by less than this share of it."""

_log = logging.getLogger(__name__)


@CLUSTERERS.register("faiss")
def lloyd_faiss(
    descriptors: npt.NDArray[np.float32],
    initial: npt.NDArray[np.float32],
    iterations: int,
    seed: int,
) -> npt.NDArray[np.float32]:
    """Return centres after Lloyd's iterations; see ``Lloyd`` for the arguments."""
    import faiss

    centers = initial
    before = np.inf
    with tqdm(total=iterations, desc="K-means (faiss)", delay=5, leave=False) as bar:
        for start in range(0, iterations, CHUNK):
            steps = min(CHUNK, iterations - start)
            kmeans = faiss.Kmeans(
                descriptors.shape[1],
                len(initial),
                niter=steps,
                seed=seed + start + 1,
                max_points_per_centroid=len(descriptors) + 1,
                min_points_per_centroid=1,
            )
            kmeans.train(descriptors, init_centroids=centers)
            centers = np.asarray(kmeans.centroids, dtype=np.float32).reshape(initial.shape)
            bar.update(steps)
            now = float(np.asarray(kmeans.obj)[-1])
            if before - now <= TOLERANCE * now:
                break
            before = now
    _log.debug("K-means stopped after %d of %d iterations", start + steps, iterations)
    return centers
