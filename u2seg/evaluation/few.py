"""Some images of a truth, for a rehearsal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from u2seg.evaluation.files import GroundTruth, read_truth
from u2seg.evaluation.truth import Truth
from u2seg.evaluation.truthview import TruthView


@dataclass(frozen=True)
class SomeImages(TruthView):
    """A truth of which only some images are scored.

    Args:
        image_ids: Of these.
    """

    image_ids: frozenset[int]

    @property
    def stems(self) -> Mapping[int, str]:
        """Image id -> relative name without suffix."""
        return {i: stem for i, stem in self.truth.stems.items() if i in self.image_ids}


def some_images(truth: GroundTruth | Truth, image_ids: Iterable[int]) -> Truth:
    """Return a truth of some images; UserError as ``read_truth``."""
    opened = read_truth(truth) if isinstance(truth, GroundTruth) else truth
    return SomeImages(opened, frozenset(image_ids))
