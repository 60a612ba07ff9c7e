"""The 2-channel panoptic format: red = category, green = instance.

Source: Kirillov et al., "Panoptic Segmentation", CVPR 2019; panopticapi (commit 7bb4655), whose
sample data have instance 255 for crowds.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from u2seg.errors import UserError
from u2seg.evaluation.panoptic import TruthSegment
from u2seg.evaluation.readers.folder import FolderTruth, check_folder, check_values
from u2seg.evaluation.truth import TASKS, TrueImage
from u2seg.io.coco import check_panoptic, image_sizes
from u2seg.io.jsonfile import read_json_object
from u2seg.io.paths import safe_join, stem_of
from u2seg.io.png import read_panoptic_png

CHANNEL = 256
CROWD = 255
"""Instance number of the crowd of a thing."""


class TwoChannelTruth(FolderTruth):
    """Maps of category and instance; a segment's id is category + 256 x instance, 0 = void."""

    def read(self, image_id: int) -> TrueImage:
        """Return the truth of an image; UserError as ``Truth.read``."""
        path = self.path(image_id)
        pairs = self.checked(path, image_id, read_panoptic_png(path))
        expected = "in the red channel one of the JSON's categories or 0 (void)"
        check_values(path, pairs % CHANNEL, [0, *self.names], expected)
        ids = np.where(pairs % CHANNEL == 0, 0, pairs % CHANNEL**2).astype(np.int32)
        found, counts = np.unique(ids, return_counts=True)
        things = set(self.things)
        segments = {}
        for identity, area in zip(found.tolist(), counts.tolist(), strict=True):
            category, instance = identity % CHANNEL, identity // CHANNEL
            if identity:
                crowd = category in things and instance == CROWD
                segments[identity] = TruthSegment(category, area, crowd)
        return TrueImage(ids, segments)


def open_two_channel(images: Path, pngs: Path) -> TwoChannelTruth:
    """Return the truth in 2-channel PNGs.

    Args:
        images: JSON with ``images`` and ``categories`` as in COCO panoptic; all are scored.
        pngs: Folder of a PNG for each, of the photograph's name.

    Raises:
        UserError: if the JSON is missing or garbled, or has a category id above 255.
    """
    content: dict[str, Any] = read_json_object(images, "images", "categories")
    check_panoptic(images, {**content, "annotations": []})
    check_folder(pngs, "2-channel PNGs")
    if not content["images"]:
        raise UserError(f"{images} has no images: nothing to evaluate on")
    rows = sorted(content["categories"], key=lambda c: (not c["isthing"], c["id"]))
    strange = [row["id"] for row in rows if not 0 < row["id"] < CHANNEL]
    if strange:
        raise UserError(f"{images}: category {strange[0]} does not fit a channel, expected 1..255")
    stems = {image["id"]: stem_of(image["file_name"]) for image in content["images"]}
    return TwoChannelTruth(
        source=images,
        names={row["id"]: row["name"] for row in rows},
        things=tuple(row["id"] for row in rows if row["isthing"]),
        stuff=tuple(row["id"] for row in rows if not row["isthing"]),
        files={i: safe_join(pngs, f"{stem}.png") for i, stem in stems.items()},
        stems=stems,
        sizes=image_sizes(content["images"]),
        tasks=TASKS,
    )
