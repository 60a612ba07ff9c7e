"""Photographs from a folder, a list or tar shards: the same records, and nothing else gets in."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import pytest

from tests.io.shards import write_shard
from u2seg.errors import UserError
from u2seg.io import sources
from u2seg.io.sources import (
    FolderSource,
    ListSource,
    ShardSource,
    open_source,
    tell_passed_over,
)

ENDINGS = (".jpg", ".png")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    for name in ("b.jpg", "a/c.png", "a/B.JPG", "notes.txt", ".hidden.png", ".cache/x.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())
    return folder


def names(path: Path) -> list[str]:
    return [entry["file_name"] for entry in open_source(path, ENDINGS).entries()]


def write_list(path: Path, *lines: str) -> Path:
    path.write_bytes(os.fsencode("\n".join(lines)))
    return path


def test_a_folder_gives_its_photographs_sorted(photos: Path) -> None:
    source = open_source(photos, ENDINGS)
    assert isinstance(source, FolderSource) and source.searched
    assert source.root == photos and source.folders() == {photos}
    assert names(photos) == ["a/B.JPG", "a/c.png", "b.jpg"]


def test_a_list_ignores_blank_lines_comments_and_repetitions(
    photos: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lines = ["# the best", "", "b.jpg\r", "  a/c.png ", "./a/../b.jpg", str(photos / "b.jpg"), "\t"]
    path = write_list(photos / "list.txt", *lines)
    source = open_source(path, ENDINGS)
    assert isinstance(source, ListSource) and not source.searched
    assert source.root == photos
    assert source.entries() == [{"file_name": "a/c.png"}, {"file_name": "b.jpg"}]
    assert "2 lines name a photograph again" in caplog.text
    assert source.folders() == {photos, photos / "a"}


def test_a_list_travels_to_other_processes_without_its_lines(photos: Path) -> None:
    path = write_list(photos / "list.txt", *(f"{number}.jpg" for number in range(1000)))
    source = open_source(path, ENDINGS)
    packed = pickle.dumps(source)
    assert len(packed) < 1000
    there = pickle.loads(packed)
    assert there.root == photos and there.entries() == source.entries()


def test_what_a_list_names_is_tried_whatever_its_ending(photos: Path) -> None:
    assert names(write_list(photos / "list", "notes.txt", "absent.jpg")) == [
        "absent.jpg", "notes.txt",
    ]  # fmt: skip


def test_absolute_paths_share_the_deepest_folder_that_holds_all(
    photos: Path, tmp_path: Path
) -> None:
    (tmp_path / "lists").mkdir()
    deep = [str(photos / "a" / "c.png"), str(photos / "a" / "B.JPG")]
    path = write_list(tmp_path / "lists/one.txt", *deep)
    assert (open_source(path, ENDINGS).root, names(path)) == (photos / "a", ["B.JPG", "c.png"])
    both = write_list(tmp_path / "lists/two.txt", *deep, str(photos / "b.jpg"))
    assert open_source(both, ENDINGS).root == photos
    assert names(both) == ["a/B.JPG", "a/c.png", "b.jpg"]
    mixed = write_list(tmp_path / "lists/three.txt", "own.jpg", str(photos / "b.jpg"))
    assert open_source(mixed, ENDINGS).root == tmp_path
    assert names(mixed) == ["lists/own.jpg", "photos/b.jpg"]


@pytest.mark.parametrize("line", ["../secret.jpg", "a/../../secret.jpg", "a\\..\\..\\x.jpg"])
def test_relative_paths_do_not_leave_the_folder_of_the_list(photos: Path, line: str) -> None:
    path = write_list(photos / "list.txt", "b.jpg", line)
    bad, good = sorted(
        open_source(path, ENDINGS).entries(), key=lambda entry: "reason" not in entry
    )
    assert good == {"file_name": "b.jpg"}
    assert bad["file_name"] == line and "leaves its root" in bad["reason"]
    assert "an absolute path may lie anywhere" in bad["reason"]


def test_json_lines_hold_names_or_objects_and_odd_characters(photos: Path) -> None:
    lines = [json.dumps("b.jpg"), "", json.dumps({"file_name": "a/new\nline.png", "label": 3})]
    assert names(write_list(photos / "list.jsonl", *lines)) == ["a/new\nline.png", "b.jpg"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("b.jpg", r"list\.jsonl:2 is not valid JSON"),
        ("[]", r'list\.jsonl:2: expected "a/b\.jpg"'),
        ('{"path": "b.jpg"}', "list.jsonl:2: expected"),
        ('""', "list.jsonl:2: expected"),
    ],
)
def test_a_wrong_line_is_named(photos: Path, line: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        open_source(write_list(photos / "list.jsonl", '"a.jpg"', line), ENDINGS)


def test_names_of_a_list_need_not_be_utf8(photos: Path) -> None:
    name = os.fsdecode(b"caf\xe9.jpg")
    assert names(write_list(photos / "list.txt", name)) == [name]


def test_a_list_begins_after_its_byte_order_mark(photos: Path) -> None:
    (photos / "list.txt").write_bytes(b"\xef\xbb\xbfb.jpg\r\n")
    assert names(photos / "list.txt") == ["b.jpg"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("absent", None, "absent does not exist: expected a folder"),
        ("empty.txt", b"# nothing\n\n", "names no photograph"),
        ("photos.zip", b"PK\3\4\0\0", "no text file"),
        ("one.jpg", b"\xff\xd8", "is one photograph"),
        ("s.tar.gz", b"\x1f\x8b", "s.tar.gz is compressed"),
        ("s-{0..3}.tar", None, "4 of the 4 shards of .* do not exist, the first is .*s-0.tar"),
        ("s-{3..0}.tar", None, "0 shards, expected 1 to 1000000"),
        ("s-{0..9999999}.tar", None, "10000000 shards"),
    ],
)
def test_what_is_no_source_says_what_was_expected(
    tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        open_source(tmp_path / name, ENDINGS)


def test_a_folder_of_shards_a_shard_and_a_pattern_give_the_same(tmp_path: Path) -> None:
    write_shard(tmp_path / "s-08.tar", {"b.jpg": b"1", "b.json": b"{}"})
    write_shard(tmp_path / "s-09.tar", {"a.png": b"22"})
    write_shard(tmp_path / "s-10.tar", {"c.png": b"333"})
    whole = open_source(tmp_path, ENDINGS)
    assert isinstance(whole, ShardSource) and whole.searched
    expected = [
        {"file_name": "a.png", "offset": 512, "size": 2, "shard": "s-09.tar"},
        {"file_name": "b.jpg", "offset": 512, "size": 1, "shard": "s-08.tar"},
        {"file_name": "c.png", "offset": 512, "size": 3, "shard": "s-10.tar"},
    ]
    assert whole.entries() == expected
    pattern = open_source(tmp_path / "s-{08..10}.tar", ENDINGS)
    assert pattern.entries() == expected and not pattern.searched
    assert pattern.root == tmp_path and pattern.folders() == {tmp_path}
    one = open_source(tmp_path / "s-08.tar", ENDINGS)
    assert one.entries() == expected[1:2]


def test_shards_that_use_the_same_names_lend_their_own(tmp_path: Path) -> None:
    write_shard(tmp_path / "train/0.tar", {"x.jpg": b"1", "y.jpg": b"1"})
    write_shard(tmp_path / "val/0.tar", {"x.jpg": b"2"})
    assert names(tmp_path) == ["train/0/x.jpg", "train/0/y.jpg", "val/0/x.jpg"]


def test_shards_beside_photographs_are_left_out_and_told(
    photos: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_shard(photos / "s.tar", {"x.jpg": b"1"})
    assert names(photos) == ["a/B.JPG", "a/c.png", "b.jpg"]
    assert "holds photographs and 1 shards" in caplog.text


def test_nothing_found_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no image found below"):
        open_source(tmp_path, ENDINGS)
    write_shard(tmp_path / "s.tar", {"x.txt": b"1"})
    with pytest.raises(UserError, match="no image found in the 1 shards"):
        open_source(tmp_path, ENDINGS).entries()


def test_what_is_passed_over_is_told_in_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("a.jpg", "1.HEIC", "sub/2.heic", "c.jfif", "noext", ".hidden.heic"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    source = open_source(tmp_path, ENDINGS)
    assert source.passed_over == {".heic": 2, ".jfif": 1, "": 1}
    tell_passed_over(source)
    (line,) = caplog.messages
    told = "2 files ended in .heic, 1 in nothing, 1 in .jfif and were passed over"
    assert line.startswith(f"below {tmp_path} {told} (U2SEG.IMAGES.EXTENSIONS")
    assert caplog.records[0].levelname == "WARNING"


def test_what_no_library_reads_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.jpg", "b.heic"):
        (tmp_path / name).touch()
    monkeypatch.setattr(sources, "readable_here", lambda ending: ending != ".heic")
    monkeypatch.setattr(sources, "reads_heic", lambda: False)
    source = open_source(tmp_path, (".jpg", ".heic"))
    assert source.entries() == [{"file_name": "a.jpg"}]
    assert source.passed_over == {".heic": 1}
    (tmp_path / "a.jpg").unlink()
    told = r"no image found .*: 1 files ended in \.heic .*for HEIC: pip install pillow-heif"
    with pytest.raises(UserError, match=told):
        open_source(tmp_path, (".jpg", ".heic"))
