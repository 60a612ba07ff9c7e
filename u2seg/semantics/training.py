"""One optimiser step of STEGO, and the cluster probe's start.

Shapes: B images, D feature channels, K code channels, n x n positions, S clusters.
Source: STEGO commit eb4d6b5, src/train_segmentation.py (``training_step``).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from u2seg.config.schema import StegoSettings
from u2seg.semantics.head import ClusterProbe, CodeHead, Decoder, drop_channels
from u2seg.semantics.losses import Correspondence, sample, unit
from u2seg.semantics.sampling import StepDraws, unit_centers

CURVES = ("total", "intra", "inter", "neg", "probe")
"""Losses of a step; ``rec`` as well with a decoder."""


class Trainer:
    """Head, probe and their optimisers.

    Args:
        settings: Loss weights, shifts, variants and learning rates are used.
        head: Trained by the correspondence loss.
        probe: Trained on the head's codes; sends no gradient back.
        decoder: Trained with the head if ``settings.weight_rec`` > 0, None otherwise.

    Notes:
        With ``settings.dense_codes`` the head sees whole grids and its codes are sampled, as
        upstream. Otherwise it sees the sampled features only, several times cheaper: a code
        of an interpolated feature instead of an interpolated code, and random pairs reuse the
        positions drawn for each image; the decoder then sees codes of unit length.
    """

    def __init__(
        self,
        settings: StegoSettings,
        head: CodeHead,
        probe: ClusterProbe,
        decoder: Decoder | None = None,
    ) -> None:
        self.settings = settings
        self.head = head
        self.probe = probe
        self.decoder = decoder
        self.correspondence = Correspondence(
            settings.pointwise, settings.zero_clamp, settings.stabilize
        )
        learnt = [*head.parameters(), *(decoder.parameters() if decoder else ())]
        self.head_optimizer = torch.optim.Adam(learnt, lr=settings.lr)
        self.probe_optimizer = torch.optim.Adam(probe.parameters(), lr=settings.probe_lr)

    def step(
        self, grids: Sequence[Tensor], paired: Sequence[Tensor], draws: StepDraws
    ) -> dict[str, float]:
        """Update head and probe once; return the losses before the update, by ``CURVES``.

        Args:
            grids: B images, (D, h, w) float32 each, sizes may differ.
            paired: B images they are to resemble, likewise.
            draws: Random numbers for B images.
        """
        terms, codes = self._terms(grids, paired, draws)
        weights = self.settings
        loss = (
            weights.weight_inter * terms["inter"]
            + weights.weight_intra * terms["intra"]
            + weights.weight_neg * terms["neg"]
        )
        if "rec" in terms:
            loss = loss + weights.weight_rec * terms["rec"]
        # The probe sees detached codes, so one backward pass serves both optimisers.
        probe_loss = torch.stack([self.probe.loss(code.detach()) for code in codes]).mean()
        self.head_optimizer.zero_grad()
        self.probe_optimizer.zero_grad()
        (loss + probe_loss).backward()  # type: ignore[no-untyped-call]
        self.head_optimizer.step()
        self.probe_optimizer.step()
        losses = {"total": loss, **terms, "probe": probe_loss}
        return {name: float(value.detach()) for name, value in losses.items()}

    def _terms(
        self, grids: Sequence[Tensor], paired: Sequence[Tensor], draws: StepDraws
    ) -> tuple[dict[str, Tensor], list[Tensor]]:
        settings, compare = self.settings, self.correspondence
        if settings.dense_codes:
            first = self._dense(grids, draws.dropout)
            second = self._dense(paired, draws.dropout_paired)
            here = _sample_each(first, draws.coords)
            there = _sample_each(second, draws.coords_paired)
            negatives = [
                _sample_each([first[i] for i in order], draws.coords_paired)
                for order in draws.permutations.tolist()
            ]
            codes, seen = [code for _, code in first], [features for features, _ in first]
        else:
            here = self._sampled(grids, draws.coords, draws.dropout)
            there = self._sampled(paired, draws.coords_paired, draws.dropout_paired)
            negatives = [(here[0][order], here[1][order]) for order in draws.permutations]
            codes, seen = [here[1]], [here[0]]
        terms = {
            "intra": compare((here[0], here[0]), (here[1], here[1]), settings.shift_intra).mean(),
            "inter": compare((here[0], there[0]), (here[1], there[1]), settings.shift_inter).mean(),
        }
        apart = [
            compare((here[0], other[0]), (here[1], other[1]), settings.shift_neg).mean()
            for other in negatives
        ]
        terms["neg"] = torch.stack(apart).mean() if apart else terms["intra"].new_zeros(())
        if self.decoder:
            rebuilt = [self.decoder.loss(*pair) for pair in zip(codes, seen)]
            terms["rec"] = torch.stack(rebuilt).mean()
        return terms, codes

    def _dense(
        self, grids: Sequence[Tensor], dropout: Tensor | None
    ) -> list[tuple[Tensor, Tensor]]:
        """Return features for the loss and codes of whole grids, (1, D, h, w) and (1, K, h, w)."""
        pairs = []
        for index, grid in enumerate(grids):
            own = None if dropout is None else dropout[:, index : index + 1]
            pairs.append((drop_channels(grid[None], own), self.head(grid[None], own)))
        return pairs

    def _sampled(
        self, grids: Sequence[Tensor], coords: Tensor, dropout: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return features for the loss and codes at the sampled positions, of unit length."""
        features = torch.cat([sample(g[None], c[None]) for g, c in zip(grids, coords)])
        return unit(drop_channels(features, dropout)), unit(self.head(features, dropout))


def _sample_each(pairs: Sequence[tuple[Tensor, Tensor]], coords: Tensor) -> tuple[Tensor, Tensor]:
    """Return unit (B, D, n, n) and (B, K, n, n) from grids of possibly different sizes."""
    features = torch.cat([sample(f, c[None]) for (f, _), c in zip(pairs, coords)])
    codes = torch.cat([sample(k, c[None]) for (_, k), c in zip(pairs, coords)])
    return unit(features), unit(codes)


def start_probe(probe: ClusterProbe, codes: Tensor, seed: int) -> None:
    """Set the probe's clusters to the K-means centres of unit-length codes, in place.

    Upstream starts from random directions, most of which never win a position when the images
    are few; a dead cluster gets no gradient and stays dead.

    Args:
        probe: S clusters.
        codes: (m, K) float32, m >= S positions drawn from all images.
        seed: Of the K-means++ start.

    Raises:
        UserError: if there are fewer positions than clusters; says both numbers.
    """
    width = probe.clusters.shape[1]
    centers = unit_centers(codes, len(probe.clusters), seed)
    if centers is None:
        return  # constant images: there are not S different directions to start from
    # The length of a standard normal vector, so that probe_lr turns directions as upstream.
    probe.clusters.data = functional.normalize(torch.from_numpy(centers), dim=1) * width**0.5
