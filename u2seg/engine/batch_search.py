"""How many images fit into memory: real training steps of the worst case.

Each number of images is tried in a process of its own, which leaves nothing behind in this one and
may be ended at the limit, or by the system when memory runs out.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import multiprocessing
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from u2seg.config.env import torchrun
from u2seg.config.load import settings_from_cfg
from u2seg.errors import StageError, UserError
from u2seg.host.setup import build_cfg
from u2seg.io.memory import available_gb, peak_gb, resident_gb

logger = logging.getLogger(__name__)
MOST = 256
"""Images per process that are tried at most."""
FLAT = 0.97
"""Fewer images are preferred if they are processed at this share of the best rate."""
SHARE = 0.8
"""Of the memory that is free now, the limit on a CPU unless another is given."""
STEPS = 3
"""Iterations that are timed, after one that is not."""


@dataclass(frozen=True)
class Trial:
    """What training steps with so many images in one process cost."""

    images: int
    seconds: float
    peak_gb: float
    obstacle: str = ""

    @property
    def rate(self) -> float:
        """Images per second of one process; 0 if it does not fit."""
        return self.images / self.seconds if self.seconds and not self.obstacle else 0.0


def search(attempt: Callable[[int], Trial], most: int = MOST) -> list[Trial]:
    """Double the number of images until it does not fit, or twice gives no more images per second.

    If it does not fit, numbers between are tried until what fits and what does not are next to
    each other or an eighth apart.
    """
    trials = [attempt(1)]
    while trials[-1].rate and trials[-1].images < most:
        best = max(range(len(trials)), key=lambda i: trials[i].rate)
        if len(trials) - best > 2:
            return trials
        trials.append(attempt(min(2 * trials[-1].images, most)))
    if trials[-1].rate or len(trials) == 1:
        return trials
    low, high = trials[-2].images, trials[-1].images
    while high - low > max(1, low // 8):
        trials.append(attempt((low + high) // 2))
        low, high = (trials[-1].images, high) if trials[-1].rate else (low, trials[-1].images)
    return trials


def advice(
    trials: Sequence[Trial], processes: int, batch: int, rate: float, iterations: int
) -> str:
    """Return the table of the trials and the settings that follow: few images at a good rate."""
    fitting = [trial for trial in trials if trial.rate]
    if not fitting:
        raise StageError(
            f"not even one image fits: {trials[0].obstacle}. Lower INPUT.MIN_SIZE_TRAIN, "
            "INPUT.MAX_SIZE_TRAIN or MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE"
        )
    lines = [f"{'images':>6}  {'s/iteration':>11}  {'images/s':>8}  {'peak GB':>7}"]
    for t in sorted(trials, key=lambda t: t.images):
        numbers = f"{t.seconds:>11.3f}  {t.rate:>8.2f}  {t.peak_gb:>7.2f}"
        lines.append(f"{t.images:>6}  {numbers if t.rate else f'does not fit: {t.obstacle}'}")
    best = max(trial.rate for trial in fitting)
    images = min(t.images for t in fitting if t.rate >= FLAT * best)
    whole = images * processes
    parts = -(-batch // (processes * max(t.images for t in fitting)))
    return "\n".join([
        *lines,
        f"recommended ({images} per process): SOLVER.IMS_PER_BATCH {whole} SOLVER.BASE_LR "
        f"{rate * whole / batch:.6g} SOLVER.MAX_ITER {max(1, round(iterations * batch / whole))} "
        "U2SEG.TRAIN.ACCUMULATE 1 (scale SOLVER.STEPS alike)",
        f"the config's batch, nearly the same: SOLVER.IMS_PER_BATCH {batch} "
        f"U2SEG.TRAIN.ACCUMULATE {parts}",
    ])  # fmt: skip


def find_batch_size(args: argparse.Namespace) -> str:
    """Return the table and the advice for a training command."""
    from detectron2.data import DatasetCatalog

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
    records = [record for name in cfg.DATASETS.TRAIN for record in DatasetCatalog.get(name)]
    worst = worst_case(cfg, records)
    on_cpu = str(cfg.MODEL.DEVICE) == "cpu"
    limit = args.memory_limit or (SHARE * available_gb() if on_cpu else 0.0)
    logger.info("trying batches of %d x %d pixels with %d objects per image", *worst)
    processes = max(1, args.num_gpus) * args.num_machines
    words = (str(args.config_file), tuple(args.opts))

    def attempt(images: int) -> Trial:
        trial = run_trial(words, worst, limit, images)
        logger.info("%d image(s): %s", images, trial.obstacle or f"{trial.rate:.2f} images/s")
        return trial

    # No batch larger than the training set: it would hold some images twice.
    trials = search(attempt, min(MOST, max(1, len(records) // processes)))
    solver = cfg.SOLVER
    return advice(trials, processes, solver.IMS_PER_BATCH, solver.BASE_LR, solver.MAX_ITER)


def worst_case(cfg: Any, records: Sequence[dict[str, Any]]) -> tuple[int, int, int]:
    """Return height and width of the largest padded image and the most objects that may come."""
    sizes, longest = cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN
    short = sizes if isinstance(sizes, int) else max(sizes)
    # A crop may have any proportions before it is resized.
    first = (min(short, longest), longest) if cfg.INPUT.CROP.ENABLED else (0, 0)
    frames = {False: first}
    for record in records:
        height, width = record["height"], record["width"]
        scale = min(short / min(height, width), longest / max(height, width))
        # A batch holds wide or tall photographs only, if they are grouped.
        group = bool(cfg.DATALOADER.ASPECT_RATIO_GROUPING) and width > height
        known = frames.get(group, (0, 0))
        frames[group] = (
            max(known[0], 1, int(height * scale + 0.5)),
            max(known[1], 1, int(width * scale + 0.5)),
        )
    height, width = max(frames.values(), key=lambda size: size[0] * size[1])
    counts = [
        sum(not a.get("iscrowd", 0) for a in record.get("annotations", ())) for record in records
    ]
    paste = settings_from_cfg(cfg).copy_paste
    return height, width, max(counts) + (paste.max_objects if paste.enabled else 0)


def worst_samples(
    worst: tuple[int, int, int], images: int, classes: tuple[int, int]
) -> list[dict[str, Any]]:
    """Return noise with rectangles as instances of K thing clusters, and S stuff clusters."""
    import torch
    from detectron2.structures import BitMasks, Instances

    random = torch.Generator().manual_seed(0)
    (height, width, objects), samples = worst, []
    for number in range(images):
        masks = torch.zeros((objects, height, width), dtype=torch.bool)
        for mask in masks:
            y, x = (
                int(torch.randint(0, -(-s // 2), (), generator=random)) for s in (height, width)
            )
            mask[y : y + -(-height // 2), x : x + -(-width // 2)] = True
        instances = Instances((height, width))
        instances.gt_classes = torch.randint(0, max(1, classes[0]), (objects,), generator=random)
        instances.gt_masks = BitMasks(masks)
        instances.gt_boxes = instances.gt_masks.get_bounding_boxes()
        stuff = torch.randint(0, classes[1] + 1, (height, width), generator=random)
        image = torch.randint(0, 256, (3, height, width), generator=random, dtype=torch.uint8)
        place = {"draw": number, "draw_seed": number}
        samples.append({"image": image, "sem_seg": stuff, "instances": instances, **place})
    return samples


def run_trial(
    words: tuple[str, tuple[str, ...]], worst: tuple[int, int, int], limit: float, images: int
) -> Trial:
    """Run training steps in a new process, which is ended if it needs more than the limit."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    given = (words, worst, limit, images, there)
    process = context.Process(target=_trial_process, args=given, daemon=True)
    process.start()
    there.close()
    peak, over = 0.0, f"needs more than {limit:.1f} GB"
    try:
        while not here.poll(0.02):
            peak = max(peak, resident_gb(process.pid or 0))
            if limit and peak > limit:
                return Trial(images, 0.0, peak, over)
        seconds, peak, obstacle, error = here.recv()
    except EOFError:
        process.join()
        return Trial(images, 0.0, peak, f"the system ended the process (code {process.exitcode})")
    finally:
        process.kill()
        process.join()
        here.close()
    if error:
        raise StageError(f"a training step with {images} image(s) failed: {error}")
    return Trial(images, seconds, peak, obstacle or (over if limit and peak > limit else ""))


