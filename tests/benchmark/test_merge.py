"""The benchmark of the merge: every row at a small size, and what its peers do."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import machine, merge, merge_worker
from benchmarks.merge_inputs import (
    SPACE,
    ImageRecords,
    MergeSizes,
    Unmerged,
    unmerged,
    write_parts,
)
from benchmarks.merge_peers import load_all_join, loop_merge
from benchmarks.setting import Setting
from u2seg.config.schema import PanopticSettings
from u2seg.errors import StageError
from u2seg.io.png import read_panoptic_png
from u2seg.panoptic.merger import merge_panoptic
from u2seg.structures.masks import InstanceMask

SMALL = MergeSizes(height=48, width=64, things=3, pool=2, shard=4, images=10, full_images=13)
SETTING = Setting(1, 1, machine.Rates(1e11, 1e10), None)  # type: ignore[arg-type]


def test_the_suite_has_its_rows() -> None:
    assert list(merge.ROWS) == ["image", "image_scored", "join", "memory", "full"]


@pytest.mark.parametrize("number", range(20))
def test_the_loop_merges_as_the_released_rule(number: int, tmp_path: Path) -> None:
    raw = unmerged(SMALL, number)
    ids, segments, pngs = loop_merge(raw)
    rules = PanopticSettings(rule="released")
    label = merge_panoptic(raw.masks, raw.clusters, raw.stuff, SPACE, rules)
    np.testing.assert_array_equal(ids, label.ids)
    ours = [(s.id, s.category_id, s.area, s.bbox) for s in label.segments]
    assert [(s["id"], s["category_id"], s["area"], tuple(s["bbox"])) for s in segments] == ours
    (tmp_path / "x.png").write_bytes(pngs[0])
    np.testing.assert_array_equal(read_panoptic_png(tmp_path / "x.png"), ids)


def test_images_overlap_and_differ() -> None:
    raws = [unmerged(SMALL, number) for number in range(5)]
    overlaps = [sum(m.to_array().astype(int) for m in raw.masks).max() for raw in raws]
    assert max(overlaps) > 1
    assert len({raw.stuff.tobytes() for raw in raws}) == 5


def test_parts_are_joined_alike(tmp_path: Path) -> None:
    instances = write_parts(tmp_path, SMALL, 10)
    files = merge_worker.part_files(tmp_path, 10, SMALL)
    assert [p.name for p in files] == [p.name for p in sorted(tmp_path.glob("part-*.json"))]
    assert len(files) == 3
    assert merge_worker.stream_join(tmp_path, tmp_path / "ours", 10, SMALL) == instances
    records = ImageRecords(10, SMALL)
    assert load_all_join(files, tmp_path / "peer", records) == instances
    for name in ("instances", "panoptic"):
        ours, peer = (
            json.loads((tmp_path / side / f"{name}.json").read_text()) for side in ("ours", "peer")
        )
        assert ours["annotations"] == peer["annotations"]
        assert ours["images"] == peer["images"] == list(records)


@pytest.mark.parametrize("rule", ["released", "scored"])
def test_row_of_an_image(rule: str) -> None:
    row = merge.image(SETTING, rule=rule, sizes=SMALL)
    assert row.name == ("image" if rule == "released" else "image_scored")
    assert row.ours and row.peer and row.ratio == row.peer / row.ours
    assert ("ids equal the peer's: yes" in row.note) is (rule == "released")


def test_row_of_an_image_is_missed_if_the_ids_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(raw: Unmerged) -> tuple[np.ndarray, list[dict], list[bytes]]:
        return np.zeros(raw.stuff.shape, np.int32), [], []

    monkeypatch.setattr(merge, "loop_merge", wrong)
    row = merge.image(SETTING, sizes=SMALL)
    assert row.met is False and "peer's: no" in row.note


def test_rows_of_the_join() -> None:
    row = merge.join(SETTING, sizes=SMALL)
    assert "in 3 parts" in row.note and "equal the peer's: yes" in row.note
    assert (row.unit, row.target) == ("s per million", "<= 60 s per million")
    row = merge.memory(SETTING, sizes=SMALL)
    assert row.met is True and 0.02 < (row.ours or 0) < 0.5
    row = merge.full(SETTING, sizes=SMALL)
    assert row.peer is None and row.ratio is None
    assert "of 13 images" in row.note and "within 0.5" in row.note


def test_a_failing_worker_is_named(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="merge worker 'ours' failed"):
        merge.worker("ours", tmp_path, 3, SMALL)


def test_empty_masks_are_left_out_by_the_loop() -> None:
    empty = InstanceMask.from_array(np.zeros((2, 2), dtype=bool))
    raw = Unmerged([empty], [5], np.array([[0, 0], [0, 255]], dtype=np.uint8))
    ids, segments, _ = loop_merge(raw)
    assert ids.tolist() == [[2, 2], [2, 0]]
    assert [(s["id"], s["category_id"]) for s in segments] == [(2, 801)]
