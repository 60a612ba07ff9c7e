"""Read label and result folders: of this package, and of the layout that U2Seg published.

The one reader of all of them. It knows no catalog and no config: folder in, records out.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from u2seg.errors import UserError
from u2seg.io.atomic import sha256_file
from u2seg.io.coco import (
    check_panoptic,
    image_sizes,
    read_instances,
    read_panoptic,
    read_results,
    segmentation_rle,
)
from u2seg.io.jsonfile import read_json_object
from u2seg.io.paths import ImageFile, image_file, label_stem, safe_join, stem_of
from u2seg.io.png import read_label_png, read_panoptic_png
from u2seg.labels.write import (
    INSTANCES_JSON,
    LABELSPACE_JSON,
    PANOPTIC_JSON,
    PANOPTIC_PNGS,
    STUFF_PNGS,
)
from u2seg.structures.labels import LabelSpace
from u2seg.structures.masks import InstanceMask
from u2seg.structures.panoptic import PanopticLabel
from u2seg.structures.segmentation import Segmentation, panoptic_label

logger = logging.getLogger(__name__)
Record = dict[str, Any]
XYWH_ABS = 1
"""Detectron2's ``BoxMode.XYWH_ABS``; a test pins the number to the enumeration."""
MAKE_LABELS = "Make the labels again with u2seg label --resume."
SET_IMAGES = "Set U2SEG.DATA.IMAGES to the folder of the photographs."
OPENED = 4
"""Folders whose content is kept in memory; the one used longest ago goes first."""


@dataclass(frozen=True)
class LabelImage:
    """One image of a label folder.

    Args:
        id: Of the image.
        file_name: Relative to the image root; in a tar shard the name there.
        size: (H, W).
        png: Name of its PNGs, relative to their folders.
        segments: ``segments_info`` of its panoptic label; None = it has none.
        record: What ``images.json`` says of it.
    """

    id: int
    file_name: str
    size: tuple[int, int]
    png: str
    segments: tuple[Record, ...] | None
    record: Record


