"""Read what a labelling run, a training and an evaluation left, for the report.

A report must come out of half a run as well, so nothing here fails: what is missing or garbled
becomes a sentence in ``Notes``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml

from u2seg.errors import UserError
from u2seg.io.imagefile import SHARD_KEYS
from u2seg.io.jsonfile import read_json, read_json_object
from u2seg.io.names import label_stem
from u2seg.io.yamlfile import parse_yaml
from u2seg.structures.labels import LabelSpace

T = TypeVar("T")
_TROUBLE = (UserError, KeyError, TypeError, ValueError, AttributeError, OSError, IndexError)


@dataclass(frozen=True)
class ImageRecord:
    """One photograph.

    Args:
        id: Of ``images.json``.
        file_name: Relative.
        height: Pixels.
        width: Pixels.
        shard: ``shard``, ``offset`` and ``size`` if it lies in a tar shard.
        stem: Name of its label files, without suffix.
    """

    id: int
    file_name: str
    height: int
    width: int
    shard: dict[str, Any] = field(default_factory=dict)
    stem: str = ""


@dataclass(frozen=True)
class PanopticRecord:
    """One image of a COCO panoptic file: name of its PNG and its ``segments_info``."""

    png: str
    segments: list[dict[str, Any]]


@dataclass
class PanopticFolder:
    """A folder with ``panoptic.json``, ``panoptic/*.png`` and ``labelspace.json``.

    Args:
        root: The folder.
        space: None if ``labelspace.json`` is missing.
        by_file: File name of the photograph -> record.
    """

    root: Path
    space: LabelSpace | None = None
    by_file: dict[str, PanopticRecord] = field(default_factory=dict)


@dataclass
class LabelRun:
    """What labelling left in one folder; empty members for missing files.

    ``masks`` is None before the mask stage ran; ``found`` counts the photographs there are, used,
    skipped, or left out by a dry run; ``passed_over`` by ending the files not taken for such.
    """

    root: Path
    image_root: Path | None = None
    images: list[ImageRecord] = field(default_factory=list)
    found: int = 0
    passed_over: dict[str, int] = field(default_factory=dict)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    masks: dict[int, list[dict[str, Any]]] | None = None
    instances: list[dict[str, Any]] = field(default_factory=list)
    panoptic: PanopticFolder | None = None
    losses: dict[str, list[float]] = field(default_factory=dict)
    quality: dict[str, Any] = field(default_factory=dict)
    timings: dict[str, float] = field(default_factory=dict)
    manifests: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass
class TrainRun:
    """What ``train_net.py`` left: curves by name as (iterations, values).

    ``eval_images`` is the folder of the evaluation photographs, if the settings name one.
    """

    curves: dict[str, tuple[list[float], list[float]]] = field(default_factory=dict)
    timings: dict[str, float] = field(default_factory=dict)
    config: str = ""
    eval_images: Path | None = None

    @property
    def iterations(self) -> int:
        """How many the training went; 0 if its curves do not say."""
        total = self.curves.get("total_loss")
        return round(total[0][-1]) + 1 if total and total[0] else 0


@dataclass
class Predictions:
    """What evaluation left: predicted panoptic labels, and in ``results`` its figures."""

    panoptic: PanopticFolder
    results: Path
    metrics: dict[str, Any] = field(default_factory=dict)


class Notes(list[str]):
    """Sentences about what could not be read."""

    def attempt(self, what: str, default: T, read: Callable[..., T], *args: Any) -> T:
        """Return ``read(*args)``, or ``default`` and a note if a file is missing or garbled."""
        try:
            return read(*args)
        except _TROUBLE as error:
            reason = (
                str(error)
                if isinstance(error, UserError | OSError)
                else f"unexpected content ({type(error).__name__}: {error})"
            )
            self.append(f"{what} left out: {reason}")
            return default


def read_label_run(root: Path, notes: Notes) -> LabelRun:
    """Return what can be read of a labelling run; the rest goes into ``notes``."""
    run = LabelRun(root)
    notes.attempt("the list of images", None, _images, run)
    run.skipped = notes.attempt("skipped images", [], _skipped, root)
    if (root / "masks" / "manifest.json").exists():
        run.masks = notes.attempt("masks", None, _masks, root)
    if (root / "panoptic" / "manifest.json").exists():
        run.instances = notes.attempt("clusters", [], _instances, root)
        run.panoptic = read_panoptic_folder(root / "panoptic", notes)
    losses = root / "semantics" / "losses.json"
    if losses.exists():
        run.losses = notes.attempt("STEGO losses", {}, _losses, losses)
    quality = root / "clusters" / "quality.json"
    if quality.exists():
        run.quality = notes.attempt("quality of the clusters", {}, read_json_object, quality)
    run.timings = read_timings(root, notes)
    empty: dict[str, Any] = {}
    for path in sorted(root.glob("*/manifest.json")):
        content = notes.attempt(str(path), empty, read_json_object, path, "stage")
        if content:
            run.manifests[path.parent.name] = content
    return run


def read_panoptic_folder(root: Path, notes: Notes) -> PanopticFolder:
    """Return a folder of panoptic labels or predictions; what is missing goes into ``notes``."""
    folder = PanopticFolder(root)
    folder.space = notes.attempt(f"names and colours of {root.name}", None, _space, root)
    folder.by_file = notes.attempt(f"panoptic labels of {root.name}", {}, _panoptic, root)
    return folder


