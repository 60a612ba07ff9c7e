"""Real training steps of the worst case, each number of images in a process of its own.

A process of its own leaves nothing behind in this one: no memory, no random numbers, no file. It
may be ended at the limit, and by the system when memory runs out.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import multiprocessing
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from u2seg.config.env import torchrun
from u2seg.config.yacs_bridge import settings_from_cfg
from u2seg.engine.batch_search import MOST, Trial, advise, ending, format_search, search
from u2seg.errors import StageError, UserError
from u2seg.host.setup import build_cfg
from u2seg.io.memory import available_gb, peak_gb, resident_gb

logger = logging.getLogger(__name__)
SHARE = 0.8
"""Of the memory that is free now, the limit on a CPU unless another is given."""
STEPS = 3
"""Iterations that are timed, after one that is not."""
_LOOK = 0.02
"""Seconds between two looks at the memory of a trial."""


@dataclass(frozen=True)
class WorstCase:
    """The most expensive image of a training.

    Args:
        height: Pixels of a padded batch.
        width: Pixels of a padded batch.
        objects: Instances.
    """

    height: int
    width: int
    objects: int


def find_batch_size(args: argparse.Namespace) -> str:
    """Return the table and the advice for a training command.

    Args:
        args: From ``host.arguments.train_parser``: ``config_file``, ``opts``, ``num_gpus``,
            ``num_machines``, ``memory_limit`` (GB per process; 0 = 80 % of what is free now on a
            CPU, all of a GPU).

    Raises:
        UserError: for settings that cannot be trained here, a limit below 0, or under ``torchrun``.
        StageError: if a step fails for another reason than memory, or one image does not fit.
    """
    if args.memory_limit < 0:
        raise UserError(f"--memory-limit is {args.memory_limit}, expected GB >= 0 (0: automatic)")
    if torchrun() is not None:
        raise UserError(
            "--find-batch-size measures one process: start it without torchrun, with --num-gpus "
            "and --num-machines as many as there will be"
        )
    cfg = build_cfg(args.config_file, args.opts, register=True, training=True)
    if not cfg.DATASETS.TRAIN:
        raise UserError("U2SEG.DATA.LABELS is empty: the search needs to know the largest image")
    records = training_records(cfg)
    worst = worst_case(cfg, records)
    on_cpu = str(cfg.MODEL.DEVICE) == "cpu"
    limit = args.memory_limit or (SHARE * available_gb() if on_cpu else 0.0)
    logger.info(
        "trying batches of %d x %d pixels with %d objects per image%s",
        worst.height, worst.width, worst.objects, f", up to {limit:.1f} GB" if limit else "",
    )  # fmt: skip
    processes = max(1, args.num_gpus) * args.num_machines
    work = Work(str(args.config_file), tuple(args.opts), worst, limit)
    # No batch larger than the training set: it would hold some images twice.
    most = min(MOST, max(1, len(records) // processes))
    trials = search(lambda images: _logged(run_trial(work, images)), most)
    if why := ending(trials, most):
        logger.info("%s", why)
    solver = cfg.SOLVER
    advice = advise(
        trials, processes, solver.IMS_PER_BATCH, solver.BASE_LR, solver.MAX_ITER
    )  # fmt: skip
    return format_search(trials, advice, processes, solver.IMS_PER_BATCH)


def _logged(trial: Trial) -> Trial:
    how = f"{trial.rate:.2f} images/s, {trial.peak_gb:.2f} GB" if trial.fits else trial.obstacle
    logger.info("%d image(s): %s", trial.images, how)
    return trial


def training_records(cfg: Any) -> list[dict[str, Any]]:
    """Return the images of a training, those without objects too.

    Args:
        cfg: From ``build_cfg``, with its training set registered.
    """
    from detectron2.data import get_detection_dataset_dicts

    records: list[dict[str, Any]] = get_detection_dataset_dicts(
        cfg.DATASETS.TRAIN, filter_empty=False
    )
    return records


def worst_case(cfg: Any, records: Sequence[dict[str, Any]]) -> WorstCase:
    """Return the largest padded image and the largest number of objects that may come.

    Args:
        cfg: From ``build_cfg``.
        records: Of ``training_records``.
    """
    sizes = cfg.INPUT.MIN_SIZE_TRAIN
    short = sizes if isinstance(sizes, int) else max(sizes)
    # A crop may have any proportions before it is resized.
    cropped = cfg.INPUT.CROP.ENABLED
    frames = (
        {False: (min(short, cfg.INPUT.MAX_SIZE_TRAIN), cfg.INPUT.MAX_SIZE_TRAIN)} if cropped else {}
    )
    for record in records:
        height, width = resized(record["height"], record["width"], short, cfg.INPUT.MAX_SIZE_TRAIN)
        # A batch holds wide or tall photographs only, if they are grouped.
        group = bool(cfg.DATALOADER.ASPECT_RATIO_GROUPING) and record["width"] > record["height"]
        known = frames.get(group, (0, 0))
        frames[group] = max(known[0], height), max(known[1], width)
    height, width = max(frames.values(), key=lambda size: size[0] * size[1])
    counts = [
        sum(not a.get("iscrowd", 0) for a in record.get("annotations", ())) for record in records
    ]
    paste = settings_from_cfg(cfg).copy_paste
    return WorstCase(height, width, max(counts) + (paste.max_objects if paste.enabled else 0))


def resized(height: int, width: int, short: int, longest: int) -> tuple[int, int]:
    """Return the size of a photograph whose shorter side becomes ``short``, at most ``longest``.

    Examples:
        >>> resized(480, 640, 240, 1333), resized(100, 400, 240, 480)
        ((240, 320), (120, 480))
    """
    scale = min(short / min(height, width), longest / max(height, width))
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def worst_samples(worst: WorstCase, images: int, classes: tuple[int, int]) -> list[dict[str, Any]]:
    """Return noise with rectangles as instances, for the model to train on.

    Args:
        worst: Their size and number of objects.
        images: How many.
        classes: K thing clusters, S stuff clusters.
    """
    import torch
    from detectron2.structures import BitMasks, Instances

    random = torch.Generator().manual_seed(0)
    size = (worst.height, worst.width)
    samples = []
    for number in range(images):
        masks = torch.zeros((worst.objects, *size), dtype=torch.bool)
        for mask in masks:
            y, x = (int(torch.randint(0, -(-side // 2), (), generator=random)) for side in size)
            mask[y : y + -(-size[0] // 2), x : x + -(-size[1] // 2)] = True
        instances = Instances(size)
        instances.gt_classes = torch.randint(0, classes[0], (worst.objects,), generator=random)
        instances.gt_masks = BitMasks(masks)
        instances.gt_boxes = instances.gt_masks.get_bounding_boxes()
        stuff = torch.randint(0, classes[1] + 1, size, generator=random)
        image = torch.randint(0, 256, (3, *size), generator=random, dtype=torch.uint8)
        # The keys of the training stream, for whatever seeds its sampling by them.
        place = {"draw": number, "draw_seed": number}
        samples.append({"image": image, "sem_seg": stuff, "instances": instances, **place})
    return samples


@dataclass(frozen=True)
class Work:
    """What a trial is about: command, images, limit in GB (0 = none)."""

    config_file: str
    words: tuple[str, ...]
    worst: WorstCase
    limit: float


def run_trial(work: Work, images: int) -> Trial:
    """Run training steps in a new process, which is ended if it needs more than the limit.

    Raises:
        StageError: if it fails for another reason than memory.
    """
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_trial_process, args=(work, images, there), daemon=True)
    process.start()
    there.close()
    found: dict[str, Any] | None = None
    peak = 0.0
    try:
        while not here.poll(_LOOK):
            peak = max(peak, resident_gb(process.pid or 0))
            if work.limit and peak > work.limit:
                return Trial(images, 0.0, peak, f"needs more than {work.limit:.1f} GB")
        found = here.recv()
    except EOFError:
        process.join()
    finally:
        process.kill()
        process.join()
        here.close()
    if found is None:
        return Trial(images, 0.0, peak, f"the system ended the process (code {process.exitcode})")
    if "error" in found:
        raise StageError(f"a training step with {images} image(s) failed: {found['error']}")
    peak = found["peak_gb"]
    if found["obstacle"] or (work.limit and peak > work.limit):
        obstacle = found["obstacle"] or f"needs {peak:.1f} GB, more than {work.limit:.1f} GB"
        return Trial(images, 0.0, peak, obstacle)
    return Trial(images, found["seconds"], peak)


def _trial_process(work: Work, images: int, results: Connection) -> None:
    """Send ``seconds``, ``peak_gb`` and ``obstacle``, or ``error``."""
    try:
        results.send(measured(work, images))
    except Exception as error:  # noqa: BLE001 (the other process reports it)
        results.send({"error": f"{type(error).__name__}: {error}"})


def measured(work: Work, images: int) -> dict[str, Any]:
    """Return what training steps in this process cost.

    Returns:
        ``seconds`` of an iteration, ``peak_gb`` of this process or its GPU, and ``obstacle``:
        why it does not fit, or empty.
    """
    cfg = build_cfg(work.config_file, work.words, training=True)
    import torch

    device = torch.device(str(cfg.MODEL.DEVICE))
    gpu = device.index or 0 if device.type == "cuda" else None
    if gpu is not None and work.limit:
        whole = torch.cuda.get_device_properties(gpu).total_memory / 1e9
        torch.cuda.set_per_process_memory_fraction(min(1.0, work.limit / whole), gpu)
    seconds, obstacle = 0.0, ""
    try:
        seconds = _seconds(cfg, work.worst, images)
    except (RuntimeError, MemoryError) as error:
        if not memory_is_full(error):
            raise
        obstacle = "the memory is full"
    peak = peak_gb() if gpu is None else torch.cuda.max_memory_reserved(gpu) / 1e9
    return {"seconds": seconds, "peak_gb": peak, "obstacle": obstacle}


def memory_is_full(error: Exception) -> bool:
    """Return whether an error of torch or of its libraries says that memory ran out.

    Examples:
        >>> memory_is_full(RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"))
        True
        >>> memory_is_full(RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"))
        True
        >>> memory_is_full(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
        False
    """
    said = str(error).lower()
    signs = ("out of memory", "alloc_failed", "can't allocate memory", "not enough memory")
    return isinstance(error, MemoryError) or any(sign in said for sign in signs)


def _seconds(cfg: Any, worst: WorstCase, images: int) -> float:
    """Return the median time of an iteration of the real training loop, one part per batch."""
    from detectron2.modeling import build_model
    from detectron2.utils.events import EventStorage

    from u2seg.engine.optimizer import build_optimizer
    from u2seg.engine.trainer import build_loop, fitted

    cfg = cfg.clone()
    cfg.defrost()
    cfg.U2SEG.TRAIN.ACCUMULATE = 1
    cfg.SOLVER.BASE_LR = 0.0  # noise must not make the weights, and so the loss, infinite
    settings = settings_from_cfg(cfg)
    model = fitted(build_model(cfg), settings.train)
    classes = settings.clusters.num_clusters, settings.semantics.num_classes
    batches = itertools.repeat(worst_samples(worst, images, classes))
    loop = build_loop(cfg, model, batches, build_optimizer(cfg, model))
    loop.failed = None
    if loop.average is not None:
        loop.average.start(loop.model)
    times = []
    with EventStorage(0):
        for _ in range(1 + STEPS):
            start = time.perf_counter()
            loop.run_step()
            times.append(time.perf_counter() - start)
    return statistics.median(times[1:])
