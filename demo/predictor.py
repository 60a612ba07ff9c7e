"""``from predictor import VisualizationDemo``, as with the demo of Detectron2.

Importing this adds one group of keys, ``U2SEG``, to Detectron2's defaults, so that its own
``get_cfg()`` knows the keys of this package's config files; nothing else of Detectron2 changes.
Import it before the other modules of Detectron2: it also mends what old versions need.
"""

from __future__ import annotations

from u2seg.compat import prepare_host

prepare_host()
from detectron2.config import defaults  # noqa: E402

from u2seg.config.load import add_u2seg_config  # noqa: E402
from u2seg.inference.segmenter import VisualizationDemo  # noqa: E402

add_u2seg_config(defaults._C)

__all__ = ["VisualizationDemo"]
