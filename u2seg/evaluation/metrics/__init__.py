"""Pure functions of arrays: overlaps, panoptic quality, AP, mIoU, matching, intervals."""
