"""Write tar shards as WebDataset does."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping
from pathlib import Path


def write_shard(
    path: Path, members: Mapping[str, bytes], tar_format: int = tarfile.GNU_FORMAT
) -> Path:
    """Write regular files into a new tar archive, in the order given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=tar_format) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def shard_of(folder: Path, path: Path) -> Path:
    """Write all files below a folder into a tar archive."""
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return write_shard(path, {p.relative_to(folder).as_posix(): p.read_bytes() for p in files})
