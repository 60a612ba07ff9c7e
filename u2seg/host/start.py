"""The beginning of a run in its output folder: may it start or go on there, lock, log, seeds.

``train_config.yaml`` remembers the settings of the beginning. (``config.yaml`` is the host's and
every command writes it anew, evaluations too.)
"""

from __future__ import annotations

import argparse
import contextlib
import fnmatch
import logging
import re
import shlex
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from u2seg.config.env import warn_unread
from u2seg.config.load import settings_from_cfg
from u2seg.config.schema import Settings
from u2seg.config.words import flatten
from u2seg.errors import UserError
from u2seg.host.setup import PSEUDO_NAME, build_cfg
from u2seg.io.atomic import write_text
from u2seg.io.lock import LOCK, only_run
from u2seg.io.ownership import LABELS, PHOTOGRAPHS, TRUTH, check_outside
from u2seg.io.yamlfile import load_yaml

logger = logging.getLogger(__name__)
REMEMBERED = "train_config.yaml"
_MAY_DIFFER = (
    "OUTPUT_DIR", "VERSION", "VIS_PERIOD", "CUDNN_BENCHMARK", "DATALOADER.NUM_WORKERS",
    "SOLVER.CHECKPOINT_PERIOD", "MODEL.WEIGHTS", "MODEL.DEVICE", "DATASETS.TEST",
    "INPUT.MIN_SIZE_TEST", "INPUT.MAX_SIZE_TEST", "MODEL.PANOPTIC_FPN.COMBINE.*",
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "MODEL.ROI_HEADS.NMS_THRESH_TEST",
    "MODEL.RPN.*_TEST", "TEST.EVAL_PERIOD", "TEST.DETECTIONS_PER_IMAGE", "TEST.AUG.*",
    "U2SEG.TRAIN.PICTURES", "U2SEG.TRAIN.KEEP_CHECKPOINTS",
)  # fmt: skip
"""Keys that change no weight of a resumed training."""
_OF_TRAINING = (
    "U2SEG.TRAIN.*", "U2SEG.COPY_PASTE.*", "U2SEG.DATA.LABELS", "U2SEG.DATA.IMAGES",
    "U2SEG.CLUSTERS.NUM_CLUSTERS", "U2SEG.SEMANTICS.NUM_CLASSES", "U2SEG.IMAGES.MAX_PIXELS",
)  # fmt: skip
"""Keys of this package that training reads; those of labelling and evaluation it does not."""
_ADDED: list[tuple[logging.Logger, logging.Handler]] = []
"""What the last set-up of this process added to loggers."""
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


@contextlib.contextmanager
def setup_cfg(args: argparse.Namespace) -> Iterator[Any]:
    """Yield the frozen config of a training or evaluation run, logging and seeds set up.

    While the block lasts, no other run gets its ``OUTPUT_DIR``.
    """
    training = not args.eval_only
    cfg = build_cfg(args.config_file, args.opts, register=True, training=training)
    from detectron2.utils import comm

    if training:
        check_start(cfg, args.resume)
    check_output(Path(cfg.OUTPUT_DIR), settings_from_cfg(cfg), PSEUDO_NAME)
    _check_writable(Path(cfg.OUTPUT_DIR))
    with held_by_first(Path(cfg.OUTPUT_DIR)):
        set_up_host(cfg, args)
        if comm.is_main_process():
            warn_unread(settings_from_cfg(cfg), evaluates=True)
        yield cfg


def check_start(cfg: Any, resume: bool) -> None:
    """Refuse a training that cannot begin or go on, before anything is written."""
    _check_batch(cfg)
    folder = Path(cfg.OUTPUT_DIR)
    if not (folder / "last_checkpoint").is_file():
        if resume:
            logger.warning("--resume: no checkpoint in %s yet, starting anew", folder)
        return
    if not resume:
        raise UserError(
            f"OUTPUT_DIR {folder} holds a training already: add --resume to go on with it, or "
            "choose another folder"
        )
    if (folder / REMEMBERED).is_file():
        check_same(cfg, load_yaml(folder / REMEMBERED))


def remember_settings(cfg: Any, resume: bool) -> None:
    """Write ``train_config.yaml``, unless a training goes on from a checkpoint."""
    folder = Path(cfg.OUTPUT_DIR)
    goes_on = resume and (folder / "last_checkpoint").is_file()
    if not (goes_on and (folder / REMEMBERED).is_file()):
        write_text(folder / REMEMBERED, cfg.dump())


