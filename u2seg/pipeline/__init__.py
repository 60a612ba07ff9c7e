"""The labelling half's composition root: runs the stages over a folder of photographs."""

from u2seg.pipeline.runner import STAGES, generate_labels

__all__ = ["STAGES", "generate_labels"]
