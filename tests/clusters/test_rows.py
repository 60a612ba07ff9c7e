"""Tables in files: the same rows whatever the cut, bounded reads, every damage named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from u2seg.clusters import rows as module
from u2seg.clusters.rows import ArrayRows, FileRows, MappedRows, as_rows
from u2seg.errors import UserError

TABLE = np.arange(44, dtype=np.float32).reshape(11, 4)


def write(folder: Path, *cuts: int) -> list[Path]:
    paths = []
    for index, part in enumerate(np.split(TABLE, cuts)):
        paths.append(folder / f"part-{index}.npy")
        np.save(paths[-1], part)
    return paths


@pytest.mark.parametrize("cuts", [(), (3,), (0, 1, 1, 9), (11,)])
def test_files_are_one_table_however_they_are_cut(tmp_path: Path, cuts: tuple[int, ...]) -> None:
    rows = FileRows(write(tmp_path, *cuts))
    assert (len(rows), rows.dim) == (11, 4)
    for start in range(11):
        for stop in range(start, 12):
            np.testing.assert_array_equal(rows.read(start, stop), TABLE[start:stop])
    chosen = np.array([0, 2, 3, 8, 10])
    np.testing.assert_array_equal(rows.take(chosen), TABLE[chosen])


def test_blocks_start_at_fixed_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK_ROWS", 4)
    for source in (FileRows(write(tmp_path, 3, 5)), ArrayRows(TABLE)):
        found = [(start, len(block)) for start, block in source.blocks()]
        assert found == [(0, 4), (4, 4), (8, 3)]
        np.testing.assert_array_equal(source.block(8), TABLE[8:])


def test_a_function_is_applied_when_rows_are_read(tmp_path: Path) -> None:
    rows = MappedRows(FileRows(write(tmp_path, 3)), lambda x: x[:, :2] * 2, 2)
    assert (len(rows), rows.dim) == (11, 2)
    np.testing.assert_array_equal(rows.read(2, 5), TABLE[2:5, :2] * 2)
    np.testing.assert_array_equal(rows.take(np.array([1, 7])), TABLE[[1, 7], :2] * 2)


def test_only_small_tables_are_kept_in_memory(tmp_path: Path) -> None:
    rows = FileRows(write(tmp_path, 3))
    assert rows.resident(11 * 4 * 4 - 1) is rows
    kept = rows.resident(11 * 4 * 4)
    assert isinstance(kept, ArrayRows)
    np.testing.assert_array_equal(kept.read(0, 11), TABLE)


def test_nothing_at_all() -> None:
    assert len(FileRows([])) == 0
    assert list(FileRows([]).blocks()) == []


def test_files_without_rows_may_have_any_width(tmp_path: Path) -> None:
    np.save(tmp_path / "none.npy", np.empty((0, 9), np.float32))
    rows = FileRows([tmp_path / "none.npy", *write(tmp_path, 3)])
    np.testing.assert_array_equal(rows.read(0, 11), TABLE)


def test_other_widths_name_both_files(tmp_path: Path) -> None:
    np.save(tmp_path / "wide.npy", np.zeros((2, 9), np.float32))
    with pytest.raises(UserError, match=r"wide\.npy has descriptors of 9 .*part-0\.npy of 4"):
        FileRows([*write(tmp_path), tmp_path / "wide.npy"])


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((2, 3)), r"must hold \(n, D\) float32, got float64"),
        (np.zeros(3, np.float32), r"must hold \(n, D\) float32"),
        (np.asfortranarray(np.zeros((2, 3), np.float32)), r"must hold \(n, D\) float32"),
        (np.array([[None]], dtype=object), r"must hold \(n, D\) float32, got object"),
    ],
)
def test_other_arrays_are_refused(tmp_path: Path, array: np.ndarray, message: str) -> None:
    np.save(tmp_path / "a.npy", array, allow_pickle=True)
    with pytest.raises(UserError, match=message):
        FileRows([tmp_path / "a.npy"])


def test_short_missing_and_foreign_files_are_named(tmp_path: Path) -> None:
    (path,) = write(tmp_path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"part-0\.npy holds 175 bytes of numbers, not \(11, 4\)"):
        FileRows([path])
    path.write_bytes(b"PK\x03\x04")
    with pytest.raises(UserError, match=r"part-0\.npy is not a readable"):
        FileRows([path])
    with pytest.raises(UserError, match=r"gone\.npy is not a readable"):
        FileRows([tmp_path / "gone.npy"])


def test_a_file_that_shrinks_while_it_is_read_is_named(tmp_path: Path) -> None:
    (path,) = write(tmp_path)
    rows = FileRows([path])
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(UserError, match="became shorter"):
        rows.read(0, 11)


def test_arrays_and_tables_are_taken_alike() -> None:
    rows = ArrayRows(TABLE)
    assert as_rows(rows) is rows
    np.testing.assert_array_equal(as_rows(TABLE.tolist()).read(0, 11), TABLE)
    with pytest.raises(ValueError, match=r"\(n, D\)"):
        as_rows(np.zeros(3))
