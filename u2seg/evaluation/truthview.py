"""A truth seen in another way: the rest stays as it is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from u2seg.errors import UserError
from u2seg.evaluation.truth import TrueImage, Truth


@dataclass(frozen=True)
class TruthView:
    """A ``Truth`` that says what another says; subclasses change some of it.

    Args:
        truth: The other.
    """

    truth: Truth

    @property
    def source(self) -> Path:
        """The file or folder of the truth."""
        return self.truth.source

    @property
    def names(self) -> Mapping[int, str]:
        """Class id -> name, things first."""
        return self.truth.names

    @property
    def things(self) -> tuple[int, ...]:
        """Ids of thing classes."""
        return self.truth.things

    @property
    def stuff(self) -> tuple[int, ...]:
        """Ids of stuff classes."""
        return self.truth.stuff

    @property
    def stems(self) -> Mapping[int, str]:
        """Image id -> relative name without suffix."""
        return self.truth.stems

    @property
    def sizes(self) -> Mapping[int, tuple[int, int]]:
        """Image id -> (H, W)."""
        return self.truth.sizes

    @property
    def tasks(self) -> frozenset[str]:
        """What can be answered."""
        return self.truth.tasks

    @property
    def lists(self) -> tuple[Path, ...]:
        """Files besides the source and the maps."""
        return self.truth.lists

    def path(self, image_id: int) -> Path:
        """Return the file of an image."""
        return self.truth.path(image_id)

    def maps(self, image_id: int) -> tuple[Path, ...]:
        """Return the PNGs of an image."""
        return self.truth.maps(image_id)

    def read(self, image_id: int) -> TrueImage:
        """Return the truth of an image; UserError as ``Truth.read``."""
        return self.truth.read(image_id)


@dataclass(frozen=True)
class RenumberedTruth(TruthView):
    """A truth whose images have other ids.

    Args:
        numbers: New id -> id in the truth.
    """

    numbers: Mapping[int, int]

    @cached_property
    def stems(self) -> Mapping[int, str]:
        """New image id -> relative name without suffix."""
        return {new: self.truth.stems[old] for new, old in self.numbers.items()}

    @cached_property
    def sizes(self) -> Mapping[int, tuple[int, int]]:
        """New image id -> (H, W)."""
        return {new: self.truth.sizes[old] for new, old in self.numbers.items()}

    def path(self, image_id: int) -> Path:
        """Return the file of an image."""
        return self.truth.path(self.numbers[image_id])

    def maps(self, image_id: int) -> tuple[Path, ...]:
        """Return the PNGs of an image."""
        return self.truth.maps(self.numbers[image_id])

    def read(self, image_id: int) -> TrueImage:
        """Return the truth of an image; UserError as ``Truth.read``."""
        image = self.truth.read(self.numbers[image_id])
        if image.instances is None:
            return image
        records = [{**record, "image_id": image_id} for record in image.instances]
        return TrueImage(image.ids, image.segments, records)


def paired_by_stem(truth: Truth, predicted: Mapping[int, str], source: Path) -> Truth:
    """Return the truth with the image ids of predictions, joined by the photographs' names.

    Args:
        truth: Of a data set whose images have no ids of their own.
        predicted: Image id -> name without suffix of the predicted photographs.
        source: The predictions, for messages.

    Returns:
        The truth; images without prediction have ids above all others.

    Raises:
        UserError: if two predictions are of one name, or a name is not in the truth.
    """
    found = {stem: image_id for image_id, stem in predicted.items()}
    if len(found) < len(predicted):
        twice = next(stem for i, stem in predicted.items() if found[stem] != i)
        raise UserError(f"{source} has two predictions named {twice}: expected one a photograph")
    known = {stem: image_id for image_id, stem in truth.stems.items()}
    strange = sorted(set(found) - set(known))
    if strange:
        raise UserError(
            f"{source} has a prediction of {strange[0]} (and {len(strange) - 1} more), which "
            f"{truth.source} does not hold; its first image is {min(known)}. Predictions bear the "
            "names of the photographs, sub-folders included"
        )
    if all(found[stem] == known[stem] for stem in found):
        return truth
    return RenumberedTruth(truth, {n: known[stem] for stem, n in _numbered(known, found).items()})


def _numbered(stems: Iterable[str], found: Mapping[str, int]) -> dict[str, int]:
    numbers = dict(found)
    following = max(found.values(), default=0) + 1
    for stem in stems:
        if stem not in numbers:
            numbers[stem] = following
            following += 1
    return numbers
