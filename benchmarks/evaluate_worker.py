"""A process of its own that evaluates, so that its peak memory can be measured.

``python -m benchmarks.evaluate_worker TASK`` with TASK as JSON: ``mode`` (``ours`` or
``peer``), ``truth_json``, ``truth_pngs``, ``predictions``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from u2seg.evaluation.truth.coco import GroundTruth
from u2seg.io.memory import peak_gb


def main(argv: list[str]) -> int:
    """Do the task; the last line tells ``peak_gb``."""
    task: dict[str, Any] = json.loads(argv[0])
    truth = GroundTruth(Path(task["truth_json"]), Path(task["truth_pngs"]))
    folder = Path(task["predictions"])
    predicted = GroundTruth(folder / "panoptic.json", folder / "panoptic")
    if task["mode"] == "ours":
        from u2seg.evaluation.evaluate import panoptic_quality

        panoptic_quality(truth, predicted)
    else:
        from benchmarks.evaluate_peers import peer_counts

        peer_counts(truth, predicted)
    sys.stdout.write(json.dumps({"peak_gb": peak_gb()}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
