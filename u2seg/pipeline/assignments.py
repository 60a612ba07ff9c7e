"""Cluster ids of the masks on disk: one ``assigned-NNNNN.npy`` per shard of images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from u2seg.errors import UserError
from u2seg.io.atomic import write_npy
from u2seg.pipeline.workspace import Workspace


def assignments_path(space: Workspace, shard: int) -> Path:
    """Return where the cluster ids of a shard are kept."""
    return space.folder("clusters") / f"assigned-{shard:05d}.npy"


def write_assignments(space: Workspace, shard: int, labels: npt.NDArray[np.int64]) -> None:
    """Write the cluster ids (n,) of a shard's masks, in the order of its masks part."""
    write_npy(assignments_path(space, shard), labels.astype(np.int32))


def shard_assignments(space: Workspace, shard: int) -> list[int]:
    """Return the cluster ids of a shard's masks, in the order of its masks part.

    Args:
        space: Files of the run.
        shard: Index of the shard, from 0.

    Returns:
        One id in 0..K-1 for every mask.

    Raises:
        UserError: if the file is missing or is not a list of ids.
    """
    path = assignments_path(space, shard)
    try:
        found: Any = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(
            f"{path} cannot be read ({error}): run the clusters stage anew (--overwrite)"
        ) from error
    if found.ndim != 1 or found.dtype != np.int32:
        raise UserError(
            f"{path} must hold (n,) int32 cluster ids, got {found.dtype} {found.shape}: run the "
            "clusters stage anew (--overwrite)"
        )
    ids: list[int] = found.tolist()
    return ids
