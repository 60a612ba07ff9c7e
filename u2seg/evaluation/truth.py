"""What a truth must offer to be scored against, whatever files it lies in.

``files.PanopticSet`` reads the COCO panoptic format; readers of other data sets' own files offer
the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from u2seg.evaluation.panoptic import TruthSegment

PANOPTIC, SEMANTIC, INSTANCES = "panoptic", "semantic", "instances"
TASKS = frozenset({PANOPTIC, SEMANTIC, INSTANCES})
"""The tasks there are."""


@dataclass(frozen=True)
class TrueImage:
    """The truth of one image.

    Args:
        ids: (H, W) int32 ids of segments, 0 = void.
        segments: Id -> segment, in the order of the file; every id of the map but 0.
        instances: True instances as COCO annotations without ``id`` (see
            ``instance.truth_instances``), for data sets whose instances overlap; None = the
            thing segments of the map.
    """

    ids: npt.NDArray[np.int32]
    segments: dict[int, TruthSegment]
    instances: list[dict[str, Any]] | None = None


class Truth(Protocol):
    """Annotated images. Small and picklable: images are read one at a time, by any process."""

    @property
    def source(self) -> Path:
        """Return the file or folder that messages name."""

    @property
    def names(self) -> Mapping[int, str]:
        """Return class id (> 0) -> name, things first."""

    @property
    def things(self) -> tuple[int, ...]:
        """Return the ids of thing classes."""

    @property
    def stuff(self) -> tuple[int, ...]:
        """Return the ids of stuff classes."""

    @property
    def stems(self) -> Mapping[int, str]:
        """Return image id -> relative name without suffix; exactly the images that are scored."""

    @property
    def sizes(self) -> Mapping[int, tuple[int, int]]:
        """Return image id -> (H, W) of at least the images that are scored."""

    @property
    def tasks(self) -> frozenset[str]:
        """Return the tasks this truth can answer, a subset of ``TASKS``."""

    @property
    def lists(self) -> tuple[Path, ...]:
        """Return the files it was read from besides ``source`` and the maps."""

    def path(self, image_id: int) -> Path:
        """Return the file that messages name for an image."""

    def maps(self, image_id: int) -> tuple[Path, ...]:
        """Return the PNGs that ``read`` decodes for an image."""

    def read(self, image_id: int) -> TrueImage:
        """Return the truth of an image of ``stems``.

        Raises:
            UserError: if a file is missing, unreadable or garbled, or its map has another size
                than ``sizes`` says.
        """
