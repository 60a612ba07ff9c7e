"""Intervals by resampling images: enumerated by hand, by repeating images, by simulation."""

from __future__ import annotations

import contextlib
import io
import itertools
import math

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from u2seg.evaluation.metrics.bootstrap import (
    BLOCK,
    Matches,
    confidence_intervals,
    detection_source,
    panoptic_source,
    resample_weights,
    semantic_source,
)
from u2seg.evaluation.metrics.panoptic import ClassCounts, mean_quality
from u2seg.evaluation.metrics.semantic import mean_iou, pixel_accuracy
from u2seg.structures.masks import encode_mask, mask_box

STATS = {"AP": 0, "AP50": 1, "AP75": 2, "AR1": 6, "AR10": 7, "AR100": 8}
"""Figure -> its place in pycocotools' summary."""
EVERY_PAIR = np.array([[2, 0], [1, 1], [0, 2]], dtype=np.int32)
"""All resamples of two images; the middle one comes up in half of the draws."""


def test_two_images_every_resample_by_hand():
    """Class 1 (thing) is perfect in one image, half missed in the other, which alone has class 2.

    A twice: PQ 1 of class 1. A and B: class 1 (1.0 + 0.6) / (2 + 0.5) = 0.64, class 2: 0.
    B twice: class 1 1.2 / (2 + 1) = 0.4, class 2 still 0.
    """
    one = {1: ClassCounts(iou=1.0, tp=1)}
    two = {1: ClassCounts(iou=0.6, tp=1, fn=1), 2: ClassCounts(fn=1)}
    source = panoptic_source([one, two], things=[1], stuff=[2])
    figures = source(EVERY_PAIR)
    assert figures["panoptic", "things", "PQ"] == pytest.approx([100.0, 64.0, 40.0])
    assert figures["panoptic", "all", "PQ"] == pytest.approx([100.0, 32.0, 20.0])
    assert figures["panoptic", "all", "SQ"] == pytest.approx([100.0, 40.0, 30.0])
    assert figures["panoptic", "all", "RQ"] == pytest.approx([100.0, 40.0, 100 / 3])
    stuff = figures["panoptic", "stuff", "PQ"]
    assert math.isnan(stuff[0]) and stuff[1:].tolist() == [0.0, 0.0]
    # a quarter of the draws gives each extreme, so both lie inside the middle 95 %
    found = confidence_intervals([source], images=2, resamples=400, seed=0)["panoptic"]
    assert found["things"]["PQ"] == pytest.approx([40.0, 100.0])
    assert found["all"]["RQ"] == pytest.approx([100 / 3, 100.0])
    assert found["stuff"]["PQ"] == [0.0, 0.0]


def test_two_images_of_pixels_by_hand():
    """Image A: 3 of 4 pixels of class 0 right, one said to be class 1. B: class 1, 2 of 6, no id.

    Both: class 0 3/4, class 1 2 / (6 + 1).
    """
    rows = [([0, 0], [0, 1], [3, 1]), ([1, 1], [1, 2], [2, 4])]
    figures = semantic_source(rows, num_classes=2)(EVERY_PAIR)
    assert figures["semantic", "pixel_accuracy"] == pytest.approx([75.0, 50.0, 100 / 3])
    both = 100 * (3 / 4 + 2 / 7) / 2
    assert figures["semantic", "mIoU"] == pytest.approx([100 * (0.75 + 0) / 2, both, 100 / 3])
    empty = semantic_source([([], [], [])], num_classes=2)(np.ones((1, 1), np.int32))
    assert all(math.isnan(values[0]) for values in empty.values())


def test_draws_are_seeded_fair_and_the_same_in_any_block():
    def every(resamples, seed):
        return np.concatenate(list(resample_weights(7, resamples, seed)))

    many = every(3 * BLOCK + 5, seed=1)
    assert many.shape == (3 * BLOCK + 5, 7) and (many.sum(axis=1) == 7).all()
    assert (every(BLOCK + 1, seed=1) == many[: BLOCK + 1]).all()
    assert (every(BLOCK, seed=2) != many[:BLOCK]).any()
    assert every(4000, seed=0).mean(axis=0) == pytest.approx(np.ones(7), abs=0.06)


