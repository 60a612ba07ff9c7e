"""Read the folder that a labelling run leaves (architecture: files of a labelling run).

The readers know no catalog and no config: folder in, list of records out.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from u2seg.data.records import Record, existing_file, image_records
from u2seg.errors import UserError
from u2seg.io.atomic import sha256_file
from u2seg.io.coco import image_sizes, read_instances, read_panoptic, segmentation_rle
from u2seg.io.imagefile import SHARD_KEYS
from u2seg.io.jsonfile import read_json_object
from u2seg.structures.labels import LabelSpace

_CHECKED = ("labelspace.json", "instances.json", "panoptic.json")
XYWH_ABS = 1
"""Detectron2's ``BoxMode.XYWH_ABS``; a test pins the number to the enumeration."""
MAKE_LABELS = "Make the labels again with u2seg label --resume."


@dataclass(frozen=True)
class PseudoLabels:
    """Where the parts of a label folder lie.

    Args:
        root: Output folder of ``generate_pseudo.py``.
        image_root: Folder the image file names are relative to.
        space: Numbers and names of its clusters.
        searched: Whether whatever lies below ``image_root`` belongs to the photographs.
    """

    root: Path
    image_root: Path
    space: LabelSpace
    searched: bool = True

    @property
    def instances_json(self) -> Path:
        """COCO instances."""
        return self.root / "panoptic" / "instances.json"

    @property
    def panoptic_json(self) -> Path:
        """COCO panoptic."""
        return self.root / "panoptic" / "panoptic.json"

    @property
    def panoptic_pngs(self) -> Path:
        """Folder of the COCO panoptic PNGs."""
        return self.root / "panoptic" / "panoptic"

    @property
    def stuff_pngs(self) -> Path:
        """Folder of the stuff targets."""
        return self.root / "panoptic" / "stuff"


def open_pseudo_labels(root: Path | str, image_root: Path | str = "") -> PseudoLabels:
    """Return the parts of a finished label folder.

    Args:
        root: Output folder of ``generate_pseudo.py``.
        image_root: Where the photographs lie now; empty = where they lay when labelled.

    Raises:
        UserError: if the folder, its panoptic stage (``panoptic/manifest.json``, written last),
            a file or the image folder is missing, a file is garbled, or a JSON is not the one
            the manifest describes.
    """
    root = Path(root)
    if not root.is_dir():
        raise UserError(
            f"label folder {root} does not exist; make it with u2seg label "
            f"--output-dir {root}, or set U2SEG.DATA.LABELS"
        )
    if not (root / "panoptic" / "manifest.json").is_file():
        raise UserError(
            f"{root} holds no finished labels (panoptic/manifest.json is missing): "
            f"finish u2seg label --output-dir {root} --resume first"
        )
    _check_unchanged(root / "panoptic")
    space = LabelSpace.from_json(read_json_object(root / "panoptic" / "labelspace.json"))
    images_json = root / "images.json"
    info = read_json_object(images_json, "info", "images")["info"]
    recorded = info.get("image_root") if isinstance(info, dict) else None
    if not isinstance(recorded, str):
        raise UserError(f"{images_json} does not say where the photographs lie. {MAKE_LABELS}")
    folder = Path(image_root or recorded)
    if not folder.is_dir():
        raise UserError(
            f"the photographs of {root} are not in {folder}; set U2SEG.DATA.IMAGES to the folder "
            "they lie in now"
        )
    searched = bool(image_root) or info.get("searched", True) is not False
    return PseudoLabels(root, folder, space, searched)


def _check_unchanged(folder: Path) -> None:
    """Compare the JSON files of the panoptic stage with what its manifest says of them."""
    manifest = folder / "manifest.json"
    files = read_json_object(manifest).get("files", {})
    if not isinstance(files, dict):
        raise UserError(f"{manifest} is garbled: 'files' is {type(files).__name__}. {MAKE_LABELS}")
    for name in _CHECKED:
        path = folder / name
        if not path.is_file():
            raise UserError(f"{path} is missing. {MAKE_LABELS}")
        if name in files and sha256_file(path) != files[name]:
            raise UserError(
                f"{path} was changed after the labels were finished: {manifest} knows it with "
                f"another sha256. Delete {manifest} and make the labels again with "
                "u2seg label --resume, or put the original file back"
            )


