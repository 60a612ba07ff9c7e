"""The evaluation data of ``U2SEG.DATA``: its truth, and its photographs as a test set."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from u2seg.config.schema import Settings
from u2seg.errors import UserError
from u2seg.evaluation.truth.base import Truth, check_shape
from u2seg.evaluation.truth.formats import find_format, scored_truth
from u2seg.io.images import BadImageError, declared_size, size_problem
from u2seg.io.paths import stem_of
from u2seg.io.png import png_size
from u2seg.io.progress import Bar
from u2seg.io.sources import find_files

COCO_PANOPTIC = "coco-panoptic"


def truth_paths(settings: Settings) -> list[Path]:
    """Return the files and folders of the truth, in the order its format takes them."""
    data = settings.data
    keys = find_format(data.eval_format).keys
    names = [getattr(data.eval_tree, key) for key in keys]
    return [Path(data.eval_root) / name for name in names if name]


def truth_of(settings: Settings) -> Truth:
    """Return the truth of the evaluation data, through the class set and crop of ``U2SEG.EVAL``."""
    return scored_truth(settings.data.eval_format, truth_paths(settings), settings.eval)


def register_eval(name: str, settings: Settings) -> None:
    """Register the evaluation data as a Detectron2 test set, after a look at its truth."""
    from detectron2.data import DatasetCatalog

    from u2seg.data.catalog import register_coco_panoptic_eval, register_records

    data, tree = settings.data, settings.data.eval_tree
    if data.eval_format == COCO_PANOPTIC:
        register_coco_panoptic_eval(name, data.eval_root, tree.images, tree.json, tree.pngs)
    truth = truth_of(settings)
    if data.eval_format == COCO_PANOPTIC:
        check_files(DatasetCatalog.get(name))
        return
    folder = Path(data.eval_root) / tree.images
    records = photograph_records(truth, folder, settings.images.extensions)
    check_files(records)
    metadata = {
        "thing_classes": [truth.names[i] for i in truth.things],
        "stuff_classes": [truth.names[i] for i in truth.stuff],
        "image_root": str(folder),
        "evaluator_type": "u2seg_panoptic",
        "ignore_label": 255,
    }
    arguments = ("truth", data.eval_format, *map(str, truth_paths(settings)), str(folder))
    register_records(name, arguments, lambda: [dict(record) for record in records], metadata)


def check_files(records: Sequence[dict[str, Any]]) -> None:
    """Look at everything an evaluation reads, before hours of training; headers alone."""
    from detectron2.utils import comm

    if not comm.is_main_process():
        return
    for record in Bar(records, desc="look at the test set", unit="image", delay=5):
        expected = record["height"], record["width"]
        try:
            size, turn = declared_size(Path(record["file_name"]))
        except BadImageError as error:
            raise UserError(f"{record['file_name']}: {error}") from error
        if size != expected:
            raise UserError(f"{record['file_name']} {size_problem(size, expected, turn)}")
        if "pan_seg_file_name" in record:
            path = Path(record["pan_seg_file_name"])
            check_shape(path, png_size(path), expected, "the truth declares")


def photograph_records(
    truth: Truth, folder: Path, extensions: Sequence[str]
) -> list[dict[str, Any]]:
    """Return a record for every image of a truth, in the order of their ids."""
    if not folder.is_dir():
        raise UserError(
            f"the folder of photographs {folder} does not exist: set U2SEG.DATA.EVAL_IMAGES, "
            "relative to U2SEG.DATA.EVAL_ROOT"
        )
    wanted, found = set(truth.stems.values()), dict[str, str]()
    for name in find_files(folder, tuple(extensions)):
        other = found.setdefault(stem_of(name), name)
        if other != name and stem_of(name) in wanted:
            raise UserError(
                f"{folder} holds {other} and {name}, and {truth.source} does not say by its names "
                "which of them it is of: rename one, or name the ending in U2SEG.IMAGES.EXTENSIONS"
            )
    if len(wanted) < len(truth.stems):
        stems = list(truth.stems.values())
        twice = next(stem for stem in stems if stems.count(stem) > 1)
        raise UserError(f"{truth.source} has two images called {twice}: rename one")
    missing = [stem for stem in truth.stems.values() if stem not in found]
    if missing:
        raise UserError(
            f"{folder} has no photograph {missing[0]}.* (and {len(missing) - 1} more of "
            f"{len(truth.stems)}), which {truth.source} is of: set U2SEG.DATA.EVAL_IMAGES to the "
            "photographs of this truth"
        )
    return [
        {
            "file_name": str(folder / found[stem]),
            "stem": stem,
            "image_id": image_id,
            "height": truth.sizes[image_id][0],
            "width": truth.sizes[image_id][1],
        }
        for image_id, stem in sorted(truth.stems.items())
    ]
