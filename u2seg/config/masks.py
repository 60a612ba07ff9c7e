"""Settings of the instance masks: section ``MASKS`` and its members."""

from __future__ import annotations

from dataclasses import dataclass

from u2seg.config.section import CrfSettings, Section, one_of, require, shares


@dataclass(frozen=True)
class MaskCutSettings:
    """MaskCut (CutLER commit cca0a27, maskcut/maskcut.py).

    Args:
        tau: Affinity threshold on the cosine similarity of two patches, -1..1. 0.15 made the
            released ImageNet labels (for DINO keys).
        eps: Affinity below the threshold, > 0.
        num_masks: Cuts per image, N >= 1.
        max_overlap: A cut whose IoU with the previous mask is above this is dropped, 0..1.
        min_area: A later cut that covers no more than this share of the patches is dropped.
        max_area: A cut that covers more than this share of the image is dropped; 1 = never
            (the reference).
        rule: After a refused cut, ``stop`` ends the search; ``released`` cuts the same graph
            again and accepts the result, as the published code does.
        painted: What becomes of patches under earlier masks: ``isolate`` keeps them as nodes
            without edges (the reference), ``exclude`` removes them and goes on after a refused
            cut.
    """

    tau: float = 0.15
    eps: float = 1e-5
    num_masks: int = 3
    max_overlap: float = 0.5
    min_area: float = 0.01
    max_area: float = 1.0
    rule: str = "stop"
    painted: str = "isolate"

    def __post_init__(self) -> None:
        require(-1 <= self.tau <= 1, "MASKS.MASKCUT.TAU", self.tau, "-1..1")
        require(0 < self.eps < 1, "MASKS.MASKCUT.EPS", self.eps, "0 < eps < 1")
        require(self.num_masks >= 1, "MASKS.MASKCUT.NUM_MASKS", self.num_masks, ">= 1")
        shares("MASKS.MASKCUT", self, "max_overlap", "min_area", "max_area")
        one_of("MASKS.MASKCUT.RULE", self.rule, ("stop", "released"))
        one_of("MASKS.MASKCUT.PAINTED", self.painted, ("isolate", "exclude"))


@dataclass(frozen=True)
class TokenCutSettings:
    """TokenCut, one cut (Wang et al., 2022).

    Args:
        tau: As for MaskCut (published: 0.2).
        eps: As for MaskCut.
    """

    tau: float = 0.2
    eps: float = 1e-5

    def __post_init__(self) -> None:
        require(-1 <= self.tau <= 1, "MASKS.TOKENCUT.TAU", self.tau, "-1..1")
        require(0 < self.eps < 1, "MASKS.TOKENCUT.EPS", self.eps, "0 < eps < 1")


@dataclass(frozen=True)
class DetectorSettings:
    """What a trained model predicts (proposer ``cutler``).

    Args:
        config: YAML config of the model, Detectron2's own or this package's.
        weights: Local checkpoint, ``.pth`` or ``.pkl``.
        score: Masks with a lower score are dropped, 0..1.
        nms: Of two masks, of any class, with a higher IoU the one with the lower score is
            dropped, 0..1; 1 = never.
    """

    config: str = ""
    weights: str = ""
    score: float = 0.5
    nms: float = 0.5

    def __post_init__(self) -> None:
        shares("MASKS.CUTLER", self, "score", "nms")


@dataclass(frozen=True)
class MaskSettings(Section):
    """Class-agnostic masks: who proposes, what is kept, who refines.

    Args:
        proposer: A registered mask proposer: ``maskcut``; ``tokencut`` (one cut); ``cutler``
            (what a trained Detectron2 model predicts, not refined again).
        max_border: A mask that covers more than this share of the patches along the image's
            border is dropped before refinement, 0..1; 1 = never (the reference).
        score: ``cut``: what the proposer gives (MaskCut: 1 - NCut / 2); ``border``: that times the
            share of the image's border outside the mask.
        backend: ``cpu`` cuts image by image; ``torch`` cuts batches where the features are (a
            ViT's, MaskCut only), with the same masks; ``auto``: ``torch`` for features on a GPU.
        tiles: Second pass for small objects: the masks of T x T overlapping tiles of the
            photograph, each resized like a photograph, are added where the first pass found
            nothing. 0 = off.
        tile_max_area: Largest mask of a tile that counts, share of the tile, 0..1.
        refiner: A registered mask refiner: ``dense_crf`` or ``none``.
        min_refine_iou: Drop a mask whose IoU before / after refinement is below this, 0..1.
    """

    proposer: str = "maskcut"
    max_border: float = 1.0
    score: str = "cut"
    backend: str = "auto"
    tiles: int = 0
    tile_max_area: float = 0.25
    refiner: str = "dense_crf"
    min_refine_iou: float = 0.5
    maskcut: MaskCutSettings = MaskCutSettings()
    tokencut: TokenCutSettings = TokenCutSettings()
    cutler: DetectorSettings = DetectorSettings()
    dense_crf: CrfSettings = CrfSettings()  # noqa: RUF009 (frozen)

    def __post_init__(self) -> None:
        shares("MASKS", self, "max_border", "min_refine_iou", "tile_max_area")
        one_of("MASKS.SCORE", self.score, ("cut", "border"))
        one_of("MASKS.BACKEND", self.backend, ("auto", "cpu", "torch"))
        known = self.tiles == 0 or 2 <= self.tiles <= 8
        require(known, "MASKS.TILES", self.tiles, "0 (off) or 2..8")
