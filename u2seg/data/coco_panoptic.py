"""Read a COCO-panoptic data set with ground truth: used by evaluation only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from u2seg.data.records import Record, image_records
from u2seg.errors import UserError
from u2seg.io.coco import read_panoptic

TREE_ADVICE = (
    "Set U2SEG.DATA.EVAL_ROOT, EVAL_IMAGES, EVAL_JSON and EVAL_PNGS as in datasets/README.md."
)


@dataclass(frozen=True)
class PanopticTruth:
    """Where the parts of a COCO-panoptic data set lie.

    Args:
        images: Folder of the photographs.
        panoptic_json: COCO panoptic annotations.
        panoptic_pngs: Folder of the RGB id maps.
    """

    images: Path
    panoptic_json: Path
    panoptic_pngs: Path


def open_coco_panoptic(
    root: Path | str, images: str, panoptic_json: str, panoptic_pngs: str
) -> PanopticTruth:
    """Return the parts of a COCO-panoptic data set; paths are relative to ``root``.

    Raises:
        UserError: if the root, the JSON or one of the folders does not exist.
    """
    base = Path(root)
    truth = PanopticTruth(base / images, base / panoptic_json, base / panoptic_pngs)
    for path in (base, truth.images, truth.panoptic_pngs):
        if not path.is_dir():
            raise UserError(f"evaluation data: the folder {path} does not exist. {TREE_ADVICE}")
    if not truth.panoptic_json.is_file():
        raise UserError(
            f"evaluation data: the file {truth.panoptic_json} does not exist. {TREE_ADVICE}"
        )
    return truth


def read_coco_panoptic(truth: PanopticTruth) -> list[Record]:
    """Return the records of a COCO-panoptic data set, in the order of its annotations.

    Returns:
        As ``image_records``; the category ids are the file's own and may have gaps.

    Raises:
        UserError: if a file is missing or garbled, a file name leaves its root, an id is
            unknown or used twice, or there is no annotated image.
    """
    return image_records(
        read_panoptic(truth.panoptic_json),
        truth.panoptic_json,
        (truth.images, truth.panoptic_pngs),
        (TREE_ADVICE, TREE_ADVICE),
    )
