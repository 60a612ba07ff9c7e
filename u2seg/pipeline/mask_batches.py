"""Photographs of a shard and their masks: image by image, or in batches on a device.

While a device works on a batch, the host reads and resizes the photographs of the next, queues
its work, and only then waits for the masks of the first.
"""

from __future__ import annotations

import functools
import itertools
import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from u2seg.config.schema import FeatureSettings, MaskSettings, Settings
from u2seg.errors import UserError
from u2seg.features import FeatureExtractor
from u2seg.features.base import check_name, target_size
from u2seg.masks.base import ImageProposer
from u2seg.masks.naming import image_name, image_named
from u2seg.masks.ncut import DENSE_LIMIT
from u2seg.masks.propose import propose_masks
from u2seg.masks.tiles import second_pass
from u2seg.pipeline.batches import Image, features_alone, with_features
from u2seg.pipeline.stage import Stage
from u2seg.shards.attempts import Part
from u2seg.shards.records import Record
from u2seg.structures.features import PatchFeatures
from u2seg.structures.masks import InstanceMask

if TYPE_CHECKING:
    from torch import Tensor

    from u2seg.masks.batched_propose import MaskBatch

logger = logging.getLogger(__name__)

FACET = "key"
EXTRACT = "extract_work"
"""What an extractor needs for batches, see ``VitExtractor``."""
PROPOSERS, REFINERS = ("maskcut",), ("dense_crf", "none")
"""What batches can do."""
AHEAD = 2
"""Batches that are queued on the device before the masks of the first are waited for."""
READERS = 8
"""Threads that read and resize photographs; decoders and Pillow let others run meanwhile."""
Found = list[InstanceMask] | None
T = TypeVar("T")


@dataclass(frozen=True)
class Loaded:
    """A photograph ready for a batch.

    Args:
        record: Of the photograph, or what stands for one: ``file_name`` is used.
        image: (H, W, 3) uint8 RGB.
        work: The same as the features see it.
    """

    record: Record
    image: Image
    work: Image


def check_backend(masks: MaskSettings, features: FeatureSettings) -> None:
    """Raise UserError if ``U2SEG.MASKS.BACKEND`` cannot be had with the other settings."""
    if masks.backend != "torch":
        return
    for key, value, known in (
        ("PROPOSER", masks.proposer, PROPOSERS),
        ("REFINER", masks.refiner, REFINERS),
    ):
        if value not in known:
            raise UserError(
                f"U2SEG.MASKS.BACKEND torch has no {key.lower()} {value!r}: use U2SEG.MASKS.{key} "
                f"{' or '.join(known)}, or BACKEND cpu or auto"
            )
    if not hasattr(check_name(features), EXTRACT):
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
    known = masks.proposer in PROPOSERS and masks.refiner in REFINERS
    return on_gpu and known and hasattr(extractor, EXTRACT)


def with_masks(
    stage: Stage,
    extractor: FeatureExtractor | None,
    part: Part,
    skipped: list[Record],
) -> Iterator[tuple[Record, list[InstanceMask]]]:
    """Yield record and masks of every image; one without features goes to ``skipped``.

    Args:
        stage: Its context holds the settings, and the detector where masks are predicted.
        extractor: None where a detector needs none.
        part: What to make.
        skipped: Gets an entry for each image that is not yielded.
    """
    settings, detector = stage.context.settings, stage.context.detector
    first: Iterator[tuple[Record, Image, list[InstanceMask]]]
    if extractor is None:
        if detector is None:
            raise ValueError("masks need features or a detector")
        first = ((r, i, detector(i)) for r, i in stage.readable(part, part.records, skipped))
    elif is_batched(settings.masks, extractor):
        first = _batched(stage, extractor, part, skipped)
    else:
        first = _one_by_one(stage, extractor, part, skipped)
    for record, image, masks in first:
        if settings.masks.tiles:
            propose = functools.partial(
                masks_of_crops, extractor=extractor, detector=detector, settings=settings
            )
            with image_named(record["file_name"]):
                masks = second_pass(image, masks, settings.masks, propose)
        yield record, masks


def _one_by_one(
    stage: Stage, extractor: FeatureExtractor, part: Part, skipped: list[Record]
) -> Iterator[tuple[Record, Image, list[InstanceMask]]]:
    settings = stage.context.settings
    for record, image, features in with_features(
        stage, extractor, part, part.records, FACET, skipped
    ):
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
) -> list[Found]:
    """Return the masks of parts of one photograph; None where features are not finite."""
    if extractor is None:
        return [detector(crop) if detector else None for crop in crops]
    found: list[Found] = []
    if is_batched(settings.masks, extractor):
        record = {"file_name": image_name()}
        works = map(extractor.work_image, crops)  # type: ignore[attr-defined]
        parts = (Loaded(record, crop, work) for crop, work in zip(crops, works, strict=True))
        groups = group_by_size(parts, settings.features.batch_size)
        return [
            masks for _, some in masks_of_batches(groups, extractor, settings) for masks in some
        ]
    for crop in crops:
        features = features_alone(extractor, crop, FACET)
        size = target_size(crop.shape[0], crop.shape[1], extractor.patch_size, settings.features)
        found.append(propose_masks(crop, features, size, settings.masks) if features else None)
    return found


