"""The evaluation data of ``U2SEG.DATA``: its truth, and its photographs as a test set."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from u2seg.config.schema import Settings
from u2seg.errors import UserError
from u2seg.evaluation.readers import scored_truth
from u2seg.evaluation.readers.formats import find_format
from u2seg.evaluation.truth import Truth
from u2seg.io.paths import stem_of
from u2seg.io.sources import find_files

COCO_PANOPTIC = "coco-panoptic"


def truth_paths(settings: Settings) -> list[Path]:
    """Return the files and folders of the truth, in the order its format takes them."""
    data = settings.data
    keys = find_format(data.eval_format).keys
    names = [getattr(data.eval_tree, key) for key in keys]
    return [Path(data.eval_root) / name for name in names if name]


def truth_of(settings: Settings) -> Truth:
    """Return the truth of the evaluation data, through the class set and crop of ``U2SEG.EVAL``.

    Raises:
        UserError: as ``scored_truth``.
    """
    return scored_truth(settings.data.eval_format, truth_paths(settings), settings.eval)


def register_eval(name: str, settings: Settings) -> None:
    """Register the evaluation data as a Detectron2 test set, after a look at its truth.

    Args:
        name: Catalog name.
        settings: ``U2SEG.DATA`` and ``U2SEG.EVAL``.

    Raises:
        UserError: if a part is missing, the truth does not fit its format or class set, or a
            photograph is missing.
    """
    from u2seg.data.catalog import register_coco_panoptic_eval, register_records

    data, tree = settings.data, settings.data.eval_tree
    if data.eval_format == COCO_PANOPTIC:
        register_coco_panoptic_eval(name, data.eval_root, tree.images, tree.json, tree.pngs)
    truth = truth_of(settings)
    if data.eval_format == COCO_PANOPTIC:
        return
    folder = Path(data.eval_root) / tree.images
    records = photograph_records(truth, folder, settings.images.extensions)
    metadata = {
        "thing_classes": [truth.names[i] for i in truth.things],
        "stuff_classes": [truth.names[i] for i in truth.stuff],
        "image_root": str(folder),
        "evaluator_type": "u2seg_panoptic",
        "ignore_label": 255,
    }
    arguments = ("truth", data.eval_format, *map(str, truth_paths(settings)), str(folder))
    register_records(name, arguments, lambda: [dict(record) for record in records], metadata)


def photograph_records(
    truth: Truth, folder: Path, extensions: Sequence[str]
) -> list[dict[str, Any]]:
    """Return a record for every image of a truth, in the order of their ids.

    Args:
        truth: Its ``stems`` name the photographs.
        folder: Holds the photographs; sub-folders count.
        extensions: Lower-case endings of photographs.

    Returns:
        ``file_name``, ``stem``, ``image_id``, ``height`` and ``width``; see ``image_records``.

    Raises:
        UserError: if the folder or a photograph is missing.
    """
    if not folder.is_dir():
        raise UserError(
            f"the folder of photographs {folder} does not exist: set U2SEG.DATA.EVAL_IMAGES, "
            "relative to U2SEG.DATA.EVAL_ROOT"
        )
    found: dict[str, str] = {}
    for name in find_files(folder, tuple(extensions)):
        found.setdefault(stem_of(name), name)
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
