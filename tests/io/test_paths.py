"""Untrusted file names stay inside their root."""

from __future__ import annotations

from pathlib import Path

import pytest

from u2seg.errors import UserError
from u2seg.io.paths import distinct_stems, safe_join, stem_of


@pytest.mark.parametrize(
    "name",
    ["", "a\0b", "x" * 5000, "/etc/passwd", "../x", "a/../../x", "a/..", "..", "..\\x",
     "a\\..\\..\\x", "a/..\\x", "C:/x", "C:\\x", "c:x"],
)  # fmt: skip
def test_names_that_leave_the_root_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="file name"):
        safe_join(tmp_path, name)


@pytest.mark.parametrize("name", ["a.jpg", "a/b c/ü – 山.jpg", "..a/b..", "a/...jpg", "./a.jpg"])
def test_names_inside_the_root_are_joined(tmp_path: Path, name: str) -> None:
    assert safe_join(tmp_path, name) == tmp_path / name


def test_symbolic_links_out_of_the_root_are_refused(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "real").mkdir(parents=True)
    (tmp_path / "secret").mkdir()
    (root / "out").symlink_to(tmp_path / "secret")
    (root / "in").symlink_to(root / "real")
    with pytest.raises(UserError, match="leaves its root"):
        safe_join(root, "out/x.jpg")
    assert safe_join(root, "in/x.jpg") == root / "in" / "x.jpg"


def test_a_neighbour_with_the_same_beginning_is_outside(tmp_path: Path) -> None:
    for name in ("real", "real2"):
        (tmp_path / name).mkdir()
    (tmp_path / "root").symlink_to(tmp_path / "real")  # the root itself may be a link
    (tmp_path / "real" / "l").symlink_to(tmp_path / "real2")
    assert safe_join(tmp_path / "root", "x.jpg") == tmp_path / "root" / "x.jpg"
    with pytest.raises(UserError, match="leaves its root"):
        safe_join(tmp_path / "root", "l/x")


@pytest.mark.parametrize(
    ("name", "stem"),
    [("a.jpg", "a"), ("a/b.c/d", "a/b.c/d"), ("x.tar.gz", "x.tar"), ("d/.hidden", "d/.hidden")],
)
def test_stems_keep_folders(name: str, stem: str) -> None:
    assert stem_of(name) == stem


def test_equal_names_in_sub_folders_are_different_photographs() -> None:
    names = [f"c{number}/0.png" for number in range(6)]
    assert distinct_stems(names) == [f"c{number}/0" for number in range(6)]


def test_twins_never_share_a_file_on_any_file_system() -> None:
    stems = distinct_stems(
        ["000009.png", "000009.bmp", "000009.PNG", "000009_bmp.png", "É.png", "é.jpg"]
    )
    assert stems == ["000009", "000009_bmp", "000009_PNG", "000009_bmp_png", "É", "é_jpg"]
    assert len({stem.casefold() for stem in stems}) == len(stems)