def read_train_run(root: Path, notes: Notes) -> TrainRun:
    """Return the curves and settings of a training; what is missing goes into ``notes``."""
    run = TrainRun()
    run.curves = notes.attempt("training curves", {}, _curves, root / "metrics.json")
    run.timings = read_timings(root, notes)
    config = root / "config.yaml"
    if config.exists():
        run.config = notes.attempt("training settings", "", _config, config)
        run.eval_images = notes.attempt("evaluation images", None, _eval_images, run.config)
    return run


def read_predictions(root: Path, notes: Notes, results: Path | None = None) -> Predictions:
    """Return predictions and metrics; what is missing goes into ``notes``."""
    results = results or root
    found = Predictions(read_panoptic_folder(root, notes), results)
    found.metrics = notes.attempt("metrics", {}, read_json_object, results / "metrics.json")
    return found


def read_timings(root: Path, notes: Notes) -> dict[str, float]:
    """Return ``timings.json`` of a folder as stage -> seconds; empty if there is none."""
    path = root / "timings.json"
    return notes.attempt("timings", {}, _timings, path) if path.exists() else {}


def _timings(path: Path) -> dict[str, float]:
    content = read_json_object(path)
    return {str(k): float(v) for k, v in content.items() if isinstance(v, int | float)}


def _config(path: Path) -> str:
    return path.read_text("utf-8", "replace")[:200_000]


def _eval_images(config: str) -> Path | None:
    try:
        data = parse_yaml(config)["U2SEG"]["DATA"]
    except (yaml.YAMLError, KeyError, TypeError):
        return None  # settings of a plain Detectron2 training
    root, folder = data.get("EVAL_ROOT"), data.get("EVAL_IMAGES")
    return Path(root) / str(folder or "") if root else None


def _space(root: Path) -> LabelSpace | None:
    return LabelSpace.from_json(read_json_object(root / "labelspace.json"))


def _instances(root: Path) -> list[dict[str, Any]]:
    path = root / "panoptic" / "instances.json"
    rows = read_json_object(path, "annotations")["annotations"] if path.is_file() else []
    return [
        {**row, "image_id": int(row["image_id"]), "category_id": int(row["category_id"])}
        for row in rows
    ]


def _images(run: LabelRun) -> None:
    content = read_json_object(run.root / "images.json", "images")
    info = content.get("info", {})
    root = info.get("image_root")
    run.image_root = Path(str(root)) if root else None
    run.found = int(info.get("found", 0))
    run.passed_over = {str(k): int(v) for k, v in info.get("passed_over", {}).items()}
    run.images = [
        ImageRecord(
            int(r["id"]),
            str(r["file_name"]),
            int(r["height"]),
            int(r["width"]),
            {key: r[key] for key in SHARD_KEYS if key in r},
            label_stem(r),
        )
        for r in content["images"]
    ]


def _skipped(root: Path) -> list[tuple[str, str]]:
    path = root / "skipped.jsonl"
    if not path.exists():
        return []
    text = path.read_bytes().decode("utf-8", "surrogateescape")
    rows = [json.loads(line) for line in text.splitlines() if line.strip()]
    return [(str(row["file_name"]), str(row["reason"])) for row in rows]


def _masks(root: Path) -> dict[int, list[dict[str, Any]]]:
    parts = sorted((root / "masks").glob("part-*.json"))
    if not parts:
        raise UserError(f"{root / 'masks'} holds no part-*.json")
    found: dict[int, list[dict[str, Any]]] = {}
    for part in parts:
        for record in read_json(part):
            found.setdefault(int(record["image_id"]), []).append(record)
    return found


def _panoptic(root: Path) -> dict[str, PanopticRecord]:
    content = read_json_object(root / "panoptic.json", "images", "annotations")
    names = {int(image["id"]): str(image["file_name"]) for image in content["images"]}
    return {
        names[int(row["image_id"])]: PanopticRecord(
            str(row["file_name"]), list(row["segments_info"])
        )
        for row in content["annotations"]
    }


def _losses(path: Path) -> dict[str, list[float]]:
    content = read_json_object(path)
    return {str(k): [float(x) for x in v] for k, v in content.items() if isinstance(v, list)}


def _curves(path: Path) -> dict[str, tuple[list[float], list[float]]]:
    """Read Detectron2's metrics file: JSON lines; a later line of an iteration wins."""
    by_iteration: dict[float, dict[str, Any]] = {}
    try:
        lines = path.read_text("utf-8", "replace").splitlines()
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist") from error
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:
            continue  # the last line of an interrupted training
        if isinstance(row, dict) and isinstance(row.get("iteration"), int | float):
            by_iteration.setdefault(float(row["iteration"]), {}).update(row)
    curves: dict[str, tuple[list[float], list[float]]] = {}
    for iteration in sorted(by_iteration):
        for key, value in by_iteration[iteration].items():
            wanted = key.startswith("loss") or key in ("total_loss", "lr", "images_per_second")
            if wanted and isinstance(value, int | float) and not isinstance(value, bool):
                xs, ys = curves.setdefault(key, ([], []))
                xs.append(iteration)
                ys.append(float(value) if math.isfinite(value) else math.nan)
    if not curves:
        raise UserError(f"{path} holds no line with an iteration and a loss")
    return curves
