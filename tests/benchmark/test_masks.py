"""The benchmark of labelling: every row at a small size, the contract, exit codes."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from types import ModuleType

import numpy as np
import pytest
import threadpoolctl
import torch

from benchmarks import cuts, gpu, inputs, labelling, machine, masks, timing, worker
from benchmarks.peers import dense_affinity, dense_cut, dense_maskcut
from benchmarks.rows import Row, Target, exit_code, format_table, judged, skipped, to_json
from benchmarks.setting import Setting
from u2seg.errors import StageError, UserError
from u2seg.masks import batched_propose
from u2seg.masks.bitgraph import BitGraph
from u2seg.structures.features import PatchFeatures

KEYS = {"name", "ours", "peer", "ratio", "unit", "target", "met"}
SMALL = inputs.Sizes(grid=16, channels=96, batch=1, gpu_batch=2)
SETTING = Setting(1, 1, machine.Rates(1e11, 1e10), SMALL)


@pytest.fixture
def tool() -> ModuleType:
    return importlib.import_module("benchmarks.__main__")


@pytest.fixture(autouse=True)
def _threads_as_before() -> Iterator[None]:
    count = torch.get_num_threads()
    with threadpoolctl.threadpool_limits(None):
        yield
    torch.set_num_threads(count)


def fake(ours: float) -> masks.RowSpec:
    def measure(setting: Setting) -> Row:
        return judged(
            "fake", ours, 10, ratio=10 / ours, unit="s", target=Target(">=", 5),
            floor=setting.repeats, note="ten",
        )  # fmt: skip

    return masks.RowSpec(measure)


@pytest.fixture
def _no_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(masks, "measure_rates", lambda: machine.Rates(1e11, 1e10))


# --- contract ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("ours", "met", "code"), [(2.0, True, 0), (2.5, False, 1)])
@pytest.mark.usefixtures("_no_rates")
def test_tool_writes_the_contract_and_the_exit_code(
    tool, tmp_path, monkeypatch, capsys, ours, met, code
):
    gpu_row = masks.RowSpec(lambda _: skipped("gpu", "img/s", Target(">=", 100, "ours"), "no GPU"))
    monkeypatch.setattr(masks, "ROWS", {"fake": fake(ours), "gpu": gpu_row})
    out = tmp_path / "new" / "b.json"
    assert tool.main(["masks", "--json", str(out), "--repeats", "2"]) == code
    content = json.loads(out.read_text())
    assert {"cpu", "cores", "threads", "versions"} <= set(content["machine"])
    first, second = content["rows"]
    assert set(first) == set(second) == KEYS
    assert first == {
        "name": "fake", "ours": ours, "peer": 10, "ratio": 10 / ours, "unit": "s",
        "target": ">= 5x", "met": met,
    }  # fmt: skip
    assert second["met"] == "skipped" and second["ours"] is None and second["ratio"] is None
    assert content["details"]["fake"] == {"floor": 2, "over_floor": ours / 2, "note": "ten"}
    table = capsys.readouterr().out
    assert f"| {'yes' if met else 'NO'} |" in table and "| skipped |" in table


def test_a_limit_on_ours_ignores_the_ratio():
    row = {"ratio": 3.0, "unit": "GB", "floor": None, "note": ""}
    assert judged("memory", 1.5, 0.5, **row, target=Target("<=", 1.5, "ours")).met is True
    assert judged("memory", 1.51, 0.5, **row, target=Target("<=", 1.5, "ours")).met is False


def test_rates_and_times_over_their_floors():
    row = Row("a", 2.0, None, None, "s", "", True, 0.5)
    assert row.over_floor() == 4.0
    assert replace(row, unit="img/s", floor=10.0).over_floor() == 5.0
    assert replace(row, floor=None).over_floor() is None
    assert exit_code([row, replace(row, met="skipped")]) == 0
    assert exit_code([row, replace(row, met=False)]) == 1
    assert set(to_json({}, [row])) == {"machine", "rows", "details"}
    assert format_table({"cpu": "x"}, [row]).startswith("cpu: x\n")


@pytest.mark.usefixtures("_no_rates")
def test_rows_are_chosen_by_name(monkeypatch):
    table = {"one": fake(1), "two": fake(2)}
    assert [r.ours for r in masks.run(["two"], 1, table=table)[1]] == [2]
    assert [r.ours for r in masks.run((), 1, table=table)[1]] == [1, 2]


def test_bad_input_is_named_before_anything_is_measured(tool, monkeypatch, capsys):
    monkeypatch.setattr(masks, "measure_rates", lambda: pytest.fail("measured"))
    assert tool.main(["masks", "--rows", "cut,cuts"]) == 2
    assert "no row is called 'cuts'; there are cut, three_cuts" in capsys.readouterr().err
    assert tool.main(["masks", "--repeats", "0"]) == 2
    assert "--repeats must be at least 1, got 0" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "pydensecrf.densecrf", None)
    assert tool.main(["masks"]) == 2
    message = capsys.readouterr().err
    assert "needs pydensecrf.densecrf" in message and "pip install -e '.[bench]'" in message


# --- the sides -----------------------------------------------------------------------------------


def test_sides_take_turns_and_medians_are_kept(monkeypatch):
    clock = iter([0, 1, 10, 12, 20, 25, 30, 36, 40, 43, 50, 54])
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(clock))
    calls: list[str] = []
    pair = timing.alternate(
        "x", lambda: calls.append("a"), lambda: calls.append("b"), 3, warm_peer=False
    )
    assert calls == ["a", "a", "b", "a", "b", "a", "b"]  # the first call of ours is not timed
    assert (pair.ours, pair.peer) == (3, 4)  # of 1, 5, 3 and of 2, 6, 4


def test_dense_cut_solves_two_cliques():
    edges = np.zeros((100, 100), dtype=bool)
    edges[:9, :9] = edges[9:, 9:] = True
    values, vectors = dense_cut(*dense_affinity(edges, 1e-5))
    v = vectors[:, 0]
    assert values[0] == pytest.approx(1.020898987e-4, rel=1e-6)  # facts sheet, section 7
    assert v[0] / v[99] == pytest.approx(-102.224333, rel=1e-6)


def test_dense_maskcut_finds_blocks_and_paints_them_out():
    which = np.zeros((10, 10), dtype=int)
    which[1:4, 1:4], which[6:8, 5:8] = 1, 2
    grid = np.stack([which == k for k in range(3)]).astype(np.float32)
    found = dense_maskcut(
        PatchFeatures(grid, (80, 80)), replace(inputs.REFERENCE_CUTS, num_masks=1)
    )
    assert len(found) == 1
    assert np.array_equal(found[0], which == 2) or np.array_equal(found[0], which == 1)


def test_synthetic_features_are_as_described():
    features = inputs.synthetic_features(inputs.Sizes())
    assert features.grid.shape == (384, 60, 60)
    density = BitGraph.from_features(features, 0.15).edges().mean()
    assert 0.5 <= density <= 0.7
    again = inputs.synthetic_features(inputs.Sizes())
    np.testing.assert_array_equal(features.grid, again.grid)


# --- rows at a small size ------------------------------------------------------------------------


@pytest.mark.parametrize("row", [cuts.one_cut, cuts.three_cuts])
def test_cut_rows_agree_with_their_peers(row):
    result = row(replace(SETTING, sizes=inputs.Sizes(grid=24, channels=96)))
    assert result.ours > 0 and result.ratio == pytest.approx(result.peer / result.ours)
    assert "IoU 1.0000" in result.note and result.floor > 0


def test_a_wrong_vector_misses_the_target_however_fast(monkeypatch):
    """Both sides run for real; only the clock is made up: 1 s for ours, 1000 s for the peer."""
    clock = iter([0, 1, 10, 1010, 2000, 2001, 3000, 4000])
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(clock))
    fast = cuts.one_cut(SETTING)
    assert fast.ratio == 1000 and fast.met is True
    wrong = np.arange(256.0)
    monkeypatch.setattr(cuts, "cut_vector", lambda *_: wrong)
    result = cuts.one_cut(SETTING)
    assert result.ratio == 1000 and result.met is False


def test_crf_row_agrees_with_its_peer():
    pytest.importorskip("pydensecrf.densecrf", reason="the extra bench is not installed")
    result = cuts.dense_crf(SETTING)
    overlaps = [float(v) for v in result.note.split(";")[0].removeprefix("IoU ").split(", ")]
    assert len(overlaps) == 3 and min(overlaps) >= 0.99


def test_labelling_row_runs_the_whole_chain():
    result = labelling.labelling(SETTING)
    assert result.target == "<= 1.35x" and result.ratio == pytest.approx(result.ours / result.peer)
    assert (
        int(result.note.split(" masks")[0].split()[-1]) >= 2
    )  # an image without masks skips the CRF


def test_chain_row_counts_the_passes_of_all_stages():
    result = labelling.chain(SETTING)
    assert "3 passes each" in result.note and result.target == "<= 1.2x"
    assert result.ratio == pytest.approx(result.ours / result.peer)


def test_memory_row_keeps_medians(monkeypatch):
    peaks = iter([1.2, 0.5, 1.6, 0.7, 1.4, 0.6])
    monkeypatch.setattr(labelling, "worker_peak", lambda mode, _: next(peaks))
    result = labelling.memory(replace(SETTING, repeats=3))
    assert (result.ours, result.peer, result.met) == (1.4, 0.6, True)
    assert "largest 1.60 GB" in result.note


def test_a_child_labels_and_tells_its_peak():
    assert 0.15 < labelling.worker_peak("label", SETTING) < 1.5


def test_a_failing_child_is_reported(monkeypatch):
    failed = subprocess.CompletedProcess([], 1, "", "MemoryError: too large")
    monkeypatch.setattr(labelling.subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(StageError, match="worker 'label' failed: MemoryError: too large"):
        labelling.worker_peak("label", SETTING)


def test_peak_memory_counts_what_was_touched():
    before = worker.peak_gb()
    block = np.ones(25_000_000)  # 0.2 GB; the peak can only have been above it before
    assert worker.peak_gb() >= min(before + 0.1, 0.2) and block[0] == 1


@pytest.mark.parametrize("row", [gpu.gpu_rate, gpu.gpu_share])
def test_gpu_rows_are_skipped_without_a_gpu(row, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    result = row(SETTING)
    assert result.met == "skipped" and result.ours is None and "CUDA" in result.note


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_gpu_rows_on_a_gpu():
    rate, share = gpu.gpu_rate(SETTING), gpu.gpu_share(SETTING)
    assert rate.ours == share.ours > 0 and rate.target == ">= 100 img/s"


def test_the_gpu_rows_measure_what_the_stage_calls(monkeypatch):
    """On a CPU, at a small size: the same calls, figures that say nothing about a GPU."""
    queued = []
    whole = batched_propose.MaskBatch.__init__

    def spy(self, cuts, foreground, fits, size, sizes, settings):
        queued.append((size, sizes))
        whole(self, cuts, foreground, fits, size, sizes, settings)

    monkeypatch.setattr(batched_propose.MaskBatch, "__init__", spy)
    sizes = inputs.Sizes(grid=16, channels=96, gpu_batch=2)
    rates = gpu.measure.__wrapped__(replace(SETTING, sizes=sizes), "cpu")
    # An untimed and a timed call of four batches, and the batch of the profile.
    assert queued == [((128, 128), [(170, 128)] * 2)] * (2 * gpu.BATCHES + 1)
    assert rates.ours > 0 and rates.peer > 0 and rates.floor > 0
    assert 1 <= rates.masks <= 3, "the objects of the synthetic features"
    assert len(rates.shares) == len(gpu.PARTS) and sum(rates.shares) == pytest.approx(1)
    assert min(rates.shares) > 0 and 0 <= rates.left <= 1


def test_gpu_rows_judge_what_was_measured(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    shares = (0.55, 0.2, 0.2, 0.05)
    rates = gpu.GpuRates(120.0, 300.0, 600.0, 3.0, shares, 0.03)
    monkeypatch.setattr(gpu, "measure", lambda _: rates)
    assert gpu.gpu_rate(SETTING).met is True
    note = gpu.gpu_rate(SETTING).note
    assert "batch 2, bfloat16, 3.0 masks an image" in note
    assert "ViT 55%, cuts 20%, CRF 20%, holes, sizes and codes 5%; 3% of the images" in note
    assert gpu.gpu_share(SETTING).met is False  # 0.4 of the bare rate
    assert gpu.gpu_rate(SETTING).over_floor() == 5.0
    monkeypatch.setattr(gpu, "measure", lambda _: replace(rates, peer=200.0, masks=0.0))
    assert gpu.gpu_share(SETTING).met is False  # no masks, no labelling


def test_missing_module_names_the_extra():
    with pytest.raises(UserError, match="no_such_module"):
        machine.require("no_such_module")
