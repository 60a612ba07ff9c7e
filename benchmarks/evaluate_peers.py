"""What others do: panopticapi's PQ in one process, and pycocotools' AP of boxes and masks.

If ``panopticapi`` can be imported, its own code is run. It is not on the package index under
that name, and the copy that is (``panopticapi-lite``) asks for NumPy 1, so it is no extra; ``pip
install --no-deps panopticapi-lite`` works. Without it a plain implementation of the published
algorithm (Kirillov et al., CVPR 2019) stands in, which does the same work image by image.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from u2seg.evaluation.metrics.instance import IOU_KINDS, truth_instances
from u2seg.evaluation.truth.coco import GroundTruth, PanopticSet
from u2seg.io.atomic import write_json

Counts = dict[int, tuple[float, int, int, int]]
"""Class -> sum of IoUs, true positives, false positives, false negatives."""
_OFFSET = 1 << 24
Ids = npt.NDArray[np.uint32]


def peer_name() -> str:
    """Return which PQ ``peer_counts`` runs, for the row's note."""
    if importlib.util.find_spec("panopticapi") is not None:
        return "panopticapi's pq_compute_single_core"
    return "a plain implementation of panopticapi's algorithm (panopticapi is not installed)"


def peer_counts(truth: GroundTruth, predicted: GroundTruth) -> Counts:
    """Return the counts of every class, from the JSON files on, in one process.

    Args:
        truth: COCO panoptic files.
        predicted: The same, with a prediction of every true image and the truth's categories.
    """
    with open(truth.panoptic_json) as file:
        right = json.load(file)
    with open(predicted.panoptic_json) as file:
        guesses = {a["image_id"]: a for a in json.load(file)["annotations"]}
    pairs = [(a, guesses[a["image_id"]]) for a in right["annotations"]]
    folders = str(truth.panoptic_pngs), str(predicted.panoptic_pngs)
    if importlib.util.find_spec("panopticapi") is None:
        return plain_counts(pairs, *folders)
    evaluation = importlib.import_module("panopticapi.evaluation")
    with contextlib.redirect_stdout(io.StringIO()):
        categories = {c["id"]: c for c in right["categories"]}
        found = evaluation.pq_compute_single_core(0, pairs, *folders, categories).pq_per_cat
    return {c: (float(s.iou), s.tp, s.fp, s.fn) for c, s in found.items()}


def plain_counts(
    pairs: Iterable[tuple[dict[str, Any], dict[str, Any]]], truth: str, predicted: str
) -> Counts:
    """Return the counts of every class over pairs of a true and a predicted annotation."""
    totals: dict[int, list[Any]] = {}
    for right, guess in pairs:
        ids, found = (
            _ids(Path(truth, right["file_name"])),
            _ids(Path(predicted, guess["file_name"])),
        )
        labels, areas = np.unique(found, return_counts=True)
        area = dict(zip(labels.tolist(), areas.tolist(), strict=True))
        keys, pixels = np.unique(
            ids.astype(np.uint64) * _OFFSET + found.astype(np.uint64), return_counts=True
        )
        shared = {
            (int(key) // _OFFSET, int(key) % _OFFSET): int(n)
            for key, n in zip(keys, pixels, strict=True)
        }
        _count(totals, right["segments_info"], guess["segments_info"], area, shared)
    return {c: (row[0], row[1], row[2], row[3]) for c, row in totals.items()}


def _ids(path: Path) -> Ids:
    rgb = np.array(Image.open(path), dtype=np.uint32)
    ids: Ids = rgb[:, :, 0] + 256 * rgb[:, :, 1] + 256 * 256 * rgb[:, :, 2]
    return ids


def _count(
    totals: dict[int, list[Any]],
    right: list[dict[str, Any]],
    guess: list[dict[str, Any]],
    area: dict[int, int],
    shared: dict[tuple[int, int], int],
) -> None:
    """Add the matches and mistakes of one image."""
    true, found = {s["id"]: s for s in right}, {s["id"]: s for s in guess}
    matched: set[tuple[str, int]] = set()
    for (t, p), pixels in shared.items():
        if t not in true or p not in found or true[t]["iscrowd"]:
            continue
        if true[t]["category_id"] != found[p]["category_id"]:
            continue
        union = area[p] + true[t]["area"] - pixels - shared.get((0, p), 0)
        if pixels / union > 0.5:
            row = totals.setdefault(true[t]["category_id"], [0.0, 0, 0, 0])
            row[0] += pixels / union
            row[1] += 1
            matched |= {("true", t), ("found", p)}
    crowds = {s["category_id"]: t for t, s in true.items() if s["iscrowd"]}
    for t, s in true.items():
        if not s["iscrowd"] and ("true", t) not in matched:
            totals.setdefault(s["category_id"], [0.0, 0, 0, 0])[3] += 1
    for p, s in found.items():
        forgiven = shared.get((0, p), 0) + shared.get((crowds.get(s["category_id"], -1), p), 0)
        if ("found", p) not in matched and forgiven / area[p] <= 0.5:
            totals.setdefault(s["category_id"], [0.0, 0, 0, 0])[2] += 1


def write_instances(path: Path, truth: PanopticSet) -> None:
    """Write the true things as a COCO instances file, which pycocotools reads."""
    annotations: list[dict[str, Any]] = []
    for image_id, segments in truth.segments.items():
        for record in truth_instances(truth.read_ids(image_id), segments, truth.things, image_id):
            annotations.append({**record, "id": len(annotations) + 1})
    images = [
        {"id": i, "height": truth.sizes[i][0], "width": truth.sizes[i][1]} for i in truth.segments
    ]
    categories = [{"id": i, "name": truth.names[i]} for i in truth.things]
    content = {"images": images, "annotations": annotations, "categories": categories}
    write_json(path, content)


def peer_ap(truth: Path, results: Path) -> dict[str, dict[str, float]]:
    """Return pycocotools' AP (0..1) of ``box`` and ``segm``, class-aware and class-agnostic.

    Args:
        truth: COCO instances file.
        results: COCO results file.
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    scores: dict[str, dict[str, float]] = {"instances": {}, "class_agnostic": {}}
    with contextlib.redirect_stdout(io.StringIO()):
        gt = COCO(str(truth))
        dt = gt.loadRes(str(results))
        for part, row in scores.items():
            for name, kind in IOU_KINDS.items():
                run = COCOeval(gt, dt, kind)
                run.params.useCats = int(part == "instances")
                run.evaluate()
                run.accumulate()
                run.summarize()
                row[name] = float(run.stats[0])
    return scores
