"""Which classes a scene may hold, and the two colours of each.

Classes differ in hue *and* in texture, and every thing is more saturated (or of higher contrast)
than every stuff, so that colour and oriented energy suffice to tell them apart.
"""

from __future__ import annotations

from dataclasses import dataclass

from u2seg.structures.labels import LabelSpace


@dataclass(frozen=True)
class ThingKind:
    """A class of things.

    Args:
        name: Class name.
        shape: A name of ``scenes.shapes.SHAPES``.
        texture: A name of ``scenes.textures.THING_TEXTURES``.
        colors: Main and second sRGB colour, 0..255.
    """

    name: str
    shape: str
    texture: str
    colors: tuple[tuple[int, int, int], tuple[int, int, int]]


THINGS: tuple[ThingKind, ...] = (
    ThingKind("ball", "disc", "dots", ((205, 28, 40), (150, 12, 30))),
    ThingKind("crate", "square", "stripes", ((240, 208, 30), (200, 160, 10))),
    ThingKind("tent", "triangle", "stripes", ((205, 50, 190), (150, 25, 150))),
    ThingKind("star", "star", "checker", ((245, 245, 240), (25, 25, 30))),
    ThingKind("cross", "cross", "dots", ((245, 125, 15), (215, 90, 5))),
)
STUFF: tuple[str, ...] = ("sky", "grass", "sand", "water")
"""Names of ``scenes.textures.STUFF_TEXTURES``."""

SCENE_LABELS = LabelSpace(
    num_things=len(THINGS),
    num_stuff=len(STUFF),
    thing_names=tuple(kind.name for kind in THINGS),
    stuff_names=STUFF,
)
"""Category ids: things 1..5, stuff 6..9."""
