"""The only owner of ids: clusters, categories, stuff targets, void.

Numbering (the published one, U2Seg commit 8e9c709, ``datasets/prepare_ours``), for K thing
clusters and S stuff clusters:

| numbering          | things         | stuff                   |
|--------------------|----------------|-------------------------|
| cluster id         | 0..K-1         | 0..S-1 (semantics PNG)  |
| category id (JSON) | 1..K           | K+1..K+S                |
| ROI head class     | 0..K-1         | -                       |
| stuff target (PNG) | 0 = any thing  | 1..S                    |
| void               | panoptic id 0  | 255                     |
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from u2seg.errors import UserError

VOID_ID = 0
"""Panoptic id of pixels that belong to no segment."""
VOID_STUFF = 255
"""Value of unlabelled pixels in stuff PNGs (8 bit)."""
MAX_STUFF = 254
ANY_THING = 0
"""Value of every thing pixel in the stuff target."""


@dataclass(frozen=True)
class LabelSpace:
    """K thing clusters and S stuff clusters, and every id derived from them.

    Args:
        num_things: K >= 0; 0 = stuff alone.
        num_stuff: S, 0..254 (stuff maps are 8 bit and 255 is void); 0 = things alone.
        thing_names: K names; ``thing_0`` ... by default.
        stuff_names: S names; ``stuff_0`` ... by default.

    Raises:
        UserError: if a number is out of range, both are 0, or the count of names does not fit.

    Examples:
        >>> space = LabelSpace(num_things=3, num_stuff=2)
        >>> space.thing_category(0), space.thing_category(2), space.stuff_category(0)
        (1, 3, 4)
        >>> space.semantic_classes
        3
        >>> space.is_thing(3), space.is_thing(4)
        (True, False)
    """

    num_things: int
    num_stuff: int
    thing_names: tuple[str, ...] = field(default=())
    stuff_names: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        if self.num_things < 0 or self.num_things + self.num_stuff == 0:
            raise UserError(
                f"{self.num_things} thing and {self.num_stuff} stuff clusters: both must be "
                ">= 0 and one of them > 0"
            )
        if not 0 <= self.num_stuff <= MAX_STUFF:
            raise UserError(
                f"the number of stuff clusters must be 0..{MAX_STUFF} (8-bit maps, 255 is void), "
                f"got {self.num_stuff}"
            )
        names = (("thing", self.num_things), ("stuff", self.num_stuff))
        for kind, count in names:
            given = getattr(self, f"{kind}_names")
            if not given:
                object.__setattr__(
                    self, f"{kind}_names", tuple(f"{kind}_{i}" for i in range(count))
                )
            elif len(given) != count:
                raise UserError(f"{count} {kind} clusters but {len(given)} {kind} names")

    @property
    def semantic_classes(self) -> int:
        """Classes of the semantic head: S stuff + 1 for "any thing" (id 0)."""
        return self.num_stuff + 1

    def thing_category(self, cluster: int) -> int:
        """Return the category id (1..K) of a thing cluster (0..K-1); UserError outside."""
        if not 0 <= cluster < self.num_things:
            raise UserError(f"thing cluster {cluster} is outside 0..{self.num_things - 1}")
        return cluster + 1

    def stuff_category(self, cluster: int) -> int:
        """Return the category id (K+1..K+S) of a stuff cluster (0..S-1); UserError outside."""
        if not 0 <= cluster < self.num_stuff:
            raise UserError(f"stuff cluster {cluster} is outside 0..{self.num_stuff - 1}")
        return self.num_things + 1 + cluster

    def stuff_target(self, cluster: int) -> int:
        """Return the stuff-target value (1..S) of a stuff cluster (0..S-1)."""
        return self.stuff_category(cluster) - self.num_things

    def is_thing(self, category: int) -> bool:
        """Return whether a category id (1..K+S) is a thing; UserError outside."""
        if not 1 <= category <= self.num_things + self.num_stuff:
            raise UserError(
                f"category id {category} is outside 1..{self.num_things + self.num_stuff}"
            )
        return category <= self.num_things

    def name(self, category: int) -> str:
        """Return the name of a category id (1..K+S)."""
        if self.is_thing(category):
            return self.thing_names[category - 1]
        return self.stuff_names[category - 1 - self.num_things]

    def colors(self) -> npt.NDArray[np.uint8]:
        """Return (K+S, 3) uint8 RGB colours, row = category id - 1.

        Golden-angle hues: the same id has the same colour in every process, and neighbours
        differ; stuff is paler than things. Clusters that share a name, once a mapping gives them
        the names of classes, share the colour of the first.
        """
        count = self.num_things + self.num_stuff
        rows = np.zeros((count, 3), dtype=np.uint8)
        used: set[tuple[int, ...]] = set()
        for i in range(count):
            thing = i < self.num_things
            hue = (0.61803398875 * (i + (0 if thing else 7.3))) % 1.0
            saturation, value = (0.85, 0.55 + 0.45 * ((i * 3) % 4) / 3) if thing else (0.45, 0.8)
            rgb = [round(255 * channel) for channel in colorsys.hsv_to_rgb(hue, saturation, value)]
            while tuple(rgb) in used:  # of thousands, some round to the same
                rgb[i % 3] = (rgb[i % 3] + 29) % 256
            used.add(tuple(rgb))
            rows[i] = rgb
        first: dict[tuple[bool, str], int] = {}
        for i in range(count):
            rows[i] = rows[first.setdefault((i < self.num_things, self.name(i + 1)), i)]
        return rows

    def categories(self) -> list[dict[str, Any]]:
        """Return the COCO panoptic ``categories`` list: id, name, isthing, color."""
        colors = self.colors()
        rows = []
        for index in range(self.num_things + self.num_stuff):
            category = index + 1
            thing = self.is_thing(category)
            rows.append(
                {
                    "id": category,
                    "name": self.name(category),
                    "supercategory": "thing" if thing else "stuff",
                    "isthing": int(thing),
                    "color": [int(c) for c in colors[index]],
                }
            )
        return rows

    def to_json(self) -> dict[str, Any]:
        """Return the content of ``labelspace.json``."""
        return {
            "num_things": self.num_things,
            "num_stuff": self.num_stuff,
            "thing_names": list(self.thing_names),
            "stuff_names": list(self.stuff_names),
            "void": {"panoptic_id": VOID_ID, "stuff": VOID_STUFF},
            "categories": self.categories(),
        }

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> LabelSpace:
        """Build from the content of ``labelspace.json``; UserError names a missing key."""
        try:
            return cls(
                num_things=int(content["num_things"]),
                num_stuff=int(content["num_stuff"]),
                thing_names=tuple(str(n) for n in content["thing_names"]),
                stuff_names=tuple(str(n) for n in content["stuff_names"]),
            )
        except UserError:
            raise
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"labelspace.json lacks or garbles a key: {error}") from error
