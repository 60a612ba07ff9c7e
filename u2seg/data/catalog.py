"""Put label folders and evaluation data into Detectron2's catalogs.

Called from ``setup_cfg`` in every process, never on import. Registering the same thing twice is
harmless; the same name with other arguments replaces the first (logged), because one process may
train on several folders in turn; names that are not ours are never touched.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from u2seg.errors import UserError
from u2seg.io.coco import read_panoptic
from u2seg.labels.folder import LabelFolder, existing_file, photograph_record
from u2seg.structures.labels import LabelSpace

logger = logging.getLogger(__name__)
_OURS: dict[str, tuple[Any, ...]] = {}
"""Name -> what it was registered with."""
TREE_ADVICE = (
    "Set U2SEG.DATA.EVAL_ROOT, EVAL_IMAGES, EVAL_JSON and EVAL_PNGS as in datasets/README.md."
)


def register_labels(name: str, root: Path | str, image_root: Path | str = "") -> LabelSpace:
    """Register a label folder as a Detectron2 training set."""
    labels = LabelFolder.open(root, image_root)
    space = labels.space
    metadata = {
        "thing_classes": list(space.thing_names),
        "stuff_classes": ["things", *space.stuff_names],
        "thing_colors": [tuple(int(v) for v in c) for c in space.colors()[: space.num_things]],
        "panoptic_json": str(labels.panoptic_json),
        "panoptic_root": str(labels.panoptic_pngs),
        "image_root": str(labels.image_root or ""),
        "searched": labels.searched,
        "evaluator_type": "u2seg_panoptic",
        "ignore_label": 255,
    }
    if not space.num_things:  # the host would count instances by class, and divide by none
        del metadata["thing_classes"]
    images = str(labels.image_root.resolve()) if labels.image_root else ""
    register_records(
        name,
        ("pseudo", str(labels.path.resolve()), images),
        lambda: _training_records(root, image_root),
        metadata,
    )
    return space


def _training_records(root: Path | str, image_root: Path | str) -> list[dict[str, Any]]:
    labels = LabelFolder.open(root, image_root)
    records = labels.records()
    labels.forget()
    return records


def register_coco_panoptic_eval(
    name: str,
    root: Path | str,
    images: str = "val2017",
    panoptic_json: str = "annotations/panoptic_val2017.json",
    panoptic_pngs: str = "annotations/panoptic_val2017",
) -> None:
    """Register a COCO-panoptic data set with truth as a Detectron2 test set.

    All paths are relative to ``root``. UserError if a part is missing.
    """
    base = Path(root)
    photographs, source, pngs = base / images, base / panoptic_json, base / panoptic_pngs
    for path in (base, photographs, pngs):
        if not path.is_dir():
            raise UserError(f"evaluation data: the folder {path} does not exist. {TREE_ADVICE}")
    if not source.is_file():
        raise UserError(f"evaluation data: the file {source} does not exist. {TREE_ADVICE}")
    categories = read_panoptic(source)["categories"]
    metadata = {
        "thing_classes": [c["name"] for c in categories if c["isthing"]],
        "stuff_classes": [c["name"] for c in categories if not c["isthing"]],
        "panoptic_json": str(source),
        "panoptic_root": str(pngs),
        "image_root": str(photographs),
        "evaluator_type": "u2seg_panoptic",
        "ignore_label": 255,
    }
    arguments = ("truth", *(str(p.resolve()) for p in (photographs, source, pngs)))
    register_records(name, arguments, lambda: panoptic_records(photographs, source, pngs), metadata)


def panoptic_records(photographs: Path, source: Path, pngs: Path) -> list[dict[str, Any]]:
    """Return a record for every COCO panoptic annotation, with the file's own category ids."""
    content = read_panoptic(source)
    images = {image["id"]: image for image in content["images"]}
    records = [
        {
            **photograph_record(photographs, images[row["image_id"]], source, TREE_ADVICE),
            "pan_seg_file_name": existing_file(pngs, row["file_name"], source, TREE_ADVICE),
            "segments_info": [
                {**s, "iscrowd": int(s.get("iscrowd", 0))} for s in row["segments_info"]
            ],
        }
        for row in content["annotations"]
    ]
    if not records:
        raise UserError(f"{source} annotates no image: there is nothing to work on")
    return records


def register_records(
    name: str,
    arguments: tuple[Any, ...],
    reader: Callable[[], list[dict[str, Any]]],
    metadata: dict[str, Any],
) -> None:
    """Register any records as a Detectron2 data set."""
    from u2seg.compat import prepare_host

    prepare_host()
    from detectron2.data import DatasetCatalog, MetadataCatalog

    if name in DatasetCatalog and name not in _OURS:
        raise UserError(
            f"the data set name {name!r} belongs to Detectron2 or another package; "
            "choose another name"
        )
    if name in DatasetCatalog and _OURS[name] != arguments:
        logger.info("data set %s: %s replaces %s", name, arguments[1:], _OURS[name][1:])
    if name in DatasetCatalog:
        DatasetCatalog.remove(name)
    if name in MetadataCatalog:
        MetadataCatalog.remove(name)
    DatasetCatalog.register(name, reader)
    MetadataCatalog.get(name).set(**metadata)
    _OURS[name] = arguments
