"""Labels for other programs: the layout that U2Seg published, for its released training code."""

from __future__ import annotations

from pathlib import Path

from u2seg.errors import UserError
from u2seg.io.atomic import write_bytes, write_json
from u2seg.io.coco import read_instances, read_panoptic
from u2seg.io.paths import safe_join
from u2seg.labels.check import check_labels
from u2seg.labels.folder import INSTANCES_FOLDER, PANOPTIC_FOLDER, LabelFolder


def check_folder(path: Path | str) -> str:
    """Check a label folder against itself, pixel by pixel, and return its counts in words.

    Args:
        path: As for ``LabelFolder.open``, of this package's layout.

    Raises:
        UserError: as ``LabelFolder.open`` and ``check_labels``, or if a photograph is missing.
    """
    folder = LabelFolder.open(path)
    if folder.panoptic_json.parent != folder.path / "panoptic":
        raise UserError(f"{path} is no output folder of u2seg label: only those can be checked")
    folder.records()  # every file is there
    counts = check_labels(folder.path / "panoptic")
    told = ", ".join(f"{count} {what}" for what, count in counts.items())
    return f"{path} is sound: {told}; {folder.space.num_things} thing and " + (
        f"{folder.space.num_stuff} stuff clusters"
    )


def export_published(path: Path | str, target: Path | str, split: str = "cocotrain") -> Path:
    """Write labels as ``u2seg_annotations``, which the released code of U2Seg trains on.

    Args:
        path: A label folder with things and stuff.
        target: Gets ``ins_annotations`` and ``panoptic_annotations``; made if missing.
        split: Begins the names of the files; K follows.

    Returns:
        The panoptic JSON.

    Raises:
        UserError: as ``LabelFolder.open``; if there are no things or no stuff, the export is
            there already, or a file cannot be written.

    Source: U2Seg commit 8e9c709, ``datasets/prepare_ours``.
    """
    folder, target = LabelFolder.open(path), Path(target)
    space = folder.space
    if folder.is_results or not (space.num_things and space.num_stuff):
        raise UserError(f"{path} has no things or no stuff, or no labels: U2Seg needs both")
    name = f"{split}_{space.num_things}"
    maps = target / PANOPTIC_FOLDER
    made = maps / f"{name}.json"
    if made.exists():
        raise UserError(f"{made} exists and is not written over: choose another folder or split")
    for image in folder.images:
        for source, copies in (
            (folder.panoptic_pngs, maps / name),
            (folder.stuff_pngs, maps / f"panoptic_stuff_{name}"),
        ):
            content = safe_join(source, image.png).read_bytes()
            write_bytes(safe_join(copies, image.png), content)
    instances = read_instances(folder.instances_json)
    write_json(target / INSTANCES_FOLDER / f"{name}.json", instances)
    write_json(made, read_panoptic(folder.panoptic_json))
    return made
