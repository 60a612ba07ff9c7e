"""Label files -> Detectron2 data sets and training samples."""
