"""Old file or new file, never half of either."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from u2seg.errors import UserError
from u2seg.io import atomic
from u2seg.io.atomic import (
    atomic_file,
    json_bytes,
    sha256_bytes,
    sha256_file,
    write_bytes,
    write_json,
    write_npy,
    write_text,
    write_with,
)


def _only(folder: Path, *names: str) -> None:
    assert sorted(p.name for p in folder.iterdir()) == sorted(names)


def test_missing_folders_are_made_and_the_umask_counts(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "x.txt"
    before = os.umask(0o027)
    try:
        write_text(path, "é")
    finally:
        os.umask(before)
    assert path.read_bytes() == b"\xc3\xa9"
    assert path.stat().st_mode & 0o777 == 0o640
    _only(path.parent, "x.txt")


def test_an_error_in_the_block_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "x"
    write_bytes(path, b"old")

    def fail_half_way() -> None:
        with atomic_file(path) as file:
            file.write(b"half")
            raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        fail_half_way()
    assert path.read_bytes() == b"old"
    _only(tmp_path, "x")


def test_nothing_is_visible_before_the_end(tmp_path: Path) -> None:
    path = tmp_path / "x"
    with atomic_file(path) as file:
        file.write(b"new")
        file.flush()
        assert not path.exists()
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("step", ["fsync", "replace", "chmod"])
def test_a_full_disk_at_any_step_keeps_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    path = tmp_path / "x"
    write_bytes(path, b"old")

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(atomic.os, step, full)
    told = r"cannot write .*x: No space left.*needs 3 bytes, the free space there is \d+ bytes"
    with pytest.raises(UserError, match=told):
        write_bytes(path, b"new")
    with (
        pytest.raises(UserError, match=r"cannot write .*x: .*needs more than 4 bytes, the free"),
        atomic_file(path) as file,
    ):
        file.write(b"some")
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    _only(tmp_path, "x")


def test_an_unwritable_place_is_a_user_error(tmp_path: Path) -> None:
    write_bytes(tmp_path / "file", b"")
    with pytest.raises(UserError, match=r"cannot write .*file/x"):
        write_bytes(tmp_path / "file" / "x", b"")
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match=r"cannot write .*folder"):
        write_bytes(tmp_path / "folder", b"")


def test_json_is_canonical_and_refuses_nan(tmp_path: Path) -> None:
    assert json_bytes({"b": 1, "a": "é"}) == b'{"a":"\xc3\xa9","b":1}\n'
    assert json_bytes(os.fsdecode(b"caf\xe9.jpg")) == b'"caf\xe9.jpg"\n'
    assert json_bytes({"b": [], "a": {}}) == json_bytes({"a": {}, "b": []})
    path = tmp_path / "x.json"
    write_json(path, {"old": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"x": float("nan")})
    assert path.read_bytes() == b'{"old":1}\n'


def test_npy_round_trip_and_no_objects(tmp_path: Path) -> None:
    write_npy(tmp_path / "x.npy", np.arange(3, dtype=np.float32))
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), [0, 1, 2])
    with pytest.raises(ValueError, match=r"[Oo]bject"):
        write_npy(tmp_path / "y.npy", np.array([{}], dtype=object))
    _only(tmp_path, "x.npy")


def test_writers_get_a_seekable_file(tmp_path: Path) -> None:
    def write(file: Any) -> None:
        file.write(b"abc")
        file.seek(0)
        file.write(b"X")

    write_with(tmp_path / "x", write)
    assert (tmp_path / "x").read_bytes() == b"Xbc"


def test_digests_are_sha256(tmp_path: Path) -> None:
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert sha256_bytes(b"") == empty
    content = b"u2" * (1 << 20)
    write_bytes(tmp_path / "x", content)
    assert sha256_file(tmp_path / "x") == sha256_bytes(content)


def test_a_name_as_long_as_the_file_system_takes(tmp_path: Path) -> None:
    path = tmp_path / ("🏔" * 62 + ".json")  # 253 bytes of at most 255
    write_bytes(path, b"x")
    assert path.read_bytes() == b"x"


def test_temporaries_of_killed_writers_can_be_removed(tmp_path: Path) -> None:
    write_bytes(tmp_path / "a" / "x.png", b"done")
    with atomic_file(tmp_path / "a" / "y.png") as file:
        file.write(b"half")
        (unfinished,) = (p for p in (tmp_path / "a").iterdir() if p.name != "x.png")
        # A killed process cannot tidy up: keep a copy under such a name.
        left = unfinished.with_name(unfinished.name.replace("y.png", "z.png"))
        left.write_bytes(b"half")
    _only(tmp_path / "a", "x.png", "y.png", left.name)
    atomic.remove_temporaries(tmp_path)
    _only(tmp_path / "a", "x.png", "y.png")
