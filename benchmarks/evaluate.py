"""The benchmark of evaluation: panoptic quality, the whole evaluation, and memory.

Every row compares the figures of both sides: counts equal, PQ, SQ, RQ and AP to 1e-12.
"""

from __future__ import annotations

import functools
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.evaluate_inputs import EvaluateSizes, Files, write_files
from benchmarks.evaluate_peers import (
    Counts,
    peer_ap,
    peer_counts,
    peer_name,
    write_instances,
)
from benchmarks.masks import RowSpec
from benchmarks.rows import Row, Target, judged
from benchmarks.setting import Setting
from benchmarks.timing import alternate
from u2seg.config.schema import EvalSettings
from u2seg.errors import StageError, UserError
from u2seg.evaluation.evaluate import evaluate_folder, panoptic_quality
from u2seg.evaluation.truth.base import by_name
from u2seg.evaluation.truth.coco import GroundTruth, PanopticSet, read_truth

SIZES = EvaluateSizes()
THREE_TIMES = Target(">=", 3.0)
NO_SLOWER = Target(">=", 1.0)
EQUAL = 1e-12
LIMIT_S = 900
WHOLE = EvalSettings(protocol="custom", matching="identity", merge_stuff=False, bootstrap=0)


@contextmanager
def inputs(given: Files | None, sizes: EvaluateSizes) -> Iterator[Files]:
    """Yield the files of a row: those given, or generated ones that vanish afterwards."""
    if given is not None:
        yield given
        return
    with tempfile.TemporaryDirectory() as name:
        yield write_files(Path(name), sizes)


def pq(
    setting: Setting, *, threads: int, given: Files | None = None, sizes: EvaluateSizes = SIZES
) -> Row:
    """Return the row of panoptic quality from files, in one process.

    The target is for the threads of this machine; one thread alone is told without a target.
    """
    with inputs(given, sizes) as files:
        truth = read_truth(files.truth)
        pair = alternate(
            f"pq, threads: {threads}",
            lambda: panoptic_quality(files.truth, files.predicted, threads),
            lambda: peer_counts(files.truth, files.predicted),
            setting.repeats,
        )
        pixels = sum(truth.sizes[i][0] * truth.sizes[i][1] for i in truth.segments)
        decoding = _seconds_of_decoding(files)
    worst, counted = disagreement(truth, pair.our_result, pair.peer_result)
    same = counted and worst <= EQUAL
    row = judged(
        f"pq_{threads}",
        pair.ours,
        pair.peer,
        ratio=pair.peer / pair.ours,
        unit="s",
        target=THREE_TIMES,
        # Both maps are written once as bytes (3 a pixel) and once as ids (4), and read again.
        floor=pixels * 2 * 7 * 2 / setting.rates.bytes,
        note=f"{len(truth.segments)} images, {pixels / len(truth.segments) / 1e3:.0f}k pixels "
        f"each, JSON files read too; one process, our threads: {threads}; peer: {peer_name()}; "
        f"counts equal: {_yes(counted)}, largest difference of PQ, SQ, RQ {worst:.1g}; Pillow "
        f"alone needs {decoding:.2g} s to decode the files",
        correct=same,
    )
    return row if threads > 1 else replace(row, target="none", met=same)


def disagreement(truth: PanopticSet, ours: dict[str, Any], peer: Counts) -> tuple[float, bool]:
    """Return the largest difference of PQ, SQ or RQ (0..1), and whether all counts are equal."""
    classes = by_name(truth.names, {c: c for c in truth.names})
    worst, equal = 0.0, True
    figures: dict[int, tuple[float, float, float]] = {}
    for name, row in ours["per_class"].items():
        category = classes[name]
        iou, tp, fp, fn = peer.get(category, (0.0, 0, 0, 0))
        equal &= (row["tp"], row["fp"], row["fn"]) == (tp, fp, fn)
        weight = tp + 0.5 * fp + 0.5 * fn
        if weight:
            figures[category] = (iou / weight, iou / tp if tp else 0.0, tp / weight)
            worst = max(worst, _gap(row, figures[category]))
    for part, ids in (("all", truth.names), ("things", truth.things), ("stuff", truth.stuff)):
        rows = [figures[c] for c in ids if c in figures]
        if rows:
            worst = max(worst, _gap(ours[part], np.mean(rows, axis=0).tolist()))
        equal &= ours[part]["n"] == len(rows)
    return worst, equal


def _gap(ours: dict[str, Any], peer: Sequence[float]) -> float:
    keys = ("PQ", "SQ", "RQ")
    return max(abs(float(ours[key]) / 100 - value) for key, value in zip(keys, peer, strict=True))


def _seconds_of_decoding(files: Files) -> float:
    """Return the best of three times that Pillow needs for all PNGs."""
    from time import perf_counter

    sides = (files.truth.panoptic_pngs, files.predicted.panoptic_pngs)
    paths = [path for folder in sides for path in sorted(folder.rglob("*.png"))]
    spent = []
    for _ in range(3):
        start = perf_counter()
        for path in paths:
            with Image.open(path) as image:
                image.load()
        spent.append(perf_counter() - start)
    return min(spent)