def memory_is_full(error: Exception) -> bool:
    """Return whether an error of torch or of its libraries says that memory ran out."""
    said = str(error).lower()
    signs = ("out of memory", "alloc_failed", "can't allocate memory", "not enough memory")
    return isinstance(error, MemoryError) or any(sign in said for sign in signs)


def _trial_process(
    words: tuple[str, tuple[str, ...]], worst: Any, limit: float, images: int, results: Any
) -> None:
    """Send seconds, peak in GB, obstacle and error."""
    seconds, obstacle = 0.0, ""
    try:
        cfg = build_cfg(*words, training=True)
        import torch

        device = torch.device(str(cfg.MODEL.DEVICE))
        gpu = device.index or 0 if device.type == "cuda" else None
        if gpu is not None and limit:
            whole = torch.cuda.get_device_properties(gpu).total_memory / 1e9
            torch.cuda.set_per_process_memory_fraction(min(1.0, limit / whole), gpu)
        try:
            seconds = _seconds(cfg, worst, images)
        except (RuntimeError, MemoryError) as error:
            if not memory_is_full(error):
                raise
            obstacle = "the memory is full"
        peak = peak_gb() if gpu is None else torch.cuda.max_memory_reserved(gpu) / 1e9
        results.send((seconds, peak, obstacle, ""))
    except Exception as error:  # noqa: BLE001 (the other process reports it)
        results.send((0.0, 0.0, "", f"{type(error).__name__}: {error}"))


def _seconds(cfg: Any, worst: tuple[int, int, int], images: int) -> float:
    """Return the median time of an iteration of the real training loop, one part per batch."""
    from detectron2.utils.events import EventStorage

    from u2seg.engine.trainer import build_loop, fitted
    from u2seg.modeling.student import build_student

    cfg = cfg.clone()
    cfg.defrost()
    cfg.U2SEG.TRAIN.ACCUMULATE = 1
    cfg.SOLVER.BASE_LR = 0.0  # noise must not make the weights, and so the loss, infinite
    settings = settings_from_cfg(cfg)
    classes = settings.clusters.num_clusters, settings.semantics.num_classes
    batches = itertools.repeat(worst_samples(worst, images, classes))
    loop = build_loop(cfg, fitted(build_student(cfg), settings.train), batches)
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
