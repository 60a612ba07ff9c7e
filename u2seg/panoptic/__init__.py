"""Masks, cluster ids and stuff maps -> panoptic labels in COCO formats."""
