"""What the readers of label files share: one record per annotated image, every file present."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from u2seg.errors import UserError
from u2seg.io.imagefile import image_file
from u2seg.io.paths import safe_join, stem_of

Record = dict[str, Any]


def existing_file(root: Path, name: str, source: Path, advice: str) -> str:
    """Return ``root / name``, a file inside ``root``.

    Args:
        root: Trusted folder.
        name: Untrusted relative name.
        source: The file that names it, for the message.
        advice: Last sentence of the message: what to do.

    Raises:
        UserError: if ``name`` leaves ``root`` or there is no such file.
    """
    path = safe_join(root, name)
    if not path.is_file():
        raise UserError(f"{source} names {path}, which does not exist. {advice}")
    return str(path)


def image_records(
    content: Record, source: Path, folders: tuple[Path, Path], advice: tuple[str, str]
) -> list[Record]:
    """Return one record per annotation of a checked COCO panoptic file, in its order.

    Args:
        content: From ``u2seg.io.coco.read_panoptic``.
        source: The file, for messages.
        folders: Folder of the photographs and of the PNGs.
        advice: What to do when a photograph or a PNG is missing.

    Returns:
        Dictionaries in Detectron2's format: ``file_name``, ``stem`` (relative, without suffix,
        forward slashes), ``image_id``, ``height``, ``width``, ``pan_seg_file_name`` and
        ``segments_info`` (the file's category ids, ``iscrowd`` filled in). A photograph of known
        SHA-256 or in a tar shard has its ``ImageFile`` as ``photograph``; in a shard
        ``file_name`` cannot be opened.

    Raises:
        UserError: if a file name leaves its folder, a file does not exist, or there is no
            annotation.
    """
    images = {image["id"]: image for image in content["images"]}
    records = []
    for label in content["annotations"]:
        image = images[label["image_id"]]
        records.append(
            {
                **_photograph(folders[0], image, source, advice[0]),
                "stem": stem_of(image["file_name"]),
                "image_id": image["id"],
                "height": image["height"],
                "width": image["width"],
                "pan_seg_file_name": existing_file(
                    folders[1], label["file_name"], source, advice[1]
                ),
                "segments_info": [
                    {**segment, "iscrowd": int(segment.get("iscrowd", 0))}
                    for segment in label["segments_info"]
                ],
            }
        )
    if not records:
        raise UserError(f"{source} annotates no image: there is nothing to work on")
    return records


def _photograph(root: Path, image: Record, source: Path, advice: str) -> Record:
    place = image_file(root, image)
    if not place.path.is_file():
        raise UserError(f"{source} names {place}, which does not exist. {advice}")
    return {
        "file_name": str(place),
        **({"photograph": place} if place.name or place.sha256 else {}),
    }
