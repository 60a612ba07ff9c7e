"""Pairings, batches, positions and crops; shifts from quantiles, by hand and what they are for."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.factories import with_values
from u2seg.config.schema import SemanticSettings, StegoSettings
from u2seg.errors import UserError
from u2seg.semantics.sampling import (
    CROPS,
    crop_box,
    draw_batch,
    draw_pairings,
    draw_step,
    quantile,
    settle_shifts,
)
from u2seg.semantics.stego import StegoSegmenter

AUTO = StegoSettings(shifts="auto", pointwise=False)


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_quantiles_by_hand() -> None:
    values = torch.tensor([30.0, 10.0, 50.0, 20.0, 40.0])
    assert [quantile(values, s) for s in (0.0, 0.25, 0.6, 1.0)] == [10, 20, 30, 50]
    assert quantile(values[:1], 0.5) == 30


def test_each_term_has_its_own_pairs() -> None:
    # Two images of one direction each, 60 degrees apart. As each other's neighbours they are also
    # each other's random partners: self pairs have cosine 1, all others 0.5.
    angles = np.radians([0, 60])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    source = [np.broadcast_to(v[:, None, None], (2, 3, 4)).copy() for v in vectors]
    neighbors = torch.tensor([[1], [0]])
    found = settle_shifts(AUTO, source, neighbors, _generator())
    assert (found.shift_intra, found.shift_inter, found.shift_neg) == (1.0, 0.5, 0.5)
    # Its own nearest image instead: the neighbour term sees cosine 1, the random one still 0.5.
    found = settle_shifts(AUTO, source, torch.tensor([[0], [1]]), _generator())
    assert (found.shift_intra, found.shift_inter, found.shift_neg) == (1.0, 1.0, 0.5)


def test_shares_decide() -> None:
    # An image whose left half is orthogonal to its right half: half of its self pairs have 1,
    # half 0 (by position, not by interpolation: four equal columns a side).
    grid = np.zeros((2, 2, 40), dtype=np.float32)
    grid[0, :, :20], grid[1, :, 20:] = 1, 1
    low = with_values(AUTO, quantile_intra=0.2, quantile_neg=0.9)
    source = [grid] * 4
    found = settle_shifts(low, source, torch.zeros((4, 1), dtype=torch.int64), _generator())
    assert found.shift_intra == pytest.approx(0, abs=1e-6)
    assert found.shift_neg == pytest.approx(1, abs=1e-6)


def test_centring_is_the_loss_s() -> None:
    # All similarities of a constant image are 1; centred they are 1 - 1 + 1.
    source = [np.ones((3, 2, 2), dtype=np.float32)] * 2
    auto = with_values(AUTO, pointwise=True)
    found = settle_shifts(auto, source, torch.tensor([[1], [0]]), _generator())
    assert found.shift_intra == pytest.approx(1)


def test_fixed_shifts_draw_nothing_and_stay() -> None:
    settings = StegoSettings()
    generator = _generator()
    before = generator.get_state()
    assert settle_shifts(settings, [], torch.empty((0, 0)), generator) is settings
    assert torch.equal(generator.get_state(), before)


def test_a_lone_image_has_no_stranger() -> None:
    source = [np.ones((2, 2, 2), dtype=np.float32)]
    found = settle_shifts(AUTO, source, torch.empty((1, 0), dtype=torch.int64), _generator())
    assert found.shift_neg == 1.0


def test_the_saved_model_names_its_shifts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    settings = SemanticSettings(
        num_classes=2,
        crf=False,
        stego=StegoSettings(code_dim=4, steps=3, batch_size=2, samples=3, shifts="auto"),
    )
    rng = np.random.default_rng(0)
    source = [rng.normal(size=(6, 5, 5)).astype(np.float32) for _ in range(5)]
    model = StegoSegmenter(settings, 6)
    with caplog.at_level(logging.INFO):
        model.fit(source, progress=False)
    assert "shifts from the similarity" in caplog.text
    model.save(tmp_path / "m.safetensors")
    saved = StegoSegmenter.load(tmp_path / "m.safetensors").settings
    assert saved.stego.shift_neg != settings.stego.shift_neg
    assert saved.stego == model.settings.stego


def test_unknown_words_and_shares_are_refused() -> None:
    with pytest.raises(UserError, match=r"SHIFTS is 'guess', expected one of fixed, auto"):
        StegoSettings(shifts="guess")
    with pytest.raises(UserError, match=r"QUANTILE_NEG is 1.5, expected 0\.\.1"):
        StegoSettings(quantile_neg=1.5)


def test_pairings_are_permutations_without_fixed_points() -> None:
    generator = torch.Generator().manual_seed(0)
    for images in (2, 3, 8):
        rows = draw_pairings(images, 400, generator)
        assert (rows.sort(dim=1).values == torch.arange(images)).all()
        assert not (rows == torch.arange(images)).any()
    # Every other image is an equally likely partner: 400 / 7 = 57 times on average.
    counts = torch.bincount(rows[:, 0], minlength=8)
    assert int(counts[0]) == 0 and int(counts[1:].min()) > 30 and int(counts[1:].max()) < 90


def test_batches_hold_no_image_twice_and_pair_with_neighbours() -> None:
    generator = torch.Generator().manual_seed(1)
    neighbors = torch.tensor([[1, 2], [2, 3], [3, 4], [4, 0], [0, 1]])
    seen = set()
    for _ in range(50):
        images, partners = draw_batch(neighbors, 3, generator)
        assert len(images) == 3 and len(images.unique()) == 3
        for image, partner in zip(images.tolist(), partners.tolist()):
            assert partner in neighbors[image].tolist()
            seen.add((image, partner))
    assert len(seen) == 10
    images, _ = draw_batch(neighbors, 16, generator)
    assert sorted(images.tolist()) == [0, 1, 2, 3, 4]


def test_a_lone_image_is_paired_with_itself() -> None:
    images, partners = draw_batch(torch.empty((1, 0), dtype=torch.int64), 4, torch.Generator())
    assert images.tolist() == partners.tolist() == [0]


def test_step_draws_cover_the_square() -> None:
    settings = StegoSettings(samples=20, neg_samples=2)
    draws = draw_step(settings, 3, 7, torch.Generator().manual_seed(2))
    assert draws.coords.shape == (3, 20, 20, 2) and draws.permutations.shape == (2, 3)
    assert -1 <= float(draws.coords.min()) < -0.95 and 0.95 < float(draws.coords.max()) <= 1
    assert not torch.equal(draws.coords, draws.coords_paired)
    assert draws.dropout is not None and draws.dropout.shape == (3, 3, 7)


def test_five_crops_by_hand() -> None:
    # 7 x 12 at ratio 0.5: 3 x 6; corners at 0 or 4, 0 or 6; centre at round(2), round(3).
    boxes = [crop_box("five", i, 7, 12, 0.5) for i in range(5)]
    assert boxes == [(0, 0, 3, 6), (0, 6, 3, 12), (4, 0, 7, 6), (4, 6, 7, 12), (2, 3, 5, 9)]


def test_tiny_photographs_keep_a_pixel() -> None:
    assert [crop_box("five", i, 1, 1, 0.5) for i in range(5)] == [(0, 0, 1, 1)] * 5


@pytest.mark.parametrize("ratio", [0.3, 0.5, 0.77, 1.0])
def test_crops_lie_inside_and_have_one_size(ratio: float) -> None:
    for height, width in ((5, 9), (480, 361)):
        boxes = [crop_box("five", i, height, width, ratio) for i in range(CROPS["five"])]
        assert all(0 <= t < b <= height and 0 <= x < r <= width for t, x, b, r in boxes)
        assert {(b - t, r - x) for t, x, b, r in boxes} == {
            (int(height * ratio), int(width * ratio))
        }
