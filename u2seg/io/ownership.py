"""Whose a folder is: results never lie among photographs, and nothing of others is touched."""

from __future__ import annotations

from pathlib import Path

from u2seg.errors import UserError

PHOTOGRAPHS = "the image folder"
LABELS = "the label folder"
TRUTH = "the folder of the ground truth"
_WHY = {
    PHOTOGRAPHS: "its pictures would be taken for photographs",
    LABELS: "files of a labelling run would be written over",
    TRUTH: "the truth would be written over",
}
_OF_LABELLING = ("manifest.json", "plan.json", "images.json")


def check_outside(output: Path, folder: Path, what: str) -> None:
    """Raise UserError if results would lie in a folder that holds something else, or below it.

    Args:
        output: Folder of the results; it need not exist.
        folder: The other one.
        what: ``PHOTOGRAPHS``, ``LABELS`` or ``TRUTH``.

    Examples:
        >>> check_outside(Path("photos/out"), Path("photos"), PHOTOGRAPHS)
        Traceback (most recent call last):
            ...
        u2seg.errors.UserError: the output folder photos/out lies in the image folder photos, so \
its pictures would be taken for photographs: choose an output folder outside
    """
    if output.resolve().is_relative_to(folder.resolve()):
        raise UserError(
            f"the output folder {output} lies in {what} {folder}, so {_WHY[what]}: choose an "
            "output folder outside"
        )


def check_no_labels(output: Path) -> None:
    """Raise UserError if a folder was made by a labelling run, whose files are not to be mixed."""
    for name in _OF_LABELLING:
        if (output / name).is_file():
            raise UserError(
                f"{output} holds files of a labelling run ({name}); they are not touched: choose "
                "another output folder"
            )


def check_beside_no_photograph(output: Path, extensions: tuple[str, ...]) -> None:
    """Raise UserError if pictures lie right in a folder: results keep theirs in sub-folders."""
    if not output.is_dir():
        return
    for path in sorted(output.iterdir()):
        if path.name.lower().endswith(extensions):
            raise UserError(
                f"the output folder {output} holds photographs ({path.name}); results are not "
                "mixed with them: choose another output folder"
            )
