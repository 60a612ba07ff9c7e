"""One rule for the names of all files that belong to photographs."""

from __future__ import annotations

from u2seg.io.names import distinct_stems


def test_equal_names_in_sub_folders_are_different_photographs() -> None:
    names = [f"c{number}/0.png" for number in range(6)]
    assert distinct_stems(names) == [f"c{number}/0" for number in range(6)]


def test_twins_never_share_a_file_on_any_file_system() -> None:
    stems = distinct_stems(
        ["000009.png", "000009.bmp", "000009.PNG", "000009_bmp.png", "É.png", "é.jpg"]
    )
    assert stems == ["000009", "000009_bmp", "000009_PNG", "000009_bmp_png", "É", "é_jpg"]
    assert len({stem.casefold() for stem in stems}) == len(stems)