@dataclass(frozen=True)
class LabelFolder:
    """Labels of a data set on disk. ``open`` makes one; files are read when they are asked for.

    Args:
        path: What was opened.
        space: Numbers and names of its clusters.
        image_root: Folder the image file names are relative to; None = not known.
        searched: Whether whatever lies below ``image_root`` belongs to the photographs.
        panoptic_json: COCO panoptic; there may be none of stuff alone or things alone.
        instances_json: COCO instances, or of a result folder COCO results; likewise.
        panoptic_pngs: Folder of the COCO panoptic PNGs.
        stuff_pngs: Folder of the stuff maps (uint8: 0 any thing, 1..S stuff, 255 void).
    """

    path: Path
    space: LabelSpace
    image_root: Path | None
    searched: bool
    panoptic_json: Path
    instances_json: Path
    panoptic_pngs: Path
    stuff_pngs: Path

    @staticmethod
    def open(path: Path | str, images: Path | str = "") -> LabelFolder:
        """Return a label folder, parsed once per process as long as its files stay as they are.

        Args:
            path: Output folder of ``u2seg label``; a result folder of ``u2seg evaluate`` or
                ``predict``; or the published ``u2seg_annotations``, or one JSON file of its
                ``panoptic_annotations``.
            images: Where the photographs lie now; empty = where they lay when labelled.

        Raises:
            UserError: if the folder, its panoptic stage (``panoptic/manifest.json``, written
                last), a file or the image folder is missing, a file is garbled, or a JSON is not
                the one the manifest describes.
        """
        path = Path(path)
        stamp = tuple(_stamp(file) for file in _json_files(path))
        return _opened(path, str(images), stamp)

    @property
    def is_results(self) -> bool:
        """Whether a model said it: its masks have scores and may overlap."""
        return self.panoptic_json.parent == self.path

    @cached_property
    def images(self) -> tuple[LabelImage, ...]:
        """All annotated images, in the order of ``panoptic.json`` (or ``images.json``).

        Raises:
            UserError: if a file is missing or garbled, or an id is unknown or used twice.
        """
        known = {str(row.get("file_name")): row for row in self._image_rows}
        if not self.panoptic_json.is_file():
            rows = self._image_rows
            check_panoptic(self.path, {"images": rows, "annotations": [], "categories": []})
            sizes = image_sizes(rows)
            return tuple(
                LabelImage(r["id"], r["file_name"], sizes[r["id"]], label_stem(r) + ".png", None, r)
                for r in rows
            )
        content = read_panoptic(self.panoptic_json)
        by_id = {image["id"]: image for image in content["images"]}
        found = []
        for label in content["annotations"]:
            row = by_id[label["image_id"]]
            name, size = row["file_name"], (row["height"], row["width"])
            segments = tuple(
                {**s, "iscrowd": int(s.get("iscrowd", 0))} for s in label["segments_info"]
            )
            record = {**row, **known.get(name, {}), "id": row["id"]}
            found.append(LabelImage(row["id"], name, size, label["file_name"], segments, record))
        return tuple(found)

    @cached_property
    def _image_rows(self) -> list[Record]:
        path = self.path / "images.json"
        if not path.is_file():
            path = self.instances_json
        if (self.panoptic_json.is_file() and path == self.instances_json) or not path.is_file():
            return []
        rows = read_json_object(path, "images")["images"]
        return [row for row in rows if isinstance(row, dict)]

    @cached_property
    def instances(self) -> dict[int, list[Record]]:
        """Image id -> checked COCO records in the order of the file; empty without the file.

        Raises:
            UserError: if the file is garbled, or has things in an image that ``panoptic.json``
                does not annotate.
        """
        path = self.instances_json
        if not path.is_file():
            return {}
        sizes = {image.id: image.size for image in self.images}
        categories = range(1, self.space.num_things + 1)
        if self.is_results:
            rows = read_results(path, sizes, categories)
        else:
            content = read_instances(path, categories)
            sizes = image_sizes(content["images"]) | sizes
            rows = content["annotations"]
        found: dict[int, list[Record]] = {}
        for row in rows:
            rle = segmentation_rle(row["segmentation"], sizes[row["image_id"]])
            found.setdefault(row["image_id"], []).append({**row, "segmentation": rle})
        self._check_annotated(found)
        return found

    def _check_annotated(self, found: dict[int, list[Record]]) -> None:
        strange = found.keys() - {image.id for image in self.images}
        if strange:
            raise UserError(
                f"{self.instances_json} has things in image {min(strange)}, which "
                f"{self.panoptic_json.name} does not annotate. {MAKE_LABELS}"
            )

    def photograph(self, image: LabelImage) -> ImageFile:
        """Return where an image's photograph lies; UserError if that is not known, or outside."""
        return image_file(self._root, image.record)

    @property
    def _root(self) -> Path:
        if self.image_root is None:
            raise UserError(f"{self.path} does not say where its photographs lie. {SET_IMAGES}")
        return self.image_root

    def masks(self, image: LabelImage) -> tuple[InstanceMask, ...]:
        """Return the instances of an image with their clusters; ``parent`` is a place in here."""
        rows = self.instances.get(image.id, [])
        place = {row["id"]: i for i, row in enumerate(rows) if "id" in row}
        found = []
        for row in rows:
            mask = InstanceMask.from_result({"score": 1.0, **row})
            parent = mask.parent if self.is_results or mask.parent is None else place[mask.parent]
            found.append(replace(mask, cluster=row["category_id"] - 1, parent=parent))
        return tuple(found)

    def stuff(self, image: LabelImage) -> npt.NDArray[np.uint8] | None:
        """Return the (H, W) uint8 stuff map of an image; None if the folder has none."""
        path = safe_join(self.stuff_pngs, image.png)
        return read_label_png(path) if self.stuff_pngs.is_dir() else None

    def panoptic(self, image: LabelImage) -> PanopticLabel | None:
        """Return the panoptic label of an image, areas and boxes measured; None without one."""
        if image.segments is None:
            return None
        ids = read_panoptic_png(safe_join(self.panoptic_pngs, image.png))
        return measured(ids, image.segments, self.space)

    def segmentation(self, image: LabelImage) -> Segmentation:
        """Return all that is known of an image.

        Raises:
            UserError: if a PNG is missing or garbled, or has another size than the image.
        """
        masks = self.masks(image) if self.instances_json.is_file() else None
        try:
            return Segmentation(
                image.size,
                masks,
                self.stuff(image),
                panoptic=self.panoptic(image),
                space=self.space,
            )
        except ValueError as error:
            raise UserError(f"{image.file_name} of {self.path}: {error}. {MAKE_LABELS}") from error

    def records(self) -> list[Record]:
        """Return the training records, in Detectron2's format, in the order of ``images``.

        Returns:
            Dictionaries with ``file_name``, ``stem`` (relative, without suffix, forward slashes),
            ``image_id``, ``height``, ``width``, ``annotations`` (``bbox`` x, y, width, height in
            pixels with ``bbox_mode`` XYWH_ABS, ``category_id`` 0..K-1, ``segmentation`` RLE,
            ``iscrowd``); of panoptic labels ``pan_seg_file_name`` and ``segments_info``
            (category ids 1..K+S), of those with stuff ``sem_seg_file_name`` (uint8 PNG: 0 any
            thing, 1..S stuff, 255 void). A photograph of known SHA-256 or in a tar shard has its
            ``ImageFile`` as ``photograph``; in a shard ``file_name`` cannot be opened. Images
            without things are kept.

        Raises:
            UserError: if a file is missing or garbled, a file name leaves its root, an id is
                unknown or used twice, an RLE does not fit its image, or there is no image.
        """
        records = []
        for image in self.images:
            record = photograph_record(self._root, image.record, self.panoptic_json)
            if image.segments is not None:
                record["pan_seg_file_name"] = self._file(self.panoptic_pngs, image.png)
                record["segments_info"] = list(image.segments)
            record["annotations"] = [_annotation(row) for row in self.instances.get(image.id, ())]
            if self.stuff_pngs.is_dir():
                record["sem_seg_file_name"] = self._file(self.stuff_pngs, image.png)
            records.append(record)
        if not records:
            raise UserError(f"{self.panoptic_json} annotates no image: there is nothing to work on")
        return records

    def _file(self, folder: Path, name: str) -> str:
        return existing_file(folder, name, self.panoptic_json, MAKE_LABELS)

    def forget(self) -> None:
        """Let go of what was parsed; the next who asks parses it again.

        For a training: loading processes that are forked would copy it as they count references.
        """
        for name in ("images", "instances", "_image_rows"):
            self.__dict__.pop(name, None)

    def digest(self) -> str:
        """Return a digest of the labels, 64 hexadecimal digits.

        It covers all label files by their sums in ``panoptic/manifest.json``, not where the
        folder lies or when it was made; without a manifest, the JSON files alone.
        """
        manifest = self.panoptic_json.parent / "manifest.json"
        if self.panoptic_json.parent == self.path / "panoptic" and manifest.is_file():
            content = read_json_object(manifest)
            described = content.get("files", content)
        else:
            files = (self.panoptic_json, self.instances_json)
            described = {path.name: sha256_file(path) for path in files if path.is_file()}
        return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()