def check_same(cfg: Any, remembered: dict[str, Any]) -> None:
    """Refuse to go on with other settings; see ``check_start``.

    SyncBN and BN are taken as equal, with a warning: one process has BN for SyncBN, and the number
    of processes may change.
    """
    now, then = (_plain(flatten(tree)) for tree in (cfg, remembered))
    differ = [key for key in sorted(now.keys() & then.keys()) if now[key] != then[key]]
    norms = [key for key in differ if _only_synchronized(key, now[key], then[key])]
    changed = [key for key in differ if key not in norms and _matters(key, now, then)]
    if norms and not changed:
        logger.warning(
            "the training in %s goes on with %s (%s when it began): statistics of a batch are now "
            "those of %s",
            cfg.OUTPUT_DIR,
            ", ".join(f"{key} {now[key]}" for key in norms),
            then[norms[0]],
            "all processes together" if now[norms[0]] == "SyncBN" else "each process",
        )
    if changed:
        shown = "; ".join(f"{key} was {then[key]!r}, is {now[key]!r}" for key in changed[:5])
        more = f", and {len(changed) - 5} more" if len(changed) > 5 else ""
        rules = "".join(f" {_RULES[key](now, then)}" for key in changed if key in _RULES)
        raise UserError(
            f"--resume with other settings than the training in {cfg.OUTPUT_DIR} began with: "
            f"{shown}{more}.{rules or _RULE} Use the old values, or start anew from the "
            "weights so far: without --resume, in another OUTPUT_DIR, with MODEL.WEIGHTS "
            f"{_last_checkpoint(Path(cfg.OUTPUT_DIR))}"
        )


def _check_batch(cfg: Any) -> None:
    from detectron2.utils import comm

    if not cfg.DATASETS.TRAIN:
        raise UserError(
            "U2SEG.DATA.LABELS is empty: set it to the output folder of u2seg label "
            "(or use --eval-only)"
        )
    batch, processes = cfg.SOLVER.IMS_PER_BATCH, comm.get_world_size()
    if batch % processes:
        raise UserError(
            f"SOLVER.IMS_PER_BATCH {batch} must be a multiple of the number of processes, "
            f"{processes}"
        )
    parts = cfg.U2SEG.TRAIN.ACCUMULATE
    if parts > batch // processes:
        raise UserError(
            f"U2SEG.TRAIN.ACCUMULATE is {parts}, but a process has {batch // processes} image(s) "
            f"of SOLVER.IMS_PER_BATCH {batch}: expected at most that many parts"
        )


def _last_checkpoint(folder: Path) -> Path:
    path = folder / "last_checkpoint"
    name = path.read_text("utf-8").strip() if path.is_file() else "model_final.pth"
    return folder / name


def _rule_of_end(now: dict[str, Any], then: dict[str, Any]) -> str:
    """Say why this SOLVER.MAX_ITER may not change."""
    schedule, warm_up = now["SOLVER.LR_SCHEDULER_NAME"], now["SOLVER.WARMUP_ITERS"]
    if schedule != "WarmupMultiStepLR":
        why = f"SOLVER.LR_SCHEDULER_NAME is {schedule}, whose rates depend on the end"
    else:
        why = (
            f"SOLVER.WARMUP_ITERS is {warm_up}, and a warm-up longer than MAX_ITER is shortened "
            "to it, so the rates differ"
        )
    return (
        "SOLVER.MAX_ITER may change with WarmupMultiStepLR alone, if old and new value are at "
        f"least SOLVER.WARMUP_ITERS: {why}."
    )


def _rule_of_labels(now: dict[str, Any], then: dict[str, Any]) -> str:
    """Say why U2SEG.DATA.LABELS may not change."""
    old = then["U2SEG.DATA.LABELS"]
    lost = "" if Path(old, "panoptic").is_dir() else f" {old} holds no labels now: put them back."
    return (
        "A training goes on with the label folder that it began with, as the order of its "
        f"images follows from it.{lost}"
    )


_RULES = {"SOLVER.MAX_ITER": _rule_of_end, "U2SEG.DATA.LABELS": _rule_of_labels}
"""Key -> what to say of it, from the values of now and of the beginning."""
_RULE = (
    " What changes the weights must stay; MODEL.DEVICE, DATALOADER.NUM_WORKERS, "
    "SOLVER.CHECKPOINT_PERIOD, TEST.EVAL_PERIOD and keys of labelling and evaluation may change "
    "(docs/reference/training.md)."
)


def _only_synchronized(key: str, now: Any, then: Any) -> bool:
    return key.endswith(".NORM") and {now, then} == {"BN", "SyncBN"}


