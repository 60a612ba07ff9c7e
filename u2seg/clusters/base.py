"""What a clustering backend is, and where its members live."""

from __future__ import annotations

from typing import Protocol

from u2seg.clusters.rows import Rows, Table
from u2seg.registry import Registry


class Lloyd(Protocol):
    """Lloyd's iterations from given centres.

    A member must be deterministic for its arguments. It may leave clusters empty, but must return
    finite centres: ``KMeans`` re-seeds those.
    """

    def __call__(
        self, rows: Rows, initial: Table, iterations: int, tolerance: float, seed: int
    ) -> tuple[Table, int]:
        """Return (K, D) float32 centres and the number of iterations made.

        Args:
            rows: (n, D), finite, n >= K.
            initial: (K, D) float32 start.
            iterations: At most so many, >= 1.
            tolerance: Stop once the squared shifts of all centres add up to no more than this.
            seed: For whatever the backend draws, >= 0.
        """


CLUSTERERS = Registry(
    "clustering backend",
    locations=(
        "u2seg.clusters.lloyd_blocks",
        "u2seg.clusters.lloyd_faiss",
        "u2seg.clusters.lloyd_sklearn",
    ),
)
"""Name -> ``Lloyd``."""