def photograph_record(root: Path, image: Record, source: Path, advice: str = SET_IMAGES) -> Record:
    """Return what Detectron2 asks of a COCO image.

    Args:
        root: Folder of the photographs.
        image: Its ``id``, ``file_name``, ``height``, ``width``, as for ``image_file``.
        source: The file that names it, for the message.
        advice: Last sentence of the message: what to do.

    Raises:
        UserError: if the name leaves ``root`` or there is no such photograph.
    """
    place = image_file(root, image)
    if not place.path.is_file():
        raise UserError(f"{source} names {place}, which does not exist. {advice}")
    return {
        "file_name": str(place),
        **({"photograph": place} if place.name or place.sha256 else {}),
        "stem": stem_of(image["file_name"]),
        "image_id": image["id"],
        "height": image["height"],
        "width": image["width"],
    }


def measured(
    ids: npt.NDArray[np.int32], segments: Iterable[Record], space: LabelSpace
) -> PanopticLabel:
    """Return a panoptic label of an id map and its ``segments_info``, areas and boxes counted."""
    infos = []
    for segment in segments:
        category = segment["category_id"]
        thing = space.is_thing(category)
        number = category - 1 if thing else category - space.num_things
        infos.append({**segment, "isthing": thing, "category_id": number})
    return panoptic_label(ids, infos, space)


