"""Shares of a labelled data set, as label folders that training takes unchanged.

U2Seg and CutLER fine-tune on 1, 2, 5, ... % of COCO's labels. Their splits were drawn by code
that kept no ids; here the chosen ids are a file, and they follow from seed and image id alone:
a share holds every smaller one of the same seed, and images that are added later change no order.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from u2seg.config.evaluation import EvalSettings
from u2seg.errors import UserError
from u2seg.evaluation.protocols.mapping import ClusterMapping, mapping_json
from u2seg.evaluation.protocols.rules import protocol_of
from u2seg.io.atomic import sha256_file, write_bytes, write_json
from u2seg.io.coco import read_instances, read_panoptic
from u2seg.io.lock import LOCK, only_run
from u2seg.io.paths import distinct_stems, image_file, safe_join
from u2seg.io.png import read_panoptic_png, write_label_png
from u2seg.io.progress import Bar
from u2seg.labels.write import write_dataset
from u2seg.structures.labels import ANY_THING, VOID_ID, VOID_STUFF, LabelSpace
from u2seg.version import __version__

VERSION = 1
_OPTIONS = {
    "panoptic_json": "COCO panoptic annotations (segments_info for each image)",
    "instances_json": "COCO instances of the same images",
    "images": "the folder of the photographs",
    "panoptic_pngs": "the folder of PNGs that --panoptic-json names",
}
"""Part of a data set -> what its option names, both relative to ``--truth-root``."""

Record = dict[str, Any]
_JSONS = ("instances.json", "labelspace.json", "panoptic.json")


@dataclass(frozen=True)
class LabelledSet:
    """A data set with COCO panoptic and COCO instance annotations of the same images."""

    images: Path
    panoptic_json: Path
    panoptic_pngs: Path
    instances_json: Path


@dataclass(frozen=True)
class Labels:
    """The annotations of a ``LabelledSet``, read once for all shares."""

    source: LabelledSet
    images: dict[int, Record]
    panoptic: dict[int, Record]
    instances: dict[int, list[Record]]
    categories: tuple[int, ...]
    space: LabelSpace
    hashes: dict[str, str]


def choose_images(image_ids: Iterable[int], percent: float, seed: int) -> list[int]:
    """Return the image ids of a share, sorted: the first ones by the SHA-256 of "seed:id".

    Examples:
        >>> choose_images(range(10), 20, 42), choose_images(range(10), 40, 42)
        ([0, 1], [0, 1, 4, 6])
    """
    if not 0 < percent <= 100:
        raise UserError(f"--percent is {percent:g}, expected 0 < percent <= 100")
    order = sorted(image_ids, key=lambda i: (hashlib.sha256(f"{seed}:{i}".encode()).digest(), i))
    if not order:
        raise UserError("there is no annotated image to choose from")
    return sorted(order[: max(1, round(len(order) * percent / 100))])


def read_labels(source: LabelledSet) -> Labels:
    """Return the annotations of a data set, checked."""
    panoptic = read_panoptic(source.panoptic_json)
    things = [c for c in panoptic["categories"] if c["isthing"]]
    stuff = [c for c in panoptic["categories"] if not c["isthing"]]
    instances = read_instances(source.instances_json, {int(c["id"]) for c in things})
    annotated = {int(a["image_id"]): a for a in panoptic["annotations"]}
    images = {int(i["id"]): i for i in panoptic["images"] if int(i["id"]) in annotated}
    _check_same_images(source, images, instances["images"])
    found: dict[int, list[Record]] = {}
    for record in instances["annotations"]:
        found.setdefault(int(record["image_id"]), []).append(record)
    return Labels(
        source=source,
        images=images,
        panoptic=annotated,
        instances=found,
        categories=tuple(int(c["id"]) for c in (*things, *stuff)),
        space=LabelSpace(
            len(things),
            len(stuff),
            tuple(str(c["name"]) for c in things),
            tuple(str(c["name"]) for c in stuff),
        ),
        hashes={p.name: sha256_file(p) for p in (source.panoptic_json, source.instances_json)},
    )


def _check_same_images(
    source: LabelledSet, images: dict[int, Record], others: Sequence[Record]
) -> None:
    for other in others:
        image = images.get(int(other["id"]))
        sizes = [(int(r["height"]), int(r["width"])) for r in (image or other, other)]
        if sizes[0] != sizes[1]:
            raise UserError(
                f"image {other['id']} is {sizes[0][0]}x{sizes[0][1]} (height x width) in "
                f"{source.panoptic_json} and {sizes[1][0]}x{sizes[1][1]} in "
                f"{source.instances_json}: they are not of the same data set"
            )


def write_share(labels: Labels, image_ids: Sequence[int], folder: Path | str) -> Path:
    """Write a label folder with the real labels of some images; return it."""
    folder = Path(folder)
    target = folder / "panoptic"
    (target / "manifest.json").unlink(missing_ok=True)
    number = {old: new for new, old in enumerate(labels.categories, start=1)}
    rows = [_image_row(labels, image_id) for image_id in image_ids]
    stems = distinct_stems(row["file_name"] for row in rows)
    panoptic = []
    for image_id, stem in zip(Bar(image_ids, desc=folder.name, unit="image"), stems, strict=True):
        _write_maps(labels, image_id, target, number, f"{stem}.png")
        segments = [
            {**segment, "category_id": number[segment["category_id"]]}
            for segment in labels.panoptic[image_id]["segments_info"]
        ]
        record = {"image_id": image_id, "file_name": f"{stem}.png", "segments_info": segments}
        panoptic.append(record)
    things = [
        {**record, "category_id": number[record["category_id"]]}
        for image_id in image_ids
        for record in labels.instances.get(image_id, ())
    ]
    plain = [{k: row[k] for k in ("id", "file_name", "height", "width")} for row in rows]
    info = {"description": "a share of real labels", "version": __version__}
    write_dataset(target, labels.space, {"info": info, "images": plain}, panoptic, things)
    root = str(labels.source.images.resolve())
    write_json(folder / "images.json", {"info": {"image_root": root}, "images": rows})
    files = {name: sha256_file(target / name) for name in _JSONS}
    counts = {"images": len(rows), "instances": len(things)}
    made = {"tool": "make_lowshot", "version": __version__, "inputs": labels.hashes}
    write_json(target / "manifest.json", {**made, "counts": counts, "files": files}, indent=1)
    return folder


def _image_row(labels: Labels, image_id: int) -> Record:
    image = labels.images[image_id]
    place = image_file(labels.source.images, image)
    if not place.path.is_file():
        raise UserError(
            f"{labels.source.panoptic_json} names {place}, which does not exist: see --images"
        )
    return {k: image[k] for k in ("id", "file_name", "height", "width")}


def _write_maps(
    labels: Labels, image_id: int, target: Path, number: dict[int, int], png: str
) -> None:
    """Copy the id map of an image and write its stuff target."""
    record, image = labels.panoptic[image_id], labels.images[image_id]
    source = safe_join(labels.source.panoptic_pngs, record["file_name"])
    ids = read_panoptic_png(source)
    if ids.shape != (image["height"], image["width"]):
        raise UserError(
            f"{source} is {ids.shape[0]}x{ids.shape[1]} pixels (height x width), "
            f"{labels.source.panoptic_json} says {image['height']}x{image['width']}"
        )
    values = {
        int(s["id"]): max(ANY_THING, number[s["category_id"]] - labels.space.num_things)
        for s in record["segments_info"]
    }
    stuff = stuff_map(ids, values, str(source))
    write_label_png(safe_join(target / "stuff", png), stuff)
    write_bytes(safe_join(target / "panoptic", png), source.read_bytes())


def stuff_map(
    ids: npt.NDArray[np.int32], values: dict[int, int], name: str
) -> npt.NDArray[np.uint8]:
    """Return the target of the semantic head.

    Args:
        ids: (H, W) segment ids, 0 = void.
        values: Segment id -> 0 (any thing, crowds included) or 1..S.
        name: Of the id map, for messages.

    Returns:
        (H, W) uint8: 0 any thing, 1..S stuff, 255 void.

    Examples:
        >>> stuff_map(np.array([[0, 7, 900]], dtype=np.int32), {900: 2, 7: 0}, "x").tolist()
        [[255, 0, 2]]
    """
    known = np.array(sorted({VOID_ID, *values}), dtype=np.int64)
    table = np.array([{**values, VOID_ID: VOID_STUFF}[i] for i in known], dtype=np.uint8)
    place = np.minimum(np.searchsorted(known, ids), len(known) - 1)
    strange = known[place] != ids
    if strange.any():
        unknown = int(ids[strange][0])
        raise UserError(f"{name} holds the segment id {unknown}, which its annotation lacks")
    result: npt.NDArray[np.uint8] = table[place]
    return result


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
    lines = []
    with only_run(Path(output) / LOCK):
        for share, image_ids in chosen.items():
            name = f"{share:g}"
            folder = write_share(labels, image_ids, Path(output) / name)
            write_json(folder / "mapping.json", mapping_json(real_classes(labels)), indent=1)
            note = {
                "version": VERSION,
                "seed": seed,
                "percent": share,
                "order": "images by sha256 of '<seed>:<id>', the first percent",
                "source_sha256": labels.hashes,
                "images": len(image_ids),
                "of_images": len(labels.images),
                "image_ids": image_ids,
            }
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