def labels_digest(root: Path | str) -> str:
    """Return a digest of the labels in a folder, 64 hexadecimal digits.

    It covers all label files by their sums in ``panoptic/manifest.json``, not where the folder
    lies or when it was made.

    Args:
        root: Output folder of ``generate_pseudo.py``.

    Raises:
        UserError: if the manifest is missing or garbled.
    """
    content = read_json_object(Path(root) / "panoptic" / "manifest.json")
    described = json.dumps(content.get("files", content), sort_keys=True)
    return hashlib.sha256(described.encode()).hexdigest()


def read_pseudo_panoptic(root: Path | str, image_root: Path | str = "") -> list[Record]:
    """Return the training records of a label folder, in the order of ``panoptic.json``.

    Args:
        root: Output folder of ``generate_pseudo.py``.
        image_root: As in ``open_pseudo_labels``.

    Returns:
        As ``image_records`` (category ids 1..K+S in ``segments_info``) plus ``annotations``
        (``bbox`` x, y, width, height in pixels with ``bbox_mode`` XYWH_ABS, ``category_id``
        0..K-1, ``segmentation`` RLE, ``iscrowd``) and ``sem_seg_file_name`` (uint8 PNG: 0 any
        thing, 1..S stuff, 255 void). Images without things are kept.

    Raises:
        UserError: if a file is missing or garbled, a file name leaves its root, an id is
            unknown or used twice, an RLE does not fit its image, or there is no image.
    """
    labels = open_pseudo_labels(root, image_root)
    source = labels.panoptic_json
    content = read_panoptic(source)
    content["images"] = _with_places(labels, content["images"])
    records = image_records(
        content,
        source,
        (labels.image_root, labels.panoptic_pngs),
        ("Set U2SEG.DATA.IMAGES to the folder of the photographs.", MAKE_LABELS),
    )
    things = _annotations(labels)
    for record in records:
        record["annotations"] = things.pop(record["image_id"], [])
        png = Path(record["pan_seg_file_name"]).relative_to(labels.panoptic_pngs).as_posix()
        record["sem_seg_file_name"] = existing_file(labels.stuff_pngs, png, source, MAKE_LABELS)
    if things:
        raise UserError(
            f"{labels.instances_json} has things in image {min(things)}, which {source.name} "
            f"does not annotate. {MAKE_LABELS}"
        )
    return records


def _with_places(labels: PseudoLabels, images: list[Record]) -> list[Record]:
    """Return the images with what ``images.json`` says of their bytes and of tar shards."""
    path = labels.root / "images.json"
    known: dict[str, Record] = {}
    for record in read_json_object(path, "images")["images"]:
        if isinstance(record, dict):
            keys = (*SHARD_KEYS, "sha256")
            known[str(record.get("file_name"))] = {k: record[k] for k in keys if k in record}
    return [{**image, **known.get(image["file_name"], {})} for image in images]


def _annotations(labels: PseudoLabels) -> dict[int, list[Record]]:
    """Return image id -> things in Detectron2's format, in the order of the file."""
    path = labels.instances_json
    content = read_instances(path, range(1, labels.space.num_things + 1))
    sizes = image_sizes(content["images"])
    result: dict[int, list[Record]] = {}
    for record in content["annotations"]:
        number = record["image_id"]
        result.setdefault(number, []).append(
            {
                "bbox": [float(v) for v in record["bbox"]],
                "bbox_mode": XYWH_ABS,
                "category_id": record["category_id"] - 1,
                "segmentation": segmentation_rle(record["segmentation"], sizes[number]),
                "iscrowd": int(record.get("iscrowd", 0)),
            }
        )
    return result
