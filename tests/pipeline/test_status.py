"""What ``--status`` shows, and what ``--retry-failed`` makes again."""

from __future__ import annotations

import dataclasses
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.pipeline.conftest import tree
from tests.pipeline.test_executors import BAD_HEIGHT, Trap
from u2seg.config.schema import Settings
from u2seg.errors import UserError
from u2seg.io.lock import only_run
from u2seg.pipeline import generate_labels
from u2seg.pipeline.runner import ORDER
from u2seg.pipeline.status import status
from u2seg.pipeline.workspace import Workspace

NAMES = [stage.name for stage in ORDER]


def table(output: Path) -> dict[str, list[str]]:
    """First word of each row -> the others."""
    return {row[0]: row[1:] for row in map(str.split, status(output, NAMES).splitlines())}


def test_a_run_at_work_is_told_by_its_files(
    tmp_path: Path, settings: Settings, photos: Path
) -> None:
    generate_labels(settings, photos, tmp_path, stages=["masks"], progress=False)
    space = Workspace(tmp_path)
    rows = table(tmp_path)
    assert rows["masks"][:6] == ["done", "3", "3", "0", "0", "0"]
    assert float(rows["masks"][6]) > 0 and rows["masks"][7] == "-"
    assert rows["clusters"][0] == "waiting" and rows["no"][:2] == ["driver", "is"]
    # As if one shard of five images was done, one leased and one given up.
    space.stage_manifest("masks").unlink()
    ledger = space.ledger("masks", "propose")
    ledger.undo(1)
    ledger.undo(2)
    assert ledger.take(1, "me")
    for _ in range(5):
        ledger.fail(2, "MemoryError", raised=True)
    assert table(tmp_path)["masks"][:6] == ["stopped", "3", "1", "1", "1", "0"]
    with only_run(space.lock):
        rows = table(tmp_path)
    assert rows["masks"] == ["running", "3", "1", "1", "1", "0", "-", "-"]
    ledger.path(2, "failed").rename(ledger.path(2, "done"))  # two images 100 s after the first
    os.utime(ledger.path(0, "done"), (1000, 1000))
    os.utime(ledger.path(2, "done"), (1100, 1100))
    with only_run(space.lock):
        assert table(tmp_path)["masks"][-2:] == ["0.01", "0:03:20"]
    assert rows["driver:"][:2] == ["process", str(os.getpid())]


def test_no_run_no_status(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no labelling run"):
        status(tmp_path, NAMES)


def test_what_was_set_aside_is_tried_again_on_demand(
    photos: Path, settings: Settings, tmp_path: Path
) -> None:
    """With the cause mended, the labels are those of a run that never failed."""
    from PIL import Image

    folder = tmp_path / "photos"
    shutil.copytree(photos, folder)
    picture = Image.open(photos / "scene 0.png").resize((60, BAD_HEIGHT))
    picture.save(folder / "bad.png")
    masks = dataclasses.replace(settings.masks, proposer="cutler")
    wanted = dataclasses.replace(settings, masks=masks)

    def label(output: Path, how: str, **options: Any) -> dict[str, bytes]:
        trap = Trap(how)
        generate_labels(wanted, folder, output, progress=False, detector=trap, **options)
        return tree(output)

    never = label(tmp_path / "never", "works")
    first = label(tmp_path / "run", "raises")
    assert first["skipped.jsonl"].count(b"bad.png") == 2  # by masks, and so by semantics
    assert label(tmp_path / "run", "works") == first  # set aside until somebody asks
    assert label(tmp_path / "run", "raises", retry_failed=True) == first
    assert label(tmp_path / "run", "works", retry_failed=True) == never
