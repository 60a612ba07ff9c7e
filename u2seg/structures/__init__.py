"""Typed values that cross stages: plain NumPy and pycocotools, no files, no settings."""
