"""The benchmark of the merge: one image's pixels, and the join of the labels of millions."""

from __future__ import annotations

import functools
import json
import statistics
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from benchmarks.masks import RowSpec
from benchmarks.merge_inputs import (
    SPACE,
    ImageRecords,
    MergeSizes,
    Unmerged,
    image_record,
    unmerged,
    write_parts,
)
from benchmarks.merge_peers import load_all_join, loop_merge
from benchmarks.merge_worker import part_files, stream_join
from benchmarks.rows import Row, Target, judged
from benchmarks.setting import Setting
from benchmarks.timing import alternate
from u2seg.config.schema import PanopticSettings
from u2seg.errors import StageError
from u2seg.io.jsonfile import read_json
from u2seg.io.png import encode_map
from u2seg.labels.write import INSTANCES_JSON, label_record, stuff_target
from u2seg.panoptic.merger import merge_panoptic
from u2seg.structures.panoptic import PanopticLabel, ids_to_rgb

SIZES = MergeSizes()
PER_MILLION = Target("<=", 60.0, "ours")
MEMORY_LIMIT = Target("<=", 0.5, "ours")
NO_SLOWER = Target(">=", 1.0)
MILLION = 1e6
LIMIT_S = 3600


def merged(raw: Unmerged, rule: str, sizes: MergeSizes) -> PanopticLabel:
    """Merge one image, and make its PNGs and its JSON record; nothing is written."""
    label = merge_panoptic(raw.masks, raw.clusters, raw.stuff, SPACE, PanopticSettings(rule=rule))
    encode_map(ids_to_rgb(label.ids))
    encode_map(stuff_target(label, SPACE))
    label_record(image_record(1, sizes), label)
    return label


def image(setting: Setting, *, rule: str = "released", sizes: MergeSizes = SIZES) -> Row:
    """Return the row of one image, from its RLE masks to the bytes of its PNGs and record."""
    raw = unmerged(sizes)
    pair = alternate(
        f"image ({rule})",
        lambda: merged(raw, rule, sizes),
        lambda: loop_merge(raw),
        setting.repeats,
    )
    note = f"{len(raw.masks)} masks at {sizes.width} x {sizes.height}, files not written"
    same = True
    if rule == "released":
        same = np.array_equal(pair.our_result.ids, pair.peer_result[0])
        note += f"; ids equal the peer's: {_yes(same)}"
    else:
        note += "; the peer's rule is released"
    return judged(
        "image" if rule == "released" else f"image_{rule}",
        pair.ours,
        pair.peer,
        ratio=pair.peer / pair.ours,
        unit="s",
        target=NO_SLOWER,
        # The masks, the stuff map and the id map (4 bytes) are moved once each at least.
        floor=raw.stuff.size * (len(raw.masks) + 1 + 4) / setting.rates.bytes,
        note=note,
        correct=same,
    )


def join(setting: Setting, *, sizes: MergeSizes = SIZES) -> Row:
    """Return the row of the join of part files, beside loading all of them."""
    with tempfile.TemporaryDirectory() as name:
        folder, count = Path(name), sizes.images
        instances = write_parts(folder / "parts", sizes, count)
        files = part_files(folder / "parts", count, sizes)
        size = sum(path.stat().st_size for path in files)
        pair = alternate(
            "join",
            lambda: stream_join(folder / "parts", folder / "ours", count, sizes),
            lambda: load_all_join(files, folder / "peer", ImageRecords(count, sizes)),
            setting.repeats,
        )
        found = [
            read_json(folder / side / INSTANCES_JSON)["annotations"] for side in ("ours", "peer")
        ]
    per_million = MILLION / instances
    return judged(
        "join",
        pair.ours * per_million,
        pair.peer * per_million,
        ratio=pair.peer / pair.ours,
        unit="s per million",
        target=PER_MILLION,
        floor=2 * size / setting.rates.bytes * per_million,
        note=f"{instances} instances of {count} images in {len(files)} parts, "
        f"{size / instances:.0f} bytes an instance; annotations equal the peer's: "
        f"{_yes(found[0] == found[1])}; floor: the bytes copied once",
        correct=found[0] == found[1],
    )


def memory(setting: Setting, *, sizes: MergeSizes = SIZES) -> Row:
    """Return the row of peak resident memory of a process that joins, beside one that loads all."""
    peaks: dict[str, list[float]] = {"ours": [], "peer": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        instances = write_parts(folder / "parts", sizes, sizes.images)
        with tqdm(total=2 * setting.repeats, desc="memory", leave=False) as bar:
            for _ in range(setting.repeats):
                for mode, seen in peaks.items():
                    seen.append(worker(mode, folder, sizes.images, sizes)["peak_gb"])
                    bar.update()
    ours, peer = (statistics.median(seen) for seen in peaks.values())
    return judged(
        "memory",
        ours,
        peer,
        ratio=ours / peer,
        unit="GB",
        target=MEMORY_LIMIT,
        floor=None,
        note=f"peak resident memory of a fresh process, libraries included, {instances} instances",
    )


def full(setting: Setting, *, sizes: MergeSizes = SIZES) -> Row:
    """Return the row of the whole join, made once by a process of its own."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        instances = write_parts(folder / "parts", sizes, sizes.full_images)
        told = worker("ours", folder, sizes.full_images, sizes)
    small = told["peak_gb"] <= MEMORY_LIMIT.value
    return judged(
        "full",
        told["seconds"] / instances * MILLION,
        None,
        ratio=None,
        unit="s per million",
        target=PER_MILLION,
        floor=None,
        note=f"once: {instances} instances of {sizes.full_images} images in "
        f"{told['seconds']:.0f} s ({told['cpu_s']:.0f} s of processor time, one thread), peak "
        f"{told['peak_gb']:.2f} GB "
        f"({'within' if small else 'above'} {MEMORY_LIMIT.value:g}); no peer: it would not fit",
        correct=small and told["instances"] == instances,
    )


def _yes(fact: bool) -> str:
    return "yes" if fact else "no"


def worker(mode: str, folder: Path, count: int, sizes: MergeSizes) -> dict[str, Any]:
    """Return what a child process tells, see ``merge_worker``.

    Raises:
        StageError: if the child fails.
    """
    task = {
        "mode": mode,
        "parts": str(folder / "parts"),
        "out": str(folder / mode),
        "images": count,
        "sizes": asdict(sizes),
    }
    command = [sys.executable, "-m", "benchmarks.merge_worker", json.dumps(task)]
    done = subprocess.run(  # noqa: S603 - our own module
        command, capture_output=True, text=True, check=False, timeout=LIMIT_S
    )
    if done.returncode != 0:
        raise StageError(f"the merge worker {mode!r} failed: {done.stderr[-2000:]}")
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


ROWS: dict[str, RowSpec] = {
    "image": RowSpec(image),
    "image_scored": RowSpec(functools.partial(image, rule="scored")),
    "join": RowSpec(join),
    "memory": RowSpec(memory),
    "full": RowSpec(full),
}
