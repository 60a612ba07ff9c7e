"""How far a labelling run is, read from its ledgers; works while it runs, and from elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

from u2seg.errors import UserError
from u2seg.io.jsonfile import read_json_object
from u2seg.io.lock import holder_of, may_live, told
from u2seg.pipeline.workspace import Workspace
from u2seg.shards.ledger import DONE, Ledger
from u2seg.shards.records import ShardFile

HEAD = (
    "stage", "state", "shards", "done", "running", "failed", "images aside", "images/s", "ETA",
)  # fmt: skip


def status(output: Path, stages: Sequence[str]) -> str:
    """Return a table of the stages of a run, and who drives it.

    Args:
        output: Output folder of ``generate_labels``.
        stages: Names of all stages, in order.

    Raises:
        UserError: if there is no run in the folder.
    """
    space = Workspace(output)
    if not space.lock.is_file():
        raise UserError(f"{output} holds no labelling run (--output-dir)")
    holder = holder_of(space.lock)
    driver = f"driver: {told(holder)}" if may_live(holder) else ""
    rows: list[tuple[str, ...]] = [HEAD]
    for stage in stages:
        rows += _rows(space, stage, alive=bool(driver))
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD))]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths)).rstrip() for row in rows]
    return "\n".join([*lines, driver or "no driver is at work; the same command again goes on"])


def _rows(space: Workspace, stage: str, *, alive: bool) -> list[tuple[str, ...]]:
    finished, begun = space.stage_manifest(stage).is_file(), space.plan(stage).is_file()
    state = "done" if finished else ("waiting" if not begun else "running" if alive else "stopped")
    try:
        sizes = ShardFile(space.entries if stage == "images" else space.records).sizes
    except UserError:  # not made yet
        sizes = []
    ledgers = space.ledgers(stage) if begun else []
    if not ledgers:
        return [(stage, state, str(len(sizes) or "-"), *["-"] * 6)]
    seconds = read_json_object(space.timings).get(stage) if finished else None
    rows = []
    for ledger in ledgers:
        name = stage if len(ledgers) == 1 else f"{stage}: {ledger.folder.name}"
        rate = sum(sizes) / seconds if seconds else None
        rows.append((name, state, *_cells(ledger, sizes, rate, running=state == "running")))
    return rows


def _cells(
    ledger: Ledger, sizes: Sequence[int], rate: float | None, *, running: bool
) -> tuple[str, ...]:
    look = ledger.snapshot()
    left = sum(size for shard, size in enumerate(sizes) if shard not in look.settled)
    if running and left:
        rate = _rate(ledger, sizes, look.done)
    eta = str(timedelta(seconds=round(left / rate))) if running and left and rate else "-"
    aside = len(ledger.aside()) if look.troubled or look.failed else 0
    counts = (len(sizes), len(look.done), len(look.at), len(look.failed), aside)
    return (*map(str, counts), f"{rate:.2f}" if rate else "-", eta)


def _rate(ledger: Ledger, sizes: Sequence[int], done: frozenset[int]) -> float | None:
    """Return the images per second between the first receipt and the last; None if too few."""
    times = sorted((ledger.path(shard, DONE).stat().st_mtime, sizes[shard]) for shard in done)
    if len(times) < 2 or times[-1][0] <= times[0][0]:
        return None
    return sum(size for _, size in times[1:]) / (times[-1][0] - times[0][0])
