"""Confusion matrix and mIoU: by hand, and STEGO's numbers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.shared import SHARED, needs_shared
from u2seg.evaluation.metrics.semantic import (
    class_accuracy,
    class_iou,
    confusion_matrix,
    mean_iou,
    pixel_accuracy,
)

GOLDEN = SHARED / "golden" / "semseg"


def test_confusion_by_hand() -> None:
    truth = np.array([[0, 0, 0, 1], [1, 2, -1, -1]])
    predicted = np.array([[0, 0, 1, 1], [-1, -1, 0, -1]])
    matrix = confusion_matrix(truth, predicted, 4)
    assert matrix.tolist() == [[2, 1, 0, 0, 0], [0, 1, 0, 0, 1], [0, 0, 0, 0, 1], [0] * 5]
    # class 0: 2 / 3; class 1: 1 / (2 true + 2 predicted - 1); class 2: 0 / 1; class 3: absent
    np.testing.assert_allclose(class_iou(matrix), [200 / 3, 100 / 3, 0, np.nan])
    np.testing.assert_allclose(class_accuracy(matrix), [200 / 3, 50, 0, np.nan])
    assert mean_iou(matrix) == pytest.approx(100 / 3)
    assert pixel_accuracy(matrix) == pytest.approx(50.0)  # 3 of 6


def test_a_class_that_is_only_predicted_counts_as_zero() -> None:
    matrix = confusion_matrix(np.array([0, 0]), np.array([0, 1]), 3)
    assert mean_iou(matrix) == pytest.approx(25.0)  # (50 + 0) / 2


def test_weights() -> None:
    matrix = confusion_matrix(
        np.array([0, 1, -1]), np.array([0, 0, 0]), 2, np.array([5, 7, 100], dtype=np.int64)
    )
    assert matrix.tolist() == [[5, 0, 0], [7, 0, 0]]


def test_nothing_to_score() -> None:
    matrix = confusion_matrix(np.array([-1]), np.array([0]), 2)
    assert mean_iou(matrix) is None and pixel_accuracy(matrix) is None


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match=r"prediction holds class 0..2, expected -1..1"):
        confusion_matrix(np.array([0, 0]), np.array([0, 2]), 2)
    with pytest.raises(ValueError, match="shape"):
        confusion_matrix(np.array([0, 0]), np.array([0]), 2)


@pytest.mark.shared
@needs_shared("golden", "semseg")
@pytest.mark.parametrize(
    "name",
    [
        "e0_collapsed", "e0_mild", "e0_missing_classes", "e0_noisy", "e3_empty_cluster", "e3_mild",
        "e3_noisy", "linear_no_hungarian",
    ],
)  # fmt: skip
def test_equals_stego(name: str) -> None:
    """Its votes, mIoU and accuracy; e3 has three clusters more than classes.

    The reference's map is used: it gives clusters whose class no pixel has an arbitrary class
    (maps are compared in test_matching). It never counts the pixels of clusters that are numbered
    C or higher; here every cluster votes, so those pixels are left out before.
    """
    expected = json.loads((GOLDEN / "expected.json").read_text())[name]
    with np.load(GOLDEN / f"{name}.npz") as golden:
        label, pred = golden["label"].astype(np.int64), golden["pred"].astype(np.int64)
        stats, all_stats = golden["stats"], golden.get("full_stats_all_clusters")
        mapping = golden.get("map_clusters", np.arange(27))  # linear: clusters are classes
    clusters, classes = stats.shape
    truth = np.where(label == 255, -1, label)
    votes = confusion_matrix(truth, pred, clusters)[:classes, :clusters].T
    if all_stats is not None:
        np.testing.assert_array_equal(votes, all_stats)
    counted = pred < classes
    votes = confusion_matrix(truth[counted], pred[counted], clusters)[:classes, :clusters].T
    np.testing.assert_array_equal(votes, stats)
    matrix = confusion_matrix(truth[counted], mapping[pred[counted]], classes)
    assert matrix.sum() == expected["pixels_counted"]
    assert mean_iou(matrix) == pytest.approx(expected["mIoU"], abs=1e-4)
    assert pixel_accuracy(matrix) == pytest.approx(expected["Accuracy"], abs=1e-4)


@pytest.mark.shared
@needs_shared("golden", "semseg")
def test_every_file_of_the_reference_is_used() -> None:
    text = Path(__file__).read_text(encoding="utf-8")
    assert all(f'"{path.stem}"' in text for path in GOLDEN.glob("*.npz"))
