#!/usr/bin/env python
"""Make docs/images/overview.jpg from finished runs of `make quickstart` and `make scenes`."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from u2seg.io.atomic import atomic_file
from u2seg.io.images import read_image
from u2seg.io.jsonfile import read_json
from u2seg.io.png import read_label_png, read_panoptic_png
from u2seg.structures.labels import LabelSpace
from u2seg.structures.masks import decode_mask
from u2seg.structures.panoptic import PanopticLabel, Segment
from u2seg.visualization.compose import magnify, side_by_side
from u2seg.visualization.draw import draw_masks, draw_panoptic, draw_stuff

Rgb = npt.NDArray[np.uint8]
RUNS = Path("runs")
SCENES = ("000204", "000210", "000219", "000231")
OUTPUT = Path("docs/images/overview.jpg")


def panoptic(folder: Path, stem: str, image: Rgb) -> Rgb:
    """Return the image with the panoptic result of ``folder`` on top."""
    content = read_json(folder / "panoptic.json")
    record = next(a for a in content["annotations"] if a["file_name"] == f"{stem}.png")
    segments = tuple(
        Segment(s["id"], s["category_id"], bool(s["isthing"]), s["area"], tuple(s["bbox"]))
        for s in record["segments_info"]
    )
    space = LabelSpace.from_json(read_json(folder / "labelspace.json"))
    ids = magnify(read_panoptic_png(folder / "panoptic" / f"{stem}.png"), max(image.shape))
    return draw_panoptic(image, PanopticLabel(ids, segments), space, names=False)


def label_row(stem: str) -> Rgb:
    """Return photograph, masks, stuff, label and prediction of a quickstart photograph."""
    run = RUNS / "quickstart"
    image = read_image(run / "photos" / f"{stem}.jpg")
    records = read_json(run / "labels/images.json")["images"]
    number = next(r["id"] for r in records if r["file_name"] == f"{stem}.jpg")
    results = [r for p in sorted(run.glob("labels/masks/part-*.json")) for r in read_json(p)]
    masks = [decode_mask(r["segmentation"]) for r in results if r["image_id"] == number]
    space = LabelSpace.from_json(read_json(run / "labels/panoptic/labelspace.json"))
    stuff = read_label_png(run / "labels/semantics" / f"{stem}.png")
    pictures = [
        image,
        draw_masks(image, masks),
        draw_stuff(image, stuff, space),
        panoptic(run / "labels/panoptic", stem, image),
        panoptic(run / "train/evaluation", stem, image),
    ]
    names = ["photograph", "masks (MaskCut)", "stuff (STEGO)", "panoptic label", "trained model"]
    return side_by_side(pictures, names, height=300)


def scene_row() -> Rgb:
    """Return unseen scenes, each beside the prediction of the model trained without labels."""
    run = RUNS / "scenes"
    pictures = []
    for stem in SCENES:
        image = magnify(read_image(run / "data/images/val" / f"{stem}.png"), 300)
        pictures += [image, panoptic(run / "train/evaluation", stem, image)]
    return side_by_side(pictures, ["unseen scene", "trained model"] * len(SCENES), height=190)


def main() -> int:
    """Write the picture."""
    rows = [label_row("astronaut"), label_row("camera"), scene_row()]
    width = max(row.shape[1] for row in rows)
    padded = [
        np.pad(r, ((0, 10), (0, width - r.shape[1]), (0, 0)), constant_values=250) for r in rows
    ]
    picture = Image.fromarray(np.concatenate(padded))
    with atomic_file(OUTPUT) as file:
        picture.save(file, format="JPEG", quality=82)
    return 0


if __name__ == "__main__":
    sys.exit(main())
