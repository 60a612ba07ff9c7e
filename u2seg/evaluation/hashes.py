"""SHA-256 of what an evaluation read, so that its figures can be traced to files."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from u2seg.evaluation.files import Predictions
from u2seg.evaluation.truth import Truth
from u2seg.io.atomic import sha256_file

PREDICTED = ("panoptic.json", "instances.json", "labelspace.json")


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file; read once while its size and time of change stay."""
    state = path.stat()
    return _sha256(path, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=64)
def _sha256(path: Path, size: int, changed: int) -> str:
    return sha256_file(path)


def maps_sha256(maps: Mapping[str, Path]) -> str:
    """Return one SHA-256 of many files: of a line ``<SHA-256>  <name>`` for each, sorted by name.

    It is that of what ``sha256sum`` prints in the C locale; where the files lie does not matter.

    Args:
        maps: Name -> file.
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

    Args:
        truth: The truth.
        predicted: The predictions.
        mapping: ``mapping.json`` of an earlier evaluation, if one was used.
        labels: Files of a labelling run that were scored beside the predictions.

    Returns:
        Hexadecimal digest of ``truth`` (its file), ``truth/<list>``, ``mapping``,
        ``predictions/<file>`` and ``labels/<file>``; and, as ``maps_sha256`` over the images of
        the truth, of ``truth/maps``, ``predictions/panoptic``, ``predictions/stuff`` and
        ``labels/panoptic``.
    """
    files = {f"predictions/{name}": predicted.folder / name for name in PREDICTED}
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
