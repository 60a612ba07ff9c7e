"""Per-pixel agreement: confusion matrix, mean IoU, pixel accuracy.

C classes, things and stuff alike. Truth: the class of each true panoptic segment, crowds
included, void ignored. Prediction: the class of each predicted *panoptic* segment after
matching, so that one prediction is scored throughout and thing pixels have their class; a pixel
without a segment is an error (it is nobody's true positive), not ignored.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

IGNORE = -1

Indices = npt.NDArray[np.integer]


def confusion_matrix(
    truth: Indices,
    predicted: Indices,
    num_classes: int,
    pixels: npt.NDArray[np.int64] | None = None,
) -> npt.NDArray[np.int64]:
    """Return how many pixels of each true class got each predicted class.

    Args:
        truth: Class indices 0..C-1, or -1 = ignore; any shape.
        predicted: Class indices 0..C-1, or -1 = none; the same shape.
        num_classes: C.
        pixels: Weight of each entry, 1 by default.

    Returns:
        (C, C + 1) int64, rows = truth, columns = prediction, the last = none.

    Raises:
        ValueError: if the shapes differ or an index is out of range.

    Examples:
        >>> confusion_matrix(np.array([0, 0, 1, -1]), np.array([0, 1, -1, 1]), 2).tolist()
        [[1, 1, 0], [0, 0, 1]]
    """
    if truth.shape != predicted.shape:
        raise ValueError(f"truth has shape {truth.shape}, prediction {predicted.shape}")
    for name, values in (("truth", truth), ("prediction", predicted)):
        if values.size and not -1 <= values.min() <= values.max() < num_classes:
            raise ValueError(
                f"{name} holds class {values.min()}..{values.max()}, expected -1..{num_classes - 1}"
            )
    valid = truth != IGNORE
    column = np.where(predicted == IGNORE, num_classes, predicted)[valid].astype(np.int64)
    flat = truth[valid].astype(np.int64) * (num_classes + 1) + column
    matrix = np.zeros(num_classes * (num_classes + 1), dtype=np.int64)
    np.add.at(matrix, flat, 1 if pixels is None else pixels[valid])
    return matrix.reshape(num_classes, num_classes + 1)


def class_iou(confusion: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Return (C,) IoU in percent; NaN for classes neither in truth nor in prediction.

    Examples:
        >>> class_iou(np.array([[3, 1, 0], [0, 2, 2]])).tolist()
        [75.0, 40.0]
    """
    square = confusion[:, :-1]
    hits = np.diag(square).astype(np.float64)
    union = confusion.sum(axis=1) + square.sum(axis=0) - hits
    return _percent(hits, union)


def class_accuracy(confusion: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Return (C,) recall of each class's pixels in percent; NaN for classes not in the truth."""
    return _percent(np.diag(confusion[:, :-1]).astype(np.float64), confusion.sum(axis=1))


def mean_iou(confusion: npt.NDArray[np.int64], *, absent: bool = False) -> float | None:
    """Return the mean IoU in percent over the classes in truth or prediction; None if none.

    A class that is predicted but never true counts with 0. One-to-one matching here gives no
    cluster to a class without true pixels; STEGO's evaluation gives it any, so such classes count
    with 0 there: ``absent`` does that.

    Args:
        confusion: (C, C + 1), see ``confusion_matrix``.
        absent: Count classes that are in neither, with 0, too.

    Examples:
        >>> confusion = np.array([[3, 1, 0, 0], [0, 2, 0, 2], [0, 0, 0, 0]])
        >>> mean_iou(confusion), round(mean_iou(confusion, absent=True), 2)
        (57.5, 38.33)
    """
    values = class_iou(confusion)
    present = values[~np.isnan(values)]
    if not present.size:
        return None
    return float(present.sum()) / (values.size if absent else present.size)


def pixel_accuracy(confusion: npt.NDArray[np.int64]) -> float | None:
    """Return the share of true pixels with the right class in percent; None without pixels."""
    total = int(confusion.sum())
    return 100.0 * int(np.trace(confusion[:, :-1])) / total if total else None


def _percent(
    part: npt.NDArray[np.float64], whole: npt.NDArray[np.integer]
) -> npt.NDArray[np.float64]:
    result = np.full(len(part), np.nan)
    np.divide(100.0 * part, whole, out=result, where=whole > 0)
    return result
