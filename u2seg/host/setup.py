"""From a config file and overrides to a validated, frozen Detectron2 config.

Order: host, defaults, U2SEG node, YAML (safely), overrides, validation, derived class numbers,
data sets, device, freeze. ``setup_cfg`` is called in every process, so spawned workers know the
data sets too.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from u2seg.config.env import tell_spinning
from u2seg.config.load import add_u2seg_config, overrides_tree, settings_from_cfg
from u2seg.config.plugins import load_plugins
from u2seg.config.schema import Settings
from u2seg.config.words import ROOT, flatten
from u2seg.errors import UserError
from u2seg.host.cfg_merge import Flat, merge_values, merge_words
from u2seg.host.checks import check_host_settings, check_training_settings
from u2seg.io.yamlfile import load_yaml, merge
from u2seg.structures.labels import LabelSpace

logger = logging.getLogger(__name__)
PSEUDO_NAME = "u2seg_pseudo"
EVAL_NAME = "u2seg_eval"
CONFIG_VERSION = 2
_OF_CUTLER = frozenset({
    "DATALOADER.COPY_PASTE", "DATALOADER.COPY_PASTE_RATE", "DATALOADER.COPY_PASTE_MIN_RATIO",
    "DATALOADER.COPY_PASTE_MAX_RATIO", "DATALOADER.COPY_PASTE_RANDOM_NUM",
    "DATALOADER.VISUALIZE_COPY_PASTE", "MODEL.ROI_HEADS.USE_DROPLOSS",
    "MODEL.ROI_HEADS.DROPLOSS_IOU_THRESH", "SOLVER.BASE_LR_MULTIPLIER",
    "SOLVER.BASE_LR_MULTIPLIER_NAMES", "TEST.NO_SEGM",
})  # fmt: skip
"""Keys that CutLER's code (commit cca0a27) adds; none changes what its models predict."""
_HEADS_OF_CUTLER = {
    "CustomCascadeROIHeads": "CascadeROIHeads",
    "CustomStandardROIHeads": "StandardROIHeads",
}
"""Its heads differ from the host's in their losses alone."""


def build_cfg(
    config_file: Path | str,
    overrides: Sequence[str] = (),
    *,
    register: bool = False,
    training: bool = False,
) -> Any:
    """Return the frozen Detectron2 config of a YAML file and overrides.

    Args:
        config_file: YAML, its ``_BASE_`` chain is followed.
        overrides: ``["SOLVER.BASE_LR", "0.001", ...]``.
        register: Register ``U2SEG.DATA``'s data sets and compare their label space with the
            model's numbers of classes. Prediction needs neither.
        training: Refuse what can be evaluated on this machine but not trained.

    Raises:
        UserError: for an unreadable file, an unknown key, a bad value, class numbers that
            disagree with ``U2SEG.CLUSTERS.NUM_CLUSTERS`` or the labels, missing data, or SyncBN
            that would be trained on a CPU.
    """
    from u2seg.compat import prepare_host

    tell_spinning()
    prepare_host()
    import u2seg.modeling

    cfg, given = _merged(config_file, overrides)
    if not cfg.OUTPUT_DIR.strip():  # else the working directory
        raise UserError("OUTPUT_DIR is empty, expected a folder: OUTPUT_DIR runs/train")
    settings = settings_from_cfg(cfg)
    _derive_classes(cfg, settings, given)
    _derive_data_sets(cfg, settings, given)
    _fit_device(cfg, training)
    u2seg.modeling.register()
    check_host_settings(cfg)
    from u2seg.modeling.student import student_tasks

    if training:
        check_training_settings(cfg)
        check_tasks(settings, student_tasks(cfg), str(cfg.MODEL.META_ARCHITECTURE))
    if register:
        register_data(settings, str(config_file), student_tasks(cfg), training=training)
    _unshare(cfg)
    cfg.freeze()
    return cfg


def build_stock_cfg(config_file: Path | str, overrides: Sequence[str] = ()) -> Any:
    """Return the frozen config of a model whose classes have nothing to do with clusters.

    As ``build_cfg``, but class numbers and data sets stay what the file says, as in the configs
    of Detectron2's model zoo. CutLER's own files are read too.
    """
    from u2seg.compat import prepare_host

    prepare_host()
    cfg, _ = _merged(config_file, overrides, stock=True)
    _fit_device(cfg)
    check_host_settings(cfg)
    _unshare(cfg)
    cfg.freeze()
    return cfg