def existing_file(root: Path, name: str, source: Path, advice: str) -> str:
    """Return ``root / name``, a file inside ``root``.

    Args:
        root: Trusted folder.
        name: Untrusted relative name.
        source: The file that names it, for the message.
        advice: Last sentence of the message: what to do.

    Raises:
        UserError: if ``name`` leaves ``root`` or there is no such file.
    """
    path = safe_join(root, name)
    if not path.is_file():
        raise UserError(f"{source} names {path}, which does not exist. {advice}")
    return str(path)


def _annotation(row: Mapping[str, Any]) -> Record:
    return {
        "bbox": [float(v) for v in row["bbox"]],
        "bbox_mode": XYWH_ABS,
        "category_id": row["category_id"] - 1,
        "segmentation": row["segmentation"],
        "iscrowd": int(row.get("iscrowd", 0)),
    }


def _json_files(path: Path) -> list[Path]:
    """Return all files whose change makes a folder another one."""
    names = (LABELSPACE_JSON, INSTANCES_JSON, PANOPTIC_JSON, "manifest.json")
    files = [folder / name for folder in (path, path / "panoptic") for name in names]
    return [path, path / "images.json", *files, *_published_files(path)]


def _stamp(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError:
        return (0, 0)
    return (status.st_mtime_ns, status.st_size)


@lru_cache(OPENED)
def _opened(path: Path, images: str, stamp: tuple[tuple[int, int], ...]) -> LabelFolder:
    if not path.exists():
        raise UserError(
            f"label folder {path} does not exist; make it with u2seg label "
            f"--output-dir {path}, or set U2SEG.DATA.LABELS"
        )
    if path.suffix == ".json" or (path / PANOPTIC_FOLDER).is_dir():
        return _open_published(path, images)
    if (path / LABELSPACE_JSON).is_file() and not (path / "images.json").is_file():
        return _open_results(path, images)
    return _open_labels(path, images)


def _open_labels(root: Path, images: str) -> LabelFolder:
    folder = root / "panoptic"
    if not (folder / "manifest.json").is_file():
        raise UserError(
            f"{root} holds no finished labels (panoptic/manifest.json is missing): "
            f"finish u2seg label --output-dir {root} --resume first"
        )
    space = _check_unchanged(folder)
    info = read_json_object(root / "images.json", "info", "images")["info"]
    recorded = info.get("image_root") if isinstance(info, dict) else None
    if not isinstance(recorded, str):
        raise UserError(
            f"{root / 'images.json'} does not say where the photographs lie. {MAKE_LABELS}"
        )
    place = _image_root(root, images or recorded)
    searched = bool(images) or info.get("searched", True) is not False
    return _in_folder(root, space, place, folder, searched)


def _open_results(root: Path, images: str) -> LabelFolder:
    space = LabelSpace.from_json(read_json_object(root / LABELSPACE_JSON))
    return _in_folder(root, space, _image_root(root, images) if images else None, root)


def _image_root(root: Path, images: str) -> Path:
    if not Path(images).is_dir():
        raise UserError(
            f"the photographs of {root} are not in {images}; set U2SEG.DATA.IMAGES to the folder "
            "they lie in now"
        )
    return Path(images)


def _in_folder(
    root: Path, space: LabelSpace, images: Path | None, folder: Path, searched: bool = True
) -> LabelFolder:
    return LabelFolder(
        root,
        space,
        images,
        searched,
        folder / PANOPTIC_JSON,
        folder / INSTANCES_JSON,
        folder / PANOPTIC_PNGS,
        folder / STUFF_PNGS,
    )


def _check_unchanged(folder: Path) -> LabelSpace:
    """Compare the JSON files of a finished folder with what its manifest says of them."""
    manifest = folder / "manifest.json"
    files = read_json_object(manifest).get("files", {})
    if not isinstance(files, dict):
        raise UserError(f"{manifest} is garbled: 'files' is {type(files).__name__}. {MAKE_LABELS}")
    for name in (LABELSPACE_JSON, INSTANCES_JSON, PANOPTIC_JSON):
        path = folder / name
        if path.is_file():
            if name in files and sha256_file(path) != files[name]:
                raise UserError(
                    f"{path} was changed after the labels were finished: {manifest} knows it with "
                    f"another sha256. Delete {manifest} and make the labels again with "
                    "u2seg label --resume, or put the original file back"
                )
        elif name in files or name == LABELSPACE_JSON:
            raise UserError(f"{path} is missing. {MAKE_LABELS}")
    space = LabelSpace.from_json(read_json_object(folder / LABELSPACE_JSON))
    needed = {INSTANCES_JSON: space.num_things, PANOPTIC_JSON: space.num_things * space.num_stuff}
    for name, count in needed.items():
        if count and not (folder / name).is_file():
            raise UserError(f"{folder / name} is missing. {MAKE_LABELS}")
    return space


# The layout of U2Seg (commit 8e9c709, datasets/prepare_ours), below u2seg_annotations/:
# ins_annotations/cocotrain_{K}.json, panoptic_annotations/cocotrain_{K}.json and the PNGs in
# panoptic_annotations/cocotrain_{K}/ and panoptic_annotations/panoptic_stuff_cocotrain_{K}/.
PANOPTIC_FOLDER = "panoptic_annotations"
INSTANCES_FOLDER = "ins_annotations"


def _published_files(path: Path) -> list[Path]:
    if path.suffix == ".json":
        return [path, path.parents[1] / INSTANCES_FOLDER / path.name]
    found = sorted((path / PANOPTIC_FOLDER).glob("*.json"))
    return [f for json_file in found for f in (json_file, path / INSTANCES_FOLDER / json_file.name)]


def _open_published(path: Path, images: str) -> LabelFolder:
    source = path if path.suffix == ".json" else _only_training_set(path)
    if not images:
        raise UserError(
            f"{source} does not say where its photographs lie (of COCO: datasets/coco/train2017). "
            f"{SET_IMAGES}"
        )
    base, name = source.parent, source.stem
    instances = base.parent / INSTANCES_FOLDER / source.name
    stuff = base / f"panoptic_stuff_{name}"
    for file in (source, instances, base / name, stuff):
        if not file.exists():
            raise UserError(
                f"{file} does not exist: expected {PANOPTIC_FOLDER}/{name}.json, its PNGs "
                f"in {base / name} and {stuff}, and {INSTANCES_FOLDER}/{name}.json"
            )
    space = _published_space(source)
    root = _image_root(path, images)
    return LabelFolder(path, space, root, True, source, instances, base / name, stuff)


def _only_training_set(path: Path) -> Path:
    found = sorted((path / PANOPTIC_FOLDER).glob("*train*.json"))
    if len(found) != 1:
        names = ", ".join(file.name for file in found) or "none"
        raise UserError(
            f"{path / PANOPTIC_FOLDER} holds {len(found)} training sets ({names}): give the path "
            "of one of its JSON files"
        )
    return found[0]


def _published_space(source: Path) -> LabelSpace:
    """Return the label space of the categories: things 1..K, then stuff K+1..K+S."""
    rows = sorted(read_panoptic(source)["categories"], key=lambda row: row["id"])
    things = [row["name"] for row in rows if row["isthing"]]
    stuff = [row["name"] for row in rows if not row["isthing"]]
    order = [bool(row["isthing"]) for row in rows]
    if [row["id"] for row in rows] != list(range(1, len(rows) + 1)) or order != sorted(order)[::-1]:
        raise UserError(
            f"the categories of {source} must be things 1..K, then stuff K+1..K+S without gaps"
        )
    return LabelSpace(len(things), len(stuff), tuple(things), tuple(stuff))
