"""The file of records: shards are read one by one, in pieces."""

from __future__ import annotations

from pathlib import Path

import pytest

from u2seg.errors import UserError
from u2seg.pipeline import records
from u2seg.pipeline.records import ShardFile, write_shards


@pytest.mark.parametrize("piece", [1, 17, 1 << 20])
@pytest.mark.parametrize("count", [0, 1, 7, 50])
def test_shards_come_back_whatever_is_read_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece: int, count: int
) -> None:
    monkeypatch.setattr(records, "PIECE", piece)
    rows = [{"id": i, "file_name": f"é {i}.jpg"} for i in range(count)]
    write_shards(tmp_path / "x.jsonl", rows, 7)
    shards = ShardFile(tmp_path / "x.jsonl")
    assert [row for shard in shards for row in shard] == rows
    assert shards.sizes == [len(shard) for shard in shards]


def test_a_file_that_ends_too_early_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    write_shards(path, [{"id": i} for i in range(9)], 2)
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(UserError, match=r"x\.jsonl is damaged"):
        ShardFile(path)[0]
    with pytest.raises(UserError, match=r"none\.jsonl is damaged"):
        ShardFile(tmp_path / "none.jsonl")[0]
