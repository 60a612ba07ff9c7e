"""Stage ``masks``: class-agnostic instance masks of every image, one COCO results part a shard.

Image by image, or in batches on a device: while it works on a batch, the host reads and resizes
the photographs of the next, queues its work, and only then waits for the masks of the first.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from u2seg.clusters.describe import facets_of
from u2seg.config.schema import FeatureSettings, MaskSettings, Settings
from u2seg.errors import UserError
from u2seg.features.base import FACETS, check_name, image_inputs, target_size
from u2seg.io.atomic import write_npy
from u2seg.masks.base import MASK_PROPOSERS, MODEL, check_model
from u2seg.masks.ncut import DENSE_LIMIT
from u2seg.masks.propose import propose_masks
from u2seg.masks.refine import MASK_REFINERS
from u2seg.masks.tiles import second_pass
from u2seg.pipeline.batches import (
    NOT_FINITE,
    Image,
    check_skipped,
    describe_masks,
    handed_over,
    read_masks,
    with_features,
)
from u2seg.pipeline.stage import RunContext, Stage
from u2seg.shards.attempts import Part, Work
from u2seg.shards.records import Record
from u2seg.structures.features import ImageInputs, PatchFeatures
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
T = TypeVar("T")


class MaskStage(Stage):
    """Reads photographs, writes ``masks/part-*.json``."""

    name = "masks"
    inputs = ("images",)

    def sections(self) -> tuple[Any, ...]:
        """Feature and mask settings."""
        return (self.context.settings.features, self.context.settings.masks)

    def extra_plan(self) -> dict[str, Any]:
        """Which detector predicts the masks, if one does."""
        detector = self.context.detector
        return {"detector": detector.fingerprint()} if detector and MODEL in self.needs else {}

    def check(self) -> None:
        """Look the names up, and whether they go together."""
        check_name(self.context.settings.features)
        MASK_PROPOSERS.get(self.context.settings.masks.proposer)
        MASK_REFINERS.get(self.context.settings.masks.refiner)
        check_backend(self.context.settings.masks, self.context.settings.features)
        check_model(self.context.settings.masks.proposer, self.context.detector)

    @property
    def needs(self) -> frozenset[str]:
        """What the proposer needs."""
        return MASK_PROPOSERS.needs(self.context.settings.masks.proposer)

    def works(self) -> dict[str, Work]:
        """One phase."""
        return {"propose": self._propose}

    def run(self) -> dict[str, int]:
        """Propose masks shard by shard."""
        self.each_shard("propose")
        check_skipped(self, sum(self.shards().sizes))
        per_image = [
            len(masks)
            for index, records in enumerate(self.context.shards())
            for masks in read_masks(self.context, index, records)
        ]
        empty = sum(count == 0 for count in per_image)
        return {"images": len(per_image), "masks": sum(per_image), "images_without_masks": empty}

    def _propose(self, part: Part) -> list[Path]:
        results: list[dict[str, Any]] = []
        skipped: list[Record] = []
        rows: list[Any] = []
        for record, inputs, masks in self._with_masks(part, skipped):
            results += [mask.to_result(record["id"]) for mask in masks]
            if masks and self.context.describe:
                rows.append(describe_masks(self.context, inputs, masks))
        names = [record["file_name"] for record in part.records]  # readers run ahead
        skipped.sort(key=lambda entry: names.index(entry["file_name"]))
        files = self.write_part(part.index, results, skipped)
        if self.context.describe and not any(row is None for row in rows):
            table = np.concatenate(rows) if rows else np.zeros((0, 1), np.float32)
            write_npy(handed_over(self.context, part.index), table)
        return files

    def _with_masks(
        self, part: Part, skipped: list[Record]
    ) -> Iterator[tuple[Record, ImageInputs, list[InstanceMask]]]:
        """Yield images with their masks and what describes these; others go to ``skipped``."""
        context, settings = self.context, self.context.settings
        facets = facets_of(settings.clusters) if context.describe else ()
        if FACET in self.needs and is_batched(settings.masks, context.extractor):
            first = self._batched(part, facets, skipped)
        else:
            first = self._one_by_one(part, facets, skipped)
        for record, inputs, masks in first:
            if settings.masks.tiles:
                name = record["file_name"]
                propose = functools.partial(masks_of_crops, context=context, name=name)
                masks = second_pass(inputs.pixels, masks, settings.masks, propose)
            yield record, inputs, masks

    def _one_by_one(
        self, part: Part, facets: Sequence[str], skipped: list[Record]
    ) -> Iterator[tuple[Record, ImageInputs, list[InstanceMask]]]:
        asked = tuple(dict.fromkeys((*sorted(self.needs.intersection(FACETS)), *facets)))
        for record, inputs, _ in with_features(self, part, part.records, asked, skipped):
            yield record, inputs, masks_of(inputs, self.context, record["file_name"])

    def _batched(
        self, part: Part, facets: Sequence[str], skipped: list[Record]
    ) -> Iterator[tuple[Record, ImageInputs, list[InstanceMask]]]:
        settings, extractor = self.context.settings, self.context.extractor

        def load(record: Record) -> Loaded | None:
            for _, image in self.readable(part, [record], skipped):
                return Loaded(record, image, extractor.work_image(image))  # type: ignore[attr-defined]
            return None

        loaded = read_ahead(load, part.records, settings.features.batch_size)
        groups = group_by_size(loaded, settings.features.batch_size)
        for group, batch in masks_of_batches(groups, extractor, settings, facets):
            for each, (inputs, masks) in zip(group, batch, strict=True):
                if masks is None:
                    skipped.append(self.skip(each.record, NOT_FINITE))
                else:
                    yield each.record, inputs, masks


@dataclass(frozen=True)
class Loaded:
    """A photograph ready for a batch."""

    record: Record  # or what stands for one: ``file_name`` is used
    image: Image
    work: Image  # the same as the features see it


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


def masks_of(inputs: ImageInputs, context: RunContext, name: str) -> list[InstanceMask]:
    """Return the masks of one image, refined at the size that its features were computed at."""
    height, width = inputs.pixels.shape[:2]
    size = (height, width)
    if inputs.facets:
        size = target_size(height, width, context.extractor.patch_size, context.settings.features)
    inputs = dataclasses.replace(inputs, model=context.detector, name=name)
    return propose_masks(inputs, size, context.settings.masks)


def masks_of_crops(
    crops: Sequence[Image], *, context: RunContext, name: str
) -> list[list[InstanceMask] | None]:
    """Return the masks of parts of one photograph; None where features are not finite."""
    settings = context.settings
    facets = sorted(MASK_PROPOSERS.needs(settings.masks.proposer).intersection(FACETS))
    if not facets:
        return [masks_of(ImageInputs(crop), context, name) for crop in crops]
    extractor = context.extractor
    if is_batched(settings.masks, extractor):
        record = {"file_name": name}
        works = map(extractor.work_image, crops)  # type: ignore[attr-defined]
        parts = (Loaded(record, crop, work) for crop, work in zip(crops, works, strict=True))
        groups = group_by_size(parts, settings.features.batch_size)
        batches = masks_of_batches(groups, extractor, settings)
        return [masks for _, batch in batches for _, masks in batch]
    found = extractor.extract(crops, facets)
    return [masks_of(inputs, context, name) if inputs.has(*facets) else None for inputs in found]


def read_ahead(
    load: Callable[[T], Loaded | None], items: Iterable[T], ahead: int
) -> Iterator[Loaded]:
    """Yield photographs in order, loaded by threads, ``ahead`` >= 1 of them before they are needed.

    One for which ``load`` returns None is left out.
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
    groups: Iterable[Sequence[Loaded]],
    extractor: Any,
    settings: Settings,
    facets: Sequence[str] = (),
) -> Iterator[tuple[Sequence[Loaded], list[tuple[ImageInputs, list[InstanceMask] | None]]]]:
    """Yield batches with facets and masks of every photograph, made in torch.

    Args:
        groups: Photographs of one size each, as the features see them.
        extractor: ``extract_work`` gives pixels and features; their device does the work.
        settings: Section ``masks`` is used.
        facets: What is wanted of every photograph beside its masks.

    Returns:
        Masks as by ``propose_masks``; None where the features are not finite.
    """
    from u2seg.masks.batched_propose import propose_batch

    queue: deque[tuple[Sequence[Loaded], dict[str, Tensor], MaskBatch]] = deque()
    for group in groups:
        pixels, tensors = getattr(extractor, EXTRACT)([p.work for p in group], (FACET, *facets))
        sizes = [(part.image.shape[0], part.image.shape[1]) for part in group]
        batch = propose_batch(tensors[FACET], pixels, sizes, settings.masks)
        queue.append((group, tensors, batch))
        if len(queue) >= AHEAD:
            yield _collect(*queue.popleft(), settings.masks, facets)
    while queue:
        yield _collect(*queue.popleft(), settings.masks, facets)


