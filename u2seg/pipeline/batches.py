"""Photographs of a shard and their features, batch by batch; a bad image never stops a shard."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from u2seg.clusters.describe import describe
from u2seg.config.load import settings_hash
from u2seg.errors import StageError
from u2seg.io.atomic import json_bytes, sha256_bytes, sha256_file, write_bytes
from u2seg.io.coco import image_sizes, read_results
from u2seg.io.jsonfile import read_json
from u2seg.pipeline.stage import RunContext, Stage, check_share
from u2seg.pipeline.workspace import Workspace
from u2seg.shards.attempts import Part
from u2seg.shards.records import Record
from u2seg.structures.features import ImageInputs
from u2seg.structures.masks import InstanceMask

Image = npt.NDArray[np.uint8]
NOT_FINITE = "its features are not finite"


def with_features(
    stage: Stage,
    part: Part,
    records: Sequence[Record],
    facets: Sequence[str],
    skipped: list[Record],
    *,
    resample: str = "",
    mirror: bool = False,
) -> Iterator[tuple[Record, ImageInputs, ImageInputs | None]]:
    """Yield images with their facets; one that lacks any of them goes to ``skipped``.

    Args:
        stage: Whose images they are.
        part: What it makes.
        records: Images of the part.
        facets: What is asked of the extractor.
        skipped: Gets an entry for each image that is not yielded.
        resample: Filter that resizes the images; empty = ``FEATURES.RESAMPLE``.
        mirror: Yield the facets of the mirrored image too, made in the same batch.
    """
    step = stage.context.settings.features.batch_size
    for start in range(0, len(records), step):
        loaded = list(stage.readable(part, records[start : start + step], skipped))
        views = [image[:, ::way] for _, image in loaded for way in ((1, -1) if mirror else (1,))]
        inputs = [ImageInputs(view) for view in views]
        if facets:
            inputs = stage.context.extractor.extract(views, facets, resample)
        each = len(views) // max(len(loaded), 1)
        for number, (record, _) in enumerate(loaded):
            ours = inputs[number * each : (number + 1) * each]
            if all(one.has(*facets) for one in ours):
                yield record, ours[0], ours[1] if mirror else None
            else:
                skipped.append(stage.skip(record, NOT_FINITE))


def describe_masks(
    context: RunContext, inputs: ImageInputs, masks: Sequence[InstanceMask]
) -> npt.NDArray[np.float32] | None:
    """Return the descriptors of an image's masks, see ``u2seg.clusters.describe.describe``."""
    settings = context.settings
    return describe(inputs, masks, context.extractor, settings.features, settings.clusters)


def handed_over(context: RunContext, shard: int) -> Path:
    """Return where the masks stage leaves the descriptors of a shard for the clusters stage.

    The name tells all that decides them, so that those of other settings are never taken.
    """
    settings = context.settings
    facts = [
        settings_hash(settings.features, settings.clusters),
        sha256_file(context.space.part("masks", shard)),
    ]
    name = f"{shard:05d}-{sha256_bytes(json_bytes(facts))[:16]}.npy"
    return context.space.folder("masks") / ".descriptors" / name


def check_skipped(stage: Stage, total: int) -> int:
    """Return how many of ``total`` images a stage skipped.

    Raises:
        StageError: if it skipped all of them, or more than ``RUN.MAX_BAD``: weights that give NaN
            must not end as labels of nothing.
    """
    entries = skipped_by(stage.space, stage.name)
    if entries and len(entries) >= total:
        raise StageError(
            f"stage {stage.name} could use none of {total} images; the first, "
            f"{entries[0]['file_name']}: {entries[0]['reason']}"
        )
    check_share(len(entries), total, stage.context.settings.run.max_bad)
    return len(entries)


def collect_skips(space: Workspace, stages: Sequence[str]) -> int:
    """Rewrite ``skipped.jsonl`` from the parts of all stages; return the number of lines."""
    entries = [entry for stage in stages for entry in skipped_by(space, stage)]
    write_bytes(space.skipped, b"".join(json_bytes(entry) for entry in entries))
    return len(entries)


def skipped_by(space: Workspace, stage: str) -> list[Record]:
    """Return what a stage skipped, by its parts."""
    paths = sorted(space.folder(stage).glob("part-*.skipped"))
    return [entry for path in paths for entry in read_json(path)]


def read_masks(
    context: RunContext, shard: int, records: Sequence[Record]
) -> list[list[InstanceMask]]:
    """Return the masks of every image of a shard, in the order of ``records``.

    Raises:
        UserError: if the part is damaged or does not belong to these images.
    """
    path = context.space.part("masks", shard)
    masks: dict[int, list[InstanceMask]] = {record["id"]: [] for record in records}
    for result in read_results(path, image_sizes(records), categories=(1,)):
        masks[result["image_id"]].append(InstanceMask.from_result(result))
    return list(masks.values())
