"""Leases, receipts and troubles of shards: every rule by itself, without processes."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import pytest

from u2seg.errors import StageError, UserError
from u2seg.io.atomic import write_text
from u2seg.io.lock import born
from u2seg.pipeline.attempts import Turn, drain
from u2seg.pipeline.leases import Holder, Lease, LeaseLostError, Watch, look_at
from u2seg.pipeline.ledger import LOST_LIMIT, RAISED_LIMIT, Ledger, Trouble

ME = Holder.here("me")
SHARDS = [[{"file_name": f"{shard}-{image}.jpg"} for image in range(3)] for shard in range(2)]


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "stage" / "ledger" / "shard", tmp_path)


class Writer:
    """A stage that writes the names of a shard's images, and can be told to fail."""

    name = "writer"

    def __init__(self, root: Path, bad: set[str] = frozenset()) -> None:  # type: ignore[assignment]
        self.root, self.bad = root, bad
        self.turn = Turn()
        self.aside: dict[str, str] = {}
        self.tried: list[str] = []

    def set_aside(self, images: dict[str, str]) -> None:
        self.aside.update(images)

    def work(self, shard: int, records: list[dict[str, Any]]) -> None:
        self.turn.asked = True
        names = [r["file_name"] for r in records]
        used = [n for n in names if self.turn.admits(n) and n not in self.aside]
        for name in used:
            self.tried.append(name)
            if name in self.bad:
                raise RuntimeError(f"{name} is too much")
        write_text(self.root / f"part-{shard}.txt", "\n".join(used))


def work_until_settled(stage: Writer, ledger: Ledger) -> None:
    while drain(stage, stage.work, SHARDS, ledger, ME):
        pass


def test_a_shard_is_taken_once_and_never_again_when_done(ledger: Ledger, tmp_path: Path) -> None:
    lease = ledger.take(7, ME)
    assert lease is not None and ledger.take(7, ME) is None
    assert ledger.snapshot().leases[7].holder == ME
    write_text(tmp_path / "part.txt", "abc")
    ledger.settle(7, lease, [tmp_path / "part.txt", tmp_path / "part.txt", tmp_path / "gone"])
    assert json.loads(ledger.path(7, "done").read_text()) == {
        "files": {
            "part.txt": [3, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"]
        }
    }
    look = ledger.snapshot()
    assert look.done == {7} and not look.leases
    assert ledger.take(7, ME) is None and not ledger.snapshot().leases


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda path: path.unlink(), "is missing"),
        (lambda path: path.write_text("ab"), "has 2 bytes, not 3"),
        (lambda path: path.write_text("abd"), "another checksum"),
    ],
)
def test_a_file_that_is_not_what_was_written_is_found(
    ledger: Ledger, tmp_path: Path, spoil: Any, told: str
) -> None:
    path = tmp_path / "part.txt"
    write_text(path, "abc")
    lease = ledger.take(0, ME)
    assert lease
    ledger.settle(0, lease, [path])
    assert ledger.damaged([0]) == {}
    spoil(path)
    assert told in ledger.damaged([0])[0]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"files": 3}', '{"files": {"a": [1]}}'])
def test_a_damaged_receipt_is_none(ledger: Ledger, content: str) -> None:
    write_text(ledger.path(0, "done"), content)
    assert "cannot be read" in ledger.damaged([0])[0]


def test_who_lost_its_lease_writes_no_receipt_and_leaves_the_next_one_alone(
    ledger: Ledger, tmp_path: Path
) -> None:
    first = ledger.take(0, ME)
    assert first
    ledger.free(0, "no progress")
    second = ledger.take(0, Holder.here("other"))
    assert second
    first.tell("a.jpg")  # into a file that has no name any more
    with pytest.raises(LeaseLostError):
        first.beat()
    with pytest.raises(LeaseLostError):
        ledger.settle(0, first, [])
    first.release()
    mark = ledger.snapshot().leases[0]
    assert mark.holder and (mark.holder.name, mark.holder.image) == ("other", "")
    assert ledger.trouble(0).lost == ["no progress"]
    second.release()


def test_a_beat_is_seen_whatever_the_clocks_say(tmp_path: Path) -> None:
    """The file server's clock is an hour ahead of, or behind, that of who watches."""
    lease = Lease.create(tmp_path / "a.lease", ME)
    assert lease
    now = [0.0]
    watch = Watch(100, lambda: now[0])
    for skew in (3600, -3600):
        for _ in range(3):
            stamp = int((1.7e9 + skew + now[0]) * 1e9)
            os.utime(lease.path, ns=(stamp, stamp))
            mark = look_at(lease.path)
            assert mark
            assert watch.silent({0: mark}) == []
            now[0] += 90
    assert watch.silent({0: mark}) == []
    now[0] += 101
    assert watch.silent({0: mark}) == [0]


