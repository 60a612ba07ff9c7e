"""JSON that came from anywhere."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from u2seg.errors import UserError
from u2seg.io.atomic import write_json
from u2seg.io.jsonfile import read_json, read_json_object


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b'{"a": NaN}', "NaN is not a JSON number"),
        (b"[-Infinity]", "Infinity is not a JSON number"),
        (b"[" * 100_000 + b"]" * 100_000, "nested too deeply|not valid JSON"),
        (b"9" * 10_000, "not valid JSON"),
        (b"\x80\x04.", "not valid JSON"),
    ],
)
def test_bad_files_are_user_errors_naming_the_file(
    tmp_path: Path, content: bytes, message: str
) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        read_json(path)
    assert str(path) in str(error.value)


def test_missing_files_and_folders(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no\.json does not exist"):
        read_json(tmp_path / "no.json")
    with pytest.raises(UserError, match="cannot read"):
        read_json(tmp_path)


def test_objects_need_their_keys(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text('{"images": [], "other": 1}')
    assert read_json_object(path, "images") == {"images": [], "other": 1}
    with pytest.raises(UserError, match="lacks the key 'annotations'; its keys are images, other"):
        read_json_object(path, "images", "annotations")
    path.write_text("[]")
    with pytest.raises(UserError, match="must hold a JSON object, found list"):
        read_json_object(path)


def test_file_names_that_are_not_utf8_round_trip(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9 \xe2\x98\x83.jpg")
    write_json(tmp_path / "x.json", {"file_name": name})
    assert os.fsencode(read_json(tmp_path / "x.json")["file_name"]) == b"caf\xe9 \xe2\x98\x83.jpg"