def complete_cfg(cfg: Any) -> Any:
    """Return a frozen copy of a config made with Detectron2's ``get_cfg``, ready for prediction.

    ``U2SEG`` keys that it lacks are added. If it says nothing of them, as the files of the
    released code, its own class numbers hold and the numbers of clusters follow from them.
    """
    from u2seg.compat import prepare_host

    prepare_host()
    from detectron2.config import get_cfg

    import u2seg.modeling

    cfg, usual = cfg.clone(), get_cfg()
    cfg.defrost()
    add_u2seg_config(cfg)
    add_u2seg_config(usual)
    if cfg.U2SEG == usual.U2SEG:
        cfg.U2SEG.CLUSTERS.NUM_CLUSTERS = cfg.MODEL.ROI_HEADS.NUM_CLASSES
        cfg.U2SEG.SEMANTICS.NUM_CLASSES = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES - 1
    defaults = flatten(usual)
    given = {key: value for key, value in flatten(cfg).items() if value != defaults.get(key)}
    _derive_classes(cfg, settings_from_cfg(cfg), given)
    _fit_device(cfg)
    u2seg.modeling.register()
    check_host_settings(cfg)
    _unshare(cfg)
    cfg.freeze()
    return cfg


def label_space(settings: Settings) -> LabelSpace:
    """Return the label space of the model: K thing and S stuff clusters with default names."""
    return LabelSpace(settings.clusters.num_clusters, settings.semantics.num_classes)


def register_data(
    settings: Settings, config_file: str, tasks: frozenset[str], *, training: bool
) -> None:
    """Register the data sets of ``U2SEG.DATA`` and check the labels' numbers of clusters."""
    from u2seg.data.catalog import register_labels
    from u2seg.host.evaldata import register_eval

    data = settings.data
    if data.labels and not Path(data.labels).exists():
        missing = f"label folder {data.labels} (U2SEG.DATA.LABELS) does not exist"
        if training or not data.eval_root:
            raise UserError(
                f"{missing}: make it as the first lines of {config_file} say, usually with "
                f"u2seg label --config-file {config_file} --images FOLDER "
                f"--output-dir {data.labels}, or set U2SEG.DATA.LABELS to another"
            )
        logger.warning("%s: evaluating without it", missing)
    elif data.labels:
        space = register_labels(PSEUDO_NAME, data.labels, data.images)
        check_label_space(space, settings, data.labels, tasks)
    if data.eval_root:
        register_eval(EVAL_NAME, settings)


def check_tasks(settings: Settings, tasks: frozenset[str], name: str) -> None:
    """Raise UserError if a student learns things and there are none, or stuff alone and none."""
    stuff_alone = "stuff" in tasks and "things" not in tasks
    if settings.clusters.num_clusters == 0 and "things" in tasks:
        lacks, key = "things", "CLUSTERS.NUM_CLUSTERS"
    elif settings.semantics.num_classes == 0 and stuff_alone:
        lacks, key = "stuff", "SEMANTICS.NUM_CLASSES"
    else:
        return
    raise UserError(
        f"MODEL.META_ARCHITECTURE {name} learns {lacks}, of which U2SEG.{key} 0 makes none: choose "
        "another student (SemanticSegmentor learns stuff alone, InstanceCascadeRCNN things alone), "
        "or let a recipe end with its labels (student: false)"
    )


def check_label_space(
    space: LabelSpace, settings: Settings, source: str, tasks: frozenset[str]
) -> None:
    """Compare the labels with the model before it is built, as far as it learns from them."""
    clusters, semantics = settings.clusters.num_clusters, settings.semantics.num_classes
    for task, found, expected, key in (
        ("things", space.num_things, clusters, "CLUSTERS.NUM_CLUSTERS"),
        ("stuff", space.num_stuff, semantics, "SEMANTICS.NUM_CLASSES"),
    ):
        if task in tasks and found != expected:
            raise UserError(
                f"the labels in {source} have {found} {task.removesuffix('s')} clusters, the model "
                f"is set to {expected}: set U2SEG.{key} {found}, or make labels with {expected}"
            )


def _merged(
    config_file: Path | str, overrides: Sequence[str], *, stock: bool = False
) -> tuple[Any, Flat]:
    from detectron2.config import get_cfg

    cfg = get_cfg()
    # 0.5 alone has a number here, which also overrides WEIGHT_DECAY_NORM on biases of norms.
    cfg.SOLVER.WEIGHT_DECAY_BIAS = None
    tree = load_yaml(config_file)
    node = merge(tree, overrides_tree(overrides)).get(ROOT) or {}
    plugins = load_plugins(node.get("PLUGINS") or (), config_file)  # they may add keys
    add_u2seg_config(cfg)
    values = flatten(tree)
    version = values.pop("VERSION", CONFIG_VERSION)
    if version != CONFIG_VERSION:
        raise UserError(f"{config_file}: VERSION is {version!r}, only {CONFIG_VERSION} is known")
    others = sorted(_OF_CUTLER & values.keys())
    if others and not stock:
        raise UserError(
            f"{others[0]} in {config_file} is a key of CutLER's code. As "
            "U2SEG.MASKS.CUTLER.CONFIG the file can be used as it is; to train as CutLER does, "
            "or to predict with its weights, take "
            "configs/ImageNet-InstanceSegmentation/cutler_R50.yaml"
        )
    values = {key: value for key, value in values.items() if key not in others}
    heads = values.get("MODEL.ROI_HEADS.NAME")
    if stock and heads in _HEADS_OF_CUTLER:
        values["MODEL.ROI_HEADS.NAME"] = _HEADS_OF_CUTLER[heads]
    merge_values(cfg, values, str(config_file))
    given = {**values, **merge_words(cfg, overrides)}
    cfg.U2SEG.PLUGINS = plugins
    return cfg, given


