"""Low-shot splits: what ``tools/make_lowshot.py`` does."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from u2seg.config.evaluation import EvalSettings
from u2seg.data.lowshot import LabelledSet, Labels, choose_images, read_labels, write_share
from u2seg.errors import UserError
from u2seg.evaluation.protocols.mapping import ClusterMapping, mapping_json
from u2seg.evaluation.protocols.rules import protocol_of
from u2seg.io.atomic import write_json
from u2seg.io.lock import LOCK, only_run

logger = logging.getLogger(__name__)
VERSION = 1
_OPTIONS = {
    "panoptic_json": "COCO panoptic annotations (segments_info for each image)",
    "instances_json": "COCO instances of the same images",
    "images": "the folder of the photographs",
    "panoptic_pngs": "the folder of PNGs that --panoptic-json names",
}
"""Part of a data set -> what its option names, both relative to ``--truth-root``."""


def make_splits(
    source: LabelledSet, percents: Iterable[float], seed: int, output: Path | str
) -> list[str]:
    """Write a label folder and a list of ids for each share.

    Args:
        source: The labelled data set.
        percents: Shares, 0 < percent <= 100.
        seed: Of the choice.
        output: Holds ``<percent>/`` (label folder, with ``mapping.json``: the model's categories
            are the data set's) and ``subset_<percent>.json`` (seed, percent, ids, hashes of the
            source's files).

    Returns:
        A line for each share.

    Raises:
        UserError: as ``choose_images``, ``read_labels`` and ``write_share``, or if a share is
            asked for twice; of a missing or unfit source it names the option.
    """
    shares = list(percents)
    twice = sorted({share for share in shares if shares.count(share) > 1})
    if twice:
        raise UserError(f"--percent names {twice[0]:g} twice")
    labels = _read(source)
    chosen = {share: choose_images(labels.images, share, seed) for share in shares}
    with only_run(Path(output) / LOCK):
        return _write_splits(labels, chosen, seed, output)


def _write_splits(
    labels: Labels, chosen: dict[float, list[int]], seed: int, output: Path | str
) -> list[str]:
    lines = []
    for share, image_ids in chosen.items():
        name = f"{share:g}"
        folder = write_share(labels, image_ids, Path(output) / name)
        write_json(folder / "mapping.json", mapping_json(real_classes(labels)), indent=1)
        note = subset_json(labels, image_ids, share, seed)
        write_json(Path(output) / f"subset_{name}.json", note, indent=1)
        lines.append(f"{name} %: {len(image_ids)} of {len(labels.images)} images in {folder}")
    return lines


def _read(source: LabelledSet) -> Labels:
    """Return ``read_labels``, its errors with the option that names the file."""
    paths: dict[str, Path] = vars(source)
    for part, expected in _OPTIONS.items():
        if not paths[part].exists():
            raise UserError(f"{paths[part]} does not exist: {_option(part)} names {expected}")
    if source.panoptic_json == source.instances_json:
        raise UserError(
            f"--panoptic-json and --instances-json both name {source.panoptic_json}: the one is "
            f"for {_OPTIONS['panoptic_json']}, the other for {_OPTIONS['instances_json']}"
        )
    try:
        return read_labels(source)
    except UserError as error:
        files = ("panoptic_json", "instances_json")
        named = [part for part in files if str(paths[part]) in str(error)]
        if len(named) != 1:
            raise
        told = f"{error} ({_option(named[0])} names {_OPTIONS[named[0]]})"
        raise UserError(told) from error


def _option(part: str) -> str:
    return "--" + part.replace("_", "-")


def subset_json(labels: Labels, image_ids: list[int], percent: float, seed: int) -> dict[str, Any]:
    """Return the content of ``subset_<percent>.json``."""
    return {
        "version": VERSION,
        "seed": seed,
        "percent": percent,
        "order": "images by sha256 of '<seed>:<id>', the first percent",
        "source_sha256": labels.hashes,
        "images": len(image_ids),
        "of_images": len(labels.images),
        "image_ids": image_ids,
    }


def real_classes(labels: Labels) -> ClusterMapping:
    """Return the mapping from the model's categories 1..K+S to those of the data set."""
    space, ids = labels.space, labels.categories
    protocol = protocol_of(EvalSettings(protocol="identity"), space.num_things)
    count = space.num_things
    things = dict(enumerate(ids[:count], start=1))
    stuff = dict(enumerate(ids[count:], start=count + 1))
    return ClusterMapping(
        things=things,
        stuff=stuff,
        protocol=replace(protocol, note="real labels").to_json(),
        clusters=(tuple(things), tuple(stuff)),
        classes=tuple(
            (old, space.name(new), new <= count) for new, old in {**things, **stuff}.items()
        ),
    )
