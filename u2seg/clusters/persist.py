"""Centroids on disk: ``centroids.npy`` and, beside it, what they are centroids of."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import numpy.typing as npt

from u2seg.clusters.transform import Transform
from u2seg.config.schema import ClusterSettings
from u2seg.errors import UserError
from u2seg.io.atomic import sha256_file, write_json, write_npy
from u2seg.io.jsonfile import read_json_object

FILE_NAME = "centroids.npy"


@dataclass(frozen=True)
class CentroidInfo:
    """What descriptors must be like to be compared with some centroids.

    ``feature`` names the extractor; the others are ``ClusterSettings``, of crops only where the
    descriptor sees crops.
    """

    feature: str
    descriptor: str
    normalize: bool
    whiten: str = "none"
    pca: int = 0
    crop_fit: str = "squash"
    crop_padding: float = 0.0
    crop_resample: str = "lanczos"

    @classmethod
    def from_settings(cls, feature: str, settings: ClusterSettings) -> CentroidInfo:
        """Return what the settings make; how crops are cut counts only where there are crops."""
        crops = settings.descriptor != "masked_mean"
        return cls(
            feature,
            settings.descriptor,
            settings.normalize,
            settings.whiten,
            settings.pca,
            settings.crops.fit if crops else "squash",
            settings.crops.padding if crops else 0.0,
            settings.crops.resample if crops else "lanczos",
        )


@dataclass(frozen=True)
class Centroids:
    """Centroids and what belongs to them.

    Args:
        array: (K, P) float32.
        info: What they are centroids of.
        transform: What was done to descriptors before K-means.
    """

    array: npt.NDArray[np.float32]
    info: CentroidInfo
    transform: Transform


def affine_path(path: Path) -> Path:
    """Return the file of a whitening or PCA beside ``centroids.npy``."""
    return path.with_suffix(".affine.npy")


def save_centroids(path: Path | str, centroids: Centroids) -> None:
    """Write ``<path>`` (``.npy``), its ``.affine.npy`` if any, and ``.json`` with the digests.

    Args:
        path: Ends in ``.npy``; the other files have the same stem. The JSON is written last.
        centroids: Finite, K >= 1.

    Raises:
        ValueError: if the array is not (K, P) or not finite, or ``path`` is not ``.npy``.
        UserError: if a file cannot be written.
    """
    path = Path(path)
    if path.suffix != ".npy":
        raise ValueError(f"centroids are saved as .npy, got {path}")
    array = np.ascontiguousarray(centroids.array, dtype=np.float32)
    if array.ndim != 2 or 0 in array.shape or not np.isfinite(array).all():
        raise ValueError(f"centroids must be (K, D) and finite, got shape {array.shape}")
    write_npy(path, array)
    clusters, depth = array.shape
    content = {**asdict(centroids.info), "K": clusters, "D": depth, "sha256": sha256_file(path)}
    if centroids.transform.affine is not None:
        write_npy(affine_path(path), centroids.transform.affine)
        content["affine_sha256"] = sha256_file(affine_path(path))
    write_json(path.with_suffix(".json"), content, indent=1)


def load_centroids(
    path: Path | str, expected: CentroidInfo | None = None, num_clusters: int | None = None
) -> Centroids:
    """Return saved centroids and what belongs to them.

    Args:
        path: The ``.npy`` file, the others beside it.
        expected: What the current settings make; None = anything.
        num_clusters: The current K; None = anything.

    Raises:
        UserError: if a file is missing or damaged, the files do not belong together, or they are
            not what is expected; names the key and both values.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(
            f"{path} does not exist: give a saved centroids.npy, or leave "
            "U2SEG.CLUSTERS.CENTROIDS empty to fit new ones"
        )
    names = [field.name for field in fields(CentroidInfo)]
    note = read_json_object(path.with_suffix(".json"), *names, "K", "D", "sha256")
    array = _load_array(path)
    if sha256_file(path) != note["sha256"] or list(array.shape) != [note["K"], note["D"]]:
        raise _apart(path, path.with_suffix(".json"))
    info = _info(path, note)
    if expected is not None:
        _check_info(path, info, expected)
    if num_clusters is not None and num_clusters != len(array):
        raise UserError(
            f"{path} holds {len(array)} centroids, but U2SEG.CLUSTERS.NUM_CLUSTERS is "
            f"{num_clusters}: set it to {len(array)}"
        )
    return Centroids(array, info, Transform(info.normalize, _affine(path, note, array.shape[1])))


def _info(path: Path, note: dict[str, Any]) -> CentroidInfo:
    values = {f.name: note[f.name] for f in fields(CentroidInfo)}
    for name, kind in get_type_hints(CentroidInfo).items():
        good = isinstance(values[name], (int, float) if kind is float else kind)
        if not good or (kind is int and isinstance(values[name], bool)):
            raise UserError(
                f"{path.with_suffix('.json')}: {name} is {values[name]!r}, expected "
                f"{kind.__name__}: cluster again"
            )
    return CentroidInfo(**values)


def _affine(path: Path, note: dict[str, Any], depth: int) -> npt.NDArray[np.float32] | None:
    if "affine_sha256" not in note:
        return None
    beside = affine_path(path)
    if not beside.is_file():
        raise UserError(f"{beside} is missing: it belongs to {path}; copy it from the same run")
    array = _load_array(beside)
    if sha256_file(beside) != note["affine_sha256"] or array.shape[1] != depth:
        raise _apart(beside, path.with_suffix(".json"))
    return array


def _apart(path: Path, note: Path) -> UserError:
    return UserError(
        f"{path} and {note} do not belong together: cluster again, or copy all files from the "
        "same run"
    )


def _check_info(path: Path, found: CentroidInfo, expected: CentroidInfo) -> None:
    for field in fields(CentroidInfo):
        have, want = getattr(found, field.name), getattr(expected, field.name)
        if have != want:
            key = (
                "U2SEG.FEATURES.NAME"
                if field.name == "feature"
                else f"U2SEG.CLUSTERS.{field.name.upper()}"
            )
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
