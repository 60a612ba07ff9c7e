"""Write predictions of a data set as a folder of standard formats.

``panoptic.json`` + ``panoptic/<stem>.png`` (COCO panoptic), ``instances.json`` (COCO results),
``stuff/<stem>.png`` (uint8: 0 any thing, 1..S stuff), ``labelspace.json``. PNGs appear as images
come in; ``panoptic.json`` last, so a folder that has it is complete.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from u2seg.errors import StageError, UserError
from u2seg.inference.segmenter import inference_mode
from u2seg.io.atomic import remove_file
from u2seg.io.jsonfile import read_json
from u2seg.io.ownership import check_no_labels
from u2seg.io.paths import distinct_stems, safe_join, stem_of
from u2seg.io.png import write_label_png, write_panoptic_png
from u2seg.labels.write import write_dataset
from u2seg.structures.labels import ANY_THING, VOID_STUFF, LabelSpace
from u2seg.structures.segmentation import Segmentation, panoptic_of

logger = logging.getLogger(__name__)
_JSON_FILES = ("panoptic.json", "instances.json", "metrics.json", "labelspace.json")
_PNG_FOLDERS = ("panoptic", "stuff")
UNFINISHED = ".unfinished"
"""Mark of a result folder whose ``panoptic.json`` is not written yet."""
PNG = "png_stem"
"""Key of a record: name of the files of its prediction, without suffix."""
MADE_BY = "panoptic predictions of u2seg"
"""What ``panoptic.json`` of a result folder says of itself."""


@dataclass
class WrittenParts:
    """JSON records of the images one process wrote."""

    images: list[dict[str, Any]] = field(default_factory=list)
    annotations: list[dict[str, Any]] = field(default_factory=list)
    results: list[dict[str, Any]] = field(default_factory=list)


class PredictionWriter:
    """Collects predictions of a model into one result folder.

    Args:
        folder: Result folder, see ``check_own``; its JSON files of an earlier run are removed at
            once, so that an interrupted run is not taken for a complete one.
        space: The model's label space.

    Raises:
        UserError: if the folder cannot be written.
    """

    def __init__(self, folder: Path | str, space: LabelSpace) -> None:
        self.folder = Path(folder)
        self.space = space
        self.parts = WrittenParts()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / UNFINISHED).touch()
            for name in _JSON_FILES:
                with contextlib.suppress(FileNotFoundError):
                    (self.folder / name).unlink()
        except OSError as error:
            raise UserError(
                f"cannot write {self.folder}: {error.strerror or error}. Choose another folder."
            ) from error

    def add(
        self, image_id: int, file_name: str, segmentation: Segmentation, stem: str = ""
    ) -> None:
        """Write the maps of one image and keep its JSON records."""
        label = panoptic_of(segmentation, self.space)
        stuff = segmentation.stuff
        if stuff is None:
            stuff = np.where(label.ids > 0, ANY_THING, VOID_STUFF).astype(np.uint8)
        (height, width), png = segmentation.size, f"{stem or stem_of(file_name)}.png"
        write_panoptic_png(safe_join(self.folder / "panoptic", png), label.ids)
        write_label_png(safe_join(self.folder / "stuff", png), stuff)
        self.parts.images.append(
            {"id": image_id, "file_name": file_name, "height": int(height), "width": int(width)}
        )
        segments = [segment.to_json() for segment in label.segments]
        self.parts.annotations.append(
            {"image_id": image_id, "file_name": png, "segments_info": segments}
        )
        self.parts.results.extend(
            mask.to_result(image_id, self.space.thing_category(mask.cluster or 0))
            for mask in segmentation.instances or ()
        )

    def finish(self, parts: Iterable[WrittenParts] | None = None) -> None:
        """Write the JSON files."""
        gathered = [self.parts] if parts is None else list(parts)
        images = sorted((i for p in gathered for i in p.images), key=lambda i: i["id"])
        maps = sorted((a for p in gathered for a in p.annotations), key=lambda a: a["image_id"])
        results = sorted((r for p in gathered for r in p.results), key=lambda r: r["image_id"])
        shared = {"info": {"description": MADE_BY}, "images": images}
        write_dataset(self.folder, self.space, shared, maps, results, results=True)
        remove_file(self.folder / UNFINISHED)
        self._tell_stale({label["file_name"] for label in maps})

    def _tell_stale(self, written: set[str]) -> None:
        """Warn of pictures that an earlier run left."""
        stale = [
            f"{folder}/{path.relative_to(self.folder / folder).as_posix()}"
            for folder in (*_PNG_FOLDERS, "pictures")
            for path in (self.folder / folder).rglob("*.png")
            if path.relative_to(self.folder / folder).as_posix() not in written
        ]
        if stale:
            logger.warning(
                "%s holds %d pictures of an earlier run, which are not of these photographs, such "
                "as %s", self.folder, len(stale), min(stale),
            )  # fmt: skip


def check_own(folder: Path) -> None:
    """Raise UserError if a folder holds files that results would replace, but others made them.

    Results are known by what ``panoptic.json`` says of itself, or by the mark of an unfinished run.
    """
    check_no_labels(folder)
    found = [name for name in (*_JSON_FILES, *_PNG_FOLDERS) if (folder / name).exists()]
    if not found or (folder / UNFINISHED).is_file():
        return
    path = folder / "panoptic.json"
    content = read_json(path) if path.is_file() else {}
    info = content.get("info") if isinstance(content, dict) else None
    if not isinstance(info, dict) or info.get("description") != MADE_BY:
        raise UserError(
            f"{folder} holds files that no prediction made ({', '.join(found)}); they are not "
            "touched: choose another output folder, or move them away"
        )


def predict_records(
    cfg: Any, model: Any, records: Sequence[dict[str, Any]], writer: PredictionWriter
) -> None:
    """Predict every record of a data set and write the result folder.

    In a distributed run each process predicts its share and the first writes the JSON files.
    """
    from detectron2.data import build_detection_test_loader
    from detectron2.utils import comm

    from u2seg.data.mapper import PanopticMapper, without_worker_traceback

    stems = distinct_stems(_file_name(record) for record in records)
    loader = build_detection_test_loader(
        [{**record, PNG: stem} for record, stem in zip(records, stems, strict=True)],
        mapper=PanopticMapper.from_cfg(cfg, is_train=False),
        num_workers=cfg.DATALOADER.NUM_WORKERS,
    )
    try:
        _predict_all(model, loader, writer)
    except StageError as error:
        raise without_worker_traceback(error) from error
    parts = comm.gather(writer.parts)
    if comm.is_main_process():
        writer.finish(parts)
    comm.synchronize()


def _predict_all(model: Any, loader: Any, writer: PredictionWriter) -> None:
    from detectron2.utils import comm

    from u2seg.io.progress import Bar

    quiet = not comm.is_main_process()
    with inference_mode(model):
        for samples in Bar(loader, desc="predict", unit="image", disable=quiet):
            found = model.predict(samples)
            for sample, segmentation in zip(samples, found, strict=True):
                writer.add(sample["image_id"], _file_name(sample), segmentation, sample[PNG])


def _file_name(record: dict[str, Any]) -> str:
    return str(record["stem"] + PurePath(record["file_name"]).suffix)
