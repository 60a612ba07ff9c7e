"""A process of its own that joins part files, so that its peak memory can be measured.

``python -m benchmarks.merge_worker TASK`` with TASK as JSON: ``mode`` (``ours`` or
``peer``), ``parts`` and ``out`` (folders), ``images`` (how many), ``sizes``.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.merge_inputs import SPACE, ImageRecords, MergeSizes, part_path
from u2seg.io.memory import peak_gb
from u2seg.labels.write import merge_parts, read_part


def part_files(folder: Path, count: int, sizes: MergeSizes) -> list[Path]:
    """Return the part files of ``count`` images."""
    return [part_path(folder, i) for i in range(-(-count // sizes.shard))]


def stream_join(folder: Path, out: Path, count: int, sizes: MergeSizes) -> int:
    """Join the parts as the panoptic stage does; return the number of instances."""
    parts = (read_part(path) for path in part_files(folder, count, sizes))
    return merge_parts(parts, out, ImageRecords(count, sizes), SPACE)["instances"]


def main(argv: list[str]) -> int:
    """Do the task; the last line tells ``peak_gb``, ``seconds``, ``cpu_s`` and ``instances``."""
    task: dict[str, Any] = json.loads(argv[0])
    sizes, count = MergeSizes(**task["sizes"]), int(task["images"])
    folder, out = Path(task["parts"]), Path(task["out"])
    start, used = time.perf_counter(), time.process_time()
    if task["mode"] == "ours":
        instances = stream_join(folder, out, count, sizes)
    else:
        from benchmarks.merge_peers import load_all_join

        instances = load_all_join(part_files(folder, count, sizes), out, ImageRecords(count, sizes))
    seconds = time.perf_counter() - start
    cpu = time.process_time() - used
    told = {"peak_gb": peak_gb(), "seconds": seconds, "cpu_s": cpu, "instances": instances}
    sys.stdout.write(json.dumps(told) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
