"""The bridge between labelling and training: label and result folders, read and written here."""

from u2seg.labels.folder import LabelFolder, LabelImage

__all__ = ["LabelFolder", "LabelImage"]
