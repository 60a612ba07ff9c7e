"""Small files in the exact formats of other data sets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

Rows = list[list[int]]


def save(path: Path, image: Image.Image) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
    return path


def grey(path: Path, rows: Rows | np.ndarray) -> Path:
    """Write an 8-bit greyscale PNG."""
    return save(path, Image.fromarray(np.array(rows, dtype=np.uint8)))


def wide(path: Path, rows: Rows | np.ndarray) -> Path:
    """Write a 16-bit greyscale PNG, as Cityscapes' instance ids."""
    return save(path, Image.fromarray(np.array(rows, dtype=np.uint16)))


def palette(path: Path, rows: Rows | np.ndarray) -> Path:
    """Write a palette PNG, as Pascal VOC's."""
    image = Image.fromarray(np.array(rows, dtype=np.uint8), mode="P")
    image.putpalette([value for i in range(256) for value in (i, 255 - i, (7 * i) % 256)])
    return save(path, image)


def photograph(path: Path, width: int, height: int) -> Path:
    return save(path, Image.new("RGB", (width, height), (90, 120, 60)))


def write_json(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def cityscapes(root: Path) -> Path:
    """Write two photographs of two cities and their gtFine; return the split's folder.

    aachen: sky above road, a car (26001) and a group of people (24); bonn: void, a caravan.
    """
    maps = {
        "bonn_000001_000019": [[0, 1, 29000, 29000], [7, 7, 9, 3]],
        "aachen_000000_000019": [[23, 23, 26001, 26001], [7, 7, 24, 24001]],
    }
    for stem, rows in maps.items():
        city = stem.split("_")[0]
        base = root / "gtFine" / "val" / city / f"{stem}_gtFine"
        wide(Path(f"{base}_instanceIds.png"), rows)
        labels = np.array(rows)
        grey(Path(f"{base}_labelIds.png"), np.where(labels < 1000, labels, labels // 1000))
        grey(Path(f"{base}_labelTrainIds.png"), np.full((2, 4), 255))
        save(Path(f"{base}_color.png"), Image.new("RGBA", (4, 2)))
        photograph(root / "leftImg8bit/val" / city / f"{stem}_leftImg8bit.png", 4, 2)
    return root / "gtFine" / "val"


def voc(root: Path, objects: bool = True) -> tuple[Path, Path]:
    """Write a VOC tree of two images and one more; return the list and the folder of classes.

    2007_000032: a cat (8), a border, another cat; 2007_000033: background alone.
    """
    classes = {
        "2007_000032": [[0, 8, 8, 255, 8], [0, 0, 255, 255, 8]],
        "2007_000033": [[0, 0, 0], [0, 0, 0]],
        "2009_000001": [[1, 1], [1, 1]],
    }
    things = {
        "2007_000032": [[0, 1, 1, 255, 2], [0, 0, 255, 255, 2]],
        "2007_000033": [[0, 0, 0], [0, 0, 0]],
        "2009_000001": [[1, 1], [1, 1]],
    }
    for stem, rows in classes.items():
        palette(root / "SegmentationClass" / f"{stem}.png", rows)
        if objects:
            palette(root / "SegmentationObject" / f"{stem}.png", things[stem])
        photograph(root / "JPEGImages" / f"{stem}.jpg", len(rows[0]), len(rows))
    names = root / "ImageSets" / "Segmentation" / "val.txt"
    names.parent.mkdir(parents=True, exist_ok=True)
    names.write_text("2007_000033\n2007_000032\n")
    return names, root / "SegmentationClass"


def cocostuff(root: Path) -> Path:
    """Write two of COCO-Stuff's maps; return their folder.

    139: a person (0), unlabelled, clouds (105), sea (154); 285: a bear (22) on grass (123).
    """
    grey(root / "stuffthingmaps/val2017/000000000285.png", [[22, 22], [123, 123]])
    grey(root / "stuffthingmaps/val2017/000000000139.png", [[105, 105, 255], [0, 154, 154]])
    for stem, width in (("000000000139", 3), ("000000000285", 2)):
        photograph(root / "val2017" / f"{stem}.jpg", width, 2)
    return root / "stuffthingmaps" / "val2017"


def camvid(root: Path) -> tuple[Path, Path]:
    """Write two maps and a JSON of three classes; return the JSON and the folder."""
    grey(root / "val/labels/0016E5_07959.png", [[0, 0], [3, 8]])
    grey(root / "val/labels/0016E5_07961.png", [[11, 3], [3, 3]])
    for stem in ("0016E5_07959", "0016E5_07961"):
        photograph(root / "val/images" / f"{stem}.jpg", 2, 2)
    names = (
        "Sky", "Building", "Pole", "Road", "Pavement", "Tree", "SignSymbol", "Fence", "Car",
        "Pedestrian", "Bicyclist",
    )  # fmt: skip
    rows = [{"id": i, "name": n, "color": [i, i, i]} for i, n in enumerate(names)]
    return write_json(root / "classes.json", {"classes": rows, "ignore_index": 11}), (
        root / "val" / "labels"
    )


def coco_instances(path: Path, categories: dict[int, str]) -> Path:
    """Write a COCO instances JSON of two images: a polygon, an RLE below it, and a crowd."""
    images: list[dict[str, Any]] = [
        {"id": 7, "file_name": "clip/0.jpg", "height": 4, "width": 6},
        {"id": 9, "file_name": "clip/1.jpg", "height": 4, "width": 6},
    ]
    first = min(categories)
    annotations = [
        {"id": 1, "image_id": 7, "category_id": first, "bbox": [0, 0, 4, 2], "area": 8,
         "segmentation": [[0, 0, 4, 0, 4, 2, 0, 2]]},
        {"id": 2, "image_id": 7, "category_id": max(categories), "bbox": [2, 0, 2, 4], "area": 8,
         "iscrowd": 0, "segmentation": {"size": [4, 6], "counts": [8, 8, 8]}},
        {"id": 3, "image_id": 7, "category_id": first, "bbox": [5, 0, 1, 4], "area": 4,
         "iscrowd": 1, "segmentation": {"size": [4, 6], "counts": [20, 4]}},
    ]  # fmt: skip
    for image in images:
        photograph(path.parent / "images" / image["file_name"], 6, 4)
    rows = [{"id": i, "name": n, "supercategory": "object"} for i, n in categories.items()]
    return write_json(path, {"images": images, "annotations": annotations, "categories": rows})
