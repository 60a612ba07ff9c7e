"""Average precision and recall of instances, by pycocotools, class-agnostic and per class.

Source: COCO detection evaluation (pycocotools COCOeval): IoU 0.50:0.95, at most 1 / 10 / 100
detections per image; crowds are regions where unmatched detections are forgiven.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from u2seg.evaluation.metrics.bootstrap import Matches
from u2seg.evaluation.metrics.panoptic import TruthSegment
from u2seg.structures.masks import Rle

IOU_KINDS = {"box": "bbox", "segm": "segm"}
"""Our name of an IoU -> pycocotools'."""
_STATS = {"AP": 0, "AP50": 1, "AP75": 2, "AR1": 6, "AR10": 7, "AR100": 8}
_SIZES = {
    "AP_small": 3,
    "AP_medium": 4,
    "AP_large": 5,
    "AR_small": 9,
    "AR_medium": 10,
    "AR_large": 11,
}
ANY_CLASS = 1
Record = dict[str, Any]


def truth_instances(
    ids: npt.NDArray[np.int32],
    segments: Mapping[int, TruthSegment],
    things: Sequence[int],
    image_id: int,
) -> list[Record]:
    """Return the COCO annotations of the thing segments of one panoptic PNG.

    Args:
        ids: (H, W) int32 panoptic ids.
        segments: Segment id -> true segment.
        things: Thing classes.
        image_id: Goes into every record.

    Returns:
        Records without ``id``: image_id, category_id, segmentation (compressed RLE), bbox
        (x, y, w, h), area, iscrowd; a segment without a pixel is left out.
    """
    wanted = {i: segment for i, segment in segments.items() if segment.category in things}
    codes = id_codes(ids, wanted)
    rles = list(codes.values())
    boxes, areas = (coco_mask.toBbox(rles), coco_mask.area(rles)) if rles else ([], [])
    return [
        {
            "image_id": image_id,
            "category_id": wanted[identity].category,
            "segmentation": rle,
            "bbox": box.tolist(),
            "area": int(area),
            "iscrowd": int(wanted[identity].crowd),
        }
        for (identity, rle), box, area in zip(codes.items(), boxes, areas, strict=True)
    ]


def id_codes(ids: npt.NDArray[np.int32], wanted: Iterable[int]) -> dict[int, Rle]:
    """Return the compressed RLE of several ids of a map, from one look at its pixels.

    Args:
        ids: (H, W) int32, not empty.
        wanted: Ids; those without a pixel are left out.

    Examples:
        >>> id_codes(np.array([[1, 1], [5, 1]], dtype=np.int32), [5, 7])
        {5: {'size': [2, 2], 'counts': '112'}}
    """
    height, width = ids.shape
    flat = np.ascontiguousarray(ids.T).reshape(-1)
    starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
    values, ends = flat[starts], np.append(starts[1:], flat.size)
    codes = {}
    for identity in wanted:
        runs = np.flatnonzero(values == identity)
        if runs.size:
            edges = np.stack([starts[runs], ends[runs]], axis=1).reshape(-1)
            counts = np.diff(edges, prepend=0, append=flat.size).tolist()
            if not counts[-1]:
                counts.pop()
            plain = [{"size": [height, width], "counts": counts}]
            (rle,) = coco_mask.frPyObjects(plain, height, width)
            codes[identity] = {"size": [height, width], "counts": rle["counts"].decode("ascii")}
    return codes


def instance_metrics(
    truth: Sequence[Record],
    results: Sequence[Record],
    image_ids: Sequence[int],
    kind: str,
    classes: Sequence[int] | None = None,
    by_size: bool = False,
) -> dict[str, Any]:
    """Return AP and AR in percent.

    Args:
        truth: COCO annotations: image_id, category_id, segmentation, bbox, area, iscrowd.
        results: COCO results: image_id, category_id, segmentation (compressed RLE), score, and
            for ``box`` bbox; not modified.
        image_ids: Every image of the split, those without a record too.
        kind: ``box`` or ``segm``.
        classes: Category ids to average over; None = class-agnostic (all are one class).
        by_size: Also return AP and recall by the true ``area``, with COCO's limits.

    Returns:
        ``{"AP", "AP50", "AP75", "AR1", "AR10", "AR100"}``; with ``by_size`` also ``AP_`` and
        ``AR_`` with ``small`` (up to 32^2 pixels), ``medium`` and ``large`` (from 96^2), each at
        100 detections;
        with ``classes`` also ``"per_class": {category id: {"AP", "AP50", "AR100"}}``; None
        where the truth has no instance.

    Raises:
        ValueError: for an unknown ``kind``.
    """
    return match_instances(truth, results, image_ids, kind, classes, by_size)[0]


