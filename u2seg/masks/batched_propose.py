"""From the features and pixels of a batch to instance masks: ``propose_masks`` in torch.

Everything is queued on the device, from cuts to packed bits, and fetched in one piece: a GPU is
waited for once a batch, when its masks are collected. Where a fixed number of steps or a fixed
room did not do for an image, the result says so, and the image is to be done by ``propose_masks``.

Shapes: B images, N cuts of each, h x w patches, H x W pixels as the features see them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from u2seg.config.schema import MaskSettings
from u2seg.crf import CrfKernels
from u2seg.crf.batched import BatchDenseCrf
from u2seg.io.transfer import Download
from u2seg.masks.batched import BatchMasks, maskcut_batch
from u2seg.masks.batched_pixels import agrees, fill_holes, upsample_nearest
from u2seg.masks.batched_resize import pass_order, resize_masks
from u2seg.masks.batched_runs import pack_changes, read_mask
from u2seg.masks.batched_select import select_batch
from u2seg.structures.masks import InstanceMask

REFINERS = ("dense_crf", "none")
"""What ``U2SEG.MASKS.REFINER`` may be here."""
PIXELS_AT_ONCE = 2**25
"""Masks are brought to the size of their photographs in groups of at most this many pixels, or one
by one; a group takes about 16 bytes a pixel."""
CUTS, ROOM, HOLES, RESIZED = (
    "its cuts did not converge, or few patches are left",
    "its colours are too many for the room in the CRF",
    "a flood around its masks did not end",
    "this Pillow resizes to its size in an unknown way",
)


@dataclass(frozen=True)
class Refined:
    """Masks as the photographs' edges want them, on the device.

    Args:
        masks: (B, N, H, W) bool.
        kept: (B, N) bool: a cut was made, and refinement did not change it too much.
        fits: (B,) bool: whether there was room for the CRF, or no need.
        closed: (B,) bool: whether all holes were found.
    """

    masks: Tensor
    kept: Tensor
    fits: Tensor
    closed: Tensor


@dataclass(frozen=True)
class Proposed:
    """What a batch found for one image.

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
        refined: Of ``refine_cuts``.
        sizes: (height, width) of every photograph.
    """

    @torch.inference_mode()
    def __init__(
        self, cuts: BatchMasks, refined: Refined, sizes: Sequence[tuple[int, int]]
    ) -> None:
        self._sizes = list(sizes)
        work = (refined.masks.shape[2], refined.masks.shape[3])
        self._same = {
            size: [i for i, other in enumerate(sizes) if other == size]
            for size in dict.fromkeys(sizes)
            if pass_order(work, size) is not None
        }
        flags = [cuts.finite, cuts.settled, refined.fits, refined.closed]
        packed = [_pack(refined.masks, chosen, size) for size, chosen in self._same.items()]
        self._download = Download([torch.stack(flags), cuts.scores, refined.kept, *packed])

    def collect(self) -> list[Proposed]:
        """Return what was found for every image; wait for the device."""
        flags, scores, kept, *packed = (part.numpy() for part in self._download.wait())
        bits = {
            i: some[row]
            for chosen, some in zip(self._same.values(), packed, strict=True)
            for row, i in enumerate(chosen)
        }
        results = []
        for i, (finite, settled, fits, closed) in enumerate(flags.T):
            known = (settled, fits, closed, i in bits)
            left = [why for ok, why in zip(known, (CUTS, ROOM, HOLES, RESIZED)) if not ok]
            if not finite or left:
                results.append(Proposed(None, "; ".join(left) if finite else ""))
                continue
            rounds = zip(bits[i], scores[i], kept[i], strict=True)
            masks = [read_mask(b, self._sizes[i], float(s)) for b, s, keep in rounds if keep]
            results.append(Proposed([mask for mask in masks if mask is not None]))
        return results


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
    cuts = select_batch(maskcut_batch(features, settings.maskcut), settings)
    return MaskBatch(cuts, refine_cuts(cuts, pixels, settings), sizes)


@torch.inference_mode()
def refine_cuts(cuts: BatchMasks, pixels: Tensor, settings: MaskSettings) -> Refined:
    """Return the masks of cuts at the size of the pixels, refined by ``settings.refiner``.

    Args:
        cuts: Of ``maskcut_batch``.
        pixels: (B, H, W, 3) uint8 RGB on the same device.
        settings: ``refiner``, ``min_refine_iou`` and ``dense_crf`` are used.

    Raises:
        ValueError: if the refiner is not one of ``REFINERS``, or ``pixels`` do not fit.
        UserError: if the kernels of the CRF are far too narrow.
    """
    if settings.refiner not in REFINERS:
        raise ValueError(f"the refiner must be one of {REFINERS}, got {settings.refiner!r}")
    coarse = upsample_nearest(cuts.grids, (pixels.shape[1], pixels.shape[2]))
    masks, fits, closed = coarse, torch.ones_like(cuts.settled), torch.ones_like(cuts.settled)
    if settings.refiner == "dense_crf":
        crf = BatchDenseCrf(pixels, CrfKernels.from_settings(settings.dense_crf))
        foreground = crf.refine_masks(coarse, settings.dense_crf.iterations) > 0.5
        filled, ended = fill_holes(foreground.flatten(0, 1))
        masks = filled.reshape(coarse.shape)
        closed = (ended.reshape(cuts.valid.shape) | ~cuts.valid).all(dim=1)
        fits = crf.fits | ~cuts.valid.any(dim=1)
    kept = cuts.valid & agrees(coarse, masks, settings.min_refine_iou)
    return Refined(masks, kept, fits, closed)


def _pack(masks: Tensor, chosen: Sequence[int], size: tuple[int, int]) -> Tensor:
    """Return the masks of some images at one size: (images, N, bytes) of ``pack_changes``."""
    some = masks if len(chosen) == len(masks) else torch.stack([masks[i] for i in chosen])
    step = max(1, PIXELS_AT_ONCE // (size[0] * size[1]))
    groups = torch.split(some.flatten(0, 1), step)
    packed = torch.cat([pack_changes(resize_masks(group, size)) for group in groups])
    return packed.reshape(len(chosen), masks.shape[1], -1)
