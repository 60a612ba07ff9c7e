"""Marks, receipts and troubles of shards: every rule by itself, without processes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from u2seg.errors import StageError, UserError
from u2seg.io.atomic import write_text
from u2seg.shards.attempts import Part, Phase, attempt
from u2seg.shards.driver import drive
from u2seg.shards.ledger import DRIVER, LOST_LIMIT, RAISED_LIMIT, Ledger, ShardLostError, Trouble
from u2seg.shards.records import ShardFile, write_shards

SHARDS = [[{"file_name": f"{shard}-{image}.jpg"} for image in range(3)] for shard in range(2)]


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "stage" / "ledger" / "make", tmp_path)


class Writer:
    """Writes the names of a shard's images, and can be told to fail."""

    def __init__(self, root: Path, bad: Iterable[str] = ()) -> None:
        self.root, self.bad = root, set(bad)
        self.tried: list[str] = []

    def __call__(self, part: Part) -> list[Path]:
        used = [r["file_name"] for r in part.each() if r["file_name"] not in part.aside]
        for name in used:
            self.tried.append(name)
            if name in self.bad:
                raise RuntimeError(f"{name} is too much")
        path = self.root / f"part-{part.index}.txt"
        write_text(path, "\n".join(used))
        return [path]


def run(ledger: Ledger, work: Callable[[Part], list[Path]]) -> None:
    phase = Phase("writer", SHARDS, ledger, work)
    drive(phase, ("writer", "make"), pool=None, patience=9)


def test_a_settled_shard_is_never_taken_again(ledger: Ledger, tmp_path: Path) -> None:
    mark = ledger.take(7, "me")
    assert mark is not None and list(ledger.snapshot().at) == [7]
    write_text(tmp_path / "part.txt", "abc")
    ledger.settle(7, mark, [tmp_path / "part.txt", tmp_path / "part.txt", tmp_path / "gone"])
    mark.remove()
    assert json.loads(ledger.path(7, "done").read_text()) == {
        "files": {
            "part.txt": [3, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"]
        }
    }
    assert ledger.snapshot().done == {7} and not ledger.snapshot().at
    assert ledger.take(7, "me") is None and not ledger.snapshot().at


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda path: path.unlink(), "is missing"),
        (lambda path: path.write_text("ab"), "is not as it was written"),
        (lambda path: path.write_text("abd"), "is not as it was written"),
    ],
)
def test_a_file_that_is_not_what_was_written_is_found(
    ledger: Ledger, tmp_path: Path, spoil: Any, told: str
) -> None:
    path = tmp_path / "part.txt"
    write_text(path, "abc")
    mark = ledger.take(0, "me")
    assert mark
    ledger.settle(0, mark, [path])
    assert ledger.damaged([0]) == {}
    spoil(path)
    assert told in ledger.damaged([0])[0]


@pytest.mark.parametrize("content", ["", "[]", '{"files": 3}', '{"files": {"a": [1]}}'])
def test_a_damaged_receipt_is_none(ledger: Ledger, content: str) -> None:
    write_text(ledger.path(0, "done"), content)
    assert "cannot be read" in ledger.damaged([0])[0]


def test_who_lost_a_shard_writes_no_receipt_and_leaves_the_next_worker_alone(
    ledger: Ledger,
) -> None:
    first = ledger.take(0, "first")
    assert first and ledger.lose(0, "no progress")
    with pytest.raises(ShardLostError):
        first.beat()
    second = ledger.take(0, "second")
    assert second
    with pytest.raises(ShardLostError):
        ledger.settle(0, first, [])
    first.remove()
    assert second.holds() and ledger.trouble(0).lost == ["no progress"]


def test_a_mark_left_by_the_dead_counts_for_a_driver_alone(ledger: Ledger) -> None:
    """Workers of a killed driver end with it; a call that is made again died at its shard."""
    for shard, worker in ((0, DRIVER), (1, "worker")):
        mark = ledger.take(shard, worker)
        assert mark
        mark.write("a.jpg")
    ledger.begin("run")
    assert ledger.trouble(0).alone == {"a.jpg": ["killed"]} and ledger.trouble(1) == Trouble()
    assert not ledger.snapshot().at
    for _ in range(2):
        assert ledger.take(1, "worker")
    assert ledger.trouble(1).lost == ["killed"]


def test_workers_of_an_earlier_driver_begin_nothing(ledger: Ledger, tmp_path: Path) -> None:
    ledger.begin("first")
    Ledger(ledger.folder, tmp_path).begin("second")
    with pytest.raises(ShardLostError, match="another driver"):
        attempt(Phase("writer", SHARDS, ledger, Writer(tmp_path)), 0, "worker")
    assert not list(tmp_path.glob("part-*"))


