"""Run-length codes: against pycocotools, and against damage."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from u2seg.structures.masks import (
    InstanceMask,
    check_rle,
    decode_mask,
    encode_mask,
    mask_box,
    rle_runs,
)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32 - 1), st.floats(0, 1))
@settings(max_examples=100, deadline=None)
def test_round_trip_and_runs(height: int, width: int, seed: int, share: float) -> None:
    mask = np.random.default_rng(seed).random((height, width)) < share
    rle = encode_mask(mask)
    assert rle["size"] == [height, width]
    np.testing.assert_array_equal(decode_mask(rle), mask)
    np.testing.assert_array_equal(coco_mask.decode(rle).astype(bool), mask)
    bare = {**rle, "counts": rle["counts"].encode()}
    np.testing.assert_array_equal(decode_mask(bare), mask)
    runs = rle_runs(rle["counts"])
    # Column-major, background first: the runs rebuild the mask.
    values = np.repeat(np.arange(len(runs)) % 2, runs)
    np.testing.assert_array_equal(values.reshape(width, height).T, mask)


def test_long_runs_and_differences() -> None:
    mask = np.zeros((3000, 2000), dtype=bool)
    mask[10:2990, 100:1900] = True
    mask[500, 500] = False
    rle = encode_mask(mask)
    assert rle_runs(rle["counts"])[:3].tolist() == [300_010, 2980, 20]
    assert int(rle_runs(rle["counts"]).sum()) == 6_000_000
    np.testing.assert_array_equal(decode_mask(rle), mask)


def test_encoding_takes_anything_that_compares_to_zero() -> None:
    assert encode_mask(np.array([[0, 7]])) == encode_mask(np.array([[False, True]]))
    with pytest.raises(ValueError, match=r"\(H, W\)"):
        encode_mask(np.ones((2, 2, 1), dtype=bool))


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ("2", "cover 2 pixels"),
        ("", "cover 0 pixels"),
        ("25", "cover 7 pixels"),
        ("o", "not COCO's compressed code"),
        ("P" * 30 + "0", "not COCO's compressed code"),
        ("2 2", "not COCO's compressed code"),
        ("2\u00e92", "not COCO's compressed code"),
        ("5O", "negative run"),
        ("\x002", "not COCO's compressed code"),
    ],
)
def test_damaged_counts_are_refused(counts: str, message: str) -> None:
    rle = {"size": [2, 2], "counts": counts}
    with pytest.raises(ValueError, match=message):
        check_rle(rle)
    with pytest.raises(ValueError, match=message):
        decode_mask(rle)


def test_boxes() -> None:
    mask = np.zeros((5, 6), dtype=bool)
    assert mask_box(mask) == (0.0, 0.0, 0.0, 0.0)
    mask[1, 4] = mask[3, 2] = True
    assert mask_box(mask) == (2.0, 1.0, 3.0, 3.0)


def test_results_round_trip_through_json() -> None:
    mask = np.zeros((5, 6), dtype=bool)
    mask[1:3, 2:6] = True
    made = InstanceMask.from_array(mask, 0.5)
    assert (made.area, made.bbox) == (8, (2.0, 1.0, 4.0, 2.0))
    record = json.loads(json.dumps(made.to_result(7)))
    assert (record["image_id"], record["category_id"]) == (7, 1)
    assert InstanceMask.from_result(record) == made
    del record["area"], record["bbox"]
    assert InstanceMask.from_result(record) == made
    np.testing.assert_array_equal(made.to_array(), mask)


def test_a_place_in_a_hierarchy_comes_back_from_a_record() -> None:
    mask = InstanceMask.from_array(np.ones((2, 2), dtype=bool), 0.5, cluster=3)
    part = replace(mask, parent=0, level=1, granularity=0.25, source="merge")
    record = json.loads(json.dumps(part.to_result(7)))
    assert InstanceMask.from_result(record) == part
    assert set(mask.to_result(7, 4)) == {
        "image_id", "category_id", "segmentation", "score", "bbox", "area"
    }  # fmt: skip
