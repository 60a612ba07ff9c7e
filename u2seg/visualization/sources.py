"""Read what a labelling run, a training and an evaluation left, for the report.

A report must come out of half a run as well, so nothing here fails: what is missing or garbled
becomes a sentence in ``Notes``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml

from u2seg.errors import UserError
from u2seg.io.jsonfile import read_json, read_json_object
from u2seg.io.paths import label_stem
from u2seg.io.yamlfile import parse_yaml
from u2seg.labels import LabelFolder, LabelImage
from u2seg.structures.labels import LabelSpace

T = TypeVar("T")
_TROUBLE = (UserError, KeyError, TypeError, ValueError, AttributeError, OSError, IndexError)


@dataclass(frozen=True)
class Labels:
    """A label or result folder that was opened: its names, its images by file name."""

    space: LabelSpace
    by_file: dict[str, LabelImage] = field(default_factory=dict)
    folder: LabelFolder | None = None


@dataclass
class LabelRun:
    """What labelling left in one folder; empty members for missing files.

    ``masks`` is None before the mask stage ran; ``found`` counts the photographs there are, used,
    skipped, or left out by a dry run; ``passed_over`` by ending the files not taken for such.
    """

    root: Path
    image_root: Path | None = None
    images: list[LabelImage] = field(default_factory=list)
    found: int = 0
    passed_over: dict[str, int] = field(default_factory=dict)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    masks: dict[int, list[dict[str, Any]]] | None = None
    instances: list[dict[str, Any]] = field(default_factory=list)
    labels: Labels | None = None
    losses: dict[str, list[float]] = field(default_factory=dict)
    quality: dict[str, Any] = field(default_factory=dict)
    timings: dict[str, float] = field(default_factory=dict)
    manifests: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def space(self) -> LabelSpace | None:
        """Names and colours, once there are panoptic labels."""
        return self.labels.space if self.labels else None


@dataclass
class TrainRun:
    """What a training left: curves by name as (iterations, values), its settings as YAML.

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
    """What evaluation left: predicted labels, and in ``results`` its figures."""

    labels: Labels | None
    results: Path
    metrics: dict[str, Any] = field(default_factory=dict)


class Notes(list[str]):
    """Sentences about what could not be read."""

    def attempt(self, what: str, default: T, read: Callable[..., T], *args: Any) -> T:
        """Return ``read(*args)``, or ``default`` and a note if a file is missing or garbled."""
        try:
            return read(*args)
        except _TROUBLE as error:
            known = isinstance(error, UserError | OSError)
            reason = error if known else f"unexpected content ({type(error).__name__}: {error})"
            self.append(f"{what} left out: {reason}")
            return default


def at(tree: Any, path: str) -> Any:
    """Return what lies under a dotted path of nested mappings, None where there is nothing.

    Examples:
        >>> at({"panoptic": {"all": {"PQ": 3.0}}}, "panoptic.all.PQ"), at({"a": 1}, "a.b")
        (3.0, None)
    """
    for key in path.split("."):
        tree = tree.get(key) if isinstance(tree, Mapping) else None
    return tree


def read_label_run(root: Path, notes: Notes) -> LabelRun:
    """Return what can be read of a labelling run; the rest goes into ``notes``."""
    run, empty = LabelRun(root), dict[str, Any]()
    notes.attempt("the list of images", None, _images, run)
    if (root / "skipped.jsonl").exists():
        run.skipped = notes.attempt("skipped images", [], _skipped, root / "skipped.jsonl")
    if (root / "masks" / "manifest.json").exists():
        run.masks = notes.attempt("masks", None, _masks, root)
    if (root / "panoptic" / "manifest.json").exists():
        run.labels = read_labels(root, notes)
    if run.labels and run.labels.folder:
        run.instances = notes.attempt("clusters", [], _instances, run.labels.folder)
    losses, quality = root / "semantics" / "losses.json", root / "clusters" / "quality.json"
    if losses.exists():
        run.losses = notes.attempt("losses of the stuff", {}, _losses, losses)
    if quality.exists():
        run.quality = notes.attempt("quality of the clusters", empty, read_json_object, quality)
    run.timings = read_timings(root, notes)
    for path in sorted(root.glob("*/manifest.json")):
        content = notes.attempt(str(path), empty, read_json_object, path, "stage")
        if content:
            run.manifests[path.parent.name] = content
    return run


