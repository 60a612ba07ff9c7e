"""Detectron2's side of a run: settings, data sets, output folder, command-line options."""