def _matters(key: str, now: dict[str, Any], then: dict[str, Any]) -> bool:
    if key == "SOLVER.MAX_ITER":
        # Only a schedule of given steps does not depend on the end, and the host ends the warm-up
        # there at the latest.
        warmed_up = min(now[key], then[key]) >= now["SOLVER.WARMUP_ITERS"]
        return now["SOLVER.LR_SCHEDULER_NAME"] != "WarmupMultiStepLR" or not warmed_up
    if key.startswith("U2SEG.") and not _any(key, _OF_TRAINING):
        return False
    return not _any(key, _MAY_DIFFER)


def _any(key: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatchcase(key, pattern) for pattern in patterns)


def _plain(flat: dict[str, Any]) -> dict[str, Any]:
    return {key: _as_lists(value) for key, value in flat.items()}


def _as_lists(value: Any) -> Any:
    """Return a value as YAML gives it back: lists for tuples."""
    return [_as_lists(item) for item in value] if isinstance(value, tuple | list) else value


def check_output(output: Path, settings: Settings, name: str) -> None:
    """Raise UserError if results would lie among the photographs, labels or truth of a run."""
    from detectron2.data import MetadataCatalog

    data = settings.data
    if data.labels:
        check_outside(output, Path(data.labels), LABELS)
        known = MetadataCatalog.get(name)
        if known.get("searched"):  # labels that are not used need not be there
            check_outside(output, Path(known.image_root), PHOTOGRAPHS)
    if data.eval_root:
        root, tree = Path(data.eval_root), data.eval_tree
        for name, what in ((tree.images, PHOTOGRAPHS), (tree.pngs, TRUTH)):
            if name:
                check_outside(output, root / name, what)


def held_by_first(folder: Path) -> contextlib.AbstractContextManager[None]:
    """Return ``only_run`` of a folder in the first process of a run; the others need no lock."""
    from detectron2.utils import comm

    return only_run(folder / LOCK) if comm.is_main_process() else contextlib.nullcontext()


def _check_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(
            f"OUTPUT_DIR {folder} cannot be written: {error.strerror or error}. "
            "Choose another folder: OUTPUT_DIR /path"
        ) from error


def set_up_host(cfg: Any, args: argparse.Namespace) -> None:
    """Begin a run: log, ``config.yaml``, seeds.

    The log goes to stdout and ``OUTPUT_DIR/log.txt``, without colours; the file alone has what is
    hundreds of lines long, and what this package says too. Handlers that an earlier call added
    are removed first; those of others stay.
    """
    import torch
    from detectron2.utils import comm
    from detectron2.utils.collect_env import collect_env_info
    from detectron2.utils.env import seed_all_rng

    while _ADDED:
        logger, handler = _ADDED.pop()
        logger.removeHandler(handler)
        handler.close()
    rank, path = comm.get_rank(), Path(cfg.OUTPUT_DIR) / "log.txt"
    file = logging.FileHandler(f"{path}.rank{rank}" if rank else path, encoding="utf-8")
    console = logging.StreamHandler(sys.stdout)
    console.setLevel(logging.INFO)
    hosts = ("detectron2", "fvcore")
    for handler, names in ((file, (*hosts, "u2seg")), (console, hosts)):
        handler.setFormatter(_PlainFormatter("[%(asctime)s] %(name)s %(levelname)s: %(message)s"))
        for name in names if handler is file or not rank else ():
            logging.getLogger(name).addHandler(handler)
            _ADDED.append((logging.getLogger(name), handler))
    for name in hosts:
        logging.getLogger(name).setLevel(logging.DEBUG)
        logging.getLogger(name).propagate = False
    host = logging.getLogger("detectron2.u2seg")
    host.info("Rank of current process: %d. World size: %d", rank, comm.get_world_size())
    options = {name: value for name, value in vars(args).items() if value and name != "opts"}
    host.info("Command line arguments: %s %s", options, shlex.join(map(str, args.opts)))
    host.debug("Environment info:\n%s", collect_env_info())
    host.debug("Running with full config:\n%s", cfg.dump())
    if not rank:
        write_text(Path(cfg.OUTPUT_DIR) / "config.yaml", cfg.dump())
        host.info("environment, full config and model are in %s", path)
    seed_all_rng(None if cfg.SEED < 0 else cfg.SEED + rank)
    if not args.eval_only:
        torch.backends.cudnn.benchmark = cfg.CUDNN_BENCHMARK


class _PlainFormatter(logging.Formatter):
    """Leaves codes of colours out."""

    def format(self, record: logging.LogRecord) -> str:
        return _COLOUR.sub("", super().format(record))
