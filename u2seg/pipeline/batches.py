"""Photographs of a shard and their features, batch by batch; a bad image never stops a shard."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from u2seg.errors import StageError, UserError
from u2seg.features import FeatureExtractor
from u2seg.io.atomic import json_bytes, write_bytes, write_json
from u2seg.io.coco import image_sizes, read_results
from u2seg.io.jsonfile import read_json
from u2seg.pipeline.stage import Record, RunContext, Stage, check_share
from u2seg.pipeline.workspace import Workspace
from u2seg.shards.attempts import Part
from u2seg.structures.features import PatchFeatures
from u2seg.structures.masks import InstanceMask

Image = npt.NDArray[np.uint8]


def with_features(
    stage: Stage,
    extractor: FeatureExtractor,
    part: Part,
    records: Sequence[Record],
    facet: str,
    skipped: list[Record],
) -> Iterator[tuple[Record, Image, PatchFeatures]]:
    """Yield record, pixels and features; an image without either goes to ``skipped``."""
    step = stage.context.settings.features.batch_size
    for start in range(0, len(records), step):
        loaded = list(stage.readable(part, records[start : start + step], skipped))
        images = [image for _, image in loaded]
        try:
            found: list[PatchFeatures | None] = list(extractor.extract(images, facet))
        except UserError:  # a ValueError too, but never the fault of an image
            raise
        except ValueError:
            found = [features_alone(extractor, image, facet) for image in images]
        for (record, image), features in zip(loaded, found, strict=True):
            if features is None:
                skipped.append(stage.skip(record, "its features are not finite"))
            else:
                yield record, image, features


def features_alone(extractor: FeatureExtractor, image: Image, facet: str) -> PatchFeatures | None:
    """Return the features of one image; None if they are not finite."""
    try:
        return extractor.extract([image], facet)[0]
    except UserError:
        raise
    except ValueError:
        return None


def write_stage_skips(stage: Stage, shard: int, skipped: list[Record]) -> Path:
    """Write what a shard skipped beside its part, before the part itself; return the file."""
    path = stage.context.space.part(stage.name, shard, ".skipped")
    path.unlink(missing_ok=True)  # of an interrupted run, which may have met other files
    if skipped:
        write_json(path, skipped)
    return path


def check_skipped(stage: Stage, total: int) -> int:
    """Return how many of ``total`` images a stage skipped.

    Raises:
        StageError: if it skipped all of them, or more than ``RUN.MAX_BAD``: weights that give NaN
            must not end as labels of nothing.
    """
    folder = stage.folder.glob("part-*.skipped")
    entries = [entry for path in sorted(folder) for entry in read_json(path)]
    if entries and len(entries) >= total:
        raise StageError(
            f"stage {stage.name} could use none of {total} images; the first, "
            f"{entries[0]['file_name']}: {entries[0]['reason']}"
        )
    check_share(len(entries), total, stage.context.settings.run.max_bad)
    return len(entries)


def collect_skips(context: RunContext, stages: Sequence[str]) -> int:
    """Rewrite ``skipped.jsonl`` from the parts of all stages; return the number of lines."""
    entries = [entry for stage in stages for entry in skipped_by(context.space, stage)]
    write_bytes(context.space.skipped, b"".join(json_bytes(entry) for entry in entries))
    return len(entries)


def skipped_by(space: Workspace, stage: str) -> list[Record]:
    """Return what a stage skipped, by its parts."""
    folder = space.folder(stage)
    entries: list[Record] = []
    for path in sorted(folder.glob("part-*.json")) if stage == "images" else []:
        entries += read_json(path)["skipped"]
    for path in sorted(folder.glob("part-*.skipped")):
        entries += read_json(path)
    return entries


def read_masks(
    context: RunContext, shard: int, records: Sequence[Record]
) -> list[list[InstanceMask]]:
    """Return the masks of every image of a shard, in the order of ``records``.

    Raises:
        UserError: if the part is damaged or does not belong to these images.
    """
    sizes = image_sizes(records)
    results = read_results(context.space.part("masks", shard), sizes, categories=(1,))
    masks: dict[int, list[InstanceMask]] = {record["id"]: [] for record in records}
    for result in results:
        masks[result["image_id"]].append(InstanceMask.from_result(result))
    return [masks[record["id"]] for record in records]
