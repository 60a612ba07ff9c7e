"""Training and evaluation around Detectron2's hooks."""

from u2seg.compat import prepare_host

prepare_host()
