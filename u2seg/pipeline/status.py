"""How far a labelling run is, read from its ledgers; works while it runs, and from elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from u2seg.errors import UserError
from u2seg.io.jsonfile import read_json_object
from u2seg.io.lock import holder_of, may_live, told
from u2seg.pipeline.workspace import Workspace
from u2seg.shards.ledger import Ledger
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
    finished = space.stage_manifest(stage).is_file()
    begun = space.plan(stage).is_file()
    sizes = _sizes(space, stage)
    images_per_s = _finished_rate(space, stage, sum(sizes)) if finished else None
    state = "done" if finished else ("waiting" if not begun else "running" if alive else "stopped")
    ledgers = space.ledgers(stage) if begun else []
    if not ledgers:
        return [(stage, state, *[_cell(len(sizes) or None)], "-", "-", "-", "-", "-", "-")]
    rows = []
    for ledger in ledgers:
        name = stage if len(ledgers) == 1 else f"{stage}: {ledger.folder.name}"
        rows.append(_row(space, name, state, ledger, sizes, images_per_s))
    return rows


def _row(
    space: Workspace,
    name: str,
    state: str,
    ledger: Ledger,
    sizes: Sequence[int],
    images_per_s: float | None,
) -> tuple[str, ...]:
    look = ledger.snapshot()
    settled = look.settled
    left = sum(size for shard, size in enumerate(sizes) if shard not in settled)
    eta = ""
    if state == "running":
        note = _read(space.progress)
        if note.get("stage") == ledger.folder.parents[1].name and left:
            images_per_s = note.get("images_per_s")
            eta = _duration(left / images_per_s) if images_per_s else ""
    counts = (len(sizes), len(look.done), len(look.at), len(look.failed))
    aside = len(ledger.aside()) if look.troubled or look.failed else 0
    rate = f"{images_per_s:.2f}" if images_per_s else "-"
    return (name, state, *map(str, counts), str(aside), rate, eta or "-")


def _sizes(space: Workspace, stage: str) -> list[int]:
    path = space.records if stage != "images" else space.entries
    try:
        return ShardFile(path).sizes
    except UserError:  # not made yet
        return []


def _finished_rate(space: Workspace, stage: str, images: int) -> float | None:
    seconds = _read(space.timings).get(stage)
    return images / seconds if seconds else None


def _read(path: Path) -> dict[str, Any]:
    try:
        return read_json_object(path)
    except UserError:  # not there, or being removed
        return {}


def _cell(value: int | None) -> str:
    return "-" if value is None else str(value)


def _duration(seconds: float) -> str:
    """Return hours, minutes and seconds.

    Examples:
        >>> _duration(59.6), _duration(3725), _duration(360000)
        ('0:01:00', '1:02:05', '100:00:00')
    """
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"
