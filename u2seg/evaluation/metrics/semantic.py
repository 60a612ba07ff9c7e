"""Per-pixel agreement: confusion matrix, mean IoU, pixel accuracy.

C classes, things and stuff alike. Truth: the class of each true panoptic segment, crowds
included, void ignored. Prediction: the class of each predicted *panoptic* segment after
matching, so that one prediction is scored throughout and thing pixels have their class; a pixel
without a segment is an error (it is nobody's true positive), not ignored.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


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
        confusion: (C, C + 1), rows = truth, columns = prediction, the last = none.
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