def whole(setting: Setting, *, given: Files | None = None, sizes: EvaluateSizes = SIZES) -> Row:
    """Return the row of a whole evaluation, beside panopticapi and pycocotools one by one."""
    with inputs(given, sizes) as files, tempfile.TemporaryDirectory() as name:
        truth = read_truth(files.truth)
        write_instances(Path(name) / "truth.json", truth)
        folder = _copy(files, Path(name) / "predictions")

        def peer() -> tuple[Counts, dict[str, dict[str, float]]]:
            counts = peer_counts(files.truth, files.predicted)
            return counts, peer_ap(Path(name) / "truth.json", folder / "instances.json")

        pair = alternate(
            "whole", lambda: evaluate_folder(folder, files.truth, WHOLE), peer, setting.repeats
        )
    counts, scores = pair.peer_result
    worst, equal = disagreement(truth, pair.our_result["panoptic"], counts)
    gap = max(
        abs(pair.our_result[part][kind]["AP"] / 100 - value)
        for part, row in scores.items()
        for kind, value in row.items()
    )
    return judged(
        "whole",
        pair.ours,
        pair.peer,
        ratio=pair.peer / pair.ours,
        unit="s",
        target=NO_SLOWER,
        floor=None,
        note=f"{len(truth.segments)} images; ours also makes the true instances, semantic metrics, "
        "votes and tables; peer: PQ as above, then pycocotools (box and mask AP, class-aware and "
        f"class-agnostic) on instances made before; counts equal: {_yes(equal)}, largest "
        f"difference of PQ, SQ, RQ {worst:.1g}, of AP {gap:.1g}",
        correct=equal and max(worst, gap) <= EQUAL,
    )


def _copy(files: Files, folder: Path) -> Path:
    """Return a result folder of the same content in which files may be written."""
    folder.mkdir()
    for name in ("panoptic.json", "instances.json", "labelspace.json"):
        if (files.predictions / name).is_file():
            shutil.copyfile(files.predictions / name, folder / name)
    for name in ("panoptic", "stuff"):
        if (files.predictions / name).is_dir():
            (folder / name).symlink_to((files.predictions / name).resolve())
    return folder


def memory(setting: Setting, *, given: Files | None = None, sizes: EvaluateSizes = SIZES) -> Row:
    """Return the row of peak resident memory of a process that computes PQ."""
    peaks: dict[str, list[float]] = {"ours": [], "peer": []}
    with inputs(given, sizes) as files:
        for _ in range(setting.repeats):
            for mode, seen in peaks.items():
                seen.append(worker(mode, files))
    ours, peer = (statistics.median(seen) for seen in peaks.values())
    return judged(
        "memory",
        ours,
        peer,
        ratio=ours / peer,
        unit="GB",
        target=Target("<=", 0.5, "ours"),
        floor=None,
        note="peak resident memory of a fresh process that computes PQ, libraries included "
        "(ours holds numba's compiler)",
    )


def worker(mode: str, files: Files) -> float:
    """Return the peak memory in GB of a child process, see ``evaluate_worker``.

    Raises:
        StageError: if the child fails.
    """
    task = {
        "mode": mode,
        "truth_json": str(files.truth.panoptic_json),
        "truth_pngs": str(files.truth.panoptic_pngs),
        "predictions": str(files.predictions),
    }
    command = [sys.executable, "-m", "benchmarks.evaluate_worker", json.dumps(task)]
    done = subprocess.run(  # noqa: S603 - our own module
        command, capture_output=True, text=True, check=False, timeout=LIMIT_S
    )
    if done.returncode != 0:
        raise StageError(f"the evaluation worker {mode!r} failed: {done.stderr[-2000:]}")
    return float(json.loads(done.stdout.splitlines()[-1])["peak_gb"])


def _yes(fact: bool) -> str:
    return "yes" if fact else "no"


def table(
    truth_json: str | None = None, truth_pngs: str | None = None, predictions: str | None = None
) -> dict[str, RowSpec]:
    """Return the rows on given files; on generated ones without any.

    Raises:
        UserError: if some of the three are missing.
    """
    places = {
        "--truth-json": truth_json,
        "--truth-pngs": truth_pngs,
        "--predictions": predictions,
    }
    missing = [option for option, place in places.items() if not place]
    if len(missing) == len(places):
        return ROWS
    if not (truth_json and truth_pngs and predictions):
        raise UserError(f"{missing[0]} is missing: real files need all of {', '.join(places)}")
    given = Files(GroundTruth(Path(truth_json), Path(truth_pngs)), Path(predictions))
    return _rows(given)


def _rows(given: Files | None) -> dict[str, RowSpec]:
    measures: dict[str, Callable[..., Row]] = {
        "pq_1": functools.partial(pq, threads=1),
        "pq_2": functools.partial(pq, threads=2),
        "whole": whole,
        "memory": memory,
    }
    return {
        name: RowSpec(functools.partial(measure, given=given), ("numba",))
        for name, measure in measures.items()
    }


ROWS = _rows(None)