def _derive_classes(cfg: Any, settings: Settings, given: Flat) -> None:
    """Set both NUM_CLASSES from the two U2SEG keys, the only owners of these numbers."""
    space = label_space(settings)
    derived = (
        (cfg.MODEL.ROI_HEADS, "MODEL.ROI_HEADS", space.num_things, "CLUSTERS.NUM_CLUSTERS"),
        (
            cfg.MODEL.SEM_SEG_HEAD,
            "MODEL.SEM_SEG_HEAD",
            space.semantic_classes,
            "SEMANTICS.NUM_CLASSES (plus 1 for things)",
        ),
    )
    for node, name, number, owner in derived:
        full = f"{name}.NUM_CLASSES"
        if full in given and number != node.NUM_CLASSES:
            raise UserError(
                f"{full} is set to {node.NUM_CLASSES}, but U2SEG.{owner} makes it {number}: "
                f"remove {full} and set the U2SEG key"
            )
        node.NUM_CLASSES = number


def _derive_data_sets(cfg: Any, settings: Settings, given: Flat) -> None:
    data = settings.data
    if data.eval_root:  # written out, so that the dumped config says where they lie
        tree = data.eval_tree
        node = cfg.U2SEG.DATA
        node.EVAL_IMAGES, node.EVAL_JSON, node.EVAL_PNGS = tree.images, tree.json, tree.pngs
    train = (PSEUDO_NAME,) if data.labels else ()
    test = (EVAL_NAME,) if data.eval_root else train
    for key, names in (("TRAIN", train), ("TEST", test)):
        wanted = tuple(given.get(f"DATASETS.{key}", ()))
        if not set(wanted) <= {PSEUDO_NAME, EVAL_NAME}:
            raise UserError(
                f"DATASETS.{key} is set to {wanted!r}; data sets are chosen with "
                "U2SEG.DATA.LABELS and U2SEG.DATA.EVAL_ROOT: remove the key"
            )
        cfg.DATASETS[key] = names


def wanted_device(config_file: Path | str, overrides: Sequence[str] = ()) -> str:
    """Return the kind of device that a config will use on this machine: ``cpu`` or ``cuda``."""
    from u2seg.compat import prepare_host

    prepare_host()
    import torch

    wanted = str(_merged(config_file, overrides)[0].MODEL.DEVICE)
    return "cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu"


def _fit_device(cfg: Any, training: bool = False) -> None:
    """Fall back to what this machine has, saying so; refuse what has no equal here."""
    import torch
    from detectron2.utils import comm

    device = str(cfg.MODEL.DEVICE)
    if device == "auto":
        cfg.MODEL.DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
    elif device.startswith("cuda") and not torch.cuda.is_available():
        logger.warning("MODEL.DEVICE %s: there is no CUDA here, using cpu", device)
        cfg.MODEL.DEVICE = "cpu"
    on_cpu = cfg.MODEL.DEVICE == "cpu"
    if on_cpu and cfg.SOLVER.AMP.ENABLED and cfg.U2SEG.TRAIN.AMP_DTYPE != "bfloat16":
        logger.debug("SOLVER.AMP.ENABLED: float16 needs a GPU, training in fp32")
        cfg.SOLVER.AMP.ENABLED = False
    if on_cpu and training:
        _refuse_sync_bn(cfg.MODEL)
    if on_cpu or comm.get_world_size() == 1:
        changed = _replace_norm(cfg.MODEL, "MODEL", "SyncBN", "BN")
        if changed:
            logger.warning("one process: BN instead of SyncBN in %s", ", ".join(changed))


def _refuse_sync_bn(model: Any) -> None:
    """SyncBN exists for GPUs only, and BN in its place would be another model than asked for."""
    keys = _replace_norm(model.clone(), "MODEL", "SyncBN", "BN")
    if keys:
        raise UserError(
            f"{keys[0]} is SyncBN, which only GPUs can train, and MODEL.DEVICE is cpu: set "
            f"{', '.join(f'{key} BN' for key in keys)} (or GN)"
        )


def _replace_norm(node: Any, name: str, old: str, new: str) -> list[str]:
    changed = []
    for key, value in node.items():
        if isinstance(value, dict):
            changed += _replace_norm(value, f"{name}.{key}", old, new)
        elif key == "NORM" and value == old:
            node[key] = new
            changed.append(f"{name}.{key}")
    return changed


def _unshare(node: Any) -> None:
    """Give every key a sequence of its own: shared ones are dumped as YAML aliases.

    The host's defaults share some, and ``OUTPUT_DIR/config.yaml`` must load again here, where
    aliases are refused.
    """
    for key, value in node.items():
        if isinstance(value, dict):
            _unshare(value)
        elif isinstance(value, tuple | list):
            node[key] = _copied(value)


def _copied(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return type(value)([_copied(item) for item in value])
    return value
