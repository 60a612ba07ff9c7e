"""Check a folder of labels against itself."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from u2seg.errors import UserError
from u2seg.io.coco import read_instances, read_panoptic
from u2seg.io.jsonfile import read_json_object
from u2seg.io.paths import distinct_stems, safe_join
from u2seg.io.png import read_label_png, read_panoptic_png
from u2seg.labels.folder import measured
from u2seg.labels.write import (
    INSTANCES_JSON,
    LABELSPACE_JSON,
    PANOPTIC_JSON,
    PANOPTIC_PNGS,
    STUFF_PNGS,
    png_name,
    stuff_target,
)
from u2seg.structures.labels import VOID_ID, LabelSpace
from u2seg.structures.masks import encode_mask
from u2seg.structures.panoptic import PanopticLabel

SHOWN = 5


def check_labels(folder: Path | str) -> dict[str, int]:
    """Check the folder ``export_image`` and ``merge_parts`` wrote, pixel by pixel.

    Args:
        folder: ``<output>/panoptic``.

    Returns:
        Counts: images, instances, segments.

    Raises:
        UserError: if a file is missing or unreadable, or anything disagrees: names of PNGs, ids
            of a PNG and its ``segments_info`` (each pixel's id is listed, each listed id has a
            pixel, once), areas (pixel counts), boxes (tight), categories, ``iscrowd`` (0), the
            stuff PNG, or ``instances.json``. Lists the first problems.
    """
    folder = Path(folder)
    space = LabelSpace.from_json(
        read_json_object(
            folder / LABELSPACE_JSON, "num_things", "num_stuff", "thing_names", "stuff_names"
        )
    )
    panoptic = read_panoptic(folder / PANOPTIC_JSON)
    instances = read_instances(folder / INSTANCES_JSON)
    problems = list(_dataset_problems(panoptic, instances, space))
    by_image: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for row in instances["annotations"]:
        by_image[row["image_id"]].append(row)
    if not problems:
        stems = distinct_stems(image["file_name"] for image in panoptic["images"])
        images = {
            image["id"]: {**image, "stem": stem}
            for image, stem in zip(panoptic["images"], stems, strict=True)
        }
        for row in panoptic["annotations"]:
            image = images[row["image_id"]]
            found = _image_problems(folder, row, image, by_image[row["image_id"]], space)
            problems += [f"{row['file_name']}: {problem}" for problem in found]
            if len(problems) >= SHOWN:
                break
    if problems:
        raise UserError(
            f"{folder} is not a sound label folder: "
            + "; ".join(problems[:SHOWN])
            + ". Run the panoptic stage again."
        )
    return {
        "images": len(panoptic["images"]),
        "instances": len(instances["annotations"]),
        "segments": sum(len(row["segments_info"]) for row in panoptic["annotations"]),
    }


def _dataset_problems(
    panoptic: Mapping[str, Any], instances: Mapping[str, Any], space: LabelSpace
) -> Iterator[str]:
    if panoptic["categories"] != space.categories():
        yield f"the categories of {PANOPTIC_JSON} are not those of {LABELSPACE_JSON}"
    things = [(row["id"], row["name"]) for row in space.categories() if row["isthing"]]
    if [(row["id"], row["name"]) for row in instances["categories"]] != things:
        yield f"the categories of {INSTANCES_JSON} are not the things of {LABELSPACE_JSON}"
    if panoptic["images"] != instances["images"]:
        yield f"{PANOPTIC_JSON} and {INSTANCES_JSON} list different images"
    unlabelled = {i["id"] for i in panoptic["images"]} - {
        row["image_id"] for row in panoptic["annotations"]
    }
    if unlabelled:
        yield f"{len(unlabelled)} images have no annotation, the first is {min(unlabelled)}"


def _image_problems(
    folder: Path,
    row: Mapping[str, Any],
    image: Mapping[str, Any],
    instances: list[dict[str, Any]],
    space: LabelSpace,
) -> Iterator[str]:
    if row["file_name"] != png_name(image):
        yield f"the PNG of image {image['file_name']} must be {png_name(image)}"
        return
    ids = read_panoptic_png(safe_join(folder / PANOPTIC_PNGS, row["file_name"]))
    if ids.shape != (image["height"], image["width"]):
        yield f"PNG is {ids.shape}, the image {(image['height'], image['width'])}"
        return
    listed = {segment["id"] for segment in row["segments_info"]}
    present = set(np.unique(ids).tolist()) - {VOID_ID}
    if listed != present:
        yield f"PNG ids {sorted(present ^ listed)[:SHOWN]} are only in the PNG or only in the JSON"
        return
    label = measured(ids, row["segments_info"], space)
    yield from _segment_problems(row["segments_info"], label)
    stuff = read_label_png(safe_join(folder / STUFF_PNGS, row["file_name"]))
    if not np.array_equal(stuff, stuff_target(label, space)):
        yield "the stuff PNG does not follow from the panoptic PNG"
    yield from _instance_problems(label, instances)


def _segment_problems(segments: list[dict[str, Any]], label: PanopticLabel) -> Iterator[str]:
    for segment, seen in zip(segments, label.segments, strict=True):
        for key, true in seen.to_json().items():
            if key != "score" and segment.get(key) != true:
                told = f"segment {segment['id']} has {key} {segment.get(key)}, its pixels say"
                yield f"{told} {true}"


def _instance_problems(label: PanopticLabel, instances: list[dict[str, Any]]) -> Iterator[str]:
    if any(row.get("parent") is not None for row in instances):
        return  # whole masks of a hierarchy, whose segments are what is seen of them
    things = [segment for segment in label.segments if segment.isthing]
    if len(things) != len(instances):
        yield f"{len(things)} thing segments, but {len(instances)} in {INSTANCES_JSON}"
        return
    for segment, instance in zip(things, instances, strict=True):
        seen = {**segment.to_json(), "segmentation": encode_mask(label.ids == segment.id)}
        if any(seen[k] != instance[k] for k in ("category_id", "area", "bbox", "segmentation")):
            yield f"instance {instance['id']} is not segment {segment.id}"
