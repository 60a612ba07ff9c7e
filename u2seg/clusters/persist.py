"""Centroids on disk: ``centroids.npy`` and, beside it, what they are centroids of."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from u2seg.errors import UserError
from u2seg.io.atomic import sha256_file, write_json, write_npy
from u2seg.io.jsonfile import read_json_object

FILE_NAME = "centroids.npy"


@dataclass(frozen=True)
class CentroidInfo:
    """What descriptors must be like to be compared with some centroids.

    Args:
        feature: Name of the feature extractor.
        descriptor: ``masked_mean`` or ``crop_cls``.
        normalize: Whether descriptors were scaled to unit length.
    """

    feature: str
    descriptor: str
    normalize: bool


def save_centroids(
    path: Path | str, centroids: npt.NDArray[np.float32], info: CentroidInfo
) -> None:
    """Write ``<path>`` (``.npy``) and ``<path>.json``, the latter last, with the digest.

    Args:
        path: Ends in ``.npy``; the JSON has the same name with the suffix ``.json``.
        centroids: (K, D) float32, finite, K >= 1.
        info: What they are centroids of.

    Raises:
        ValueError: if the array is not (K, D) or not finite, or ``path`` is not ``.npy``.
        UserError: if a file cannot be written.
    """
    path = Path(path)
    if path.suffix != ".npy":
        raise ValueError(f"centroids are saved as .npy, got {path}")
    array = np.ascontiguousarray(centroids, dtype=np.float32)
    if array.ndim != 2 or 0 in array.shape or not np.isfinite(array).all():
        raise ValueError(f"centroids must be (K, D) and finite, got shape {array.shape}")
    write_npy(path, array)
    clusters, depth = array.shape
    content = {**asdict(info), "K": clusters, "D": depth, "sha256": sha256_file(path)}
    write_json(path.with_suffix(".json"), content, indent=1)


def load_centroids(
    path: Path | str, expected: CentroidInfo | None = None, num_clusters: int | None = None
) -> tuple[npt.NDArray[np.float32], CentroidInfo]:
    """Return saved centroids and what they are centroids of.

    Args:
        path: The ``.npy`` file, its ``.json`` beside it.
        expected: What the current settings make; None = anything.
        num_clusters: The current K; None = anything.

    Returns:
        (K, D) float32 and its description.

    Raises:
        UserError: if a file is missing or damaged, the two do not belong together, or they are
            not what is expected; names the key and both values.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(
            f"{path} does not exist: give a saved centroids.npy, or leave "
            "U2SEG.CLUSTERS.CENTROIDS empty to fit new ones"
        )
    note = read_json_object(
        path.with_suffix(".json"), "feature", "descriptor", "normalize", "K", "D", "sha256"
    )
    array = _load_array(path)
    if sha256_file(path) != note["sha256"] or list(array.shape) != [note["K"], note["D"]]:
        raise UserError(
            f"{path} and {path.with_suffix('.json')} do not belong together: "
            "cluster again, or copy both files from the same run"
        )
    info = CentroidInfo(str(note["feature"]), str(note["descriptor"]), bool(note["normalize"]))
    if expected is not None:
        _check_info(path, info, expected)
    if num_clusters is not None and num_clusters != len(array):
        raise UserError(
            f"{path} holds {len(array)} centroids, but U2SEG.CLUSTERS.NUM_CLUSTERS is "
            f"{num_clusters}: set it to {len(array)}"
        )
    return array, info


def _check_info(path: Path, found: CentroidInfo, expected: CentroidInfo) -> None:
    keys = {
        "feature": "U2SEG.FEATURES.NAME",
        "descriptor": "U2SEG.CLUSTERS.DESCRIPTOR",
        "normalize": "U2SEG.CLUSTERS.NORMALIZE",
    }
    for name, key in keys.items():
        have, want = getattr(found, name), getattr(expected, name)
        if have != want:
            raise UserError(
                f"{path} was made with {key} {have!r}, now it is {want!r}: set {key} to "
                f"{have!r}, or cluster again"
            )


def _load_array(path: Path) -> npt.NDArray[np.float32]:
    try:
        array: Any = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError, MemoryError) as error:
        raise UserError(f"{path} is not a readable .npy array: {error}") from error
    if not isinstance(array, np.ndarray) or array.dtype != np.float32 or array.ndim != 2:
        raise UserError(f"{path} must hold a (K, D) float32 array")
    if not np.isfinite(array).all():
        raise UserError(f"{path} holds NaN or infinity: cluster again")
    return array
