"""What a clustering backend is, and where its members live."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from u2seg.registry import Registry


class Lloyd(Protocol):
    """Lloyd's iterations from given centres.

    A member must be deterministic for its arguments and may stop early once it has converged.
    It may leave clusters empty, but must return finite centres: ``KMeans`` re-seeds those.
    """

    def __call__(
        self,
        descriptors: npt.NDArray[np.float32],
        initial: npt.NDArray[np.float32],
        iterations: int,
        seed: int,
    ) -> npt.NDArray[np.float32]:
        """Return (K, D) float32 centres.

        Args:
            descriptors: (n, D) float32, C-contiguous, finite, n >= K.
            initial: (K, D) float32 start.
            iterations: At most so many, >= 1.
            seed: For whatever the backend draws, >= 0.
        """


CLUSTERERS = Registry(
    "clustering backend",
    locations=("u2seg.clusters.lloyd_faiss", "u2seg.clusters.lloyd_sklearn"),
)
"""Name -> ``Lloyd``."""
