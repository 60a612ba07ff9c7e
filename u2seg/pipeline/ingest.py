"""Stage ``images``: find the photographs, decode each once, list the good and the bad."""

from __future__ import annotations

import logging
import os
import unicodedata
from pathlib import Path
from typing import Any, TypeVar

from u2seg.errors import UserError
from u2seg.io.atomic import json_bytes, sha256_bytes, sha256_file, write_bytes, write_json
from u2seg.io.images import BadImageError, check_jpeg, read_image
from u2seg.io.jsonfile import read_json_object
from u2seg.io.paths import safe_join, stem_of
from u2seg.pipeline.stage import Record, RunContext, Stage, check_share

logger = logging.getLogger(__name__)
Item = TypeVar("Item")


def find_images(root: Path, extensions: tuple[str, ...]) -> list[str]:
    """Return the relative names (forward slashes) of image files below a folder, sorted.

    Args:
        root: The image folder; sub-folders are searched, hidden files and folders are not,
            links to folders are not followed (they may form loops), folders that cannot be
            listed are left out with a warning.
        extensions: Lower-case endings that count.

    Raises:
        UserError: if ``root`` is no folder or holds no such file.
    """
    if not root.is_dir():
        raise UserError(f"image folder {root} does not exist or is not a folder (--images)")
    names = []
    for folder, folders, files in os.walk(root, onerror=_warn_unlisted):
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        for file in files:
            if not file.startswith(".") and file.lower().endswith(extensions):
                names.append((Path(folder) / file).relative_to(root).as_posix())
    if not names:
        raise UserError(
            f"no image found below {root}: looked for {', '.join(extensions)} "
            "(U2SEG.IMAGES.EXTENSIONS)"
        )
    return sorted(names)


def _warn_unlisted(error: OSError) -> None:
    logger.warning("cannot list %s: %s; its images are left out", error.filename, error.strerror)


def spread(items: list[Item], limit: int) -> list[Item]:
    """Return at most ``limit`` of the items, evenly spaced; all of them for 0.

    Examples:
        >>> spread(["a", "b", "c", "d", "e"], 2)
        ['a', 'c']
    """
    if limit <= 0 or limit >= len(items):
        return items
    return [items[i * len(items) // limit] for i in range(limit)]


class ImagesStage(Stage):
    """Writes ``images.json`` and ``skipped.jsonl``."""

    name = "images"

    def __init__(self, context: RunContext) -> None:
        super().__init__(context)
        found = find_images(context.image_root, context.settings.images.extensions)
        self.found = len(found)
        self.names = spread(found, context.limit)

    def sections(self) -> tuple[Any, ...]:
        """Image settings."""
        return (self.context.settings.images,)

    def extra_plan(self) -> dict[str, Any]:
        """The list of files: a changed folder is another run."""
        root = self.context.image_root
        listing = [[name, _size(root / name)] for name in self.names]
        return {"image_list": sha256_bytes(json_bytes(listing))}

    def run(self) -> dict[str, int]:
        """Decode every image once; write one part per shard, then the lists."""
        size = self.context.settings.run.shard_size
        shards = [self.names[i : i + size] for i in range(0, len(self.names), size)]
        with self.bar(len(self.names)) as bar:
            for index, names in enumerate(shards):
                part = self.context.space.part(self.name, index)
                if not part.is_file():
                    self._shard(part, names)
                bar.update(len(names))
        good: list[Record] = []
        bad: list[Record] = []
        for index in range(len(shards)):
            part = self.context.space.part(self.name, index)
            content = read_json_object(part, "images", "skipped")
            good += content["images"]
            bad += content["skipped"]
        twins = _drop_equal_stems(good)
        if twins:  # collected with the other stages' skips
            write_json(self.folder / "part-twins.skipped", twins)
        return self._write_lists(good, bad + twins)

    def _shard(self, part: Path, names: list[str]) -> None:
        images: list[Record] = []
        skipped: list[Record] = []
        for name in names:
            try:
                name.encode("utf-8")
                path = safe_join(self.context.image_root, name)
                pixels = read_image(path, self.context.settings.images.max_pixels)
                check_jpeg(path)
                height, width = pixels.shape[:2]
                digest = sha256_file(path)
                images.append(
                    {"file_name": name, "height": height, "width": width, "sha256": digest}
                )
            except BadImageError as error:
                skipped.append(self.skip({"file_name": name}, str(error)))
            except UserError as error:
                reason = f"{error}: rename it, or copy it there if it is a link"
                skipped.append(self.skip({"file_name": name}, reason))
            except (UnicodeEncodeError, OSError) as error:
                skipped.append(self.skip({"file_name": ascii(name)}, f"cannot be used: {error}"))
        write_json(part, {"images": images, "skipped": skipped})

    def _write_lists(self, good: list[Record], bad: list[Record]) -> dict[str, int]:
        for index, record in enumerate(good):
            record["id"] = index + 1
        space = self.context.space
        lines = b"".join(json_bytes(entry) for entry in bad)
        write_bytes(space.skipped, lines)
        if not good:
            raise UserError(
                f"none of the {len(bad)} images below {self.context.image_root} can be read; "
                f"reasons are in {space.skipped}"
            )
        check_share(len(bad), len(bad) + len(good), self.context.settings.run.max_bad)
        info = {"image_root": str(self.context.image_root.resolve()), "found": self.found}
        write_json(space.images_json, {"info": info, "images": good}, indent=1)
        return {"images": len(good), "skipped": len(bad)}


def _size(path: Path) -> int:
    """Return the size of a file in bytes, -1 for a link to nowhere."""
    try:
        return path.stat().st_size
    except OSError:
        return -1


def _drop_equal_stems(good: list[Record]) -> list[Record]:
    """Remove images whose label file would overwrite another's (a.jpg and a.png); return them."""
    seen: dict[str, str] = {}
    dropped = []
    for record in list(good):
        name = record["file_name"]
        # Some file systems fold case or accents; labels must be portable.
        stem = unicodedata.normalize("NFC", stem_of(name)).casefold()
        if stem in seen:
            good.remove(record)
            reason = f"its label files would overwrite those of {seen[stem]}: rename one"
            dropped.append({"file_name": name, "reason": reason, "stage": "images"})
        else:
            seen[stem] = name
    return dropped
