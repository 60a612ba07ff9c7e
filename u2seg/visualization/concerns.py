"""What in a run should worry its owner, and which key to set to what.

Thresholds on counts; no ground truth is looked at.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from u2seg.io.jsonfile import read_json
from u2seg.io.sources import PHOTOGRAPHIC
from u2seg.visualization.sources import LabelRun, Predictions
from u2seg.visualization.statistics import LabelStatistics, percent
from u2seg.visualization.text import printable

AMBER_EMPTY, RED_EMPTY = 0.25, 0.5
AMBER_SKIPPED, RED_SKIPPED = 0.05, 0.25
RED_DEAD = 0.2
FEW_MASKS, GOOD_MASKS = 10, 25
"""Masks of a cluster, on average: below the first a cluster says little."""
AMBER_CLUSTER = 0.5
AMBER_BORDER = 0.7
RED_STUFF = 0.9


@dataclass(frozen=True)
class Concern:
    """Something to look at: ``level`` is ``red`` (hardly usable) or ``amber``."""

    level: str
    text: str


def label_concerns(run: LabelRun, numbers: LabelStatistics) -> list[Concern]:
    """Return what is suspicious about a labelling run.

    Args:
        run: The run, whole or only its first stages.
        numbers: Its statistics.
    """
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
    """Return whether a model found hardly anything, or nothing.

    Args:
        found: Its predictions.

    Raises:
        KeyError, TypeError, ValueError: if ``instances.json`` is not a COCO result file.
    """
    space, records = found.panoptic.space, found.panoptic.by_file.values()
    if space is None or not records:
        return []
    empty = sum(
        not any(space.is_thing(int(row["category_id"])) for row in record.segments)
        for record in records
    )
    if empty < len(records):
        if empty <= RED_EMPTY * len(records):
            return []
        return [Concern("amber", f"{_no_object(empty, len(records))}. {_LONGER}.")]
    path = found.panoptic.root / "instances.json"
    scores = [float(row["score"]) for row in read_json(path)] if path.is_file() else []
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
    if _setting(run, "masks", "proposer", "maskcut") == "cutler":
        score = _setting(run, "masks", "detector_score", 0.5)
        tried = [f"U2SEG.MASKS.DETECTOR_SCORE {score / 2:g} (now {score:g})"]
    else:
        tau = _setting(run, "masks", "tau", 0.15)
        tried = [f"U2SEG.MASKS.TAU {tau - 0.1:.2f} and {tau + 0.1:.2f} (now {tau:g})"]
        if _setting(run, "masks", "refiner", "none") != "none":
            tried.append(
                "U2SEG.MASKS.REFINER none (refinement drops what it changes to an IoU below "
                f"MIN_REFINE_IOU {_setting(run, 'masks', 'min_refine_iou', 0.5):g})"
            )
        border = _setting(run, "masks", "max_border", 1.0)
        if border < 1:
            tried.append(f"U2SEG.MASKS.MAX_BORDER 1.0 (now {border:g})")
        if _setting(run, "masks", "name", "") == "filter_bank":
            tried.append("U2SEG.FEATURES.NAME dino_vits8 with U2SEG.MASKS.TAU 0.15")
    return f"Try {', or '.join(tried)}, on a few images first: --dry-run 8."


def _setting(run: LabelRun, stage: str, key: str, default: Any) -> Any:
    """Return a setting of a stage as its manifest tells it."""
    settings = run.manifests.get(stage, {}).get("settings")
    groups = settings.values() if isinstance(settings, Mapping) else ()
    values = (group[key] for group in groups if isinstance(group, Mapping) and key in group)
    return next(values, default)


def _clusters(run: LabelRun, numbers: LabelStatistics) -> list[Concern]:
    space, quality = run.panoptic.space if run.panoptic else None, run.quality
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
    space = run.panoptic.space if run.panoptic else None
    covered = sum(numbers.stuff_share.values())
    if space is None or space.num_stuff < 2 or not covered:
        return []
    largest = max(numbers.stuff_share.values()) / covered
    if largest <= RED_STUFF:
        return []
    text = (
        f"One of {space.num_stuff} stuff clusters covers {percent(largest)} of all stuff: the "
        "semantic stage has collapsed. Train it longer (U2SEG.SEMANTICS.STEPS, now "
        f"{_setting(run, 'semantics', 'steps', 'unknown')}) with --stages semantics,panoptic "
        "--overwrite, and see its loss curves."
    )
    return [Concern("red", text)]
