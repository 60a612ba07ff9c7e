"""Ground truth of every format, predictions, class sets, crops and splits."""