def random_counts(rng: np.random.Generator, images: int) -> list[dict[int, ClassCounts]]:
    rows = []
    for _ in range(images):
        row = {}
        for category in np.flatnonzero(rng.random(6) < 0.4).tolist():
            tp, fp, fn = rng.integers(0, 4, 3).tolist()
            row[category] = ClassCounts(float(rng.uniform(0.5, 1, tp).sum()), tp, fp, fn)
        rows.append(row)
    return rows


def test_weighted_figures_are_those_of_the_images_repeated():
    rng = np.random.default_rng(5)
    rows = random_counts(rng, 9)
    matrices = [rng.integers(0, 3, (4, 5)) for _ in rows]
    cells = [np.stack([*np.nonzero(m), m[np.nonzero(m)]]) for m in matrices]
    panoptic = panoptic_source(rows, things=[0, 1, 2], stuff=[3, 4, 5])
    semantic = semantic_source(cells, 4)
    weights = np.concatenate([np.ones((1, 9), np.int32), *resample_weights(9, 5, 3)])
    found = {**panoptic(weights), **semantic(weights)}
    for number, row in enumerate(weights.tolist()):
        total: dict[int, ClassCounts] = {}
        confusion = np.zeros((4, 5), dtype=np.int64)
        for image, times in enumerate(row):
            for _ in range(times):
                for category, counts in rows[image].items():
                    total.setdefault(category, ClassCounts()).add(counts)
                confusion += matrices[image]
        for part, classes in (("all", range(6)), ("things", [0, 1, 2]), ("stuff", [3, 4, 5])):
            want = mean_quality(total, classes)
            for key in ("PQ", "SQ", "RQ"):
                assert found["panoptic", part, key][number] == pytest.approx(want[key], abs=1e-10)
        assert found["semantic", "mIoU"][number] == pytest.approx(mean_iou(confusion), abs=1e-10)
        want = pixel_accuracy(confusion)
        assert found["semantic", "pixel_accuracy"][number] == pytest.approx(want, abs=1e-10)


def test_the_interval_covers_a_known_truth():
    """Shares of right pixels are drawn around 60 %: about 95 of 100 intervals hold 60."""
    rng = np.random.default_rng(11)
    covered = 0
    for seed in range(200):
        right = rng.binomial(100, np.clip(rng.normal(0.6, 0.1, 50), 0, 1)).tolist()
        rows = [([0, 0], [0, 1], [r, 100 - r]) for r in right]
        found = confidence_intervals([semantic_source(rows, 1)], 50, resamples=200, seed=seed)
        low, high = found["semantic"]["pixel_accuracy"]
        covered += low <= 60 <= high
    assert 0.90 <= covered / 200 <= 0.98


def coco(records, images, classes):
    result = COCO()
    result.dataset = {
        "images": [{"id": i, "height": 0, "width": 0} for i in images],
        "categories": [{"id": c} for c in classes],
        "annotations": [{**r, "id": n + 1} for n, r in enumerate(records)],
    }
    result.createIndex()
    return result


def coco_run(truth, found, images, classes=(1, 2)):
    with contextlib.redirect_stdout(io.StringIO()):
        run = COCOeval(coco(truth, images, classes), coco(found, images, classes), "segm")
        run.params.imgIds = list(images)
        run.evaluate()
        run.accumulate()
        run.summarize()
    return run


def box(image, category, left, width, **more):
    mask = np.zeros((4, 40), dtype=bool)
    mask[:, left : left + width] = True
    rle, area = encode_mask(mask), int(mask.sum())
    return {"image_id": image, "category_id": category, "segmentation": rle, "area": area,
            "bbox": list(mask_box(mask)), "iscrowd": 0, **more}  # fmt: skip