def _collect(
    group: Sequence[Loaded],
    tensors: dict[str, Tensor],
    batch: MaskBatch,
    settings: MaskSettings,
    facets: Sequence[str],
) -> tuple[Sequence[Loaded], list[tuple[ImageInputs, list[InstanceMask] | None]]]:
    """Return facets and masks of a batch; those it left over are made image by image."""
    arrays = {facet: tensors[facet].float().cpu().numpy() for facet in facets}
    results: list[tuple[ImageInputs, list[InstanceMask] | None]] = []
    for i, proposed in enumerate(batch.collect()):
        part, name = group[i], group[i].record["file_name"]
        inputs = image_inputs(part.image, {facet: array[i] for facet, array in arrays.items()})
        if not proposed.left:
            results.append((inputs, proposed.masks))
            continue
        features = tensors[FACET][i]
        if features[0].numel() > DENSE_LIMIT:
            logger.warning("%s is done alone, on the CPU: %s", name, proposed.left)
        grid = features.float().cpu().contiguous().numpy()
        alone = PatchFeatures(grid, (part.image.shape[0], part.image.shape[1]))
        size = (part.work.shape[0], part.work.shape[1])
        whole = ImageInputs(part.image, {FACET: alone}, name=name)
        results.append((inputs, propose_masks(whole, size, settings)))
    return group, results