def test_an_image_that_fails_alone_three_times_is_set_aside(ledger: Ledger, tmp_path: Path) -> None:
    work = Writer(tmp_path, {"1-2.jpg"})
    run(ledger, work)
    assert ledger.snapshot().done == {0, 1}
    assert ledger.aside() == {
        "1-2.jpg": "set aside after it failed 3 times alone: RuntimeError: 1-2.jpg is too much"
    }
    assert (tmp_path / "part-1.txt").read_text() == "1-0.jpg\n1-1.jpg"
    # twice whole, then each alone: the good ones once, the bad one three times, then the rest
    whole, rest = ["1-0.jpg", "1-1.jpg", "1-2.jpg"], ["1-0.jpg", "1-1.jpg"]
    assert work.tried[3:] == [*whole, *whole, *rest, *["1-2.jpg"] * 3, *rest]
    assert ledger.forgive() == [1] and ledger.snapshot().done == {0} and ledger.aside() == {}


def test_a_shard_that_recovers_leaves_no_trouble(ledger: Ledger, tmp_path: Path) -> None:
    work = Writer(tmp_path, {"0-0.jpg"})
    phase = Phase("writer", SHARDS, ledger, work)
    attempt(phase, 0, "me")
    assert ledger.trouble(0).raised == ["RuntimeError: 0-0.jpg is too much"]
    work.bad = set()
    run(ledger, work)
    assert ledger.snapshot().done == {0, 1} and not ledger.snapshot().troubled


def test_when_no_image_passes_it_is_no_image_s_fault(ledger: Ledger, tmp_path: Path) -> None:
    names = {record["file_name"] for shard in SHARDS for record in shard}
    with pytest.raises(StageError, match=r"every image.*0-0.jpg is too much.*--retry-failed"):
        run(ledger, Writer(tmp_path, names))
    assert not ledger.snapshot().at


def test_a_shard_whose_images_are_fine_is_given_up_at_last(ledger: Ledger, tmp_path: Path) -> None:
    good = Writer(tmp_path)

    def work(part: Part) -> list[Path]:
        if part.index == 1 and not part.only:
            raise MemoryError
        return good(part)

    with pytest.raises(StageError, match=r"1 of 2 shards failed .* the first is 1: MemoryError"):
        run(ledger, work)
    look = ledger.snapshot()
    assert look.done == {0} and look.failed == {1} and not look.troubled
    trouble = ledger.trouble(1)
    assert trouble.raised == ["MemoryError"] * RAISED_LIMIT
    assert trouble.fine == ["1-0.jpg", "1-1.jpg", "1-2.jpg"]


def test_a_phase_that_reads_no_photographs_is_not_taken_apart(
    ledger: Ledger, tmp_path: Path
) -> None:
    tried: list[int] = []

    def work(part: Part) -> list[Path]:
        tried.append(part.index)
        if 1 <= tried.count(1) <= 3 and part.index == 1:
            raise RuntimeError
        return []

    run(ledger, work)
    assert ledger.snapshot().done == {0, 1} and ledger.aside() == {}
    # failed three times, then once "alone", which says nothing, then whole
    assert tried == [0, *[1] * 5]


def test_lost_workers_count_less_than_errors() -> None:
    lost = Trouble(lost=["killed"] * (LOST_LIMIT - 1))
    assert lost.isolate and not lost.hopeless
    assert Trouble(lost=["killed"] * LOST_LIMIT).hopeless
    assert Trouble(raised=["a"] * RAISED_LIMIT).hopeless
    assert not Trouble(raised=["a"]).isolate


def test_errors_of_the_settings_end_the_run_and_free_the_shard(ledger: Ledger) -> None:
    def refuse(_: Part) -> list[Path]:
        raise UserError("no such model")

    with pytest.raises(UserError, match="no such model"):
        run(ledger, refuse)
    look = ledger.snapshot()
    assert not (look.at or look.settled or look.troubled)


def test_a_mark_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write .*00000\.at"):
        Ledger(tmp_path / "file" / "x", tmp_path).take(0, "me")


@pytest.mark.parametrize("count", [0, 1, 50])
def test_shards_come_back_as_written(tmp_path: Path, count: int) -> None:
    rows = [{"id": i, "file_name": f"é {i}.jpg"} for i in range(count)]
    write_shards(tmp_path / "x.jsonl", rows, 7)
    shards = ShardFile(tmp_path / "x.jsonl")
    assert [row for shard in shards for row in shard] == list(shards.records) == rows
    assert shards.sizes == [len(shard) for shard in shards]


def test_a_file_that_ends_too_early_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    write_shards(path, [{"id": i} for i in range(9)], 2)
    path.write_bytes(path.read_bytes()[:-5])
    for name in ("x", "none"):
        with pytest.raises(UserError, match=rf"{name}\.jsonl is damaged"):
            list(ShardFile(tmp_path / f"{name}.jsonl"))
