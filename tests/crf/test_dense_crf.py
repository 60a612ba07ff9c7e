"""Mean-field inference: by hand, against a direct computation, against pydensecrf's results."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from tests.crf.test_lattice import filtered
from tests.shared import SHARED, needs_shared
from u2seg.config.schema import CrfSettings, StuffCrfSettings
from u2seg.crf import CrfKernels, DenseCrf
from u2seg.crf.dense_crf import exp_of_negative, half_tanh, softmax

CUTLER = CrfKernels.from_settings(CrfSettings())
STEGO = CrfKernels.from_settings(StuffCrfSettings())
GOLDEN = SHARED / "golden" / "crf"


def _photo(height: int = 24, width: int = 31, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 40, (height, width, 3)).astype(np.uint8)
    image[height // 4 : height // 2, width // 3 :] += 120
    return image


def test_settings_carry_the_published_kernels() -> None:
    assert CrfKernels(3.0, 7.0, 50.0, 5.0, 10.0) == CUTLER
    assert CrfKernels(1.0, 3.0, 67.0, 3.0, 4.0) == STEGO


def test_one_pixel_by_hand() -> None:
    # A lone pixel's normalised kernels are 1, so with weights 2 + 3 one update is
    # sigmoid(logit + 5 (2 q - 1)); mask 1: logit 1, q0 = 0.73106, 1 + 5 * 0.46212 = 3.31059.
    crf = DenseCrf(np.zeros((1, 1, 3), dtype=np.uint8), CrfKernels(1, 2, 1, 1, 3))
    masks = np.ones((1, 1, 1), dtype=bool)
    assert crf.refine_masks(masks, 0)[0, 0, 0] == pytest.approx(0.731059, abs=1e-6)
    assert crf.refine_masks(masks, 1)[0, 0, 0] == pytest.approx(0.964790, abs=1e-5)
    assert crf.refine_masks(~masks, 1)[0, 0, 0] == pytest.approx(1 - 0.964790, abs=1e-5)


def test_updates_equal_the_written_out_mean_field() -> None:
    image = _photo(9, 7)
    kernels = CrfKernels(2.0, 1.5, 4.0, 20.0, 2.5)
    y, x = np.mgrid[:9, :7].reshape(2, -1).astype(np.float32)
    color = image.reshape(-1, 3).T.astype(np.float32) / 20
    pairwise = np.zeros((63, 63))
    for weight, positions in ((1.5, [x / 2, y / 2]), (2.5, [x / 4, y / 4, *color])):
        kernel = filtered(np.stack(positions), np.eye(63, dtype=np.float32))
        scale = 1 / np.sqrt(kernel.sum(axis=1))
        pairwise += weight * scale[:, None] * kernel * scale
    unary = np.random.default_rng(3).uniform(0, 3, (4, 9, 7)).astype(np.float32)
    q = np.exp(-unary.reshape(4, -1).T)
    q /= q.sum(axis=1, keepdims=True)
    for _ in range(3):
        q = np.exp(-unary.reshape(4, -1).T + pairwise @ q)
        q /= q.sum(axis=1, keepdims=True)
    result = DenseCrf(image, kernels).infer(unary, 3)
    assert result.dtype == np.float32 and result.shape == (4, 9, 7)
    np.testing.assert_allclose(result.reshape(4, -1).T, q, atol=1e-5)


def test_no_iterations_is_the_softmax_of_the_unaries() -> None:
    unary = np.array([0.0, np.log(3)], dtype=np.float32)[:, None, None].repeat(4, 2)
    q = DenseCrf(np.zeros((1, 4, 3), dtype=np.uint8), CUTLER).infer(unary, 0)
    np.testing.assert_allclose(q[:, 0, 0], [0.75, 0.25], atol=1e-6)


def test_masks_together_equal_two_label_problems_alone() -> None:
    image = _photo()
    masks = np.random.default_rng(4).random((3, 24, 31)) > 0.6
    crf = DenseCrf(image, CUTLER)
    together = crf.refine_masks(masks, 5)
    for mask, q in zip(masks, together):
        m = mask.astype(np.float32)
        logits = np.stack([1 - m, m])
        unary = -(logits - np.log(np.exp(logits).sum(axis=0)))
        np.testing.assert_allclose(crf.infer(unary, 5)[1], q, atol=1e-4)
    assert crf.refine_masks(masks[:0], 5).shape == (0, 24, 31)


def test_edges_of_the_image_pull_the_mask() -> None:
    image = np.zeros((40, 40, 3), dtype=np.uint8)
    image[10:30, 10:30] = 200
    mask = np.zeros((40, 40), dtype=bool)
    mask[12:32, 12:32] = True
    q = DenseCrf(image, CrfKernels(1.0, 1.0, 30.0, 10.0, 10.0)).refine_masks(mask[None], 10)[0]
    assert np.array_equal(q > 0.5, image[..., 0] > 0)


def test_same_result_twice() -> None:
    unary = np.random.default_rng(5).random((3, 24, 31)).astype(np.float32)
    first = DenseCrf(_photo(), STEGO).infer(unary, 4)
    assert np.array_equal(first, DenseCrf(_photo(), STEGO).infer(unary, 4))


@pytest.mark.parametrize("labels", [1, 2, 3, 7])
def test_same_bytes_for_any_number_of_threads(labels: int) -> None:
    # Large enough that ranges are shared out: a photograph-like gradient with noise.
    rng = np.random.default_rng(7)
    image = np.linspace(0, 255, 200 * 300 * 3).reshape(200, 300, 3)
    image = (image + rng.normal(0, 9, image.shape)).clip(0, 255).astype(np.uint8)
    unary = rng.random((labels, 200, 300)).astype(np.float32)
    masks = rng.random((labels, 200, 300)) > 0.5
    crfs = [DenseCrf(image, CUTLER, threads=n) for n in (1, 2, 3)]
    for crf in crfs[1:]:
        assert np.array_equal(crf.infer(unary, 3), crfs[0].infer(unary, 3))
        assert np.array_equal(crf.refine_masks(masks, 3), crfs[0].refine_masks(masks, 3))


def test_one_label_is_certain() -> None:
    unary = np.random.default_rng(8).random((1, 24, 31)).astype(np.float32)
    assert np.array_equal(DenseCrf(_photo(), STEGO).infer(unary, 2), np.ones_like(unary))


def test_bad_input_is_refused() -> None:
    image = _photo()
    with pytest.raises(ValueError, match=r"image must be \(H, W, 3\) uint8"):
        DenseCrf(image.astype(np.float32), CUTLER)
    with pytest.raises(ValueError, match=r"image must be \(H, W, 3\) uint8"):
        DenseCrf(image[:0], CUTLER)
    crf = DenseCrf(image, CUTLER)
    with pytest.raises(ValueError, match="masks must be"):
        crf.refine_masks(np.zeros((1, 31, 24), dtype=bool), 1)
    with pytest.raises(ValueError, match="at least one label"):
        crf.infer(np.zeros((0, 24, 31), dtype=np.float32), 1)
    with pytest.raises(ValueError, match="number of threads must be at least 1, got 0"):
        DenseCrf(image, CUTLER, threads=0)
    with pytest.raises(ValueError, match="NaN"):
        crf.infer(np.full((2, 24, 31), np.nan, dtype=np.float32), 1)


def test_equals_the_compiled_library_where_installed() -> None:
    peer = pytest.importorskip("pydensecrf.densecrf")
    image = _photo(48, 64)
    unary = np.random.default_rng(6).uniform(0, 2, (3, 48, 64)).astype(np.float32)
    theirs = peer.DenseCRF2D(64, 48, 3)
    theirs.setUnaryEnergy(unary.reshape(3, -1).copy())
    theirs.addPairwiseGaussian(sxy=3, compat=7)
    theirs.addPairwiseBilateral(sxy=50, srgb=5, rgbim=image.copy(), compat=10)
    expected = np.array(theirs.inference(10)).reshape(3, 48, 64)
    np.testing.assert_allclose(DenseCrf(image, CUTLER).infer(unary, 10), expected, atol=1e-3)


def _cutler_cases() -> list[str]:
    return sorted(path.stem for path in GOLDEN.glob("cutler_*.npz"))


def _stego_cases() -> list[str]:
    return sorted(path.stem for path in GOLDEN.glob("stego_*.npz"))


@pytest.mark.shared
@needs_shared("golden", "crf")
@pytest.mark.parametrize("case", _cutler_cases())
def test_masks_equal_pydensecrf(case: str) -> None:
    saved = np.load(GOLDEN / f"{case}.npz")
    number = "000000000030" if "degenerate" in case else case.split("_")[1]
    image = np.array(Image.open(GOLDEN / f"image_{number}.png"))
    mask = saved_mask = saved["mask"]
    if mask.shape != image.shape[:2]:  # upstream upsampled this one bilinearly before the CRF
        probability = np.exp(-saved["unary"].astype(np.float64))
        mask = 0.5 + 0.5 * np.log(probability / (1 - probability))
    q = DenseCrf(image, CUTLER).refine_masks(mask[None].astype(np.float32), 10)[0]
    assert ((q > 0.5) == saved["map"]).mean() >= 0.999
    # The mask of that one case is rebuilt from a unary stored with half precision.
    tolerance = 2e-3 if mask is saved_mask else 5e-3
    assert np.abs(q - saved["q_fg"]).max() < tolerance


@pytest.mark.shared
@needs_shared("golden", "crf")
@pytest.mark.parametrize("case", _stego_cases())
def test_stuff_equals_pydensecrf(case: str) -> None:
    import torch
    from torch.nn import functional

    saved = np.load(GOLDEN / f"{case}.npz")
    logits = torch.from_numpy(saved["logits"])[None]
    up = functional.interpolate(logits, size=(240, 320), mode="bilinear", align_corners=False)
    # Upstream clips probabilities at 1e-5 when it takes the logarithm.
    unary = -torch.log(functional.softmax(up, dim=1)[0].clamp_min(1e-5)).numpy()
    samples = saved["sample_pixels"]
    labels = len(unary)
    np.testing.assert_allclose(
        unary.reshape(labels, -1)[:, samples], saved["unary_samples"], atol=1e-4
    )
    q = DenseCrf(saved["image_bgr_seen"], STEGO).infer(unary, 10)
    assert (q.argmax(axis=0) == saved["argmax"]).mean() >= 0.999
    assert np.abs(q.reshape(labels, -1)[:, samples] - saved["q_samples"]).max() < 2e-3


def test_exponential_to_rounding() -> None:
    x = -np.linspace(0, 86.9, 4001, dtype=np.float32)
    result = np.array([exp_of_negative(v) for v in x], dtype=np.float64)
    np.testing.assert_allclose(result, np.exp(x.astype(np.float64)), rtol=2e-7)


def test_half_tanh_by_hand() -> None:
    values = np.array([[0, 2 * np.log(3), -1000], [9, 9, 9]], dtype=np.float32)
    half_tanh(0, 1, values)  # tanh(log 3) = (9 - 1) / (9 + 1)
    np.testing.assert_allclose(values, [[0, 0.8, -1], [9, 9, 9]], atol=1e-6)


def test_softmax_by_hand_beside_padding() -> None:
    # e^x = 1, 2, 3, 4 times any factor; the last column is padding, larger or not.
    logs = np.log([1.0, 2, 3, 4]).astype(np.float32)
    values = np.tile(np.append(logs - 50, 0), (1000, 1)).astype(np.float32)
    values[:500, :4] += 100
    values[999] = 9
    softmax(0, 999, 4, values)
    np.testing.assert_allclose(values[:999], [[0.1, 0.2, 0.3, 0.4, 0]] * 999, atol=2e-6)
    assert (values[999] == 9).all()
