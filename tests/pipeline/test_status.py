"""What ``--status`` shows."""

from __future__ import annotations

import os
from pathlib import Path

from tests.pipeline.conftest import label
from u2seg.config.schema import Settings
from u2seg.io.lock import only_run
from u2seg.pipeline.runner import NAMES
from u2seg.pipeline.status import status
from u2seg.pipeline.workspace import Workspace


def table(output: Path) -> dict[str, list[str]]:
    """First word of each row -> the others."""
    return {row[0]: row[1:] for row in map(str.split, status(output, NAMES).splitlines())}


def test_a_run_at_work_is_told_by_its_files(
    tmp_path: Path, settings: Settings, photos: Path
) -> None:
    label(settings, photos, tmp_path, "masks")
    space = Workspace(tmp_path)
    rows = table(tmp_path)
    assert rows["masks"][:6] == ["done", "3", "3", "0", "0", "0"]
    assert float(rows["masks"][6]) > 0 and rows["masks"][7] == "-"
    assert rows["clusters"][0] == "waiting" and rows["no"][:2] == ["driver", "is"]
    # As if one shard of five images was done, one at work and one given up.
    space.stage_manifest("masks").unlink()
    ledger = space.ledger("masks", "propose")
    ledger.undo(1)
    ledger.undo(2)
    assert ledger.take(1, "me")
    for _ in range(5):
        ledger.fail(2, "MemoryError", raised=True)
    assert table(tmp_path)["masks"][:6] == ["stopped", "3", "1", "1", "1", "0"]
    ledger.path(2, "failed").rename(ledger.path(2, "done"))  # one image, 100 s after the first two
    os.utime(ledger.path(0, "done"), (1000, 1000))
    os.utime(ledger.path(2, "done"), (1100, 1100))
    with only_run(space.lock):
        rows = table(tmp_path)
    assert rows["masks"] == ["running", "3", "2", "1", "0", "0", "0.01", "0:03:20"]
    assert rows["driver:"][:2] == ["process", str(os.getpid())]
