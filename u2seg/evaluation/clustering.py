"""Score cluster ids of masks against true classes.

Used to judge labels only: nothing that makes labels reads the result.

Shapes: n masks, K clusters, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask

from u2seg.errors import UserError
from u2seg.evaluation.masks import MaskTruth, Record, read_mask_results, read_mask_truth
from u2seg.evaluation.matching import UNMATCHED, Votes, hungarian_map, majority_map
from u2seg.evaluation.table import align

MATCH_IOU = 0.5
_COLUMNS = ("NMI", "ARI", "purity", "matched_accuracy")


def score_clusters(results: Path, truth: Path, match_iou: float = MATCH_IOU) -> dict[str, Any]:
    """Return how well clusters agree with classes, and a control.

    A mask has the class of the true instance it overlaps most, if their IoU reaches
    ``match_iou``; masks without class are left out.

    Args:
        results: Folder of a labelling run with clusters, or a COCO instances JSON whose
            categories are clusters.
        truth: COCO instances JSON.
        match_iou: 0..1.

    Returns:
        ``masks`` and those ``with_class``; ``clusters`` and ``classes`` among the latter;
        ``match_iou``; ``scores`` and ``shuffled``: ``cluster_scores`` of the clusters, and of the
        same ids given to the masks in random order (seed 0). NMI and purity rise with the number
        of clusters, so they mean nothing without this control.

    Raises:
        UserError: as ``read_mask_truth`` and ``read_mask_results``; if the run has no clusters,
            or no mask has a class.
    """
    masks, scored = read_mask_results(results, read_mask_truth(truth))
    ids = np.array([_cluster(results, mask) for mask in masks], dtype=np.int64)
    classes = true_classes(masks, scored, match_iou)
    known = classes >= 0
    if not known.any():
        raise UserError(
            f"none of the {len(masks)} masks of {results} overlaps a true instance with IoU "
            f"{match_iou} or more: clusters cannot be scored"
        )
    ids, classes = ids[known], classes[known]
    shuffled = np.random.default_rng(0).permutation(ids)
    return {
        "masks": len(masks),
        "with_class": len(ids),
        "clusters": len(np.unique(ids)),
        "classes": len(np.unique(classes)),
        "match_iou": match_iou,
        "scores": cluster_scores(ids, classes),
        "shuffled": cluster_scores(shuffled, classes),
    }


def true_classes(
    masks: Sequence[Record], truth: MaskTruth, match_iou: float
) -> npt.NDArray[np.int64]:
    """Return the class of every mask (n,), -1 for one that overlaps no true instance enough.

    Args:
        masks: COCO results with compressed RLEs.
        truth: Crowds are left out.
        match_iou: Least IoU.
    """
    instances: dict[int, list[Record]] = {}
    for record in truth.annotations:
        if not record["iscrowd"]:
            instances.setdefault(record["image_id"], []).append(record)
    classes = np.full(len(masks), UNMATCHED, dtype=np.int64)
    for index, mask in enumerate(masks):
        found = instances.get(mask["image_id"])
        if found:
            rles = [record["segmentation"] for record in found]
            overlap = np.asarray(coco_mask.iou([mask["segmentation"]], rles, [0] * len(rles)))[0]
            best = int(np.argmax(overlap))
            if overlap[best] >= match_iou:
                classes[index] = int(found[best]["category_id"])
    return classes


def cluster_scores(
    clusters: npt.NDArray[np.int64], classes: npt.NDArray[np.int64]
) -> dict[str, float]:
    """Return agreement of clusters and classes, percent.

    Args:
        clusters: (n,) ids, n >= 1.
        classes: (n,) ids.

    Returns:
        ``NMI``: mutual information over the mean of the two entropies; ``ARI``: share of pairs of
        items that are together or apart in both, adjusted for chance (Hubert and Arabie, 1985: 0
        = as random ids, may be negative); ``purity``: share of items in the most frequent class of
        their cluster; ``matched_accuracy`` (ACC): share of items whose cluster is matched to their
        class, one to one (Hungarian).

    Raises:
        ValueError: if the lengths differ or are 0.

    Examples:
        Clusters 0 and 2 are pure, cluster 1 is half and half.

        >>> found = cluster_scores(np.array([0, 0, 1, 1, 2]), np.array([7, 7, 7, 8, 8]))
        >>> found["purity"], found["matched_accuracy"]
        (80.0, 60.0)
        >>> round(found["NMI"], 2), round(found["ARI"], 2)
        (45.81, 9.09)
    """
    if clusters.shape != classes.shape or clusters.size == 0:
        raise ValueError(f"{clusters.shape} clusters and {classes.shape} classes, expected (n,)")
    from sklearn.metrics import adjusted_rand_score

    votes = _table(clusters, classes)
    total = int(votes.sum())
    columns = np.arange(votes.shape[1])
    agreed = {}
    for name, mapping in (("purity", majority_map(votes)), ("matched", hungarian_map(votes))):
        agreed[name] = 100.0 * float(votes[mapping[:, None] == columns].sum()) / total
    return {
        "NMI": 100.0 * _nmi(votes),
        "ARI": 100.0 * float(adjusted_rand_score(classes, clusters)),
        "purity": agreed["purity"],
        "matched_accuracy": agreed["matched"],
    }


def format_cluster_scores(found: dict[str, Any]) -> str:
    """Return the result of ``score_clusters`` as a table; percent."""
    head = (
        f"{found['with_class']} of {found['masks']} masks have a class (IoU "
        f"{found['match_iou']:g}): {found['clusters']} clusters, {found['classes']} classes"
    )
    rows = [[name, *(found[name][c] for c in _COLUMNS)] for name in ("scores", "shuffled")]
    return f"{head}\n\n{align(['clusters', *_COLUMNS], rows)}"


def _cluster(source: Path, mask: Record) -> int:
    if "cluster" in mask:
        return int(mask["cluster"])
    if Path(source).is_dir() or "category_id" not in mask:
        raise UserError(f"{source} holds no clusters: run u2seg label with --stages clusters first")
    return int(mask["category_id"])


def _table(clusters: npt.NDArray[np.int64], classes: npt.NDArray[np.int64]) -> Votes:
    rows, row = np.unique(clusters, return_inverse=True)
    cols, col = np.unique(classes, return_inverse=True)
    votes = np.zeros((len(rows), len(cols)), dtype=np.int64)
    np.add.at(votes, (row, col), 1)
    return votes


def _nmi(votes: Votes) -> float:
    joint = votes / votes.sum()
    row, col = joint.sum(axis=1), joint.sum(axis=0)
    entropies = -np.sum(row * np.log(row)), -np.sum(col * np.log(col))
    if max(entropies) == 0:
        return 1.0  # one cluster, one class: they agree
    filled = joint > 0
    mutual = np.sum(joint[filled] * np.log(joint[filled] / np.outer(row, col)[filled]))
    return float(max(mutual, 0.0) / np.mean(entropies))
