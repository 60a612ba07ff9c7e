"""Photographs of a shard and their masks: image by image, or in batches on a device."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any

from u2seg.config.schema import FeatureSettings, MaskSettings, Settings
from u2seg.errors import UserError
from u2seg.features import FeatureExtractor
from u2seg.features.base import check_name, target_size
from u2seg.masks.base import ImageProposer
from u2seg.masks.naming import image_name, image_named
from u2seg.masks.propose import at_work_size, keep_masks, propose_masks
from u2seg.masks.tiles import second_pass
from u2seg.pipeline.batches import Image, features_alone, with_features
from u2seg.pipeline.stage import Record, Stage
from u2seg.structures.masks import InstanceMask

FACET = "key"


def check_backend(masks: MaskSettings, features: FeatureSettings) -> None:
    """Raise UserError if ``U2SEG.MASKS.BACKEND`` cannot be had with the other settings."""
    if masks.backend != "torch":
        return
    if masks.proposer != "maskcut":
        raise UserError(
            f"U2SEG.MASKS.BACKEND torch has no proposer {masks.proposer!r}: use "
            "U2SEG.MASKS.PROPOSER maskcut, or BACKEND cpu or auto"
        )
    if not hasattr(check_name(features), "extract_tensors"):
        raise UserError(
            f"U2SEG.MASKS.BACKEND torch needs features as tensors, which U2SEG.FEATURES.NAME "
            f"{features.name!r} does not give: name a ViT, or use BACKEND cpu or auto"
        )


def is_batched(masks: MaskSettings, extractor: Any) -> bool:
    """Return whether masks are made in batches, in torch, where the features are.

    ``auto`` does so for MaskCut on features that a GPU computes.
    """
    if masks.backend != "auto":
        return masks.backend == "torch"
    device = getattr(extractor, "device", None)
    on_gpu = device is not None and device.type == "cuda"
    return on_gpu and masks.proposer == "maskcut" and hasattr(extractor, "extract_tensors")


def with_masks(
    stage: Stage,
    extractor: FeatureExtractor | None,
    records: Sequence[Record],
    skipped: list[Record],
) -> Iterator[tuple[Record, list[InstanceMask]]]:
    """Yield record and masks of every image; one without features goes to ``skipped``.

    Args:
        stage: Its context holds the settings, and the detector where masks are predicted.
        extractor: None where a detector needs none.
        records: Images of a shard.
        skipped: Gets an entry for each image that is not yielded.
    """
    settings, detector = stage.context.settings, stage.context.detector
    first: Iterator[tuple[Record, Image, list[InstanceMask]]]
    if extractor is None:
        if detector is None:
            raise ValueError("masks need features or a detector")
        first = ((r, i, detector(i)) for r, i in stage.readable(records, skipped))
    elif is_batched(settings.masks, extractor):
        first = _batched(stage, extractor, records, skipped)
    else:
        first = _one_by_one(stage, extractor, records, skipped)
    for record, image, masks in first:
        if settings.masks.tiles:
            propose = functools.partial(
                masks_of_crops, extractor=extractor, detector=detector, settings=settings
            )
            with image_named(record["file_name"]):
                masks = second_pass(image, masks, settings.masks, propose)
        yield record, masks


def _one_by_one(
    stage: Stage, extractor: FeatureExtractor, records: Sequence[Record], skipped: list[Record]
) -> Iterator[tuple[Record, Image, list[InstanceMask]]]:
    settings = stage.context.settings
    for record, image, features in with_features(stage, extractor, records, FACET, skipped):
        size = target_size(image.shape[0], image.shape[1], extractor.patch_size, settings.features)
        with image_named(record["file_name"]):
            masks = propose_masks(image, features, size, settings.masks)
        yield record, image, masks


def masks_of_crops(
    crops: Sequence[Image],
    *,
    extractor: FeatureExtractor | None,
    detector: ImageProposer | None,
    settings: Settings,
) -> list[list[InstanceMask] | None]:
    """Return the masks of parts of one photograph; None where features are not finite."""
    if extractor is None:
        return [detector(crop) if detector else None for crop in crops]
    found: list[list[InstanceMask] | None] = []
    if is_batched(settings.masks, extractor):
        rest = iter(crops)
        for tensor in extractor.extract_tensors(crops, FACET):  # type: ignore[attr-defined]
            group = [next(rest) for _ in range(len(tensor))]
            names = [image_name()] * len(group)
            found += masks_of_batch(group, tensor, extractor, settings, names)
        return found
    for crop in crops:
        features = features_alone(extractor, crop, FACET)
        size = target_size(crop.shape[0], crop.shape[1], extractor.patch_size, settings.features)
        found.append(propose_masks(crop, features, size, settings.masks) if features else None)
    return found


def _batched(
    stage: Stage, extractor: Any, records: Sequence[Record], skipped: list[Record]
) -> Iterator[tuple[Record, Image, list[InstanceMask]]]:
    settings = stage.context.settings
    step = settings.features.batch_size
    for start in range(0, len(records), step):
        loaded = list(stage.readable(records[start : start + step], skipped))
        rest = iter(loaded)
        for tensor in extractor.extract_tensors([image for _, image in loaded], FACET):
            group = [next(rest) for _ in range(len(tensor))]
            names = [record["file_name"] for record, _ in group]
            pixels = [image for _, image in group]
            found = masks_of_batch(pixels, tensor, extractor, settings, names)
            for (record, image), masks in zip(group, found, strict=True):
                if masks is None:
                    skipped.append(stage.skip(record, "its features are not finite"))
                else:
                    yield record, image, masks


def masks_of_batch(
    images: Sequence[Image],
    features: Any,
    extractor: Any,
    settings: Settings,
    names: Sequence[str] = (),
) -> list[list[InstanceMask] | None]:
    """Return what ``propose_masks`` does of photographs with features of one size, in torch.

    Args:
        images: B photographs, (H, W, 3) uint8 RGB each.
        features: (B, D, h, w) tensor; its device does the work.
        extractor: Where the features are from.
        settings: Sections ``features`` and ``masks`` are used.
        names: Of the photographs, for warnings.

    Returns:
        Masks of every photograph; None where the features are not finite.
    """
    from u2seg.masks.batched import propose_batch
    from u2seg.masks.batched_refine import refine_batch

    found = propose_batch(features, settings.masks, names)
    height, width = images[0].shape[:2]
    size = target_size(height, width, extractor.patch_size, settings.features)
    some = {i: proposals for i, proposals in enumerate(found) if proposals}
    drafts = {i: at_work_size(images[i], proposals, size) for i, proposals in some.items()}
    work_images, coarse = [d[0] for d in drafts.values()], [d[1] for d in drafts.values()]
    refined = refine_batch(work_images, coarse, settings.masks, features.device)
    results: list[list[InstanceMask] | None] = [None if p is None else [] for p in found]
    for i, before, after in zip(some, coarse, refined, strict=True):
        results[i] = keep_masks(images[i], some[i], before, after, settings.masks)
    return results
