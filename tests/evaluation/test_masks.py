"""Class-agnostic masks: best IoU by hand, runs matched by file name, baselines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from tests.shared import SHARED, needs_shared
from u2seg.errors import UserError
from u2seg.evaluation.label_quality import (
    SLIC_SEGMENTS,
    best_ious,
    centered_box,
    format_mask_metrics,
    mask_metrics,
    read_mask_results,
    read_mask_truth,
    score_masks,
    slic_superpixels,
)
from u2seg.structures.masks import InstanceMask, decode_mask, encode_mask

SIZE = (20, 40)


def not_crowds(records):
    return [record for record in records if not record["iscrowd"]]


def box_mask(top: int, left: int, height: int, width: int) -> np.ndarray:
    mask = np.zeros(SIZE, dtype=bool)
    mask[top : top + height, left : left + width] = True
    return mask


def truth_json(path: Path) -> Path:
    """Image 5: a 10 x 20 object in the middle and a crowd; image 6: one in the corner."""
    rows = [
        (5, box_mask(5, 10, 10, 20), 0),
        (5, box_mask(0, 0, 2, 40), 1),
        (6, box_mask(0, 0, 10, 10), 0),
    ]
    annotations = [
        {
            "id": n + 1,
            "image_id": image_id,
            "category_id": 3,
            "segmentation": encode_mask(mask),
            "area": int(mask.sum()),
            "bbox": [0, 0, 1, 1],
            "iscrowd": crowd,
        }
        for n, (image_id, mask, crowd) in enumerate(rows)
    ]
    images = [
        {"id": i, "file_name": f"{n}.png", "height": 20, "width": 40}
        for i, n in ((5, "a"), (6, "b"))
    ]
    categories = [{"id": 3, "name": "x"}]
    path.write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": categories})
    )
    return path


def results_of(masks: list[tuple[int, np.ndarray, float]]) -> list[dict[str, Any]]:
    return [InstanceMask.from_array(m, s).to_result(i) for i, m, s in masks]


@pytest.fixture
def truth_path(tmp_path: Path) -> Path:
    return truth_json(tmp_path / "instances.json")


def test_best_iou_by_hand(truth_path: Path) -> None:
    truth = read_mask_truth(truth_path)
    results = results_of([(5, box_mask(5, 10, 10, 10), 0.1), (5, box_mask(5, 10, 10, 15), 0.05)])
    # image 5: 100 / 200 and 150 / 200; image 6 has no mask; the crowd does not count
    assert best_ious(not_crowds(truth.annotations), results) == [0.75, 0.0]
    metrics = mask_metrics(truth, results)
    assert metrics["best_mask_iou"] == pytest.approx(37.5)
    counts = {k: metrics[k] for k in ("images", "instances", "masks")}
    assert counts == {"images": 2, "instances": 2, "masks": 2}
    # the mask with IoU 0.5 comes first and takes the object at IoU 0.5: recall 1/2
    assert metrics["AP50"] == pytest.approx(100 * 51 / 101)
    # it is found at 0.50, ..., 0.75: 6 of 10 thresholds of one of two objects
    assert metrics["AR100"] == pytest.approx(30.0)


def test_results_of_a_run_are_joined_by_file_name(truth_path: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "masks").mkdir(parents=True)
    images = [
        {"id": 1, "file_name": "unknown.png", "height": 9, "width": 9},
        {"id": 2, "file_name": "b.png", "height": 20, "width": 40},
    ]
    (run / "images.json").write_text(json.dumps({"images": images}))
    small = InstanceMask.from_array(np.ones((9, 9), dtype=bool)).to_result(1)
    (run / "masks/part-00000.json").write_text(json.dumps([small]))
    found = results_of([(2, box_mask(0, 0, 10, 10), 1.0)])
    (run / "masks/part-00001.json").write_text(json.dumps(found))
    results, truth = read_mask_results(run, read_mask_truth(truth_path))
    assert [r["image_id"] for r in results] == [6]
    assert [i["id"] for i in truth.images] == [6]
    assert mask_metrics(truth, results)["AP"] == pytest.approx(100.0)


def test_a_coco_instances_file_is_joined_by_file_name(truth_path: Path, tmp_path: Path) -> None:
    """Polygons, other ids, no scores; a crowd is no mask."""
    polygon = {"segmentation": [[0, 0, 10, 0, 10, 5, 0, 5]], "area": 50, "bbox": [0, 0, 10, 5]}
    images = [
        {"id": 70, "file_name": "b.png", "height": 20, "width": 40},
        {"id": 71, "file_name": "unknown.png", "height": 9, "width": 9},
    ]
    rows = [{"id": n, "image_id": 70, "category_id": 1, **polygon} for n in (1, 2)]
    rows[0]["iscrowd"] = 1
    rows.append({"id": 3, "image_id": 71, "category_id": 1, **polygon})
    path = tmp_path / "found.json"
    content = {"images": images, "annotations": rows, "categories": [{"id": 1, "name": "x"}]}
    path.write_text(json.dumps(content))
    results, truth = read_mask_results(path, read_mask_truth(truth_path))
    assert [(r["image_id"], r["score"]) for r in results] == [(6, 1.0)]
    assert [i["id"] for i in truth.images] == [6]
    assert best_ious(not_crowds(truth.annotations), results) == [0.5]  # 50 of 100 pixels


def test_runs_that_do_not_fit_are_refused(truth_path: Path, tmp_path: Path) -> None:
    truth = read_mask_truth(truth_path)
    run = tmp_path / "run"
    (run / "masks").mkdir(parents=True)
    image = {"id": 1, "file_name": "b.png", "height": 9, "width": 9}
    (run / "images.json").write_text(json.dumps({"images": [image]}))
    with pytest.raises(UserError, match=r"holds no part-\*\.json"):
        read_mask_results(run, truth)
    mask = InstanceMask.from_array(np.ones((9, 9), dtype=bool)).to_result(1)
    (run / "masks/part-00000.json").write_text(json.dumps([mask]))
    with pytest.raises(UserError, match=r"\(9, 9\), the true image \(20, 40\)"):
        read_mask_results(run, truth)
    image["file_name"] = "c.png"
    (run / "images.json").write_text(json.dumps({"images": [image]}))
    with pytest.raises(UserError, match="none of the 1 photographs"):
        read_mask_results(run, truth)


def test_results_for_an_unknown_image_are_refused(truth_path: Path, tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text(json.dumps(results_of([(7, box_mask(0, 0, 1, 1), 1.0)])))
    with pytest.raises(UserError, match="'image_id' is 7"):
        read_mask_results(path, read_mask_truth(truth_path))


def test_centered_box_by_hand() -> None:
    np.testing.assert_array_equal(centered_box(SIZE).to_array(), box_mask(5, 10, 10, 20))
    assert centered_box((1, 1)).area == 1


def test_superpixels_cover_the_image_once_and_follow_edges() -> None:
    image = np.zeros((60, 80, 3), dtype=np.uint8)
    image[:, 37:] = (200, 40, 40)
    masks = slic_superpixels(image)
    assert SLIC_SEGMENTS / 2 <= len(masks) <= 2 * SLIC_SEGMENTS
    np.testing.assert_array_equal(sum(m.to_array().astype(int) for m in masks), 1)
    assert sum(m.score for m in masks) == pytest.approx(1.0)
    for mask in masks:
        share = image[mask.to_array()][:, 0].mean() / 200
        assert min(share, 1 - share) < 0.1  # no superpixel lies across the edge


def test_scores_beside_baselines(truth_path: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in "ab":
        pixels = rng.integers(0, 255, (*SIZE, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    path = tmp_path / "results.json"
    path.write_text(json.dumps(results_of([(6, box_mask(0, 0, 10, 10), 1.0)])))
    scores = score_masks(path, truth_path, tmp_path)
    assert set(scores) == {"masks", "centered_box", "slic_superpixels"}
    assert scores["masks"]["best_mask_iou"] == pytest.approx(50.0)
    # the box is the object of image 5 and does not touch that of image 6 (25 of 275 pixels)
    assert scores["centered_box"]["best_mask_iou"] == pytest.approx(50.0)
    assert scores["centered_box"]["masks"] == 2
    lines = format_mask_metrics(scores).splitlines()
    assert lines[0] == "2 images, 2 true instances"
    assert lines[3].split()[:2] == ["masks", "0.50"]


def test_unreadable_photographs_are_named(truth_path: Path, tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text("[]")
    with pytest.raises(UserError, match=r"a\.png: no such file"):
        score_masks(path, truth_path, tmp_path)
    Image.new("RGB", (3, 3)).save(tmp_path / "a.png")
    with pytest.raises(UserError, match=r"a\.png is \(3, 3\), .*\(20, 40\)"):
        score_masks(path, truth_path, tmp_path)


@pytest.mark.shared
@needs_shared("data", "coco_train128")
def test_equals_pycocotools_from_files(tmp_path: Path) -> None:
    """Every second instance, half of them shifted, beside pycocotools as its users run it."""
    path = SHARED / "data/coco_train128/instances_train2017.json"
    truth = read_mask_truth(path)
    results = []
    for n, annotation in enumerate(truth.annotations[::2]):
        mask = decode_mask(annotation["segmentation"])
        moved = np.roll(mask, 5 * (n % 2), axis=1)
        results += results_of([(annotation["image_id"], moved, (n * 37 % 101) / 101)])
    (tmp_path / "results.json").write_text(json.dumps(results))
    theirs = COCO(path)
    run = COCOeval(theirs, theirs.loadRes(str(tmp_path / "results.json")), "segm")
    run.params.useCats = 0
    run.evaluate()
    run.accumulate()
    run.summarize()
    ours = score_masks(tmp_path / "results.json", path)["masks"]
    names = {0: "AP", 1: "AP50", 2: "AP75", 6: "AR1", 7: "AR10", 8: "AR100"}
    names |= {9: "AR_small", 10: "AR_medium", 11: "AR_large"}
    for index, name in names.items():
        assert ours[name] == pytest.approx(100 * run.stats[index], abs=1e-9), name
    assert 0 < ours["AR_small"] < ours["AR_large"]


@pytest.mark.shared
@needs_shared("data", "coco_train128")
def test_true_masks_of_photographs_are_perfect(tmp_path: Path) -> None:
    path = SHARED / "data/coco_train128/instances_train2017.json"
    truth = read_mask_truth(path)
    results = [{**a, "score": 1.0} for a in truth.annotations if not a["iscrowd"]]
    metrics = mask_metrics(truth, results)
    assert metrics["best_mask_iou"] == pytest.approx(100.0)
    assert metrics["AP"] == pytest.approx(100.0)


def test_hits_count_masks_that_reach_half_an_instance() -> None:
    """One mask equals the instance, one covers half of it and as much again, one misses."""
    instance = np.zeros((4, 8), dtype=bool)
    instance[:, :4] = True
    shifted = np.roll(instance, 2, axis=1)  # IoU 1/3
    missed = ~instance
    truth = [{"image_id": 1, "iscrowd": 0, "segmentation": encode_mask(instance)}]
    results = [
        {"image_id": 1, "segmentation": encode_mask(mask)} for mask in (instance, shifted, missed)
    ]
    results.append({"image_id": 2, "segmentation": encode_mask(instance)})
    assert best_ious(results, not_crowds(truth)) == pytest.approx([1.0, 1 / 3, 0.0, 0.0])
