"""Write predictions as a folder of standard formats.

``panoptic.json`` + ``panoptic/<stem>.png`` (COCO panoptic), ``instances.json`` (COCO results),
``stuff/<stem>.png`` (uint8: 0 any thing, 1..S stuff), ``labelspace.json``. PNGs appear as images
come in; ``panoptic.json`` last, so a folder that has it is complete.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from u2seg.engine.prediction import Prediction
from u2seg.errors import UserError
from u2seg.io.atomic import write_json
from u2seg.io.paths import safe_join, stem_of
from u2seg.io.png import write_label_png, write_panoptic_png
from u2seg.structures.labels import LabelSpace

_JSON_FILES = ("panoptic.json", "instances.json", "metrics.json", "labelspace.json")


@dataclass
class WrittenParts:
    """JSON records of the images one process wrote."""

    images: list[dict[str, Any]] = field(default_factory=list)
    annotations: list[dict[str, Any]] = field(default_factory=list)
    results: list[dict[str, Any]] = field(default_factory=list)


class PredictionWriter:
    """Collects predictions of a model into one result folder.

    Args:
        folder: Result folder; its JSON files of an earlier run are removed at once, so that an
            interrupted run is not taken for a complete one.
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
            for name in _JSON_FILES:
                with contextlib.suppress(FileNotFoundError):
                    (self.folder / name).unlink()
        except OSError as error:
            raise UserError(
                f"cannot write {self.folder}: {error.strerror or error}. Choose another folder."
            ) from error

    def add(self, image_id: int, file_name: str, prediction: Prediction) -> None:
        """Write the maps of one image and keep its JSON records.

        Args:
            image_id: Its id in the data set.
            file_name: Relative name with forward slashes; its stem names the PNGs.
            prediction: What the model said.

        Raises:
            UserError: if the name leaves the folder or a file cannot be written.
        """
        height, width = prediction.panoptic.ids.shape
        png = f"{stem_of(file_name)}.png"
        write_panoptic_png(safe_join(self.folder / "panoptic", png), prediction.panoptic.ids)
        write_label_png(safe_join(self.folder / "stuff", png), prediction.stuff)
        self.parts.images.append(
            {"id": image_id, "file_name": file_name, "height": int(height), "width": int(width)}
        )
        self.parts.annotations.append(
            {
                "image_id": image_id,
                "file_name": png,
                "segments_info": [s.to_json() for s in prediction.panoptic.segments],
            }
        )
        self.parts.results.extend(
            mask.to_result(image_id, category)
            for mask, category in zip(prediction.instances, prediction.categories, strict=True)
        )

    def finish(self, parts: Iterable[WrittenParts] | None = None) -> None:
        """Write the JSON files.

        Args:
            parts: Records of all processes; None = those of this writer alone.

        Raises:
            UserError: if a file cannot be written.
        """
        gathered = [self.parts] if parts is None else list(parts)
        images = sorted((i for p in gathered for i in p.images), key=lambda i: i["id"])
        maps = sorted((a for p in gathered for a in p.annotations), key=lambda a: a["image_id"])
        results = sorted((r for p in gathered for r in p.results), key=lambda r: r["image_id"])
        write_json(self.folder / "labelspace.json", self.space.to_json())
        write_json(self.folder / "instances.json", results)
        content = {
            "info": {"description": "panoptic predictions of u2seg"},
            "images": images,
            "annotations": maps,
            "categories": self.space.categories(),
        }
        write_json(self.folder / "panoptic.json", content)