def read_labels(root: Path, notes: Notes) -> Labels | None:
    """Return a label or result folder; what cannot be read goes into ``notes``."""
    # The photographs are looked for by the report itself, so that labels are shown without them.
    folder = notes.attempt(f"labels in {root.name}", None, LabelFolder.open, root, root)
    if folder is None:
        return None
    none: dict[str, LabelImage] = {}
    by_file = notes.attempt(f"images of the labels in {root.name}", none, _by_file, folder)
    return Labels(folder.space, by_file, folder)


def read_train_run(root: Path, notes: Notes) -> TrainRun:
    """Return the curves and settings of a training; what is missing goes into ``notes``."""
    run = TrainRun(timings=read_timings(root, notes))
    run.curves = notes.attempt("training curves", {}, _curves, root / "metrics.json")
    if (root / "config.yaml").exists():
        run.config = notes.attempt("training settings", "", _text, root / "config.yaml")
        run.eval_images = notes.attempt("evaluation images", None, _eval_images, run.config)
    return run


def read_predictions(root: Path, notes: Notes, results: Path | None = None) -> Predictions:
    """Return predictions and metrics; what is missing goes into ``notes``."""
    found = Predictions(read_labels(root, notes), results or root)
    found.metrics = notes.attempt("metrics", {}, read_json_object, found.results / "metrics.json")
    return found


def read_timings(root: Path, notes: Notes) -> dict[str, float]:
    """Return ``timings.json`` of a folder as stage -> seconds; empty if there is none."""
    path, empty = root / "timings.json", dict[str, Any]()
    content = notes.attempt("timings", empty, read_json_object, path) if path.exists() else {}
    return {str(k): float(v) for k, v in content.items() if isinstance(v, int | float)}


def _text(path: Path) -> str:
    return path.read_text("utf-8", "replace")[:200_000]


def _eval_images(config: str) -> Path | None:
    try:
        data = parse_yaml(config)["U2SEG"]["DATA"]
    except (yaml.YAMLError, KeyError, TypeError):
        return None  # settings of a plain Detectron2 training
    root, folder = data.get("EVAL_ROOT"), data.get("EVAL_IMAGES")
    return Path(root) / str(folder or "") if root else None


def _by_file(folder: LabelFolder) -> dict[str, LabelImage]:
    return {image.file_name: image for image in folder.images}


def _instances(folder: LabelFolder) -> list[dict[str, Any]]:
    return [row for rows in folder.instances.values() for row in rows]


def _images(run: LabelRun) -> None:
    content = read_json_object(run.root / "images.json", "images")
    info = content.get("info", {})
    run.image_root = Path(str(info["image_root"])) if info.get("image_root") else None
    run.found = int(info.get("found", 0))
    run.passed_over = {str(k): int(v) for k, v in info.get("passed_over", {}).items()}
    for row in content["images"]:
        size = int(row["height"]), int(row["width"])
        name = f"{label_stem(row)}.png"
        run.images.append(LabelImage(int(row["id"]), str(row["file_name"]), size, name, None, row))


def _skipped(path: Path) -> list[tuple[str, str]]:
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


def _losses(path: Path) -> dict[str, list[float]]:
    content = read_json_object(path)
    return {str(k): [float(x) for x in v] for k, v in content.items() if isinstance(v, list)}


def _curves(path: Path) -> dict[str, tuple[list[float], list[float]]]:
    """Read Detectron2's metrics file: JSON lines; a later line of an iteration wins."""
    by_iteration: dict[float, dict[str, Any]] = {}
    if not path.is_file():
        raise UserError(f"{path} does not exist")
    for line in path.read_text("utf-8", "replace").splitlines():
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
