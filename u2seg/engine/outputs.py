"""The output folder of a run: apart from photographs, labels and truth, and held by one run."""

from __future__ import annotations

import contextlib
from pathlib import Path

from u2seg.config.schema import Settings
from u2seg.io.lock import LOCK, only_run
from u2seg.io.territory import LABELS, PHOTOGRAPHS, TRUTH, check_outside


def check_output(output: Path, settings: Settings, name: str) -> None:
    """Raise UserError if results would lie among the photographs, labels or truth of a run.

    Args:
        output: Folder of the results.
        settings: ``U2SEG.DATA``.
        name: That of the labels in the host's catalogs, if there are any.
    """
    from detectron2.data import MetadataCatalog

    data = settings.data
    if data.labels:
        check_outside(output, Path(data.labels), LABELS)
        known = MetadataCatalog.get(name)
        if known.get("searched"):  # labels that are not used need not be there
            check_outside(output, Path(known.image_root), PHOTOGRAPHS)
    if data.eval_root:
        root, tree = Path(data.eval_root), data.eval_tree
        for name, what in ((tree.images, PHOTOGRAPHS), (tree.pngs, TRUTH)):
            if name:
                check_outside(output, root / name, what)


def held_by_first(folder: Path) -> contextlib.AbstractContextManager[None]:
    """Return ``only_run`` of a folder in the first process of a run; the others need no lock."""
    from detectron2.utils import comm

    return only_run(folder / LOCK) if comm.is_main_process() else contextlib.nullcontext()