def match_instances(
    truth: Sequence[Record],
    results: Sequence[Record],
    image_ids: Sequence[int],
    kind: str,
    classes: Sequence[int] | None = None,
    by_size: bool = False,
) -> tuple[dict[str, Any], Matches]:
    """Return what ``instance_metrics`` returns, and what it rests on, for intervals."""
    if kind not in IOU_KINDS:
        raise ValueError(f"kind is {kind!r}, expected one of {', '.join(IOU_KINDS)}")
    categories = [ANY_CLASS] if classes is None else list(classes)
    true = [
        {**r, "id": n + 1, "category_id": ANY_CLASS if classes is None else r["category_id"]}
        for n, r in enumerate(truth)
    ]
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints
        gt = _coco(true, image_ids, categories)
        dt = _coco(_result_records(results, kind, classes is None), image_ids, categories)
        run = COCOeval(gt, dt, IOU_KINDS[kind])
        # Without params.imgIds, images nobody detected anything in would still count: they are
        # taken from the truth. Set both so that neither depends on pycocotools' defaults.
        run.params.imgIds = sorted(image_ids)
        run.params.catIds = sorted(categories)
        if not by_size:  # the first range is all sizes; each is a matching of its own
            run.params.areaRng = run.params.areaRng[:1]
            run.params.areaRngLbl = run.params.areaRngLbl[:1]
        run.evaluate()
        run.accumulate()
        run.summarize()
    wanted = {**_STATS, **(_SIZES if by_size else {})}
    metrics: dict[str, Any] = {
        name: None if run.stats[i] < 0 else 100.0 * float(run.stats[i])
        for name, i in wanted.items()
    }
    if classes is not None:
        metrics["per_class"] = _per_class(run)
    return metrics, Matches.from_run(run)


def _result_records(results: Sequence[Record], kind: str, agnostic: bool) -> list[Record]:
    """Return detections as COCO.loadRes makes them; for masks the box comes from the mask."""
    records = []
    for number, result in enumerate(results):
        record: Record = {
            "id": number + 1,  # 0 would mean "no match" inside pycocotools
            "image_id": result["image_id"],
            "category_id": ANY_CLASS if agnostic else result["category_id"],
            "score": result["score"],
            "iscrowd": 0,
        }
        if kind == "segm":
            record["segmentation"] = result["segmentation"]
            record["area"] = int(coco_mask.area(result["segmentation"]))
        else:
            record["bbox"] = result["bbox"]
            record["area"] = result["bbox"][2] * result["bbox"][3]
        records.append(record)
    return records


def _coco(records: list[Record], image_ids: Sequence[int], categories: Sequence[int]) -> Any:
    coco = COCO()
    coco.dataset = {
        # pycocotools looks a size up, but uses it for polygons only; ours are RLEs.
        "images": [{"id": i, "height": 0, "width": 0} for i in image_ids],
        "categories": [{"id": c} for c in categories],
        "annotations": records,
    }
    coco.createIndex()
    return coco


def _per_class(run: Any) -> dict[int, dict[str, float | None]]:
    """Return the numbers of each class: axes are IoU, recall, class, area range, detections."""
    precision, recall = run.eval["precision"], run.eval["recall"]
    return {
        int(category): {
            "AP": _mean(precision[:, :, index, 0, -1]),
            "AP50": _mean(precision[0, :, index, 0, -1]),
            "AR100": _mean(recall[:, index, 0, -1]),
        }
        for index, category in enumerate(run.params.catIds)
    }


def _mean(values: npt.NDArray[np.float64]) -> float | None:
    valid = values[values > -1]
    return 100.0 * float(valid.mean()) if valid.size else None