def test_a_dead_process_is_told_from_a_live_one_of_the_same_number() -> None:
    assert not ME.dead and born(os.getpid()) == ME.born
    assert dataclasses.replace(ME, born="long ago").dead
    assert dataclasses.replace(ME, pid=2**22 + 1).dead
    assert not dataclasses.replace(ME, machine="another", pid=2**22 + 1).dead
    child = os.fork()
    if not child:
        os._exit(0)
    while born(child):  # a zombie once it has ended
        pass
    os.waitpid(child, 0)


def test_an_unnamed_lease_has_no_holder(tmp_path: Path) -> None:
    (tmp_path / "a.lease").write_text("")
    mark = look_at(tmp_path / "a.lease")
    assert mark and mark.holder is None and look_at(tmp_path / "b.lease") is None


def test_an_image_that_fails_alone_three_times_is_set_aside(ledger: Ledger, tmp_path: Path) -> None:
    stage = Writer(tmp_path, {"1-2.jpg"})
    work_until_settled(stage, ledger)
    assert ledger.snapshot().done == {0, 1}
    assert stage.aside == {
        "1-2.jpg": "set aside after it failed 3 times alone: RuntimeError: 1-2.jpg is too much"
    }
    assert (tmp_path / "part-1.txt").read_text() == "1-0.jpg\n1-1.jpg"
    # twice whole, then each alone: the good ones once, the bad one three times, then the rest
    whole, rest = ["1-0.jpg", "1-1.jpg", "1-2.jpg"], ["1-0.jpg", "1-1.jpg"]
    assert stage.tried[3:] == [*whole, *whole, *rest, *["1-2.jpg"] * 3, *rest]
    assert ledger.aside() == stage.aside
    assert ledger.forgive() == [1] and ledger.snapshot().done == {0} and ledger.aside() == {}


def test_a_shard_that_recovers_leaves_no_trouble(ledger: Ledger, tmp_path: Path) -> None:
    stage = Writer(tmp_path, {"0-0.jpg"})
    drain(stage, stage.work, SHARDS, ledger, ME)
    assert ledger.trouble(0).raised == ["RuntimeError: 0-0.jpg is too much"]
    stage.bad = set()
    work_until_settled(stage, ledger)
    assert ledger.snapshot().done == {0, 1} and not ledger.snapshot().troubled


def test_when_no_image_passes_it_is_no_image_s_fault(ledger: Ledger, tmp_path: Path) -> None:
    names = {record["file_name"] for shard in SHARDS for record in shard}
    with pytest.raises(StageError, match=r"every image.*0-0.jpg is too much.*--retry-failed"):
        work_until_settled(Writer(tmp_path, names), ledger)
    assert not ledger.snapshot().leases


def test_a_shard_whose_images_are_fine_is_given_up_at_last(ledger: Ledger, tmp_path: Path) -> None:
    class Whole(Writer):
        def work(self, shard: int, records: list[dict[str, Any]]) -> None:
            if shard == 1 and not self.turn.only:
                raise MemoryError
            super().work(shard, records)

    work_until_settled(Whole(tmp_path), ledger)
    look = ledger.snapshot()
    assert look.done == {0} and look.failed == {1} and not look.troubled
    trouble = ledger.trouble(1)
    assert trouble.raised == ["MemoryError"] * RAISED_LIMIT
    assert trouble.fine == ["1-0.jpg", "1-1.jpg", "1-2.jpg"]


def test_a_phase_that_reads_no_photographs_is_not_taken_apart(
    ledger: Ledger, tmp_path: Path
) -> None:
    class Blind(Writer):
        fails = 3

        def work(self, shard: int, records: list[dict[str, Any]]) -> None:
            self.tried.append(f"shard {shard}")
            if shard == 1 and self.fails:
                self.fails -= 1
                raise RuntimeError
            write_text(self.root / f"part-{shard}.txt", "")

    stage = Blind(tmp_path)
    work_until_settled(stage, ledger)
    assert ledger.snapshot().done == {0, 1} and ledger.aside() == {}
    # failed three times, then once "alone", which says nothing, then whole
    assert stage.tried == ["shard 0", *["shard 1"] * 5]


def test_lost_workers_count_less_than_errors() -> None:
    lost = Trouble(lost=["killed"] * (LOST_LIMIT - 1))
    assert lost.isolate and not lost.hopeless
    lost.add("killed", "", raised=False)
    assert lost.hopeless
    assert Trouble(raised=["a"] * RAISED_LIMIT).hopeless
    assert not Trouble(raised=["a"]).isolate


def test_errors_of_the_settings_end_the_run_and_free_the_shard(
    ledger: Ledger, tmp_path: Path
) -> None:
    class Refused(Writer):
        def work(self, shard: int, records: list[dict[str, Any]]) -> None:
            raise UserError("no such model")

    stage = Refused(tmp_path)
    with pytest.raises(UserError, match="no such model"):
        drain(stage, stage.work, SHARDS, ledger, ME)
    assert ledger.snapshot() == Ledger(tmp_path / "none", tmp_path).snapshot()


def test_a_lease_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write .*00000\.lease"):
        Ledger(tmp_path / "file" / "x", tmp_path).take(0, ME)
