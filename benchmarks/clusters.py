"""The benchmark of clustering: time of an iteration, memory of a table on disk, inertia.

Shapes: n descriptors of D dimensions, K clusters.
"""

from __future__ import annotations

import functools
import json
import statistics
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from benchmarks.masks import RowSpec
from benchmarks.rows import Row, Target, judged
from benchmarks.setting import Setting
from benchmarks.timing import Pair, alternate, check_repeats
from u2seg.clusters.kmeans import KMeans
from u2seg.clusters.lloyd import assign, lloyd
from u2seg.clusters.rows import FileRows
from u2seg.errors import StageError

Table = npt.NDArray[np.float32]
AS_FAST = Target(">=", 1.0)
NEARLY_AS_FAST = Target(">=", 0.8)
"""Where no distance can be skipped."""
MEMORY_LIMIT = Target("<=", 1.0, "ours")
AS_GOOD = Target("<=", 1.01)
SAME_INERTIA = 1e-4
"""Largest relative difference of inertia after equal iterations from an equal start."""
GROUPS, SPREAD = 300, 1.5
LIMIT_S = 3600


@dataclass(frozen=True)
class Sizes:
    """How large the measured problems are; tests take small ones.

    Args:
        count: Descriptors of the table on disk.
        subset: Of these, those that scikit-learn is given.
        dim: D.
        clusters: K.
        iterations: Of every timed run.
        shard: Descriptors of a file.
        small: Descriptors of the comparison of inertia.
        few: Its clusters.
    """

    count: int = 1_000_000
    subset: int = 100_000
    dim: int = 384
    clusters: int = 800
    iterations: int = 10
    shard: int = 4000
    small: int = 20_000
    few: int = 200


def descriptors(count: int, dim: int, seed: int, *, groups: int = GROUPS) -> Table:
    """Return descriptors like those of a self-supervised ViT: groups that overlap.

    The spectrum decays: dimension d has a standard deviation in proportion to 1 / sqrt(1 + d).

    Args:
        count: n.
        dim: D.
        seed: Of the noise; the groups are always the same.
        groups: 0 = isotropic noise without any structure.

    Returns:
        (n, D) float32.
    """
    rng = np.random.default_rng([1, seed])
    noise = rng.standard_normal((count, dim), dtype=np.float32)
    if not groups:
        return noise
    middles = np.random.default_rng(0).standard_normal((groups, dim), dtype=np.float32)
    noise += SPREAD * middles[rng.integers(groups, size=count)]
    noise /= np.sqrt(1 + np.arange(dim, dtype=np.float32))
    return noise


def write_shards(folder: Path, count: int, sizes: Sizes, groups: int = GROUPS) -> list[Path]:
    """Write ``.npy`` files of together ``count`` descriptors and return their paths."""
    paths = []
    starts = range(0, count, sizes.shard)
    for index, start in enumerate(tqdm(starts, desc="descriptors", delay=5, leave=False)):
        block = descriptors(min(sizes.shard, count - start), sizes.dim, index, groups=groups)
        paths.append(folder / f"part-{index:05d}.npy")
        np.save(paths[-1], block)
    return paths


def ours(paths: list[Path], start: Table, iterations: int) -> tuple[Table, int]:
    """Return centres and iterations of this project's K-means, from files."""
    return lloyd(FileRows(paths), start, iterations, 0.0)


def peer(points: Table, start: Table, iterations: int) -> Any:
    """Return scikit-learn's fitted K-means, from an array, with all threads."""
    from sklearn.cluster import KMeans as SklearnKMeans
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = SklearnKMeans(
            len(start), init=start, n_init=1, max_iter=iterations, tol=0, algorithm="lloyd"
        )
        return model.fit(points)


@contextmanager
def table(sizes: Sizes, count: int, groups: int = GROUPS) -> Iterator[list[Path]]:
    """Write a table of descriptors; delete it in the end."""
    with tempfile.TemporaryDirectory(prefix="u2seg-clusters-") as name:
        yield write_shards(Path(name), count, sizes, groups)


def iteration(setting: Setting, *, sizes: Sizes, groups: int, name: str) -> Row:
    """Return the row of an iteration over the subset, both sides from the same start."""
    with table(sizes, sizes.subset, groups) as paths:
        points = FileRows(paths).read(0, sizes.subset)
        start = _random_start(points, sizes)
        pair: Pair[tuple[Table, int], Any] = alternate(
            name,
            lambda: ours(paths, start, sizes.iterations),
            lambda: peer(points, start, sizes.iterations),
            setting.repeats,
            warm_peer=False,
        )
    centers, done = pair.our_result
    inertia = float(np.sum(assign(points, centers)[1] ** 2))
    wanted = float(pair.peer_result.inertia_)
    # scikit-learn labels once more in the end, so it is charged for one iteration more.
    seconds = pair.ours / done, pair.peer / (pair.peer_result.n_iter_ + 1)
    return judged(
        name,
        *seconds,
        ratio=seconds[1] / seconds[0],
        unit="s",
        target=AS_FAST if groups else NEARLY_AS_FAST,
        floor=_products(sizes.subset, sizes) / setting.rates.flops,
        note=f"{sizes.subset} x {sizes.dim}, K = {sizes.clusters}, mean of {done} iterations from "
        f"the same random start; inertia {inertia:.7g}, scikit-learn's {wanted:.7g}; floor: all "
        "distances of one iteration as matrix products",
        correct=abs(inertia - wanted) <= SAME_INERTIA * wanted,
    )


