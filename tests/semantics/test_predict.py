"""From codes to maps: mirror averaging, sizes, the largest score, the CRF."""

from __future__ import annotations

import numpy as np
import torch

from u2seg.config.schema import SemanticSettings, StuffCrfSettings
from u2seg.semantics.head import ClusterProbe, CodeHead
from u2seg.semantics.predict import (
    code_of,
    label_map,
    log_probabilities,
    most_likely,
    refine,
    working_size,
)
from u2seg.structures.features import PatchFeatures


def _probe() -> ClusterProbe:
    probe = ClusterProbe(2, 2, torch.Generator())
    probe.clusters.data = torch.eye(2)
    return probe


def test_mirrored_code_is_turned_back_and_averaged() -> None:
    head = CodeHead(1, 1, torch.Generator())
    for name, parameter in head.named_parameters():
        torch.nn.init.constant_(parameter, 1.0 if name == "linear.weight" else 0.0)
    here = PatchFeatures(np.array([[[1.0, 2.0, 3.0]]], dtype=np.float32), (8, 24))
    mirror = PatchFeatures(np.array([[[5.0, 4.0, 1.0]]], dtype=np.float32), (8, 24))
    assert code_of(head, here, None).flatten().tolist() == [1, 2, 3]
    # (1, 4, 5) turned back: (1 + 1) / 2, (2 + 4) / 2, (3 + 5) / 2.
    assert code_of(head, here, mirror).flatten().tolist() == [1, 3, 4]


def test_codes_are_enlarged_before_they_are_compared() -> None:
    # Two patches, codes (1, 0) and (0, 3), four pixels: at pixel 1 the code is
    # 3/4 (1, 0) + 1/4 (0, 3) = (0.75, 0.75), equally near to both clusters.
    code = torch.tensor([[1.0, 0.0], [0.0, 3.0]]).T.reshape(1, 2, 1, 2)
    probs = np.exp(log_probabilities(_probe().log_probs, code, (1, 4))[:, 0])
    np.testing.assert_allclose(probs.sum(axis=0), 1, atol=1e-6)
    np.testing.assert_allclose(probs[:, 1], 0.5, atol=1e-6)
    # Cosines (1, 0), alpha 2: e^2 / (e^2 + 1).
    np.testing.assert_allclose(probs[0, 0], 0.880797, atol=1e-5)


def test_large_images_are_worked_on_small() -> None:
    assert working_size(320, 320, 102_400) == (320, 320)
    assert working_size(640, 640, 102_400) == (320, 320)
    assert working_size(1, 1_000_000, 100) == (1, 10_000)


def test_largest_score_wins_at_full_size() -> None:
    rng = np.random.default_rng(0)
    scores = rng.random((5, 6, 7)).astype(np.float32)
    assert np.array_equal(most_likely(scores, (6, 7)), scores.argmax(axis=0))
    flat = np.repeat(np.array([0.2, 0.5, 0.3], dtype=np.float32), 4).reshape(3, 2, 2)
    assert (most_likely(flat, (9, 5)) == 1).all()


def test_crf_snaps_the_border_to_the_colour_edge() -> None:
    image = np.zeros((24, 32, 3), dtype=np.uint8)
    image[:, 14:] = 220
    scores = np.full((2, 24, 32), np.log(0.2), dtype=np.float32)
    scores[0, :, :17], scores[1, :, 17:] = np.log(0.8), np.log(0.8)
    settings = StuffCrfSettings(bilateral_weight=10.0)
    label = refine(scores, image, settings).argmax(axis=0)
    assert np.array_equal(label, image[..., 0] > 0)


def test_map_has_the_size_of_the_photograph() -> None:
    code = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).T.reshape(1, 2, 1, 2)
    image = np.zeros((40, 60, 3), dtype=np.uint8)
    image[:, 30:] = 255
    for crf in (False, True):
        settings = SemanticSettings(num_classes=2, max_pixels=600, crf=crf)
        label = label_map(_probe().log_probs, code, image, settings)
        assert label.shape == (40, 60) and label.dtype == np.uint8
        assert (label[:, :28] == 0).all() and (label[:, 32:] == 1).all()
