"""Unsupervised universal image segmentation: from unlabelled photographs to a panoptic model.

``label``, ``train``, ``evaluate`` and ``run`` do what the commands of these names do; a trained
model is a ``Segmenter``. Importing this package loads nothing heavy and registers nothing. Import
it before torch: it asks OpenMP's threads to sleep while they wait, which torch looks at once.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from u2seg.config import env as _env  # noqa: F401 - before torch
from u2seg.version import __version__

if TYPE_CHECKING:
    from u2seg.inference.segmenter import Prediction as Prediction
    from u2seg.inference.segmenter import Segmenter as Segmenter
    from u2seg.workflows.python import evaluate as evaluate
    from u2seg.workflows.python import label as label
    from u2seg.workflows.python import run as run
    from u2seg.workflows.python import train as train

_HOMES = {
    "Prediction": "inference.segmenter",
    "Segmenter": "inference.segmenter",
    "evaluate": "workflows.python",
    "label": "workflows.python",
    "run": "workflows.python",
    "train": "workflows.python",
}
__all__ = ["Prediction", "Segmenter", "__version__", "evaluate", "label", "run", "train"]


def __getattr__(name: str) -> Any:
    # Lazy (PEP 562): `import u2seg` must not import torch or Detectron2.
    if name not in _HOMES:
        raise AttributeError(f"module 'u2seg' has no attribute {name!r}")
    return getattr(importlib.import_module(f"u2seg.{_HOMES[name]}"), name)
