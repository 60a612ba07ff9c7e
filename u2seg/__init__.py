"""Unsupervised universal image segmentation: from unlabelled photographs to a panoptic model.

Importing this package loads nothing heavy and registers nothing. Import it before torch: it asks
OpenMP's threads to sleep while they wait, which torch looks at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from u2seg.config import env as _env  # noqa: F401 - before torch
from u2seg.version import __version__

if TYPE_CHECKING:
    from u2seg.inference.segmenter import Segmenter as Segmenter

__all__ = ["Segmenter", "__version__"]


def __getattr__(name: str) -> Any:
    # Lazy (PEP 562): `import u2seg` must not import torch or Detectron2.
    if name == "Segmenter":
        from u2seg.inference.segmenter import Segmenter

        return Segmenter
    raise AttributeError(f"module 'u2seg' has no attribute {name!r}")
