"""What readers of folders of label maps share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from u2seg.errors import UserError
from u2seg.evaluation.files import check_shape, some
from u2seg.evaluation.panoptic import TruthSegment
from u2seg.evaluation.truth import TrueImage
from u2seg.io.png import png_size
from u2seg.io.sources import find_files


@dataclass(frozen=True)
class FolderTruth(ABC):
    """A truth in a folder of PNGs; subclasses say how one is read.

    Args:
        source: The folder, or the file that says which of it belong to the truth.
        names: Class id -> name, things first.
        things, stuff: Class ids.
        files: Image id -> PNG.
        stems: Image id -> relative name of the photograph, without suffix.
        sizes: Image id -> (H, W), from the heads of the PNGs.
        tasks: What it can answer.
        lists: Files it was read from besides ``source`` and the PNGs, such as a list of classes.
    """

    source: Path
    names: Mapping[int, str]
    things: tuple[int, ...]
    stuff: tuple[int, ...]
    files: Mapping[int, Path]
    stems: Mapping[int, str]
    sizes: Mapping[int, tuple[int, int]]
    tasks: frozenset[str]
    lists: tuple[Path, ...] = ()

    def path(self, image_id: int) -> Path:
        """Return the PNG of an image."""
        return self.files[image_id]

    def maps(self, image_id: int) -> tuple[Path, ...]:
        """Return the PNGs of an image."""
        return (self.files[image_id],)

    @abstractmethod
    def read(self, image_id: int) -> TrueImage:
        """Return the truth of an image; UserError as ``Truth.read``."""

    def checked(self, path: Path, image_id: int, labels: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return a map of an image; UserError if its shape is not that of the image."""
        check_shape(path, labels.shape, self.sizes[image_id], f"{self.files[image_id]} has")
        return labels


def folder_parts(
    maps: Mapping[str, Path], image_ids: Mapping[str, int] | None = None
) -> dict[str, Any]:
    """Return ``files``, ``stems`` and ``sizes`` of a ``FolderTruth``.

    Args:
        maps: Stem of the photograph -> PNG.
        image_ids: Stem -> image id; None = 1, 2, ... in the order of the stems.

    Raises:
        UserError: if a file is no PNG.
    """
    ids = image_ids or {stem: number for number, stem in enumerate(sorted(maps), start=1)}
    return {
        "files": {ids[stem]: maps[stem] for stem in sorted(maps)},
        "stems": {ids[stem]: stem for stem in sorted(maps)},
        "sizes": {ids[stem]: png_size(maps[stem]) for stem in sorted(maps)},
    }


def find_maps(folder: Path, ending: str, what: str) -> dict[str, Path]:
    """Return the maps below a folder.

    Args:
        folder: Sub-folders are searched.
        ending: End of their names.
        what: What they are, for the message.

    Returns:
        Relative name with forward slashes, without ``ending`` -> file, sorted.

    Raises:
        UserError: if there is none.
    """
    check_folder(folder, what)
    found = [name for name in find_files(folder, (ending.lower(),)) if name.endswith(ending)]
    if not found:
        raise UserError(f"{folder} holds no *{ending}: expected {what}")
    return {name[: -len(ending)]: folder / name for name in found}


def check_folder(folder: Path, what: str) -> None:
    """Raise UserError unless ``folder`` is one."""
    if not folder.is_dir():
        raise UserError(f"the folder {folder} does not exist: expected {what}")


def read_names(path: Path) -> list[str]:
    """Return the names in a text file, one a line; what follows a blank in a line is left out.

    Raises:
        UserError: if it is missing, no text, empty, or names something twice.
    """
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the list {path}: {error}") from error
    names = [line.split()[0] for line in lines if line.strip()]
    if not names:
        raise UserError(f"{path} names no image: expected one name a line")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(f"{path} names {twice} twice")
    return names


def chosen_maps(maps: Mapping[str, Path], names: Sequence[str], source: Path) -> dict[str, Path]:
    """Return the maps that a list names; UserError if one is missing."""
    missing = [name for name in names if name not in maps]
    if missing:
        folder = next(iter(maps.values())).parent
        raise UserError(
            f"{source} names {missing[0]} (and {len(missing) - 1} more), of which {folder} has "
            "no map: the list belongs to another folder"
        )
    return {name: maps[name] for name in names}


def class_segments(classes: npt.NDArray[np.int32]) -> TrueImage:
    """Return the truth of a map of class ids, 0 = void: one segment a class, its id the class's."""
    found, counts = np.unique(classes, return_counts=True)
    areas = dict(zip(found.tolist(), counts.tolist(), strict=True))
    segments = {c: TruthSegment(c, area) for c, area in areas.items() if c}
    return TrueImage(classes, segments)


def check_values(path: Path, labels: npt.NDArray[Any], known: Sequence[int], what: str) -> None:
    """Raise UserError if a map holds a value that is none of ``known``."""
    strange = np.setdiff1d(np.unique(labels), np.asarray(known))
    if strange.size:
        raise UserError(f"{path} holds the value {some(strange.tolist())}, expected {what}")
