"""Settings of evaluation, section ``EVAL``."""

from __future__ import annotations

from dataclasses import dataclass

from u2seg.config.checks import one_of, require


@dataclass(frozen=True)
class EvalSettings:
    """How predicted clusters are matched to classes (facts: U2Seg section 8).

    Args:
        matching: ``hungarian`` (one to one), ``majority`` (many to one; what the released code
            calls Hungarian) or ``identity`` (ids are classes already).
        match_iou: Mask IoU from which on a prediction votes for a thing class, 0..1.
        match_score: Score from which a prediction votes, 0..1.
        merge_stuff: Merge predicted segments that map to the same stuff class of an image.
        instance_score: Instances below this are left out of AP, 0..1.
    """

    matching: str = "hungarian"
    match_iou: float = 0.5
    match_score: float = 0.3
    merge_stuff: bool = True
    instance_score: float = 0.0

    def __post_init__(self) -> None:
        one_of("EVAL.MATCHING", self.matching, ("hungarian", "majority", "identity"))
        for key in ("match_iou", "match_score", "instance_score"):
            value = getattr(self, key)
            require(0 <= value <= 1, f"EVAL.{key.upper()}", value, "0..1")
