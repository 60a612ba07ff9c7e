"""The supervised probe learns what is linear, ignores void, and refuses bad labels."""

from __future__ import annotations

import numpy as np
import pytest

from tests.shared import SHARED, needs_shared
from u2seg.evaluation.metrics.supervised_linear_probe import (
    SupervisedLinearProbe,
    supervised_linear_probe,
)


def test_prediction_by_hand() -> None:
    probe = SupervisedLinearProbe(
        np.array([[1, 0], [0, 2]], dtype=np.float32), np.array([0.5, 0], dtype=np.float32)
    )
    # Scores (1.5, 1.2) and (1.5, 1.6).
    codes = np.array([[1, 0.6], [1, 0.8]], dtype=np.float32)
    assert probe.predict(codes).tolist() == [0, 1]


def test_bad_labels_are_refused() -> None:
    codes = np.zeros((2, 3), dtype=np.float32)
    with pytest.raises(ValueError, match=r"labels span 0\.\.5, expected 0\.\.2"):
        supervised_linear_probe(codes, np.array([0, 5]), 3)
    with pytest.raises(ValueError, match="no labelled position"):
        supervised_linear_probe(codes, np.array([255, 255]), 3)
    with pytest.raises(ValueError, match="needed, got"):
        supervised_linear_probe(codes, np.array([0]), 3)


@pytest.mark.shared
@needs_shared("golden", "stego")
def test_predicts_what_the_reference_does() -> None:
    """Codes enlarged first, then classified: STEGO's validation step."""
    torch = pytest.importorskip("torch")
    with np.load(SHARED / "golden" / "stego" / "probes.npz") as saved:
        weight, bias = saved["linear_weight"][:, :, 0, 0], saved["linear_bias"]
        codes = torch.from_numpy(saved["x"])
        expected = saved["val_linear_preds"]
    large = torch.nn.functional.interpolate(codes, (40, 48), mode="bilinear", align_corners=False)
    rows = large.permute(0, 2, 3, 1).reshape(-1, 20).numpy()
    classes = SupervisedLinearProbe(weight, bias).predict(rows).reshape(3, 40, 48)
    assert (classes == expected).mean() >= 0.999