def _batched(
    stage: Stage, extractor: Any, part: Part, skipped: list[Record]
) -> Iterator[tuple[Record, Image, list[InstanceMask]]]:
    settings = stage.context.settings
    unread: dict[int, list[Record]] = {}

    def load(record: Record) -> Loaded | None:
        bad: list[Record] = []
        for _, image in stage.readable(part, [record], bad):
            return Loaded(record, image, extractor.work_image(image))
        unread[record["id"]] = bad
        return None

    loaded = read_ahead(load, part.records, settings.features.batch_size)
    groups = group_by_size(loaded, settings.features.batch_size)
    waiting = iter(part.records)
    for group, found in masks_of_batches(groups, extractor, settings):
        for each, masks in zip(group, found, strict=True):
            _skip_up_to(each.record, waiting, unread, skipped)
            if masks is None:
                skipped.append(stage.skip(each.record, "its features are not finite"))
            else:
                yield each.record, each.image, masks
    _skip_up_to(None, waiting, unread, skipped)


def _skip_up_to(
    record: Record | None,
    waiting: Iterator[Record],
    unread: dict[int, list[Record]],
    skipped: list[Record],
) -> None:
    """Move the entries of unreadable photographs before ``record`` to ``skipped``, in order."""
    for other in waiting:
        if other is record:
            return
        skipped += unread.pop(other["id"], [])


def read_ahead(
    load: Callable[[T], Loaded | None], items: Iterable[T], ahead: int
) -> Iterator[Loaded]:
    """Yield photographs in order, loaded by threads before they are asked for.

    Args:
        load: Returns the photograph of an item, or None to leave it out.
        items: What to load.
        ahead: How many are in memory beside those that were yielded, >= 1: a batch, so that the
            next one is ready when a device has room for it.
    """
    queue: deque[Future[Loaded | None]] = deque()
    rest = iter(items)
    with ThreadPoolExecutor(min(READERS, ahead)) as pool:
        queue.extend(pool.submit(load, item) for item in itertools.islice(rest, ahead))
        try:
            while queue:
                part = queue.popleft().result()
                queue.extend(pool.submit(load, item) for item in itertools.islice(rest, 1))
                if part is not None:
                    yield part
        finally:
            for future in queue:
                future.cancel()


def group_by_size(parts: Iterable[Loaded], most: int) -> Iterator[list[Loaded]]:
    """Yield up to ``most`` photographs at a time, a batch ends where the size changes."""
    for _, same in itertools.groupby(parts, key=lambda part: part.work.shape):
        while group := list(itertools.islice(same, most)):
            yield group


def masks_of_batches(
    groups: Iterable[Sequence[Loaded]], extractor: Any, settings: Settings
) -> Iterator[tuple[Sequence[Loaded], list[Found]]]:
    """Yield batches and what ``propose_masks`` makes of each photograph, in torch.

    Args:
        groups: Photographs of one size each, as the features see them.
        extractor: ``extract_work`` gives pixels and features; their device does the work.
        settings: Section ``masks`` is used.

    Returns:
        Masks of every photograph; None where the features are not finite.
    """
    from u2seg.masks.batched_propose import propose_batch

    queue: deque[tuple[Sequence[Loaded], Tensor, MaskBatch]] = deque()
    for group in groups:
        pixels, features = getattr(extractor, EXTRACT)([part.work for part in group], FACET)
        sizes = [(part.image.shape[0], part.image.shape[1]) for part in group]
        queue.append((group, features, propose_batch(features, pixels, sizes, settings.masks)))
        if len(queue) >= AHEAD:
            yield _collect(*queue.popleft(), settings.masks)
    while queue:
        yield _collect(*queue.popleft(), settings.masks)


def _collect(
    group: Sequence[Loaded], features: Tensor, batch: MaskBatch, settings: MaskSettings
) -> tuple[Sequence[Loaded], list[Found]]:
    """Return the masks of a batch; those it left over are made image by image."""
    found: list[Found] = []
    for i, proposed in enumerate(batch.collect()):
        if not proposed.left:
            found.append(proposed.masks)
            continue
        part, name = group[i], group[i].record["file_name"]
        if features[i, 0].numel() > DENSE_LIMIT:
            logger.warning("%s is done alone, on the CPU: %s", name, proposed.left)
        grid = features[i].float().cpu().contiguous().numpy()
        alone = PatchFeatures(grid, (part.image.shape[0], part.image.shape[1]))
        size = (part.work.shape[0], part.work.shape[1])
        with image_named(name):
            found.append(propose_masks(part.image, alone, size, settings))
    return group, found
