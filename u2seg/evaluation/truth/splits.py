"""Which images a mapping was fitted on and scored on, and the hashes of what was read.

No date, host or path of this machine: the same inputs give the same bytes.
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

from u2seg.errors import UserError
from u2seg.evaluation.truth.base import Truth
from u2seg.evaluation.truth.predictions import Predictions
from u2seg.io.atomic import sha256_file
from u2seg.version import __version__

PREDICTED = ("panoptic.json", "instances.json", "labelspace.json")


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file; read once while its size and time of change stay."""
    state = path.stat()
    return _sha256(path, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=64)
def _sha256(path: Path, size: int, changed: int) -> str:
    return sha256_file(path)


def maps_sha256(maps: Mapping[str, Path]) -> str:
    """Return one SHA-256 of name -> file: of a line ``<SHA-256>  <name>`` for each, sorted by name.

    It is that of what ``sha256sum`` prints in the C locale; where the files lie does not matter.
    """
    digest = hashlib.sha256()
    for name, path in sorted(maps.items()):
        digest.update(f"{sha256_file(path)}  {name}\n".encode())
    return digest.hexdigest()


def input_hashes(
    truth: Truth,
    predicted: Predictions,
    mapping: Path | None = None,
    labels: Predictions | None = None,
) -> dict[str, str]:
    """Return the SHA-256 of the files an evaluation read, those that there are.

    Names: ``truth`` (its file), ``truth/<list>``, ``mapping``, ``predictions/<file>`` and
    ``labels/<file>``; and, as ``maps_sha256`` over the images of the truth, ``truth/maps``,
    ``predictions/panoptic``, ``predictions/stuff`` and ``labels/panoptic``.
    """
    home = predicted.panoptic.source.parent
    files = {f"predictions/{name}": home / name for name in PREDICTED}
    files["truth"] = truth.source
    files |= {f"truth/{path.name}": path for path in truth.lists}
    maps = {"truth/maps": _true_maps(truth), **_predicted_maps("predictions", predicted)}
    if mapping is not None:
        files["mapping"] = mapping
    if labels is not None:
        source = labels.panoptic.source
        for path in (source, source.parent / "instances.json"):
            files[f"labels/{path.name}"] = path
        maps |= _predicted_maps("labels", labels)
    found = {name: file_sha256(path) for name, path in files.items() if path.is_file()}
    found |= {name: maps_sha256(chosen) for name, chosen in maps.items() if chosen}
    return dict(sorted(found.items()))


def _true_maps(truth: Truth) -> dict[str, Path]:
    return {
        f"{place}/{stem}" if place else stem: path
        for image_id, stem in truth.stems.items()
        for place, path in enumerate(truth.maps(image_id))
    }


def _predicted_maps(who: str, predicted: Predictions) -> dict[str, dict[str, Path]]:
    names = predicted.panoptic.file_names
    ids = predicted.panoptic.segments
    maps = {f"{who}/panoptic": {names[i]: predicted.panoptic.path(i) for i in ids}}
    if predicted.has_stuff_maps:
        maps[f"{who}/stuff"] = {names[i]: predicted.stuff_path(i) for i in ids}
    return maps


_KEY = 12
"""Hexadecimal digits of an image's key: for a million images a collision is unlikely (0.2 %)."""


@dataclass(frozen=True)
class Split:
    """Some images of a truth: their sorted keys, and the share that was asked for (0 = all).

    ``sha256`` is that of the truth's file; empty if it is a folder.
    """

    source: str
    sha256: str
    images: tuple[str, ...]
    share: float = 0.0

    @classmethod
    def of(cls, truth: Truth, image_ids: Iterable[int], share: float = 0.0) -> Split:
        """Return the split of some images of ``truth``."""
        hashed = file_sha256(truth.source) if truth.source.is_file() else ""
        keys = sorted(image_key(truth.stems[i]) for i in image_ids)
        return cls(str(truth.source), hashed, tuple(keys), share)


def image_key(stem: str) -> str:
    """Return a hash of an image's name without suffix, by which it is recognised in another file.

    Many data sets have no ids of their own: there an id is but a place in a list.

    Examples:
        >>> image_key("000000000139")
        '6afc83aa1583'
    """
    return hashlib.sha256(stem.encode()).hexdigest()[:_KEY]


def hold_out(stems: Mapping[int, str], share: float) -> tuple[list[int], list[int]]:
    """Return the ids of the images to fit on and of those to score, both sorted.

    An image belongs to the same part whatever other images there are, and whatever its id is: a
    hash of its name decides, not chance.

    Examples:
        >>> hold_out({1: "a", 2: "b", 3: "c"}, 0.5)
        ([2, 3], [1])
    """
    ids = sorted(stems)
    fit = [i for i in ids if _position(stems[i]) < share]
    chosen = set(fit)
    rest = [i for i in ids if i not in chosen]
    if not fit or not rest:
        raise UserError(
            f"U2SEG.EVAL.FIT_SHARE is {share}: of {len(ids)} images {len(fit)} would be fitted on "
            f"and {len(rest)} scored, and neither may be 0: take a share nearer to 0.5"
        )
    return fit, rest


def describe_fit(fitted: Split | None, scored: Split) -> dict[str, Any]:
    """Return how the images of a fit relate to those scored: ``protocol.mapping``.

    An image is recognised by its name alone.
    """
    if fitted is None:
        return {"fitted_on": None, "images": 0, "in_words": "not fitted: ids are classes"}
    common = len(set(fitted.images) & set(scored.images))
    same = fitted.images == scored.images
    return {
        "fitted_on": fitted.source,
        "truth_sha256": fitted.sha256,
        "images": len(fitted.images),
        "fit_share": fitted.share or None,
        "images_in_both": common,
        "same_images_as_scored": same,
        "same_truth_file": bool(fitted.sha256) and fitted.sha256 == scored.sha256,
        "in_words": _words(fitted, scored, common, same),
    }


def _words(fitted: Split, scored: Split, common: int, same: bool) -> str:
    count = f"{len(fitted.images)} image{'' if len(fitted.images) == 1 else 's'}"
    if same:
        return f"fitted on the same {count} that are scored"
    if common:
        return f"fitted on {count} of {fitted.source}, {common} of which are scored too"
    if fitted.sha256 and fitted.sha256 == scored.sha256:
        return f"fitted on {count} held out of the same truth"
    return f"fitted on {count} of {fitted.source}, none of which is scored"


def _position(stem: str) -> float:
    digest = hashlib.sha256(stem.encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


LIBRARIES = ("numpy", "scipy", "pycocotools", "pillow")


def provenance(
    settings: Mapping[str, Any], protocols: Mapping[str, Any], hashes: Mapping[str, str]
) -> dict[str, Any]:
    """Return the block ``provenance`` of ``metrics.json``; ``hashes`` are ``input_hashes``."""
    libraries = {name: metadata.version(name) for name in LIBRARIES}
    return {
        "versions": {"python": platform.python_version(), "u2seg": __version__, **libraries},
        "settings": dict(settings),
        "protocols": dict(protocols),
        "sha256": dict(hashes),
    }
