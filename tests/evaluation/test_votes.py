"""What votes under which rule: each by hand."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from tests.evaluation.tables import table
from tests.shared import SHARED, needs_shared
from u2seg.config.schema import EvalSettings
from u2seg.evaluation.collect import ANY_THING, NONE, collect
from u2seg.evaluation.metrics.matching import majority_map
from u2seg.evaluation.metrics.panoptic import TruthSegment
from u2seg.evaluation.protocols.rules import StuffRule, ThingRule, protocol_of
from u2seg.evaluation.protocols.votes import pixel_counts, stuff_votes, thing_votes
from u2seg.evaluation.truth.coco import GroundTruth, read_panoptic_set, read_truth
from u2seg.evaluation.truth.predictions import Predictions
from u2seg.structures.masks import encode_mask, mask_box

CAT, DOG, GRASS, SKY = 1, 2, 3, 4
CLUSTERS = (1, 2, 3)
# (detection, instance, cluster, class, score, mask IoU, box IoU, crowd)
IMAGES = [
    table(
        1,
        instances=[
            (0, 0, 1, CAT, 0.9, 0.5, 0.8, False),
            (0, 1, 1, DOG, 0.9, 0.4, 0.75, False),
            (1, 0, 2, CAT, 0.6, 0.65, 0.7, False),
            (2, 2, 3, DOG, 0.4, 0.95, 0.9, True),
        ],
    ),
    table(
        2,
        instances=[
            (0, 0, 1, DOG, 0.59, 0.9, 0.9, False),
            (1, 0, 3, DOG, 0.7, 0.3, 0.71, True),
            (2, 1, 2, CAT, 0.5, 0.0, 0.72, False),
        ],
    ),
]


def votes(rule: ThingRule, images=IMAGES) -> list[list[int]]:
    return thing_votes(images, CLUSTERS, (CAT, DOG), rule).tolist()


def rule_of(name: str, num_things: int = 800, **keys) -> ThingRule:
    return protocol_of(EvalSettings(protocol=name, **keys), num_things).things


def test_mask_and_box_give_other_classes_to_a_cluster() -> None:
    masks = ThingRule(overlap="mask", iou=0.5, score=0.3)
    assert votes(masks) == [[1, 1], [1, 0], [0, 0]]
    boxes = ThingRule(overlap="box", iou=0.5, score=0.3)
    assert votes(boxes) == [[1, 2], [2, 0], [0, 0]]
    # cluster 1: a tie by masks goes to the lower class, by boxes DOG wins
    assert majority_map(thing_votes(IMAGES, CLUSTERS, (CAT, DOG), masks))[0] == 0
    assert majority_map(thing_votes(IMAGES, CLUSTERS, (CAT, DOG), boxes))[0] == 1


def test_thresholds_at_their_edges() -> None:
    at = ThingRule(overlap="box", iou=0.7, score=0.6)
    above = ThingRule(overlap="box", iou=0.7, strict=True, score=0.6)
    assert votes(at)[1] == [1, 0] and votes(above)[1] == [0, 0]
    assert votes(ThingRule(iou=0.5, score=0.59))[0] == [1, 1]
    assert votes(ThingRule(iou=0.5, score=0.59, strict_score=True))[0] == [1, 0]


def test_pairs_without_overlap_never_vote() -> None:
    assert votes(ThingRule(overlap="mask", iou=0.0, score=0.0))[1] == [1, 0]


def test_the_best_pair_of_each_prediction() -> None:
    # detection 0 of image 1 has two pairs from 0.4 on; its best is the cat
    assert votes(ThingRule(iou=0.4, score=0.6))[0] == [1, 1]
    assert votes(ThingRule(iou=0.4, score=0.6, pairs="best"))[0] == [1, 0]
    tie = table(instances=[(0, 1, 1, CAT, 1, 0.5, 0, False), (0, 0, 1, DOG, 1, 0.5, 0, False)])
    best = ThingRule(iou=0.5, pairs="best")
    assert votes(best, [tie])[0] == [0, 1]  # the first true instance of equals
    # a crowd that may not vote does not push out the pair that may
    crowd = table(instances=[(0, 0, 1, CAT, 1, 0.9, 0, True), (0, 1, 1, DOG, 1, 0.6, 0, False)])
    assert votes(best, [crowd])[0] == [0, 1]
    assert votes(ThingRule(iou=0.5, pairs="best", crowds=True), [crowd])[0] == [1, 0]
    assert votes(best, [table()])[0] == [0, 0]


STUFF = (4, 5)
CELLS = [
    table(
        1,
        # cluster 4: 20 pixels; grass: 14 + 86 = 100; IoU 14 / (20 + 100 - 14) = 0.132
        stuff=[(4, GRASS, 14), (4, NONE, 6), (ANY_THING, GRASS, 86), (5, SKY, 30), (5, CAT, 30)],
    ),
    table(
        2,
        # cluster 4 and grass: 17 / (20 + 100 - 17) = 0.165; sky: 3 / (20 + 3 - 3) = 0.15
        stuff=[(4, GRASS, 17), (4, SKY, 3), (NONE, GRASS, 83)],
    ),
]


def test_stuff_votes_once_an_image_above_the_iou() -> None:
    pixels = stuff_votes(CELLS, STUFF, (GRASS, SKY), StuffRule("pixels"))
    assert pixels.tolist() == [[31, 3], [0, 30]]
    images = stuff_votes(CELLS, STUFF, (GRASS, SKY), StuffRule("images", 0.15))
    # the second image's sky is at 0.15, not above it; cluster 5 and sky: 30 / 60
    assert images.tolist() == [[1, 0], [0, 1]]
    lower = stuff_votes(CELLS, STUFF, (GRASS, SKY), StuffRule("images", 0.13))
    assert lower.tolist() == [[2, 1], [0, 1]]
    none = stuff_votes([table()], STUFF, (GRASS, SKY), StuffRule("images", 0.15))
    assert none.tolist() == [[0, 0], [0, 0]]


def test_pixels_of_the_panoptic_maps() -> None:
    truth = {
        11: TruthSegment(CAT, 8),
        12: TruthSegment(DOG, 5, crowd=True),
        13: TruthSegment(GRASS, 7),
    }
    image = table(
        # segment 21 (cluster 1): 5 cat, 2 grass, 3 void, 4 crowd; 22 (cluster 4): 5 grass;
        # nothing: 3 cat, 1 crowd
        segments=[
            (0, 21, 3), (11, 0, 3), (11, 21, 5), (12, 0, 1), (12, 21, 4), (13, 21, 2), (13, 22, 5),
        ],
        truth=truth,
        predicted={21: 1, 22: 4},
    )  # fmt: skip
    counts = pixel_counts([image, image], (1, 2, 4), (CAT, DOG, GRASS))
    assert counts.votes.tolist() == [[10, 0, 4], [0, 0, 0], [0, 0, 10]]
    assert counts.clusters.tolist() == [14, 0, 10]
    assert counts.classes.tolist() == [16, 0, 14]
    assert counts.iou(0, 0) == pytest.approx(100 * 10 / (14 + 16 - 10))
    assert counts.iou(2, 2) == pytest.approx(100 * 10 / 14)
    assert counts.iou(1, 1) is None


def box_iou(a: list[float], b: list[float]) -> float:
    """Return the IoU of two boxes (x, y, w, h), written out."""
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    shared = max(width, 0.0) * max(height, 0.0)
    return shared / (a[2] * a[3] + b[2] * b[3] - shared)


Segments = list[tuple[int, np.ndarray]]


def released_thing_votes(found: Segments, true: Segments) -> Counter[tuple[int, int]]:
    votes: Counter[tuple[int, int]] = Counter()
    for cluster, mine in found:
        for category, theirs in true:
            if box_iou(list(mask_box(mine)), list(mask_box(theirs))) > 0.7:
                votes[cluster, category] += 1
    return votes


def released_stuff_votes(found: Segments, true: Segments) -> Counter[tuple[int, int]]:
    votes: Counter[tuple[int, int]] = Counter()
    for cluster in {c for c, _ in found}:
        mine = np.any([m for c, m in found if c == cluster], axis=0)
        for category in {c for c, _ in true}:
            theirs = np.any([m for c, m in true if c == category], axis=0)
            if (mine & theirs).sum() / (mine | theirs).sum() > 0.15:
                votes[cluster, category] += 1
    return votes


@pytest.mark.shared
@needs_shared("golden", "pq")
def test_released_votes_on_photographs_counted_from_the_maps(tmp_path: Path) -> None:
    """Boxes and masks are taken from the PNGs here, in plain loops over segments."""
    golden = SHARED / "golden" / "pq"
    truth = read_truth(GroundTruth(golden / "coco_gt.json", golden / "coco_gt"))
    predicted = read_panoptic_set(_with_categories(golden, tmp_path), golden / "coco_pred")
    expected = {"things": Counter(), "stuff": Counter()}
    results: dict[int, list[dict]] = {}
    for image_id in sorted(truth.stems)[:12]:
        sides: list[dict[str, Segments]] = []
        for side in (predicted, truth):
            ids = side.read_ids(image_id)
            masks = [(info.category, ids == s) for s, info in side.segments[image_id].items()]
            kinds = ("things", "stuff")
            sides.append({k: [m for m in masks if m[0] in getattr(side, k)] for k in kinds})
        found, true = sides
        expected["things"] += released_thing_votes(found["things"], true["things"])
        expected["stuff"] += released_stuff_votes(found["stuff"], true["stuff"])
        results[image_id] = [
            {"category_id": c, "score": 0.9, "segmentation": encode_mask(m), "bbox": [*mask_box(m)]}
            for c, m in found["things"]
        ]
    rule = protocol_of(EvalSettings(protocol="u2seg-released"), 800)
    side = Predictions(tmp_path, predicted, results, has_stuff_maps=False)
    tables = collect(truth, side, image_ids=list(results))
    votes = {
        "things": thing_votes(tables, predicted.things, truth.things, rule.things),
        "stuff": stuff_votes(tables, predicted.stuff, truth.stuff, rule.stuff),
    }
    for kind, counted in expected.items():
        rows, cols = getattr(predicted, kind), getattr(truth, kind)
        cells = zip(*np.nonzero(votes[kind]), strict=True)
        assert {(rows[r], cols[c]): votes[kind][r, c] for r, c in cells} == counted
        assert votes[kind].sum() > 10


def _with_categories(golden: Path, folder: Path) -> Path:
    truth = json.loads((golden / "coco_gt.json").read_text())
    content = json.loads((golden / "coco_pred.json").read_text())
    content |= {"images": truth["images"], "categories": truth["categories"]}
    (folder / "panoptic.json").write_text(json.dumps(content))
    return folder / "panoptic.json"
