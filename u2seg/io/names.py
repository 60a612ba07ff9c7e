"""How files that belong to photographs are named: one rule for all who write them.

A label map, an id map or a picture bears its photograph's name without suffix. Where that would
give two photographs one file (``a.jpg`` and ``a.png``; ``a.jpg`` and ``A.jpg`` on a file system
that does not tell cases apart), the later one gets its suffix, then a number, into the name.
"""

from __future__ import annotations

import itertools
import unicodedata
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import Any

from u2seg.io.paths import stem_of


def distinct_stems(file_names: Iterable[str]) -> list[str]:
    """Return a stem for each file name, no two of which are one on any file system.

    Args:
        file_names: Relative names with forward slashes, in an order that does not change.

    Examples:
        >>> distinct_stems(["a.jpg", "a.png", "A.png", "b/a.jpg"])
        ['a', 'a_png', 'A_2', 'b/a']
    """
    taken: set[str] = set()
    stems = []
    for name in file_names:
        stem, suffix = stem_of(name), PurePosixPath(name).suffix[1:]
        numbered = (f"{stem}_{number}" for number in itertools.count(2))
        candidates = itertools.chain((stem, f"{stem}_{suffix}"), numbered)
        stem = next(c for c in candidates if _folded(c) not in taken)
        taken.add(_folded(stem))
        stems.append(stem)
    return stems


def _folded(name: str) -> str:
    """Return a name as file systems see it that fold case or accents."""
    return unicodedata.normalize("NFC", name).casefold()


def label_stem(record: Mapping[str, Any]) -> str:
    """Return how the label files of a record of ``images.json`` are called, without suffix.

    Examples:
        >>> label_stem({"file_name": "a.jpg"}), label_stem({"file_name": "a.png", "stem": "a_png"})
        ('a', 'a_png')
    """
    return str(record.get("stem") or stem_of(record["file_name"]))
