"""A hand-made label folder and a tiny config, written with the package's own file code."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from u2seg.io.atomic import write_json
from u2seg.labels.write import export_image, merge_parts
from u2seg.structures.features import ImageInputs, PatchFeatures
from u2seg.structures.labels import LabelSpace
from u2seg.structures.panoptic import PanopticLabel, Segment

SPACE = LabelSpace(num_things=3, num_stuff=2)
SIDE = 64
NARROW = (
    "MODEL.RESNETS.DEPTH", "50", "MODEL.RESNETS.STEM_OUT_CHANNELS", "32",
    "MODEL.RESNETS.RES2_OUT_CHANNELS", "32", "MODEL.RESNETS.WIDTH_PER_GROUP", "32",
)  # fmt: skip
"""The smallest backbone that group norm allows: a third of R18's parameters, so checkpoints of 45
MB instead of 138. (R18's channels cannot be changed.)"""
TINY = (
    *NARROW,
    "MODEL.DEVICE", "cpu", "U2SEG.CLUSTERS.NUM_CLUSTERS", "3", "U2SEG.SEMANTICS.NUM_CLASSES", "2",
    "INPUT.MIN_SIZE_TRAIN", "(64,)", "INPUT.MIN_SIZE_TEST", "64", "SOLVER.IMS_PER_BATCH", "2",
    "SOLVER.MAX_ITER", "2", "SOLVER.STEPS", "()", "SOLVER.WARMUP_ITERS", "1",
    "SOLVER.CHECKPOINT_PERIOD", "1", "MODEL.FPN.OUT_CHANNELS", "32",
    "MODEL.SEM_SEG_HEAD.CONVS_DIM", "32", "MODEL.ROI_BOX_HEAD.FC_DIM", "32",
    "MODEL.ROI_MASK_HEAD.CONV_DIM", "16", "MODEL.PANOPTIC_FPN.COMBINE.STUFF_AREA_LIMIT", "16",
)  # fmt: skip
"""Overrides that make configs/quickstart/Base-R18-FPN.yaml train in seconds on these labels."""
CONFIGS = Path(__file__).resolve().parents[1] / "configs"
BASE_CONFIG = CONFIGS / "quickstart" / "Base-R18-FPN.yaml"


def scene(number: int) -> tuple[npt.NDArray[np.uint8], PanopticLabel]:
    """Return a photograph (64, 64, 3) and its label; every fourth one has no thing.

    Upper half stuff 0 (category 4), lower half stuff 1 (category 5), a square thing of cluster
    ``number % 3`` in the middle, 16 pixels wide, from (24 + number, 24).
    """
    rng = np.random.default_rng(number)
    image = rng.integers(0, 30, (SIDE, SIDE, 3)).astype(np.uint8)
    image[: SIDE // 2] += np.array([0, 60, 180], dtype=np.uint8)
    image[SIDE // 2 :] += np.array([40, 140, 40], dtype=np.uint8)
    ids = np.ones((SIDE, SIDE), dtype=np.int32)
    ids[SIDE // 2 :] = 2
    segments = [
        Segment(1, SPACE.stuff_category(0), False, 0, (0.0, 0.0, 64.0, 32.0)),
        Segment(2, SPACE.stuff_category(1), False, 0, (0.0, 32.0, 64.0, 32.0)),
    ]
    if number % 4 != 3:
        left = 24 + number
        ids[24:40, left : left + 16] = 3
        image[24:40, left : left + 16] = (220, 40 * (number % 3), 40)
        category = SPACE.thing_category(number % 3)
        segments.append(Segment(3, category, True, 0, (float(left), 24.0, 16.0, 16.0)))
    areas = np.bincount(ids.ravel())
    return image, PanopticLabel(ids, tuple(replace(s, area=int(areas[s.id])) for s in segments))


def make_labels(
    root: Path,
    names: tuple[str, ...] = ("a/0.png", "b/1.png", "2.png", "3.png"),
    *,
    things: bool = True,
) -> Path:
    """Write photographs under ``root/photos`` and a finished label folder; return the latter.

    Without ``things`` it is of stuff alone, and void where they are.
    """
    from PIL import Image

    space = SPACE if things else LabelSpace(0, SPACE.num_stuff)
    labels, photos = root / "labels", root / "photos"
    images, parts = [], []
    for number, name in enumerate(names):
        image, label = scene(number)
        if not things:
            kept = [replace(s, category_id=s.category_id - 3) for s in label.segments[:2]]
            label = PanopticLabel(np.where(label.ids == 3, 0, label.ids), tuple(kept))
        (photos / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(photos / name)
        record = {"id": number + 1, "file_name": name, "height": SIDE, "width": SIDE}
        images.append({**record, "sha256": ""})
        parts.append(export_image(labels / "panoptic", record, label, space))
    merge_parts([parts], labels / "panoptic", images, space)
    write_json(labels / "panoptic" / "manifest.json", {})
    info = {"image_root": str(photos.resolve())}
    write_json(labels / "images.json", {"info": info, "images": images})
    return labels


def data_words(labels: Path, output: Path) -> list[str]:
    """Return the overrides for a tiny run on ``labels``."""
    return [*TINY, "U2SEG.DATA.LABELS", str(labels), "OUTPUT_DIR", str(output)]


def seen(
    features: PatchFeatures, image: npt.NDArray[np.uint8], facet: str = "token"
) -> ImageInputs:
    """Return an image with the features of one facet, as a method is given them."""
    return ImageInputs(image, {facet: features})


def with_values(settings: Any, **values: Any) -> Any:
    """Return settings with other values; a key of members is changed in every one that has it.

    >>> from u2seg.config.schema import MaskSettings
    >>> masks = with_values(MaskSettings(), tau=0.5, tiles=2)
    >>> masks.maskcut.tau, masks.tokencut.tau, masks.tiles
    (0.5, 0.5, 2)
    """
    own = {f.name for f in fields(settings)}
    here = {key: value for key, value in values.items() if key in own}
    rest = {key: value for key, value in values.items() if key not in own}
    known: set[str] = set()
    for name in own if rest else ():
        member = getattr(settings, name)
        if is_dataclass(member):
            inside = {k: v for k, v in rest.items() if k in {f.name for f in fields(member)}}
            if inside:
                here[name] = replace(here.get(name, member), **inside)
            known |= inside.keys()
    assert rest.keys() <= known, rest.keys() - known
    return replace(settings, **here)
