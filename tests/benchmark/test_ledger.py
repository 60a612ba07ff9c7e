"""The rows of the ledger's benchmark are measured and checked; no time is asserted."""

from __future__ import annotations

import pytest

from benchmarks import ledger
from benchmarks.inputs import Sizes
from benchmarks.ledger import LedgerSizes, table
from benchmarks.machine import Rates
from benchmarks.setting import Setting

SETTING = Setting(repeats=1, threads=1, rates=Rates(flops=1.0, bytes=1.0), sizes=Sizes())
ROWS = table(LedgerSizes(images=2, side=64, shard=1, empty=3, shards=40))


@pytest.mark.parametrize(
    ("name", "unit"), [("throughput", "img/s"), ("per_shard", "ms"), ("status", "s")]
)
def test_a_row_measures_and_checks(name: str, unit: str) -> None:
    row = ROWS[name].measure(SETTING)
    assert (row.name, row.unit) == (name, unit)
    assert row.ours is not None and row.peer and row.ratio is not None


def test_a_wrong_count_is_not_met(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "status", lambda *_: "masks  running  40  20  7")
    assert ROWS["status"].measure(SETTING).met is False


def test_a_shard_that_was_not_done_is_not_met(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "plain", lambda *_: None)
    assert ROWS["per_shard"].measure(SETTING).met is False
