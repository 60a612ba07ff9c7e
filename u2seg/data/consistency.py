"""Whether the parts of a training sample tell the same story, and its panoptic map.

The model trains from ``instances`` and ``sem_seg``; the panoptic map follows from the two.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from u2seg.data.copy_paste_pixels import VOID, tight_box

Sample = dict[str, Any]


def panoptic_ids(sample: Sample) -> npt.NDArray[np.int32]:
    """Return the panoptic map of a sample with n instances, (h, w) int32.

    Args:
        sample: With ``instances`` and maybe ``sem_seg``.

    Returns:
        0 void; k + 1 instance k (of overlapping ones the last); n + c stuff c, 1..S. A pixel of
        "any thing" that no instance explains is void.
    """
    masks = sample["instances"].gt_masks.tensor.numpy()
    ids = np.zeros(sample["image"].shape[1:], dtype=np.int32)
    if "sem_seg" in sample:
        stuff = sample["sem_seg"].numpy()
        ids = np.where((stuff > 0) & (stuff != VOID), stuff + len(masks), 0).astype(np.int32)
    for row, mask in enumerate(masks):
        ids[mask] = row + 1
    return ids


def disagreements(sample: Sample) -> list[str]:
    """Return in words what does not fit together in a sample; empty if all does.

    Checked: masks are disjoint and not empty, boxes are tight, there is a class per mask, and
    ``sem_seg`` is 0 exactly where an instance (or a crowd, ``ignored``) is. Labels of this
    package keep all of it; ground truth of other sources may have overlapping objects.

    Args:
        sample: As for ``panoptic_ids``.
    """
    instances = sample["instances"]
    masks = instances.gt_masks.tensor.numpy()
    found = []
    if len(instances.gt_classes) != len(masks):
        found.append(f"{len(masks)} masks have {len(instances.gt_classes)} classes")
    cover = np.zeros(sample["image"].shape[1:], dtype=np.int32)
    for row, (mask, box) in enumerate(zip(masks, instances.gt_boxes.tensor.tolist())):
        cover += mask
        if not mask.any():
            found.append(f"instance {row} has no pixel")
        elif tight_box(mask) != tuple(box):
            found.append(f"the box of instance {row} is {box}, its mask has {tight_box(mask)}")
    overlap = int(np.count_nonzero(cover > 1))
    if overlap:
        found.append(f"{overlap} pixels belong to several instances")
    if "sem_seg" in sample:
        thing = sample["sem_seg"].numpy() == 0
        known = ~sample["ignored"].numpy() if "ignored" in sample else True
        bare, hidden = int((thing & (cover == 0) & known).sum()), int((~thing & (cover > 0)).sum())
        if bare:
            found.append(f"{bare} pixels are 'any thing' without an instance")
        if hidden:
            found.append(f"{hidden} pixels of instances are stuff or void in the stuff map")
    return found
