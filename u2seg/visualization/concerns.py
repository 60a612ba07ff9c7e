"""Numbers about pseudo-labels, and what in a run should worry its owner: which key to set to what.

Thresholds on counts; no ground truth is looked at, and no number is a measure of accuracy.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from u2seg.io.sources import PHOTOGRAPHIC
from u2seg.labels import LabelImage
from u2seg.structures.labels import LabelSpace
from u2seg.visualization.draw import printable
from u2seg.visualization.sources import LabelRun, Predictions, at

AMBER_EMPTY, RED_EMPTY = 0.25, 0.5
AMBER_SKIPPED, RED_SKIPPED = 0.05, 0.25
RED_DEAD = 0.2
FEW_MASKS, GOOD_MASKS = 10, 25
"""Masks of a cluster, on average: below the first a cluster says little."""
AMBER_CLUSTER = 0.5
AMBER_BORDER = 0.7
RED_STUFF = 0.9
MAX_PAIRS = 8


@dataclass(frozen=True)
class Concern:
    """Something to look at: ``level`` is ``red`` (hardly usable) or ``amber``."""

    level: str
    text: str


@dataclass(frozen=True)
class LabelStatistics:
    """Counts over a labelling run.

    Args:
        masks_per_image: One number per image, images without masks included.
        area_percent: Area of every mask in percent of its image.
        border_contact: Share of masks whose box touches the border of the image.
        cluster_sizes: Thing cluster id -> masks in it; clusters without masks are absent.
        stuff_share: Stuff cluster id -> share of all pixels, 0..1; unused ones are absent.
        thing_share: Share of all pixels under things, 0..1.
        void_share: Share of all pixels in no segment, 0..1.
    """

    masks_per_image: list[int] = field(default_factory=list)
    area_percent: list[float] = field(default_factory=list)
    border_contact: float = 0.0
    cluster_sizes: dict[int, int] = field(default_factory=dict)
    stuff_share: dict[int, float] = field(default_factory=dict)
    thing_share: float = 0.0
    void_share: float = 0.0

    @property
    def without_masks(self) -> int:
        """Images that have no mask."""
        return self.masks_per_image.count(0)


def label_statistics(run: LabelRun) -> LabelStatistics:
    """Return the statistics of what ``run`` holds."""
    areas, contact = [], 0
    masks = run.masks or {}
    for image in run.images:
        for record in masks.get(image.id, ()):
            areas.append(100.0 * float(record["area"]) / max(1, image.size[0] * image.size[1]))
            contact += touches_border(record["bbox"], *image.size)
    shares: tuple[dict[int, float], float, float] = ({}, 0.0, 0.0)
    if run.labels:
        shares = segment_shares(run.labels.by_file, run.labels.space)
    known = [] if run.masks is None else [len(masks.get(image.id, ())) for image in run.images]
    clusters = Counter(int(row["category_id"]) - 1 for row in run.instances)
    border = contact / len(areas) if areas else 0.0
    return LabelStatistics(known, areas, border, dict(clusters), *shares)


def touches_border(box: Sequence[float], height: int, width: int) -> bool:
    """Return whether a COCO box (x, y, width, height) in pixels reaches the image border.

    Examples:
        >>> touches_border((1, 1, 8, 8), 10, 10), touches_border((1, 1, 9, 8), 10, 10)
        (False, True)
    """
    x, y, w, h = box
    return x <= 0 or y <= 0 or x + w >= width or y + h >= height


def segment_shares(
    images: Mapping[str, LabelImage], space: LabelSpace
) -> tuple[dict[int, float], float, float]:
    """Return (stuff cluster -> share, share of things, share of void) of all labelled pixels.

    Examples:
        >>> rows = ({"category_id": 1, "area": 2}, {"category_id": 3, "area": 5})
        >>> one = LabelImage(1, "a.jpg", (2, 5), "a.png", rows, {})
        >>> segment_shares({"a.jpg": one}, LabelSpace(1, 2))
        ({1: 0.5}, 0.2, 0.3)
    """
    stuff: Counter[int] = Counter()
    things = total = 0
    for image in images.values():
        total += image.size[0] * image.size[1] if image.segments is not None else 0
        for row in image.segments or ():
            category, area = int(row["category_id"]), int(row["area"])
            if space.is_thing(category):
                things += area
            else:
                stuff[category - 1 - space.num_things] += area
    if not total:
        return {}, 0.0, 0.0
    void = max(0, total - things - sum(stuff.values()))
    return {k: v / total for k, v in sorted(stuff.items())}, things / total, void / total


def percent(share: float) -> str:
    """Return a share 0..1 in percent, with one decimal where it matters.

    Examples:
        >>> percent(0.6), percent(0.034), percent(0.0001), percent(0.0)
        ('60 %', '3.4 %', '< 0.1 %', '0 %')
    """
    value = 100 * share
    if value == 0 or value >= 10:
        return f"{value:.0f} %"
    return "< 0.1 %" if value < 0.1 else f"{value:.1f} %"


def quality_concerns(quality: Mapping[str, Any]) -> list[Concern]:
    """Return a warning about clusters that hardly differ; empty ones are warned about elsewhere."""
    count = int(quality["near_duplicate_pairs"])
    if not count:
        return []
    shown = [f"{int(i)} and {int(j)}" for i, j, _ in quality["near_duplicates"][:MAX_PAIRS]]
    rest = f" and {count - len(shown):,} more" if count > len(shown) else ""
    text = (
        f"Clusters that hardly differ, in pairs: {count:,} ({', '.join(shown)}{rest}). Fewer "
        "clusters (U2SEG.CLUSTERS.NUM_CLUSTERS) may do, or evaluation merges them (majority "
        "matching)."
    )
    return [Concern("amber", text)]


def label_concerns(run: LabelRun, numbers: LabelStatistics) -> list[Concern]:
    """Return what is suspicious about a labelling run, whole or only its first stages."""
    found = [
        *_skipped(run),
        *_passed_over(run),
        *_without_masks(run, numbers),
        *_clusters(run, numbers),
        *_stuff(run, numbers),
    ]
    if numbers.border_contact > AMBER_BORDER:
        most = min(0.8, _setting(run, "masks", "max_border", 0.8)) / 2
        text = (
            f"{percent(numbers.border_contact)} of the masks touch the image border: the cuts may "
            f"separate background rather than objects. U2SEG.MASKS.MAX_BORDER {most:g} drops masks "
            f"that cover more than {percent(most)} of it."
        )
        found.append(Concern("amber", text))
    return found


def prediction_concerns(found: Predictions) -> list[Concern]:
    """Return whether a model found hardly anything, or nothing."""
    labels = found.labels
    records = [i for i in labels.by_file.values() if i.segments is not None] if labels else []
    if labels is None or not records or not labels.space.num_things:
        return []
    empty = sum(
        not any(labels.space.is_thing(int(row["category_id"])) for row in image.segments or ())
        for image in records
    )
    if empty < len(records):
        if empty <= RED_EMPTY * len(records):
            return []
        return [Concern("amber", f"{_no_object(empty, len(records))}. {_LONGER}.")]
    rows = labels.folder.instances.values() if labels.folder else ()
    scores = [float(row["score"]) for instances in rows for row in instances]
    sure = (
        f"its highest score is {max(scores):.2f}, so MODEL.PANOPTIC_FPN.COMBINE."
        f"INSTANCES_CONFIDENCE_THRESH {max(scores) / 2:.2f} would show some"
        if scores
        else "nor a candidate above MODEL.ROI_HEADS.SCORE_THRESH_TEST"
    )
    return [Concern("red", f"{_no_object(empty, len(records))}: {sure}. {_LONGER}.")]


_LONGER = (
    "Train longer (SOLVER.MAX_ITER), see whether the losses fell, and that MODEL.WEIGHTS are those "
    "of the trained model"
)


def _no_object(empty: int, images: int) -> str:
    return f"The model found no object in {empty} of {images} images"


def _skipped(run: LabelRun) -> list[Concern]:
    skipped, total = len(run.skipped), len(run.skipped) + len(run.images)
    share = skipped / max(1, total)
    if share <= AMBER_SKIPPED:
        return []
    [(reason, count)] = Counter(r.split(":")[0] for _, r in run.skipped).most_common(1)
    text = (
        f"{skipped} of {total} files ({percent(share)}) were skipped, {count} of them because: "
        f"{printable(reason)}. Mend or replace the files listed under Skipped files, then label "
        "again with --overwrite."
    )
    return [Concern("red" if share > RED_SKIPPED else "amber", text)]


def _passed_over(run: LabelRun) -> list[Concern]:
    endings = [ending for ending in run.passed_over if ending and ending in PHOTOGRAPHIC]
    if not endings:
        return []
    count = sum(run.passed_over[ending] for ending in endings)
    text = (
        f"{count} files that may be photographs were passed over ({', '.join(endings)}): convert "
        "them to JPEG, for HEIC pip install pillow-heif, or name what Pillow reads in "
        "U2SEG.IMAGES.EXTENSIONS; then label again with --overwrite."
    )
    many = count > RED_SKIPPED * (count + len(run.images))
    return [Concern("red" if many else "amber", printable(text))]


def _without_masks(run: LabelRun, numbers: LabelStatistics) -> list[Concern]:
    count = len(numbers.masks_per_image)
    share = numbers.without_masks / count if count else 0.0
    if share <= AMBER_EMPTY:
        return []
    text = f"{numbers.without_masks} of {count} images ({percent(share)}) have no mask. "
    return [Concern("red" if share > RED_EMPTY else "amber", text + mask_advice(run))]


def mask_advice(run: LabelRun) -> str:
    """Return what to try for more masks, judged by the settings of the mask stage."""
    proposer, tried = str(_setting(run, "masks", "proposer", "maskcut")), []
    node = f"U2SEG.MASKS.{proposer.upper()}"
    score = _setting(run, "masks", f"{proposer}.score", None)
    tau = _setting(run, "masks", f"{proposer}.tau", None)
    if score is not None:
        tried.append(f"{node}.SCORE {score / 2:g} (now {score:g})")
    else:
        if tau is not None:
            tried.append(f"{node}.TAU {tau - 0.1:.2f} and {tau + 0.1:.2f} (now {tau:g})")
        if _setting(run, "masks", "refiner", "none") != "none":
            tried.append(
                "U2SEG.MASKS.REFINER none (refinement drops what it changes to an IoU below "
                f"MIN_REFINE_IOU {_setting(run, 'masks', 'min_refine_iou', 0.5):g})"
            )
        border = _setting(run, "masks", "max_border", 1.0)
        if border < 1:
            tried.append(f"U2SEG.MASKS.MAX_BORDER 1.0 (now {border:g})")
        if _setting(run, "masks", "name", "") == "filter_bank":
            tried.append("U2SEG.FEATURES.NAME dino_vits8 with U2SEG.MASKS.MASKCUT.TAU 0.15")
    words = ", or ".join(tried or [f"other settings in {node}"])
    return f"Try {words}, on a few images first: --dry-run 8."


def _setting(run: LabelRun, stage: str, name: str, default: Any) -> Any:
    """Return a setting of a stage as its manifest tells it; ``name`` is dotted below its group."""
    settings = run.manifests.get(stage, {}).get("settings")
    groups = settings.values() if isinstance(settings, Mapping) else ()
    values = [value for group in groups if (value := at(group, name)) is not None]
    return values[0] if values else default


def _clusters(run: LabelRun, numbers: LabelStatistics) -> list[Concern]:
    space, quality = run.space, run.quality
    if space is not None and numbers.cluster_sizes:
        count, sizes = space.num_things, numbers.cluster_sizes.values()
        used, masks, largest = len(sizes), sum(sizes), max(sizes)
    elif quality:  # the panoptic stage has not run
        count, masks = int(quality["clusters"]), int(quality["descriptors"])
        used, largest = count - len(quality["empty"]), int(quality["sizes"]["max"])
    else:
        return []
    if len(run.images) + len(run.skipped) < run.found:
        return []  # a dry run: all of the photographs have more masks
    found = []
    if used < count:
        text = (
            f"{count - used} of {count} clusters are dead (no mask): they can never be learnt. "
            f"Set U2SEG.CLUSTERS.NUM_CLUSTERS to {used} or fewer, or label more images."
        )
        found.append(Concern("red" if count - used > RED_DEAD * count else "amber", text))
    if count > 1 and masks < FEW_MASKS * count:
        text = (
            f"{masks} masks are few for {count} clusters ({masks / count:.1f} each): many hold "
            "those of one or two photographs. Label more images, or set "
            f"U2SEG.CLUSTERS.NUM_CLUSTERS to {max(2, masks // GOOD_MASKS)} (one for every "
            f"{GOOD_MASKS} masks), with --stages clusters,panoptic --overwrite."
        )
        found.append(Concern("amber", text))
    if count > 1 and largest > AMBER_CLUSTER * masks:
        text = (
            f"One cluster holds {percent(largest / masks)} of all masks. Raise "
            f"U2SEG.CLUSTERS.NUM_CLUSTERS (now {count}), or use features that tell objects apart "
            "(U2SEG.FEATURES.NAME dino_vits8 with U2SEG.CLUSTERS.DESCRIPTOR crop_cls)."
        )
        found.append(Concern("amber", text))
    return found


def _stuff(run: LabelRun, numbers: LabelStatistics) -> list[Concern]:
    space = run.space
    covered = sum(numbers.stuff_share.values())
    if space is None or space.num_stuff < 2 or not covered:
        return []
    largest = max(numbers.stuff_share.values()) / covered
    if largest <= RED_STUFF:
        return []
    text = (
        f"One of {space.num_stuff} stuff clusters covers {percent(largest)} of all stuff: the "
        "semantic stage has collapsed. Train it longer (U2SEG.SEMANTICS.STEGO.STEPS, now "
        f"{_setting(run, 'semantics', 'stego.steps', 'unknown')}) with --stages semantics,panoptic "
        "--overwrite, and see its loss curves."
    )
    return [Concern("red", text)]
