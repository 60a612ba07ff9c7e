"""Lloyd's iterations whose nearest centres faiss finds, on the GPU if faiss sees one."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np

from u2seg.clusters import bounds
from u2seg.clusters.base import CLUSTERERS
from u2seg.clusters.lloyd_blocks import updated_centers
from u2seg.clusters.rows import Rows, Table
from u2seg.io.progress import Bar

_log = logging.getLogger(__name__)


def gpu_count() -> int:
    """Return how many GPUs the installed faiss can use; 0 for a build without them."""
    import faiss

    return int(faiss.get_num_gpus()) if hasattr(faiss, "StandardGpuResources") else 0


@CLUSTERERS.register("faiss")
def lloyd_faiss(
    rows: Rows, initial: Table, iterations: int, tolerance: float, seed: int
) -> tuple[Table, int]:
    """Return centres and the number of iterations; see ``Lloyd`` for the arguments.

    Blocks go through faiss one by one, so tables on disk work too.
    """
    import faiss

    index: Any = faiss.IndexFlatL2(rows.dim)
    if gpu_count():
        index = faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, index)
    centers = initial
    labels = np.full(len(rows), -1, dtype=np.int32)
    upper = np.zeros(len(rows), dtype=np.float32)
    sums = np.zeros(initial.shape, dtype=np.float64)
    counts = np.zeros(len(initial), dtype=np.int64)
    for done in Bar(range(1, iterations + 1), desc="K-means (faiss)", delay=5, leave=False):
        index.reset()
        index.add(centers)
        changed = 0
        for start, block in rows.blocks():
            part = slice(start, start + len(block))
            squared, nearest = index.search(block, 1)
            upper[part], found = squared[:, 0], nearest[:, 0].astype(np.int32)
            moved = np.flatnonzero(found != labels[part])
            bounds.move(sums, counts, block[moved], labels[part][moved], found[moved])
            labels[part] = found
            changed += len(moved)
        if changed == 0 and done > 1:
            break
        centers, squared_shift = updated_centers(centers, sums, counts, upper, rows)
        if squared_shift.sum() <= tolerance:
            break
    _log.debug("K-means stopped after %d of %d iterations", done, iterations)
    return centers, done
