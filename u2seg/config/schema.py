"""Every setting of the package: default, unit, range, origin. The single statement of each.

A field ``num_masks`` of section ``MASKS`` is the YAML and command-line key
``U2SEG.MASKS.NUM_MASKS``. Values are validated when a settings object is made.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from u2seg.config.clusters import ClusterSettings as ClusterSettings
from u2seg.config.clusters import CropSettings as CropSettings
from u2seg.config.clusters import KMeansSettings as KMeansSettings
from u2seg.config.evaluation import EVAL_FORMATS, EvalTree
from u2seg.config.evaluation import EvalSettings as EvalSettings
from u2seg.config.features import FeatureSettings as FeatureSettings
from u2seg.config.features import FilterBankSettings as FilterBankSettings
from u2seg.config.features import VitSettings as VitSettings
from u2seg.config.masks import DetectorSettings as DetectorSettings
from u2seg.config.masks import MaskCutSettings as MaskCutSettings
from u2seg.config.masks import MaskSettings as MaskSettings
from u2seg.config.masks import TokenCutSettings as TokenCutSettings
from u2seg.config.plugins import load_plugins
from u2seg.config.rounds import RecipeSettings as RecipeSettings
from u2seg.config.rounds import RoundSettings as RoundSettings
from u2seg.config.section import CrfSettings as CrfSettings
from u2seg.config.section import at_least, one_of, require, shares
from u2seg.config.semantics import SemanticSettings as SemanticSettings
from u2seg.config.semantics import StegoSettings as StegoSettings
from u2seg.config.semantics import StuffCrfSettings as StuffCrfSettings
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
        require(good and len(self.extensions) > 0, "IMAGES.EXTENSIONS", self.extensions, expected)
        require(self.max_pixels > 0, "IMAGES.MAX_PIXELS", self.max_pixels, "> 0")


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
        shares("PANOPTIC", self, "max_stuff_covered", "min_visible", "max_hole")
        for key in ("min_thing_area", "min_stuff_area"):
            value = getattr(self, key)
            expected = "a share of the image, 0 <= a < 1"
            require(0 <= value < 1, f"PANOPTIC.{key.upper()}", value, expected)
        good = all(0 <= share <= 1 for share in self.stuff_covered)
        require(good, "PANOPTIC.STUFF_COVERED", self.stuff_covered, "shares in 0..1")


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
        at_least(1, "RUN", self, "shard_size")
        at_least(0, "RUN", self, "threads")
        shares("RUN", self, "max_bad")
        require(self.lease_seconds > 0, "RUN.LEASE_SECONDS", self.lease_seconds, "> 0")


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
        one_of("DATA.EVAL_FORMAT", self.eval_format, tuple(EVAL_FORMATS))

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
    """All sections. ``settings_hash`` of the sections a stage reads is in its manifest.

    Args:
        plugins: Python files that register implementations of their own, see
            ``u2seg.config.plugins``; a relative path starts at the config file.
    """

    plugins: tuple[str, ...] = ()
    images: ImageSettings = ImageSettings()
    features: FeatureSettings = FeatureSettings()  # noqa: RUF009 (frozen)
    masks: MaskSettings = MaskSettings()  # noqa: RUF009 (frozen)
    clusters: ClusterSettings = ClusterSettings()  # noqa: RUF009 (frozen)
    semantics: SemanticSettings = SemanticSettings()  # noqa: RUF009 (frozen)
    panoptic: PanopticSettings = PanopticSettings()
    run: RunSettings = RunSettings()
    data: DataSettings = DataSettings()
    train: TrainSettings = TrainSettings()  # noqa: RUF009 (frozen)
    copy_paste: CopyPasteSettings = CopyPasteSettings()  # noqa: RUF009 (frozen)
    rounds: RoundSettings = RoundSettings()  # noqa: RUF009 (frozen)
    recipe: RecipeSettings = RecipeSettings()  # noqa: RUF009 (frozen)
    eval: EvalSettings = EvalSettings()  # noqa: RUF009 (frozen)

    def __post_init__(self) -> None:
        both = self.clusters.num_clusters + self.semantics.num_classes
        require(both > 0, "CLUSTERS.NUM_CLUSTERS", 0, "> 0, as SEMANTICS.NUM_CLASSES is 0 too")

    def left_out(self) -> frozenset[str]:
        """Return the stages that labels of things alone, or of stuff alone, do not need."""
        masks = ("masks", "clusters") if self.clusters.num_clusters == 0 else ()
        return frozenset((*masks, *(("semantics",) if self.semantics.num_classes == 0 else ())))

    def __reduce__(self) -> tuple[Any, ...]:
        """Take the plug-ins along to other processes."""
        return (_with_plugins, (self.plugins,), vars(self))


def _with_plugins(plugins: tuple[str, ...]) -> Settings:
    load_plugins(plugins)  # their classes must be there before their values, which come after this
    return Settings.__new__(Settings)


SECTIONS: dict[str, type] = {f.name: type(f.default) for f in fields(Settings)[1:]}
"""Section name (lower case) -> settings class."""
