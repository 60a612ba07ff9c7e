"""Stage ``images``: find the photographs, decode each once, list the good and the bad."""

from __future__ import annotations

import functools
import logging
import os
from pathlib import Path
from typing import Any, TypeVar

from u2seg.errors import UserError
from u2seg.io.atomic import json_bytes, sha256_bytes, sha256_file, write_json
from u2seg.io.images import BadImageError, check_jpeg, decode_image, read_content
from u2seg.io.jsonfile import read_json_object
from u2seg.io.paths import distinct_stems, image_file, stem_of
from u2seg.io.sources import tell_passed_over
from u2seg.pipeline.batches import collect_skips
from u2seg.pipeline.stage import Stage, check_share
from u2seg.shards.attempts import Part, Work
from u2seg.shards.records import Record, ShardFile, write_shards

logger = logging.getLogger(__name__)
Item = TypeVar("Item")


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

    @functools.cached_property
    def found(self) -> list[Record]:
        """All photographs of the source, listed on first use; workers need no list."""
        return self.context.source.entries(self.context.progress)

    @property
    def entries(self) -> list[Record]:
        """Those that are used."""
        return spread(self.found, self.context.limit)

    def check(self) -> None:
        """List the photographs."""
        _ = self.found

    def hashes(self) -> dict[str, str]:
        """Those of the parts, and of the list for all who read labels."""
        listed = self.space.images_json
        outside = {f"../{listed.name}": sha256_file(listed)} if listed.is_file() else {}
        return {**super().hashes(), **outside}

    def shards(self) -> ShardFile:
        """Return the entries of every shard."""
        return ShardFile(self.space.entries)

    def sections(self) -> tuple[Any, ...]:
        """Image settings."""
        return (self.context.settings.images,)

    def extra_plan(self) -> dict[str, Any]:
        """The list of files: a changed folder is another run."""
        root = self.context.source.root
        listing = [
            [*entry.values()] if "size" in entry else [*entry.values(), _size(root, entry)]
            for entry in self.entries
        ]
        return {"image_list": sha256_bytes(json_bytes(listing))}

    def works(self) -> dict[str, Work]:
        """One phase."""
        return {"list": self._list}

    def run(self) -> dict[str, int]:
        """Decode every image once; write one part per shard, then the lists."""
        write_shards(self.space.entries, self.entries, self.context.settings.run.shard_size)
        self.each_shard("list")
        parts = [
            read_json_object(self.space.part(self.name, index), "images", "plain")
            for index in range(len(self.shards()))
        ]
        if plain := [name for part in parts for name in part["plain"]]:
            logger.warning(
                "%d images have one value in every pixel, such as %s: was it decoded rightly?",
                len(plain), plain[0],
            )  # fmt: skip
        good = [record for part in parts for record in part["images"]]
        _name_twins(good)
        return self._write_lists(good, collect_skips(self.space, [self.name]))

    def _list(self, part: Part) -> list[Path]:
        images: list[Record] = []
        skipped: list[Record] = []
        plain: list[str] = []
        for entry in part.each():
            name = entry["file_name"]
            try:
                if reason := part.aside.get(name) or entry.get("reason"):
                    raise BadImageError(reason)
                name.encode("utf-8")
                images.append(self._look(entry, plain))
            except BadImageError as error:
                skipped.append(self.skip(entry, str(error)))
            except UserError as error:
                reason = f"{error}: rename it, or copy it there if it is a link"
                skipped.append(self.skip(entry, reason))
            except UnicodeEncodeError as error:
                entry = {"file_name": ascii(name)}
                skipped.append(self.skip(entry, f"cannot be used: {error}"))
        return self.write_part(part.index, {"images": images, "plain": plain}, skipped)

    def _look(self, entry: Record, plain: list[str]) -> Record:
        """Return the record of an entry; BadImageError or UserError if it cannot be used.

        Its name goes to ``plain`` if all its pixels are the same.
        """
        limit = self.context.settings.images.max_pixels
        content = read_content(image_file(self.context.source.root, entry), limit)
        pixels = decode_image(content, limit)
        check_jpeg(content)
        if (pixels[0] == pixels[0, 0]).all() and (pixels == pixels[0, 0]).all():
            plain.append(entry["file_name"])
        height, width = pixels.shape[:2]
        return {**entry, "height": height, "width": width, "sha256": sha256_bytes(content)}

    def _write_lists(self, good: list[Record], bad: int) -> dict[str, int]:
        for index, record in enumerate(good):
            record["id"] = index + 1
        source = self.context.source
        if not good:
            raise UserError(
                f"none of the {bad} images below {source.root} can be read; "
                f"reasons are in {self.space.skipped}"
            )
        check_share(bad, bad + len(good), self.context.settings.run.max_bad)
        tell_passed_over(source)
        info = {
            "image_root": str(source.root.resolve()),
            "searched": source.searched,
            "found": len(self.found),
            "passed_over": source.passed_over,
        }
        write_json(self.space.images_json, {"info": info, "images": good}, indent=1)
        write_shards(self.space.records, good, self.context.settings.run.shard_size)
        passed_over = sum(source.passed_over.values())
        counts = {"images": len(good), "skipped": bad}
        return {**counts, "passed over": passed_over} if passed_over else counts


def _size(root: Path, entry: Record) -> int:
    try:  # a link may lead nowhere
        return os.stat(root / entry["file_name"]).st_size
    except (OSError, ValueError):
        return -1


def _name_twins(good: list[Record]) -> None:
    """Give photographs whose label files would overwrite another's (a.jpg, a.png) a ``stem``."""
    for record, stem in zip(good, distinct_stems(r["file_name"] for r in good), strict=True):
        if stem != stem_of(record["file_name"]):
            record["stem"] = stem
            logger.info("label files of %s are called %s", record["file_name"], stem)