def test_average_precision_of_two_images_by_hand():
    """Image 1: its instance is found with 0.9. Image 2: an error with 0.95, a miss.

    Image 1 twice: AP 1. Both: precision 1/2 up to recall 1/2, so 51 of 101 levels at 0.5.
    Image 2 twice: 0.
    """
    run = coco_run(
        [box(1, 1, 0, 8), box(2, 1, 0, 8)],
        [box(1, 1, 0, 8, score=0.9), box(2, 1, 20, 8, score=0.95)],
        [1, 2],
    )
    found = Matches.from_run(run).scores(EVERY_PAIR)
    assert found["AP"] == pytest.approx([100.0, 100 * 0.5 * 51 / 101, 0.0])
    assert found["AP50"] == pytest.approx(found["AP"])
    assert found["AR100"] == pytest.approx([100.0, 50.0, 0.0])


def test_recall_of_the_first_detection_by_hand():
    """Image 1: the better of two detections is an error. Image 2: the only one is right.

    AR1 of image 1 twice: 0, both: 1 of 2, image 2 twice: 1; AR10 looks at all detections.
    """
    run = coco_run(
        [box(1, 1, 0, 8), box(2, 1, 0, 8)],
        [box(1, 1, 0, 8, score=0.6), box(1, 1, 20, 8, score=0.9), box(2, 1, 0, 8, score=0.5)],
        [1, 2],
    )
    found = Matches.from_run(run).scores(EVERY_PAIR)
    assert found["AR1"] == pytest.approx([0.0, 50.0, 100.0])
    for name in ("AR10", "AR100"):
        assert found[name] == pytest.approx([100.0] * 3)


def random_set(rng, images):
    truth, found, score = [], [], iter(rng.permutation(1000) / 1000)
    for image in images:
        for category, left in itertools.product((1, 2), (0, 12, 26)):
            if rng.random() < 0.5:
                crowd = int(rng.random() < 0.2)
                truth.append(box(image, category, left, 10, iscrowd=crowd))
            if rng.random() < 0.7:
                shift, width = int(rng.integers(0, 4)), int(rng.integers(6, 11))
                found.append(box(image, category, left + shift, width, score=next(score)))
    return truth, found


def test_average_precision_is_pycocotools_of_the_images_repeated():
    rng = np.random.default_rng(2)
    images = list(range(1, 9))
    truth, found = random_set(rng, images)
    matches = Matches.from_run(coco_run(truth, found, images))
    weights = np.concatenate([np.ones((1, 8), np.int32), *resample_weights(8, 6, 4)])
    scores = matches.scores(weights)
    for number, row in enumerate(weights.tolist()):
        copies = [(image, k) for image, n in zip(images, row, strict=True) for k in range(n)]
        copy = {pair: new for new, pair in enumerate(copies)}
        repeated = [
            [{**r, "image_id": copy[p]} for p in copies for r in rows if r["image_id"] == p[0]]
            for rows in (truth, found)
        ]
        stats = coco_run(*repeated, range(len(copies))).stats
        for name, index in STATS.items():
            assert scores[name][number] == pytest.approx(100 * stats[index], abs=1e-10), name


def test_average_precision_without_instances_is_undefined():
    nothing = Matches.from_run(coco_run([], [box(1, 1, 0, 8, score=0.5)], [1, 2]))
    assert all(np.isnan(values).all() for values in nothing.scores(EVERY_PAIR).values())
    missed = Matches.from_run(coco_run([box(2, 2, 0, 8)], [], [1, 2]))
    assert np.isnan(missed.scores(EVERY_PAIR)["AP"][0])
    assert missed.scores(EVERY_PAIR)["AP"][1:].tolist() == [0.0, 0.0]
    found = confidence_intervals([detection_source(missed, "a", "b")], 2, resamples=40, seed=0)
    assert found["a"]["b"] == {key: [0.0, 0.0] for key in STATS}
