"""Forms of ground truth that tools of this field write: the figures of ``ok``, or one plain line.

The predictions are the sound panoptic truth, moved by two pixels: no model is needed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.shared import SHARED, needs_shared
from u2seg.errors import UserError
from u2seg.evaluation.command import evaluate_files, evaluate_parser, parse_evaluate
from u2seg.io.atomic import write_json
from u2seg.io.jsonfile import read_json
from u2seg.io.png import read_panoptic_png, write_panoptic_png
from u2seg.structures.masks import InstanceMask

CASES = SHARED / "cases"
pytestmark = [pytest.mark.shared, needs_shared("cases", "panoptic")]


@pytest.fixture(scope="module")
def predictions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("predictions")
    content = read_json(CASES / "panoptic/ok/p.json")
    ids = [c["id"] for c in sorted(content["categories"], key=lambda c: -c["isthing"])]
    things = {c["id"] for c in content["categories"] if c["isthing"]}
    number = {old: new for new, old in enumerate(ids, start=1)}
    results = []
    for label in content["annotations"]:
        moved = np.roll(
            read_panoptic_png(CASES / "panoptic/ok/png" / label["file_name"]), 2, axis=1
        )
        write_panoptic_png(folder / "panoptic" / label["file_name"], moved)
        for place, segment in enumerate(label["segments_info"]):
            if segment["category_id"] in things:
                mask = InstanceMask.from_array(moved == segment["id"], 0.5 + place / 100)
                results.append(mask.to_result(label["image_id"], number[segment["category_id"]]))
            segment["category_id"] = number[segment["category_id"]]
    content["categories"] = [
        {"id": number[c["id"]], "name": str(number[c["id"]]), "isthing": c["isthing"]}
        for c in content["categories"]
    ]
    write_json(folder / "panoptic.json", content)
    write_json(folder / "instances.json", results)
    return folder


def score(predictions: Path, output: Path, data_format: str, *truth: Path) -> dict[str, Any]:
    """Return the figures of an evaluation, without what only names its inputs."""
    words = ["--predictions", str(predictions), "--output", str(output), "--dataset", data_format]
    words += ["--truth", *map(str, truth), "U2SEG.EVAL.BOOTSTRAP", "0"]
    evaluate_files(parse_evaluate(evaluate_parser(), words))
    metrics = read_json(output / "metrics.json")
    return {key: metrics[key] for key in ("panoptic", "semantic", "instances", "class_agnostic")}


def outcome(*args: Any) -> dict[str, Any] | str:
    """Return the figures, or the one line of a refusal, which names a file of the truth."""
    try:
        return score(*args)
    except UserError as error:
        told = str(error)
        assert "\n" not in told and any(str(path) in told for path in args[3:])
        return told


SAME_INSTANCES = {
    "ok",
    "ann_id_0",
    "bom",
    "more_images_than_predicted",
    "no_iscrowd",
    "uncompressed_rle",
}
"""What leaves the meaning; of the rest each is read with the same figures, or refused."""
OTHER_INSTANCES = {"cvat_sam_iscrowd_1", "dup_category_names", "ok_poly"}
"""All crowds; figures of the same classes under other names; other shapes."""


def test_coco_instances_of_annotation_tools(
    predictions: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = {path.stem: path for path in (CASES / "coco_instances").glob("*.json")}
    found = {n: outcome(predictions, tmp_path, "coco-instances", f) for n, f in files.items()}
    sound = found["ok"]
    assert isinstance(sound, dict) and sound["instances"]["segm"]["AP50"] > 90
    assert {name for name in SAME_INSTANCES if found[name] != sound} == set()
    other = {n for n, v in found.items() if v != sound and isinstance(v, dict)}
    assert other == OTHER_INSTANCES
    assert found["cvat_sam_iscrowd_1"]["instances"]["segm"]["AP"] is None  # type: ignore[index,call-overload]
    told = [record.getMessage() for record in caplog.records if "crowds" in record.getMessage()]
    assert len(told) == 1
    assert (
        told[0].startswith("all 14 true instances of ") and "so no object can be found" in told[0]
    )
    for name, words in {
        "empty_segmentation": "annotations[3] (id 4): 'segmentation': [] has no polygon",
        "via_flat_polygon": "annotations[3] (id 4): 'segmentation': [56.0, 64.0",
        "uncompressed_rle_floats": "annotations[0] (id 1): 'segmentation': RLE counts hold 5029.0",
        "nan_area": "NaN is not a JSON number",
        "unknown_category": "annotations[3] (id 4): 'category_id' is 99",
        "string_image_ids": "images[0] (id 9): 'id' is '9', expected int",
        "results_list": "must hold a JSON object, found list",
        "dup_names_flat": "'file_name' is '0.png', which is the image of image id 9 too",
    }.items():
        assert words in str(found[name])


SAME_PANOPTIC = {
    "ok", "area_float_int", "area_off", "cat_gaps", "coconut_no_iscrowd_isthing_only",
    "isthing_bool", "rgba_alpha", "trns_rgb",
}  # fmt: skip


def test_coco_panoptic_of_other_tools(predictions: Path, tmp_path: Path) -> None:
    folders = {path.name: path for path in (CASES / "panoptic").iterdir() if path.is_dir()}
    found = {
        n: outcome(predictions, tmp_path, "coco-panoptic", f / "p.json", f / "png")
        for n, f in folders.items()
    }
    sound = found["ok"]
    assert isinstance(sound, dict) and sound["panoptic"]["all"]["PQ"] > 80
    assert {name for name, value in found.items() if value == sound} == SAME_PANOPTIC
    other = {n for n, v in found.items() if v != sound and isinstance(v, dict)}
    assert other == {"crowd_all", "only_stuff"}
