"""Random pairings, batches and positions."""

from __future__ import annotations

import torch

from u2seg.config.schema import StegoSettings
from u2seg.semantics.draws import draw_batch, draw_pairings, draw_step


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
