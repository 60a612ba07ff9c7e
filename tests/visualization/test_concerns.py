"""Every warning of the report at its threshold, from counts made by hand."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest

from tests.visualization.fake_run import QUALITY
from u2seg.io.atomic import write_json
from u2seg.labels import LabelImage
from u2seg.structures.labels import LabelSpace
from u2seg.structures.masks import InstanceMask
from u2seg.visualization.concerns import (
    LabelStatistics,
    label_concerns,
    label_statistics,
    mask_advice,
    prediction_concerns,
    quality_concerns,
)
from u2seg.visualization.report import write_report
from u2seg.visualization.sources import (
    LabelRun,
    Labels,
    Notes,
    Predictions,
    read_labels,
)


def image(number):
    return LabelImage(number + 1, f"{number}.jpg", (10, 20), f"{number}.png", None, {})


def told(numbers=None, *, things=4, images=4, skipped=(), **of_run):
    run = LabelRun(Path("x"), labels=Labels(LabelSpace(things, 3)), **of_run)
    run.images = [image(i) for i in range(images)]
    run.skipped = list(skipped)
    return [(c.level, c.text) for c in label_concerns(run, numbers or LabelStatistics())]


def test_statistics_by_hand():
    run = LabelRun(Path("x"), labels=Labels(LabelSpace(4, 3)))
    run.images = [image(i) for i in range(4)]
    run.masks = {
        1: [{"area": 50, "bbox": [0, 2, 5, 5]}, {"area": 2, "bbox": [1, 1, 2, 2]}],
        2: [{"area": 20, "bbox": [10, 1, 10, 3]}],
        99: [{"area": 1, "bbox": [0, 0, 1, 1]}],
    }
    run.instances = [{"category_id": c} for c in (1, 1, 3)]
    numbers = label_statistics(run)
    assert numbers.masks_per_image == [2, 1, 0, 0] and numbers.without_masks == 2
    assert numbers.area_percent == [25.0, 1.0, 10.0]
    assert numbers.border_contact == pytest.approx(2 / 3)
    assert numbers.cluster_sizes == {0: 2, 2: 1}


def test_many_near_duplicates_are_counted_not_listed():
    [concern] = quality_concerns(QUALITY)
    assert "Clusters that hardly differ, in pairs: 2 (1 and 2, 0 and 1)" in concern.text
    pairs = {**QUALITY, "near_duplicates": [[0, i, 30.0] for i in range(1, 12)]}
    [concern] = quality_concerns({**pairs, "near_duplicate_pairs": 1200})
    assert "in pairs: 1,200 (0 and 1, " in concern.text
    assert "0 and 8 and 1,192 more)" in concern.text
    assert quality_concerns({**QUALITY, "near_duplicate_pairs": 0}) == []


@pytest.mark.parametrize(
    ("empty", "level"), [(3, None), (4, "amber"), (6, "amber"), (7, "red"), (12, "red")]
)
def test_images_without_masks(empty, level):
    numbers = LabelStatistics(masks_per_image=[1] * (12 - empty) + [0] * empty)
    found = told(numbers)
    assert [c[0] for c in found] == ([level] if level else [])
    assert all(f"{empty} of 12 images" in text and "--dry-run 8" in text for _, text in found)


def advice(masks, features):
    settings = {"FeatureSettings": {"name": features}, "MaskSettings": masks}
    return mask_advice(LabelRun(Path("x"), manifests={"masks": {"settings": settings}}))


def test_advice_on_masks_names_keys_with_values_that_are_not_those_in_use():
    masks = {"proposer": "maskcut", "refiner": "dense_crf", "min_refine_iou": 0.5,
             "max_border": 0.4, "maskcut": {"tau": 0.28}}  # fmt: skip
    text = advice(masks, "filter_bank")
    for word in ("REFINER none", "MAX_BORDER 1.0 (now 0.4)", "TAU 0.18 and 0.38", "dino_vits8"):
        assert word in text
    text = advice(
        {**masks, "refiner": "none", "max_border": 1.0, "maskcut": {"tau": 0.15}}, "dino_vits8"
    )
    assert text.startswith("Try U2SEG.MASKS.MASKCUT.TAU 0.05 and 0.25 (now 0.15), on")
    text = advice({"proposer": "my_own", "refiner": "none"}, "dino_vits8")
    assert text.startswith("Try other settings in U2SEG.MASKS.MY_OWN, on")
    text = advice({"proposer": "cutler", "cutler": {"score": 0.5}}, "filter_bank")
    assert text.startswith("Try U2SEG.MASKS.CUTLER.SCORE 0.25 (now 0.5), on")


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([10, 10, 10, 10], []),
        ([14, 14, 14], [("red", "1 of 4 clusters are dead", "NUM_CLUSTERS to 3 or fewer")]),
        ([10, 10, 10, 9], [("amber", "39 masks are few for 4 clusters (9.8 each)", "to 2 (one")]),
        ([26, 10, 8, 8], []),
        ([27, 10, 8, 8], [("amber", "One cluster holds 51 %", "NUM_CLUSTERS (now 4)")]),
    ],
)
def test_clusters(sizes, expected):
    found = told(LabelStatistics(cluster_sizes=dict(enumerate(sizes))))
    assert len(found) == len(expected)
    for (level, text), (wanted, *words) in zip(found, expected, strict=True):
        assert level == wanted and all(word in text for word in words)


def test_one_dead_cluster_of_five_is_no_red_light():
    assert [
        c[0] for c in told(LabelStatistics(cluster_sizes=dict.fromkeys(range(4), 19)), things=5)
    ] == ["amber"]


def test_clusters_are_judged_before_the_panoptic_stage_too_but_not_in_a_dry_run():
    quality = {"clusters": 10, "descriptors": 150, "empty": [2, 7], "sizes": {"max": 9}}
    [(level, text)] = told(quality=quality)
    assert level == "amber" and "2 of 10 clusters are dead" in text
    assert told(quality=quality, found=100) == []


def test_collapsed_stuff():
    assert told(LabelStatistics(stuff_share={0: 0.45, 1: 0.05})) == []
    manifests = {"semantics": {"settings": {"SemanticSettings": {"stego": {"steps": 300}}}}}
    [(level, text)] = told(LabelStatistics(stuff_share={0: 0.46, 1: 0.04}), manifests=manifests)
    assert level == "red" and "92 % of all stuff" in text and "STEPS, now 300" in text


@pytest.mark.parametrize(
    ("skipped", "level"), [(5, None), (6, "amber"), (31, "amber"), (32, "red")]
)
def test_skipped_files(skipped, level):
    """95 images are used: 5 of 100 are skipped, then 6 of 101; 31 of 126, then 32 of 127."""
    reasons = [("a.jpg", "corrupt: ends early")] * (skipped - 2) + [("b.jpg", "too large: 9")] * 2
    found = told(images=95, skipped=reasons)
    assert [c[0] for c in found] == ([level] if level else [])
    assert all(f"{skipped - 2} of them because: corrupt." in text for _, text in found)


@pytest.mark.parametrize(
    ("passed_over", "level"),
    [({}, None), ({".txt": 99, "": 9}, None), ({".heic": 1}, "amber"),
     ({".heic": 11, ".jfif": 20, ".txt": 9}, "amber"), ({".heic": 32}, "red")],
)  # fmt: skip
def test_files_passed_over(passed_over, level):
    """95 images are used; 31 more are a quarter of all, 32 are above."""
    found = told(images=95, passed_over=passed_over)
    assert [c[0] for c in found] == ([level] if level else [])
    assert all("pillow-heif" in text and ".txt" not in text for _, text in found)


def test_masks_at_the_border():
    assert told(LabelStatistics(border_contact=0.7)) == []
    [(level, text)] = told(LabelStatistics(border_contact=0.71))
    assert level == "amber" and "U2SEG.MASKS.MAX_BORDER 0.4 drops" in text
    manifests = {"masks": {"settings": {"MaskSettings": {"max_border": 0.4}}}}
    [(_, text)] = told(LabelStatistics(border_contact=0.71), manifests=manifests)
    assert "U2SEG.MASKS.MAX_BORDER 0.2 drops masks that cover more than 20 %" in text


def predicted(folder, categories, scores=()):
    """One image for each list of categories; 1 and 2 are things, 3 is stuff."""
    space = LabelSpace(2, 1)
    rows = {i: [{"id": n + 1, "category_id": c, "area": 1} for n, c in enumerate(row)]
            for i, row in enumerate(categories)}  # fmt: skip
    images = [{"id": i, "file_name": f"{i}.jpg", "height": 2, "width": 2} for i in rows]
    annotations = [{"image_id": i, "file_name": f"{i}.png", "segments_info": rows[i]} for i in rows]
    content = {"images": images, "annotations": annotations, "categories": space.categories()}
    mask = InstanceMask.from_array(np.ones((2, 2), bool), 1.0).to_result(0)
    instances = [{**mask, "category_id": 1, "score": score} for score in scores]
    write_json(folder / "panoptic.json", content)
    write_json(folder / "instances.json", instances)
    write_json(folder / "labelspace.json", space.to_json())
    notes = Notes()
    found = Predictions(read_labels(folder, notes), folder)
    assert not notes
    return found


def test_a_model_that_found_nothing_is_red_and_its_best_score_is_told(tmp_path):
    [concern] = prediction_concerns(predicted(tmp_path / "a", [[3], []]))
    assert concern.level == "red" and "no object in 2 of 2 images: nor a candidate" in concern.text
    [concern] = prediction_concerns(predicted(tmp_path / "b", [[3], []], [0.08, 0.24]))
    assert "highest score is 0.24" in concern.text and "CONFIDENCE_THRESH 0.12" in concern.text
    [concern] = prediction_concerns(predicted(tmp_path / "c", [[1], [3], []]))
    assert concern.level == "amber" and "2 of 3 images" in concern.text
    assert prediction_concerns(predicted(tmp_path / "d", [[1], [2, 3], [3], []])) == []
    assert prediction_concerns(Predictions(None, tmp_path)) == []


def test_warnings_stand_at_the_top_worst_first_and_in_the_log(tmp_path, caplog):
    losses = [{"iteration": 0, "total_loss": 1.0}, {"iteration": 1, "total_loss": 2.0}]
    (tmp_path / "metrics.json").write_text("\n".join(map(json.dumps, losses)))
    labels = tmp_path / "labels"
    labels.mkdir()
    images = [{"id": i, "file_name": f"{i}.jpg", "height": 9, "width": 9} for i in range(9)]
    (labels / "images.json").write_text(json.dumps({"images": images}))
    (labels / "skipped.jsonl").write_text('{"file_name": "a.jpg", "reason": "too small"}\n')
    with caplog.at_level(logging.WARNING):
        path = write_report(tmp_path, labels=labels, train=tmp_path, title="t")
    assert [record.message[:18] for record in caplog.records] == [
        "The training loss ", "1 of 10 files (10 ",
    ]  # fmt: skip
    text = path.read_text("utf-8")
    assert text.index("The training loss did") < text.index("1 of 10 files") < text.index("<h2")
