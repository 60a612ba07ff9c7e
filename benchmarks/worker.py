"""A process of its own whose peak memory is measured; ``labelling.worker_peak`` starts it.

``python -m benchmarks.worker TASK`` with TASK as JSON: ``mode`` (``label``: features,
cuts, CRF and encoding of some images; ``vit``: one forward pass of one image), ``threads``,
``sizes``.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from u2seg.io.memory import peak_gb


def main(argv: list[str]) -> int:
    """Do the task, write ``{"peak_gb": ...}`` as the last line of the output."""
    task: dict[str, Any] = json.loads(argv[0])
    import torch

    from benchmarks.inputs import Sizes, save_photograph, synthetic_features, vit_settings
    from benchmarks.labelling import bare_forward, label_images
    from u2seg.features import build_extractor
    from u2seg.io.images import read_image

    torch.set_num_threads(int(task["threads"]))
    sizes = Sizes(**task["sizes"])
    if task["mode"] == "vit":
        bare_forward(sizes, 1)()
    else:
        with tempfile.TemporaryDirectory() as name:
            photo = save_photograph(Path(name) / "photo.jpg", sizes.side)
            settings = vit_settings(sizes, Path(name), batch=sizes.batch)
            extractor = build_extractor(settings)
            images = [read_image(photo) for _ in range(sizes.batch)]
            label_images(extractor, images, synthetic_features(sizes), sizes.side)
    sys.stdout.write(json.dumps({"peak_gb": peak_gb()}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
