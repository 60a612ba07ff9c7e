"""Which images look alike: nearest neighbours of mean-pooled features.

Shapes: n images, D channels, k neighbours.
Source: STEGO commit eb4d6b5, src/precompute_knns.py.
"""

from __future__ import annotations

import importlib.util
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from u2seg.errors import UserError
from u2seg.io.atomic import write_bytes
from u2seg.io.progress import Bar
from u2seg.semantics.base import FeatureSource

Float = npt.NDArray[np.float32]
_log = logging.getLogger(__name__)
CHUNK_BYTES = 64 << 20
"""Similarities are computed for so many images at once that they take this much memory."""


@dataclass(frozen=True)
class NeighborCache:
    """Nearest neighbours on disk.

    Args:
        path: A safetensors file; made when missing, replaced when its key or count differs.
        key: Digest of what decides the features of all images.
    """

    path: Path
    key: str

    def load(self, images: int, count: int) -> npt.NDArray[np.int64] | None:
        """Return the (n, k) neighbours of ``store``; None if they are others or unreadable."""
        from safetensors import SafetensorError, safe_open

        if not self.path.is_file():
            return None
        try:
            with safe_open(str(self.path), framework="np") as file:
                note = file.metadata() or {}
                found: npt.NDArray[np.int64] = file.get_tensor("neighbors")
        except (OSError, SafetensorError):
            _log.warning("%s cannot be read: neighbours are computed again", self.path)
            return None
        shape = (images, min(count, images - 1))
        if note.get("key") != self.key or found.shape != shape or found.dtype != np.int64:
            return None
        return found if found.size == 0 or 0 <= found.min() <= found.max() < images else None

    def store(self, neighbors: npt.NDArray[np.int64]) -> None:
        """Write (n, k) int64 neighbours, atomically."""
        from safetensors.numpy import save

        write_bytes(self.path, save({"neighbors": neighbors}, {"key": self.key}))


def neighbors_of(
    source: FeatureSource, in_dim: int, count: int, progress: bool, cache: NeighborCache | None
) -> npt.NDArray[np.int64]:
    """Return the nearest other images of every image: from the cache, or computed and kept there.

    Args:
        source: Features of n >= 1 images; not read if the cache knows the answer.
        in_dim: D.
        count: Neighbours wanted, k >= 1.
        progress: Show a bar if it takes over five seconds.
        cache: None = always compute.

    Returns:
        (n, min(k, n - 1)) int64, as ``nearest_images``.

    Raises:
        UserError: as ``image_descriptors``.
    """
    kept = cache.load(len(source), count) if cache and len(source) else None
    if kept is not None:
        return kept
    found = nearest_images(image_descriptors(source, in_dim, progress), count)
    if cache:
        cache.store(found)
    return found


def image_descriptors(source: FeatureSource, in_dim: int, progress: bool) -> Float:
    """Return the mean feature of every image, scaled to unit length.

    Args:
        source: Features of n >= 1 images.
        in_dim: D, which every image must have.
        progress: Show a bar if it takes over five seconds.

    Returns:
        (n, D) float32; an image whose mean is zero keeps a zero row.

    Raises:
        UserError: if there is no image, or features are not (D, h, w) or not finite; names the
            index of the image.
    """
    if len(source) == 0:
        raise UserError("no images to learn stuff from: the list of images is empty")
    rows = np.empty((len(source), in_dim), dtype=np.float32)
    bar = Bar(range(len(source)), desc="image descriptors", delay=5, disable=not progress)
    for index in bar:
        grid = source[index]
        if grid.ndim != 3 or grid.shape[0] != in_dim or 0 in grid.shape:
            raise UserError(
                f"features of image {index} have shape {grid.shape}, expected ({in_dim}, h, w): "
                "fit and extract with the same feature settings"
            )
        rows[index] = grid.reshape(in_dim, -1).mean(axis=1, dtype=np.float64)
        if not np.isfinite(rows[index]).all():
            raise UserError(f"features of image {index} hold NaN or infinity")
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    unit: Float = (rows / np.where(lengths > 0, lengths, 1)).astype(np.float32)
    return unit


def nearest_images(descriptors: Float, count: int) -> npt.NDArray[np.int64]:
    """Return the most similar other images of every image, best first.

    Args:
        descriptors: (n, D) float32 unit vectors.
        count: Neighbours wanted, >= 1.

    Returns:
        (n, min(count, n - 1)) int64; never the image itself, even if it has exact copies.

    Examples:
        >>> angles = np.radians([0, 10, 80, 90]).astype(np.float32)
        >>> nearest_images(np.stack([np.cos(angles), np.sin(angles)], axis=1), 1).tolist()
        [[1], [0], [3], [2]]

    Notes:
        Exact inner products; by faiss if it is installed, else by NumPy in chunks.
    """
    count = min(count, len(descriptors) - 1)
    if count == 0:
        return np.empty((len(descriptors), 0), dtype=np.int64)
    if importlib.util.find_spec("faiss"):
        found = _search_faiss(descriptors, count + 1)
    else:
        found = _search_numpy(descriptors, count + 1)
    return _without_self(found)


def _search_faiss(descriptors: Float, count: int) -> npt.NDArray[np.int64]:
    import faiss

    index = faiss.IndexFlatIP(descriptors.shape[1])
    index.add(descriptors)
    found: npt.NDArray[np.int64] = index.search(descriptors, count)[1]
    return found


def _search_numpy(descriptors: Float, count: int) -> npt.NDArray[np.int64]:
    size = len(descriptors)
    step = max(1, CHUNK_BYTES // (4 * size))
    found = np.empty((size, count), dtype=np.int64)
    for start in range(0, size, step):
        similarity = descriptors[start : start + step] @ descriptors.T
        found[start : start + step] = np.argsort(-similarity, axis=1, kind="stable")[:, :count]
    return found


def _without_self(found: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return (n, k) from (n, k + 1): each row without its own index, or without its last."""
    own = found == np.arange(len(found))[:, None]
    own[~own.any(axis=1), -1] = True  # exact copies pushed the image out of its own list
    others: npt.NDArray[np.int64] = found[~own].reshape(len(found), -1)
    return others
