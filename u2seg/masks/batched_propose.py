"""From the features and pixels of a batch to instance masks: cuts and CRF in torch on any device.

Everything is queued on the device and fetched in one piece: a GPU is waited for once a batch, when
its masks are collected. What follows (selection, holes, sizes) is done by ``propose``, the same
code for both backends. Where a fixed number of steps or a fixed room did not do for an image, the
result says so, and the image is to be done by ``propose_masks``.

Shapes: B images, N cuts of each, h x w patches, H x W pixels as the features see them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from u2seg.config.schema import MaskSettings
from u2seg.crf import CrfKernels
from u2seg.crf.batched import BatchDenseCrf
from u2seg.io.transfer import Download
from u2seg.masks.batched import BatchMasks, maskcut_batch
from u2seg.masks.maskcut import PatchMask
from u2seg.masks.propose import final_mask, selected, upsample_nearest
from u2seg.masks.refine import fill_holes
from u2seg.structures.masks import InstanceMask

REFINERS = ("dense_crf", "none")
"""What ``U2SEG.MASKS.REFINER`` may be here."""
CUTS, ROOM = (
    "its cuts did not converge, or few patches are left",
    "its colours are too many for the room in the CRF",
)


@dataclass(frozen=True)
class Proposed:
    """What a batch gave for one image.

    Args:
        masks: At the photograph's size, in the order they were cut; None where features are not
            finite.
        left: Why the image has to be done alone; empty if ``masks`` are what counts.
    """

    masks: list[InstanceMask] | None
    left: str = ""


class MaskBatch:
    """Masks of a batch on their way from the device.

    Args:
        cuts: Of ``maskcut_batch``.
        foreground: (B, N, H, W) bool after the CRF; None = cuts are not refined.
        fits: (B,) bool: whether there was room for the CRF.
        work_size: (H, W).
        sizes: (height, width) of every photograph.
        settings: Everything of ``U2SEG.MASKS``.
    """

    def __init__(
        self,
        cuts: BatchMasks,
        foreground: Tensor | None,
        fits: Tensor,
        work_size: tuple[int, int],
        sizes: Sequence[tuple[int, int]],
        settings: MaskSettings,
    ) -> None:
        self._sizes, self._work_size, self._settings = list(sizes), work_size, settings
        flags = torch.stack([cuts.finite, cuts.settled, fits | ~cuts.valid.any(dim=1)])
        parts = [flags, cuts.scores, cuts.valid, cuts.grids]
        self._download = Download(parts if foreground is None else [*parts, foreground])

    def collect(self) -> list[Proposed]:
        """Return the masks of every image; wait for the device."""
        flags, scores, valid, grids, *refined = (part.numpy() for part in self._download.wait())
        results = []
        for i, (finite, settled, fits) in enumerate(flags.T):
            left = [why for ok, why in ((settled, CUTS), (fits, ROOM)) if not ok]
            if not finite or left:
                results.append(Proposed(None, "; ".join(left) if finite else ""))
                continue
            masks = [
                self._mask(grids[i, k], scores[i, k], refined[0][i, k] if refined else None, i)
                for k in valid[i].nonzero()[0]
            ]
            results.append(Proposed([mask for mask in masks if mask is not None]))
        return results

    def _mask(self, grid: Any, score: Any, foreground: Any, image: int) -> InstanceMask | None:
        cut = selected(PatchMask(grid, float(score)), self._settings)
        if cut is None:
            return None
        coarse = upsample_nearest(cut.grid, self._work_size)
        after = coarse if foreground is None else fill_holes(foreground)
        return final_mask(coarse, after, cut.score, self._sizes[image], self._settings)


@torch.inference_mode()
def propose_batch(
    features: Tensor, pixels: Tensor, sizes: Sequence[tuple[int, int]], settings: MaskSettings
) -> MaskBatch:
    """Queue what ``propose_masks`` does for every image of a batch; do not wait.

    Args:
        features: (B, D, h, w) float of any precision, facet ``key``.
        pixels: (B, H, W, 3) uint8 RGB on the same device, as the features see them.
        sizes: (height, width) of every photograph.
        settings: Everything of ``U2SEG.MASKS``; the proposer is MaskCut.

    Raises:
        ValueError: if features, pixels and sizes do not fit each other, or the refiner is not
            one of ``REFINERS``.
        UserError: if the kernels of the CRF are far too narrow.
    """
    if not len(features) == len(pixels) == len(sizes):
        raise ValueError(
            f"a batch needs as many features, pixels and sizes as images, got {len(features)}, "
            f"{len(pixels)} and {len(sizes)}"
        )
    cuts = maskcut_batch(features, settings.maskcut)
    foreground, fits = refine_cuts(cuts, pixels, settings)
    size = (pixels.shape[1], pixels.shape[2])
    return MaskBatch(cuts, foreground, fits, size, sizes, settings)


@torch.inference_mode()
def refine_cuts(
    cuts: BatchMasks, pixels: Tensor, settings: MaskSettings
) -> tuple[Tensor | None, Tensor]:
    """Return what a CRF makes of cuts, before holes are filled, and whether there was room.

    Args:
        cuts: Of ``maskcut_batch``.
        pixels: (B, H, W, 3) uint8 RGB on the same device.
        settings: ``refiner`` and ``dense_crf`` are used.

    Returns:
        (B, N, H, W) bool, None without a CRF; and (B,) bool.

    Raises:
        ValueError: if the refiner is not one of ``REFINERS``, or ``pixels`` do not fit.
        UserError: if the kernels of the CRF are far too narrow.
    """
    if settings.refiner not in REFINERS:
        raise ValueError(f"the refiner must be one of {REFINERS}, got {settings.refiner!r}")
    if settings.refiner == "none":
        return None, torch.ones_like(cuts.settled)
    rows, cols = (
        torch.arange(long, device=pixels.device) * short // long
        for long, short in zip(pixels.shape[1:3], cuts.grids.shape[2:], strict=True)
    )
    crf = BatchDenseCrf(pixels, CrfKernels.from_settings(settings.dense_crf))
    coarse = cuts.grids[:, :, rows][..., cols]
    return crf.refine_masks(coarse, settings.dense_crf.iterations) > 0.5, crf.fits
