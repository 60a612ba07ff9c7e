"""Part files: lines that are copied, ids that are written in."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from u2seg.errors import StageError
from u2seg.labels.write import LabelRecord, numbered, read_part, write_part

NAME = "Ünï \udcff.png"
"""A file name that is no UTF-8."""
RECORDS = [
    LabelRecord(3, 0, b'{"file_name":"a.png","image_id":3,"segments_info":[]}', ()),
    LabelRecord(
        7,
        2,
        b'{"file_name":"' + NAME.encode("utf-8", "surrogateescape") + b'","segments_info":[1,2]}',
        (b'{"category_id":0,"id":0,"image_id":7}', b'{"area":0,"id":0,"score":0.0}'),
    ),
]


def test_records_come_back(tmp_path: Path) -> None:
    for records in (RECORDS, RECORDS[:1], []):
        write_part(tmp_path / "x.json", records)
        assert read_part(tmp_path / "x.json") == records


def test_a_part_is_json(tmp_path: Path) -> None:
    write_part(tmp_path / "x.json", RECORDS[:1] * 2)
    label = {"file_name": "a.png", "image_id": 3, "segments_info": []}
    assert json.loads((tmp_path / "x.json").read_text()) == [[3, 0, 0], label] * 2


def test_only_the_id_is_replaced() -> None:
    assert numbered(RECORDS[1].instances[0], 5) == b'{"category_id":0,"id":5,"image_id":7}'
    text = b'{"area":0,"id":0,"x":"\\"id\\":0,","y":{"id":0,"z":1}}'
    assert numbered(text, 12) == b'{"area":0,"id":12,"x":"\\"id\\":0,","y":{"id":0,"z":1}}'


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:-3],
        lambda content: content[:60],
        lambda content: content.replace(b"[7,2,2]", b"[7,2,3]"),
        lambda content: content.replace(b"[7,2,2]", b"[7,2,1]"),
        lambda content: content.replace(b"[7,2,2]", b"[7,2]"),
        lambda content: content.replace(b'"id":0,"score"', b'"score"'),
        lambda content: json.dumps([{"image_id": 1, "panoptic": {}, "instances": []}]).encode(),
    ],
)
def test_damaged_parts_are_named(tmp_path: Path, damage: object) -> None:
    write_part(tmp_path / "x.json", RECORDS)
    content = (tmp_path / "x.json").read_bytes()
    (tmp_path / "x.json").write_bytes(damage(content))  # type: ignore[operator]
    with pytest.raises(StageError, match=r"x\.json cannot be used .* run the panoptic stage again"):
        read_part(tmp_path / "x.json")
    with pytest.raises(StageError, match=r"none\.json cannot be used"):
        read_part(tmp_path / "none.json")
