"""How one pass over the images is shared: among processes of a machine, or ranks of a run.

The tables come back in the order of the image ids, whoever made them, so what follows from them
is the same to the last bit for any number of processes.
"""

from __future__ import annotations

import multiprocessing
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from typing import Any

from u2seg.errors import StageError, UserError
from u2seg.evaluation.checks import check_maps
from u2seg.evaluation.files import Predictions
from u2seg.evaluation.gather import ImageTable, image_table
from u2seg.evaluation.truth import Truth
from u2seg.io.progress import Bar

CHUNK = 8
"""Images a worker takes at once."""
AHEAD = 4
"""Chunks handed out per worker before the first is back: what a slow reader may pile up."""


@dataclass(frozen=True)
class Ranks:
    """The processes of a distributed run, of which this is one.

    Args:
        rank, size: Which one, of how many.
        everybody: Gives an object of this rank to all; returns those of all ranks in order.
        first: Gives an object to rank 0, which gets those of all; the others get ``[]``.
    """

    rank: int
    size: int
    everybody: Callable[[Any], list[Any]]
    first: Callable[[Any], list[Any]]


def gather(
    truth: Truth,
    predicted: Predictions,
    image_ids: Sequence[int] | None = None,
    workers: int = 1,
    ranks: Ranks | None = None,
) -> list[ImageTable]:
    """Return the tables of images, sorted by image id.

    Args:
        truth: Read image by image.
        predicted: The same.
        image_ids: Images of the truth; None = all.
        workers: Processes of this machine; 1 = this one alone.
        ranks: Of a distributed run: each makes a share of the tables, and the first gets all of
            them; the others get an empty list. None = there is no such run.

    Raises:
        UserError: if ``workers`` is below 1, a file is missing or unreadable, sizes differ, or a
            map holds ids that its list of segments lacks, or the other way round; of sizes,
            before any pixel is read. In a distributed run every rank raises what one found.
        StageError: if a worker process dies.
    """
    if workers < 1:
        raise UserError(f"the number of workers is {workers}, expected at least 1")
    chosen = sorted(truth.stems if image_ids is None else image_ids)
    if ranks is None:
        return _tables(truth, predicted, chosen, workers, quiet=False)
    tables: list[ImageTable] = []
    error: UserError | StageError | None = None
    try:
        share = chosen[ranks.rank :: ranks.size]
        tables = _tables(truth, predicted, share, workers, quiet=ranks.rank > 0)
    except (UserError, StageError) as caught:
        error = caught
    for found in ranks.everybody(error):
        if found is not None:
            raise found
    parts = ranks.first(tables)
    return sorted((table for part in parts for table in part), key=lambda table: table.image_id)


def _tables(
    truth: Truth, predicted: Predictions, image_ids: Sequence[int], workers: int, *, quiet: bool
) -> list[ImageTable]:
    check_maps(truth, predicted, image_ids)
    chunks = [image_ids[i : i + CHUNK] for i in range(0, len(image_ids), CHUNK)]
    workers = min(workers, len(chunks))
    made = (
        (image_table(truth, predicted, image_id) for image_id in image_ids)
        if workers <= 1
        else _by_workers(truth, predicted, chunks, workers)
    )
    return list(Bar(made, total=len(image_ids), desc="evaluate", unit="image", disable=quiet))


def _by_workers(
    truth: Truth, predicted: Predictions, chunks: Sequence[Sequence[int]], workers: int
) -> Iterator[ImageTable]:
    """Yield the tables in order; instances travel with their chunk, all else once per worker."""
    context = multiprocessing.get_context("spawn")  # a fork could copy locks held by threads
    bare = replace(predicted, instances={})
    todo = iter(chunks)
    waiting: deque[Future[list[ImageTable]]] = deque()
    with ProcessPoolExecutor(workers, context, _start, (truth, bare)) as pool:
        try:
            for _ in range(AHEAD * workers):
                _hand_out(pool, predicted, todo, waiting)
            while waiting:
                yield from waiting.popleft().result()
                _hand_out(pool, predicted, todo, waiting)
        except BrokenProcessPool as error:
            raise StageError(
                "a worker process of the evaluation died (killed for memory?): use fewer workers"
            ) from error
        finally:
            for future in waiting:
                future.cancel()


def _hand_out(
    pool: ProcessPoolExecutor,
    predicted: Predictions,
    todo: Iterator[Sequence[int]],
    waiting: deque[Future[list[ImageTable]]],
) -> None:
    image_ids = next(todo, None)
    if image_ids is not None:
        found = {i: predicted.instances[i] for i in image_ids if i in predicted.instances}
        waiting.append(pool.submit(_work, image_ids, found))


_sides: list[Any] = []
"""Of a worker process: the truth and the predictions without instances."""


def _start(truth: Truth, predicted: Predictions) -> None:
    _sides[:] = [truth, predicted]


def _work(image_ids: Sequence[int], instances: dict[int, Any]) -> list[ImageTable]:
    truth, bare = _sides
    predicted = replace(bare, instances=instances)
    return [image_table(truth, predicted, image_id) for image_id in image_ids]
