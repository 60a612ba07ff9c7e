"""Evaluation data: ids with gaps, crowds, and what is missing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from u2seg.data.catalog import PanopticTruth
from u2seg.errors import UserError
from u2seg.io.atomic import write_json
from u2seg.io.png import write_panoptic_png


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "val").mkdir()
    Image.new("RGB", (4, 2)).save(tmp_path / "val" / "7.jpg")
    write_panoptic_png(tmp_path / "maps" / "7.png", np.array([[1] * 4, [2] * 4], dtype=np.int32))
    segments = [
        {"id": 1, "category_id": 18, "area": 4, "bbox": [0, 0, 4, 1], "iscrowd": 1},
        {"id": 2, "category_id": 200, "area": 4, "bbox": [0, 1, 4, 1]},
    ]
    content = {
        "images": [
            {"id": 7, "file_name": "7.jpg", "height": 2, "width": 4},
            {"id": 8, "file_name": "8.jpg", "height": 2, "width": 4},
        ],
        "annotations": [{"image_id": 7, "file_name": "7.png", "segments_info": segments}],
        "categories": [
            {"id": 18, "name": "dog", "isthing": 1},
            {"id": 200, "name": "rug", "isthing": 0},
        ],
    }
    write_json(tmp_path / "truth.json", content)
    return tmp_path


def test_ids_with_gaps_and_crowds_are_kept(root: Path) -> None:
    (record,) = PanopticTruth.open(root, "val", "truth.json", "maps").records()
    assert (record["image_id"], record["stem"], record["height"], record["width"]) == (7, "7", 2, 4)
    kept = [(s["id"], s["category_id"], s["iscrowd"]) for s in record["segments_info"]]
    assert kept == [(1, 18, 1), (2, 200, 0)]


@pytest.mark.parametrize(
    ("parts", "missing"),
    [
        (("nowhere", "truth.json", "maps"), "nowhere"),
        (("val", "none.json", "maps"), "none.json"),
        (("val", "truth.json", "none"), "none"),
    ],
)
def test_missing_parts_are_named(root: Path, parts: tuple[str, str, str], missing: str) -> None:
    with pytest.raises(UserError, match=rf"{missing} does not exist. Set U2SEG.DATA.EVAL_ROOT"):
        PanopticTruth.open(root, *parts)


def test_missing_map(root: Path) -> None:
    (root / "maps" / "7.png").unlink()
    with pytest.raises(UserError, match=r"7\.png, which does not exist"):
        PanopticTruth.open(root, "val", "truth.json", "maps").records()
