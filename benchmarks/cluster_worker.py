"""A process of its own that clusters a table on disk, or loads it; ``clusters.streamed`` starts it.

``python -m benchmarks.cluster_worker TASK`` with TASK as JSON: ``mode`` (``fit`` or
``load``), ``folder`` of ``part-*.npy``, ``threads``, ``sizes``.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from u2seg.io.memory import peak_gb


def fit(paths: list[Path], sizes: Any, threads: int) -> dict[str, float]:
    """Time iterations from a random start, then a whole fit; return seconds."""
    import numba

    from u2seg.clusters.kmeans import KMeans, start_centers
    from u2seg.clusters.lloyd import lloyd
    from u2seg.clusters.rows import FileRows

    numba.config.NUMBA_NUM_THREADS = threads
    rows = FileRows(paths)
    start = start_centers(rows, sizes.clusters, "random", 0)
    lloyd(FileRows(paths[:1]), start[:2], 2, 0.0)  # compiles
    begin = time.perf_counter()
    _, done = lloyd(rows, start, sizes.iterations, 0.0)
    middle = time.perf_counter()
    model = KMeans(sizes.clusters, max_iter=sizes.iterations, tol=0).fit(rows)
    end = time.perf_counter()
    return {
        "iteration_s": (middle - begin) / done,
        "fit_s": end - middle,
        "fit_iterations": model.n_iter_,
        "inertia": model.inertia_,
    }


def main(argv: list[str]) -> int:
    """Do the task, write its figures and ``peak_gb`` as the last line of the output."""
    from benchmarks.clusters import Sizes

    task: dict[str, Any] = json.loads(argv[0])
    paths = sorted(Path(task["folder"]).glob("part-*.npy"))
    found: dict[str, float] = {}
    if task["mode"] == "fit":
        found = fit(paths, Sizes(**task["sizes"]), int(task["threads"]))
    else:
        found["rows"] = len(np.concatenate([np.load(path) for path in paths]))
    sys.stdout.write(json.dumps({**found, "peak_gb": peak_gb()}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