def million(setting: Setting, *, sizes: Sizes) -> Row:
    """Return the row of an iteration over the whole table, streamed, beside the peer's subset."""
    check_repeats(setting.repeats)
    points = np.concatenate(
        [
            descriptors(min(sizes.shard, sizes.subset - first), sizes.dim, index)
            for index, first in enumerate(range(0, sizes.subset, sizes.shard))
        ]
    )
    start = _random_start(points, sizes)
    spent = []
    for _ in tqdm(range(setting.repeats), desc="million: peer", leave=False):
        clock = alternate("peer", lambda: None, lambda: peer(points, start, sizes.iterations), 1,
                          warm_peer=False)  # fmt: skip
        spent.append(clock.peer / (clock.peer_result.n_iter_ + 1))
    found = streamed(sizes, setting.threads)
    theirs = statistics.median(spent) * sizes.count / sizes.subset
    return judged(
        "million",
        found["iteration_s"],
        theirs,
        ratio=theirs / found["iteration_s"],
        unit="s",
        target=AS_FAST,
        floor=_products(sizes.count, sizes) / setting.rates.flops,
        note=f"{sizes.count} x {sizes.dim} in files of {sizes.shard}, K = {sizes.clusters}, one "
        f"run of {sizes.iterations} iterations; peer: scikit-learn on {sizes.subset} of them, in "
        f"memory, times {sizes.count / sizes.subset:g}; the whole fit (k-means++, "
        f"{found['fit_iterations']} iterations, labels) took {found['fit_s']:.0f} s",
    )


def memory(setting: Setting, *, sizes: Sizes) -> Row:
    """Return the row of the streamed run's peak memory, beside one that loads the table."""
    found = streamed(sizes, setting.threads)
    return judged(
        "memory",
        found["peak_gb"],
        found["load_gb"],
        ratio=found["peak_gb"] / found["load_gb"],
        unit="GB",
        target=MEMORY_LIMIT,
        floor=None,
        note=f"peak resident memory of a fresh process, libraries included, that fits "
        f"{sizes.count} x {sizes.dim} from files; peer: one that only loads and joins the files; "
        f"the table is {4e-9 * sizes.count * sizes.dim:.2f} GB; one run",
    )


def inertia(setting: Setting, *, sizes: Sizes) -> Row:
    """Return the row of the inertia of single starts, medians over as many seeds as repeats."""
    from sklearn.cluster import KMeans as SklearnKMeans

    points = descriptors(sizes.small, sizes.dim, 0)
    mine, theirs = [], []
    for seed in tqdm(range(setting.repeats), desc="inertia", leave=False):
        mine.append(KMeans(sizes.few, random_state=seed).fit(points).inertia_)
        model = SklearnKMeans(sizes.few, n_init=1, max_iter=100, random_state=seed)
        theirs.append(float(model.fit(points).inertia_))
    left, right = statistics.median(mine), statistics.median(theirs)
    return judged(
        "inertia",
        left,
        right,
        ratio=left / right,
        unit="1",
        target=AS_GOOD,
        floor=None,
        note=f"{sizes.small} x {sizes.dim}, K = {sizes.few}, k-means++, one start, at most 100 "
        f"iterations, seeds 0 to {setting.repeats - 1}",
    )


@functools.lru_cache(maxsize=1)
def streamed(sizes: Sizes, threads: int) -> dict[str, Any]:
    """Return what two child processes say that stream and that load the whole table."""
    with table(sizes, sizes.count) as paths:
        task = {"folder": str(paths[0].parent), "threads": threads, "sizes": asdict(sizes)}
        fit = _child({**task, "mode": "fit"})
        return {**fit, "load_gb": _child({**task, "mode": "load"})["peak_gb"]}


def _child(task: dict[str, Any]) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.cluster_worker", json.dumps(task)]
    done = subprocess.run(  # noqa: S603 - our own module
        command, capture_output=True, text=True, check=False, timeout=LIMIT_S
    )
    if done.returncode != 0:
        raise StageError(f"the cluster worker {task['mode']!r} failed: {done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _random_start(points: Table, sizes: Sizes) -> Table:
    rng = np.random.default_rng(0)
    return points[np.sort(rng.choice(len(points), sizes.clusters, replace=False))]


def _products(count: int, sizes: Sizes) -> float:
    return 2.0 * count * sizes.dim * sizes.clusters


def make_rows(sizes: Sizes) -> dict[str, RowSpec]:
    """Return the table of rows for some sizes."""

    def spec(measure: Callable[..., Row], **options: Any) -> RowSpec:
        call = functools.partial(measure, sizes=sizes, **options)
        return RowSpec(call, ("sklearn", "numba"))

    return {
        "iteration": spec(iteration, groups=GROUPS, name="iteration"),
        "iteration_noise": spec(iteration, groups=0, name="iteration_noise"),
        "million": spec(million),
        "memory": spec(memory),
        "inertia": spec(inertia),
    }


ROWS = make_rows(Sizes())
