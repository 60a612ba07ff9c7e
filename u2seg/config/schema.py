"""Every setting of the package: default, unit, range, origin. The single statement of each.

A field ``num_masks`` of section ``MASKS`` is the YAML and command-line key
``U2SEG.MASKS.NUM_MASKS``. Values are validated when a settings object is made.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from u2seg.config.checks import MAX_SEED, RESAMPLING
from u2seg.config.checks import check_crf as _check_crf
from u2seg.config.checks import one_of as _one_of
from u2seg.config.checks import require as _require
from u2seg.config.evaldata import EVAL_FORMATS, EvalTree
from u2seg.config.evaluation import EvalSettings as EvalSettings
from u2seg.config.rounds import RecipeSettings as RecipeSettings
from u2seg.config.rounds import RoundSettings as RoundSettings
from u2seg.config.semantics import SemanticSettings as SemanticSettings
from u2seg.config.training import CopyPasteSettings as CopyPasteSettings
from u2seg.config.training import TrainSettings as TrainSettings


@dataclass(frozen=True)
class ImageSettings:
    """Which files of the image folder are photographs, and how large they may be.

    Args:
        extensions: File name endings that are tried, lower case with the dot (upper case in file
            names counts too); everything else is passed over, and so are HEIC and AVIF where no
            library that reads them is installed.
        max_pixels: Refuse larger images (bombs); pixels, > 0.
    """

    extensions: tuple[str, ...] = (
        ".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif",
        ".heic", ".heif",
    )  # fmt: skip
    max_pixels: int = 50_000_000

    def __post_init__(self) -> None:
        good = all(e.startswith(".") and e == e.lower() and len(e) > 1 for e in self.extensions)
        expected = "at least one ending such as .jpg, lower case, with the dot"
        _require(good and len(self.extensions) > 0, "IMAGES.EXTENSIONS", self.extensions, expected)
        _require(self.max_pixels > 0, "IMAGES.MAX_PIXELS", self.max_pixels, "> 0")


@dataclass(frozen=True)
class FeatureSettings:
    """Patch features.

    Args:
        name: A registered extractor: ``filter_bank`` (no weights) or a ViT such as
            ``dino_vitb8`` (the paper's), ``dino_vits8``, ``dinov2_vits14``, ``dinov3_vits16``;
            ``auto``: the best ViT whose weights can be had when a run begins, else
            ``filter_bank``.
        weights: Local file or URL of the ViT's weights; empty = from a cache of this machine, or
            the hub.
        sha256: Expected digest of ``weights``; empty = unchecked.
        image_size: Side of the resized image in pixels (MaskCut: 480); rounded to patches.
        resize: ``square`` squashes to image_size x image_size (the reference), ``keep`` keeps
            the aspect ratio with about the same number of patches.
        resample: Filter of that resizing: ``lanczos`` (MaskCut), ``bicubic``, ``bilinear``,
            ``nearest``.
        patch_size: Side of a patch of ``filter_bank`` in pixels; a ViT has its own.
        position_scale: ``filter_bank``: share of the image's side that counts as one kernel
            width in the ``key`` facet; smaller = more compact masks, > 0.
        precision: ``fp32`` or ``bf16`` for the ViT forward pass.
        batch_size: Images per forward pass of a GPU, and read at a time, >= 1.
        device: ``auto`` (GPU if there is one), ``cpu``, ``cuda``, ``cuda:1`` ...
    """

    name: str = "filter_bank"
    weights: str = ""
    sha256: str = ""
    image_size: int = 480
    resize: str = "square"
    resample: str = "lanczos"
    patch_size: int = 8
    position_scale: float = 0.33
    precision: str = "fp32"
    batch_size: int = 4
    device: str = "auto"

    def __post_init__(self) -> None:
        _require(self.image_size >= 16, "FEATURES.IMAGE_SIZE", self.image_size, ">= 16")
        _one_of("FEATURES.RESIZE", self.resize, ("square", "keep"))
        _one_of("FEATURES.RESAMPLE", self.resample, RESAMPLING)
        _require(1 <= self.patch_size <= 64, "FEATURES.PATCH_SIZE", self.patch_size, "1..64")
        _require(self.position_scale > 0, "FEATURES.POSITION_SCALE", self.position_scale, "> 0")
        _one_of("FEATURES.PRECISION", self.precision, ("fp32", "bf16"))
        _require(self.batch_size >= 1, "FEATURES.BATCH_SIZE", self.batch_size, ">= 1")


@dataclass(frozen=True)
class MaskSettings:
    """Class-agnostic masks (CutLER commit cca0a27, maskcut/maskcut.py).

    Args:
        proposer: A registered mask proposer: ``maskcut``; ``tokencut`` (one cut; published with
            tau 0.2); ``cutler`` (what a trained Detectron2 model predicts, not refined again).
        tau: Affinity threshold on the cosine similarity of two patches, -1..1. 0.15 made the
            released ImageNet labels (for DINO keys).
        eps: Affinity below the threshold, > 0.
        num_masks: Cuts per image, N >= 1.
        max_overlap: A cut whose IoU with the previous mask is above this is dropped, 0..1.
        min_area: A later cut that covers no more than this share of the patches is dropped.
        max_area: A cut that covers more than this share of the image is dropped; 1 = never
            (the reference).
        max_border: A mask that covers more than this share of the patches along the image's
            border is dropped before refinement, 0..1; 1 = never (the reference).
        score: ``cut``: 1 - NCut / 2; ``border``: that times the share of the image's border
            outside the mask.
        rule: After a refused cut, ``stop`` ends the search; ``released`` cuts the same graph
            again and accepts the result, as the published code does.
        painted: What becomes of patches under earlier masks: ``isolate`` keeps them as nodes
            without edges (the reference), ``exclude`` removes them and goes on after a refused
            cut.
        backend: ``cpu`` cuts image by image; ``torch`` cuts batches where the features are (a
            ViT's, MaskCut only), with the same masks; ``auto``: ``torch`` for features on a GPU.
        detector_config: ``cutler``: YAML config of the model, Detectron2's own or this package's.
        detector_weights: ``cutler``: local checkpoint, ``.pth`` or ``.pkl``.
        detector_score: ``cutler``: masks with a lower score are dropped, 0..1.
        detector_nms: ``cutler``: of two masks, of any class, with a higher IoU the one with the
            lower score is dropped, 0..1; 1 = never.
        tiles: Second pass for small objects: the masks of T x T overlapping tiles of the
            photograph, each resized like a photograph, are added where the first pass found
            nothing. 0 = off.
        tile_max_area: Largest mask of a tile that counts, share of the tile, 0..1.
        refiner: A registered mask refiner: ``dense_crf`` or ``none``.
        min_refine_iou: Drop a mask whose IoU before / after refinement is below this, 0..1.
        crf_iterations: Mean-field iterations, >= 1.
        crf_gaussian_sxy, crf_gaussian_weight: Smoothness kernel: pixels, >= 0.01; weight.
        crf_bilateral_sxy, crf_bilateral_srgb, crf_bilateral_weight: Appearance kernel: pixels,
            grey levels 0..255, both >= 0.01; weight.
    """

    proposer: str = "maskcut"
    tau: float = 0.15
    eps: float = 1e-5
    num_masks: int = 3
    max_overlap: float = 0.5
    min_area: float = 0.01
    max_area: float = 1.0
    max_border: float = 1.0
    score: str = "cut"
    rule: str = "stop"
    painted: str = "isolate"
    backend: str = "auto"
    detector_config: str = ""
    detector_weights: str = ""
    detector_score: float = 0.5
    detector_nms: float = 0.5
    tiles: int = 0
    tile_max_area: float = 0.25
    refiner: str = "dense_crf"
    min_refine_iou: float = 0.5
    crf_iterations: int = 10
    crf_gaussian_sxy: float = 3.0
    crf_gaussian_weight: float = 7.0
    crf_bilateral_sxy: float = 50.0
    crf_bilateral_srgb: float = 5.0
    crf_bilateral_weight: float = 10.0

    def __post_init__(self) -> None:
        _require(-1 <= self.tau <= 1, "MASKS.TAU", self.tau, "-1..1")
        _require(0 < self.eps < 1, "MASKS.EPS", self.eps, "0 < eps < 1")
        _require(self.num_masks >= 1, "MASKS.NUM_MASKS", self.num_masks, ">= 1")
        for key in (
            "max_overlap", "min_area", "max_area", "max_border", "min_refine_iou",
            "detector_score", "detector_nms", "tile_max_area",
        ):  # fmt: skip
            value = getattr(self, key)
            _require(0 <= value <= 1, f"MASKS.{key.upper()}", value, "0..1")
        _one_of("MASKS.SCORE", self.score, ("cut", "border"))
        _one_of("MASKS.RULE", self.rule, ("stop", "released"))
        _one_of("MASKS.PAINTED", self.painted, ("isolate", "exclude"))
        _one_of("MASKS.BACKEND", self.backend, ("auto", "cpu", "torch"))
        known = self.tiles == 0 or 2 <= self.tiles <= 8
        _require(known, "MASKS.TILES", self.tiles, "0 (off) or 2..8")
        _require(self.crf_iterations >= 1, "MASKS.CRF_ITERATIONS", self.crf_iterations, ">= 1")
        _check_crf("MASKS", self)


@dataclass(frozen=True)
class ClusterSettings:
    """One id for similar objects: K-means over the masks of the whole data set.

    Args:
        num_clusters: K >= 1: the one key from which NUM_CLASSES of the ROI heads follows.
            Published: 300, 800, 2911.
        descriptor: ``masked_mean`` (mean patch feature inside the mask), ``crop_cls`` (CLS token
            of the box crop; the published choice, needs a ViT) or ``masked_crop`` (the same with
            the background painted in ImageNet's mean colour).
        crop_fit: How a crop becomes a square: ``squash``, or ``center``, which cuts off the ends
            of the longer side (the published choice).
        crop_resample: Filter that resizes crops, as ``FEATURES.RESAMPLE`` (published: bilinear).
        crop_padding: Share of the box's sides by which the crop grows on every side, 0..1.
        whiten: ``none``; ``scale`` divides every dimension by its standard deviation
            (MaskDistill); ``pca`` does so with the principal components, after centring.
        pca: Keep so many principal components; 0 = no PCA (with ``whiten: pca`` all of them).
        normalize: Scale descriptors to unit length, after whitening and PCA. The published
            clusters were made without.
        backend: ``auto`` (``faiss`` if it sees a GPU, else ``blocks``), ``blocks`` (skips
            distances that cannot matter), ``faiss`` or ``sklearn`` (in memory only).
        init: ``k-means++`` or ``random`` (the published choice).
        iterations: Lloyd iterations at most, >= 1; with ``batch_size`` passes over the data.
        restarts: Starts of which the best is kept, >= 1.
        batch_size: Descriptors of a mini-batch; 0 = Lloyd's iterations over all.
        centroids: Path of a saved ``centroids.npy`` to assign to instead of fitting.
        seed: 0..2^32 - 1.
    """

    num_clusters: int = 300
    descriptor: str = "masked_mean"
    crop_fit: str = "squash"
    crop_resample: str = "lanczos"
    crop_padding: float = 0.0
    whiten: str = "none"
    pca: int = 0
    normalize: bool = True
    backend: str = "auto"
    init: str = "k-means++"
    iterations: int = 100
    restarts: int = 1
    batch_size: int = 0
    centroids: str = ""
    seed: int = 0

    def __post_init__(self) -> None:
        _require(self.num_clusters >= 1, "CLUSTERS.NUM_CLUSTERS", self.num_clusters, ">= 1")
        descriptors = ("masked_mean", "crop_cls", "masked_crop")
        _one_of("CLUSTERS.DESCRIPTOR", self.descriptor, descriptors)
        _one_of("CLUSTERS.CROP_FIT", self.crop_fit, ("squash", "center"))
        _one_of("CLUSTERS.CROP_RESAMPLE", self.crop_resample, RESAMPLING)
        _require(0 <= self.crop_padding <= 1, "CLUSTERS.CROP_PADDING", self.crop_padding, "0..1")
        _one_of("CLUSTERS.WHITEN", self.whiten, ("none", "scale", "pca"))
        _require(self.pca >= 0, "CLUSTERS.PCA", self.pca, ">= 0")
        _one_of("CLUSTERS.BACKEND", self.backend, ("auto", "blocks", "faiss", "sklearn"))
        _one_of("CLUSTERS.INIT", self.init, ("k-means++", "random"))
        _require(self.iterations >= 1, "CLUSTERS.ITERATIONS", self.iterations, ">= 1")
        _require(self.restarts >= 1, "CLUSTERS.RESTARTS", self.restarts, ">= 1")
        _require(self.batch_size >= 0, "CLUSTERS.BATCH_SIZE", self.batch_size, ">= 0")
        _require(0 <= self.seed <= MAX_SEED, "CLUSTERS.SEED", self.seed, f"0..{MAX_SEED}")


@dataclass(frozen=True)
class PanopticSettings:
    """How things and stuff become one label. Areas are shares of the image's pixels.

    Args:
        rule: ``scored``: the better score on top, what is small or hidden dropped, holes filled.
            ``released``: things from large to small boxes, later ones on top, stuff in what is
            left (U2Seg commit 8e9c709); of the thresholds it reads the first two.
        max_stuff_covered: A stuff cluster with more than this share under things is dropped.
        stuff_covered: The same share for each stuff cluster, S values; empty = one for all.
        min_thing_area, min_stuff_area: What must stay visible of a segment, 0 <= a < 1.
        min_visible: Share of a thing's own pixels that must stay visible, 0..1 (0.5 as when a
            Panoptic FPN's outputs are combined: Kirillov et al., 2019).
        max_hole: Holes of a thing up to this area are filled, 0..1; 0 = none.
    """

    rule: str = "scored"
    max_stuff_covered: float = 0.7
    stuff_covered: tuple[float, ...] = ()
    min_thing_area: float = 0.0005
    min_stuff_area: float = 0.01
    min_visible: float = 0.5
    max_hole: float = 0.001

    def __post_init__(self) -> None:
        for key in ("max_stuff_covered", "min_visible", "max_hole"):
            value = getattr(self, key)
            _require(0 <= value <= 1, f"PANOPTIC.{key.upper()}", value, "0..1")
        for key in ("min_thing_area", "min_stuff_area"):
            value = getattr(self, key)
            expected = "a share of the image, 0 <= a < 1"
            _require(0 <= value < 1, f"PANOPTIC.{key.upper()}", value, expected)
        good = all(0 <= share <= 1 for share in self.stuff_covered)
        _require(good, "PANOPTIC.STUFF_COVERED", self.stuff_covered, "shares in 0..1")


@dataclass(frozen=True)
class RunSettings:
    """How a labelling run is cut into resumable pieces.

    Args:
        shard_size: Images per part file, >= 1; an interruption loses at most one shard.
        max_bad: Share of unreadable images above which the run fails, 0..1.
        lease_seconds: A worker that gets on with no image for so long counts as dead, > 0: its
            shard goes to another. More than the slowest image takes.
        threads: Threads of each worker, and of the driver when it fits the model for stuff, whose
            last digits depend on it; 0 = a worker's share of the cores, and all of them.
    """

    shard_size: int = 64
    max_bad: float = 1.0
    lease_seconds: float = 600.0
    threads: int = 0

    def __post_init__(self) -> None:
        _require(self.shard_size >= 1, "RUN.SHARD_SIZE", self.shard_size, ">= 1")
        _require(0 <= self.max_bad <= 1, "RUN.MAX_BAD", self.max_bad, "0..1")
        _require(self.lease_seconds > 0, "RUN.LEASE_SECONDS", self.lease_seconds, "> 0")
        _require(self.threads >= 0, "RUN.THREADS", self.threads, ">= 0")


@dataclass(frozen=True)
class DataSettings:
    """Where training and evaluation data lie. Relative paths start at the working directory.

    Args:
        labels: Output folder of ``generate_pseudo.py``; registered as ``u2seg_pseudo``.
        images: Image root of these labels; empty = the one recorded in ``images.json``.
        eval_root: Root of a data set with truth; registered as ``u2seg_eval``; empty = evaluate
            against the pseudo-labels themselves.
        eval_format: Format of its truth: ``coco-panoptic``, ``coco-2channel``,
            ``coco-instances``, ``uvo``, ``cocostuff``, ``cityscapes``, ``cityscapes-panoptic``,
            ``voc`` or ``camvid``.
        eval_images, eval_json, eval_pngs: Its folder of photographs, its JSON or list of images
            and its folder of label maps, relative to ``eval_root``; empty = where the format
            usually has them (datasets/README.md).
    """

    labels: str = ""
    images: str = ""
    eval_root: str = ""
    eval_format: str = "coco-panoptic"
    eval_images: str = ""
    eval_json: str = ""
    eval_pngs: str = ""

    def __post_init__(self) -> None:
        _one_of("DATA.EVAL_FORMAT", self.eval_format, tuple(EVAL_FORMATS))

    @property
    def eval_tree(self) -> EvalTree:
        """Where the parts of the evaluation data lie, relative to ``eval_root``."""
        usual = EVAL_FORMATS[self.eval_format]
        return EvalTree(
            self.eval_images or usual.images,
            self.eval_json or usual.json,
            self.eval_pngs or usual.pngs,
        )


@dataclass(frozen=True)
class Settings:
    """All sections. ``settings_hash`` of the sections a stage reads is in its manifest."""

    images: ImageSettings = ImageSettings()
    features: FeatureSettings = FeatureSettings()
    masks: MaskSettings = MaskSettings()
    clusters: ClusterSettings = ClusterSettings()
    semantics: SemanticSettings = SemanticSettings()  # noqa: RUF009 (frozen)
    panoptic: PanopticSettings = PanopticSettings()
    run: RunSettings = RunSettings()
    data: DataSettings = DataSettings()
    train: TrainSettings = TrainSettings()  # noqa: RUF009 (frozen)
    copy_paste: CopyPasteSettings = CopyPasteSettings()  # noqa: RUF009 (frozen)
    rounds: RoundSettings = RoundSettings()  # noqa: RUF009 (frozen)
    recipe: RecipeSettings = RecipeSettings()  # noqa: RUF009 (frozen)
    eval: EvalSettings = EvalSettings()  # noqa: RUF009 (frozen)


SECTIONS: dict[str, type] = {f.name: type(f.default) for f in fields(Settings)}
"""Section name (lower case) -> settings class."""
