"""One process, one per GPU (``--num-gpus``), or those that ``torchrun`` started."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from detectron2.engine import launch
from detectron2.utils import comm
from torch import nn
from torch.multiprocessing import ProcessRaisedException  # type: ignore[attr-defined]

from u2seg.compat import name_machines
from u2seg.config.env import Torchrun, torchrun
from u2seg.engine.ema import WeightAverage
from u2seg.engine.interrupt import Interrupted
from u2seg.errors import StageError, UserError
from u2seg.evaluation.collect import ProcessGroup
from u2seg.host.setup import build_cfg, wanted_device


def run_in_processes(work: Callable[[argparse.Namespace], Any], args: argparse.Namespace) -> None:
    """Call ``work(args)`` in every process of the run.

    Started by ``torchrun``, this process joins the others, of this machine or of several: over
    NCCL on GPUs, over gloo on CPUs. Otherwise it starts a process per GPU, as the host does.
    """
    check_processes(args)
    world = torchrun()
    if world is not None:
        _refuse_both(args, world)
        with joined(world, wanted_device(args.config_file, args.opts)):
            work(args)
        return

    several = args.num_gpus * args.num_machines > 1
    if several:
        present = torch.cuda.device_count()
        if args.num_gpus > present:
            raise UserError(f"--num-gpus is {args.num_gpus}, this machine has {present}")
        build_cfg(args.config_file, args.opts, register=True, training=not args.eval_only)
    try:
        launch(
            _child if several else work,
            args.num_gpus,
            num_machines=args.num_machines,
            machine_rank=args.machine_rank,
            dist_url=args.dist_url,
            args=(work, args) if several else (args,),
        )
    except ProcessRaisedException as error:
        raise (expected_error(str(error)) or error) from error


class StoppedError(Exception):
    """``Interrupted`` in a started process: torch passes over a ``KeyboardInterrupt`` there."""


def _child(work: Callable[[argparse.Namespace], Any], args: argparse.Namespace) -> None:

    try:
        work(args)
    except Interrupted as error:
        # The error of one process ends the others: only that of the first, which has saved.
        if comm.get_local_rank() == 0:
            raise StoppedError(str(error)) from None


def expected_error(text: str) -> UserError | StageError | Interrupted | None:
    r"""Return the error for the user that a process ended with; None if it was another.

    Examples:
        >>> expected_error("-- Process 1 terminated:\nTraceback ...\nu2seg.errors.UserError: no a")
        UserError('no a')
        >>> expected_error("-- Process 1 terminated:\nTraceback ...\nKeyError: 'a'")
    """
    for told, kind in (
        (UserError, UserError),
        (StageError, StageError),
        (StoppedError, Interrupted),
    ):
        _, found, message = text.rpartition(f"\n{told.__module__}.{told.__name__}: ")
        if found:
            return kind(message.strip())
    return None


def check_processes(args: argparse.Namespace) -> None:
    """Refuse impossible numbers of processes."""
    if args.num_gpus < 0:
        raise UserError(f"--num-gpus is {args.num_gpus}, expected >= 0 (0 or 1: one process)")
    if args.num_machines < 1:
        raise UserError(f"--num-machines is {args.num_machines}, expected >= 1")
    if not 0 <= args.machine_rank < args.num_machines:
        raise UserError(
            f"--machine-rank is {args.machine_rank}, expected 0..{args.num_machines - 1}, as "
            f"--num-machines is {args.num_machines}"
        )


def _refuse_both(args: argparse.Namespace, world: Torchrun) -> None:
    for flag, value in (("--num-gpus", args.num_gpus), ("--num-machines", args.num_machines)):
        if value > 1:
            raise UserError(
                f"{flag} is {value}, but torchrun started {world.world} process(es) already: leave "
                "it out, and set --nproc-per-node and --nnodes of torchrun"
            )


@contextmanager
def joined(world: Torchrun, device: str) -> Iterator[None]:
    """Belong to the group of processes that ``torchrun`` started, within the block."""
    if device == "cuda":
        present = torch.cuda.device_count()
        if world.local_world > present:
            raise UserError(
                f"torchrun --nproc-per-node is {world.local_world}, this machine has {present} "
                "GPU(s): set it to that, or MODEL.DEVICE cpu"
            )
        torch.cuda.set_device(world.local_rank)
    dist.init_process_group("nccl" if device == "cuda" else "gloo")
    try:
        name_machines(world.rank, world.world, world.local_world)
        if world.rank > 0:  # the first one tells what happens
            logging.getLogger("u2seg").setLevel(logging.WARNING)
        dist.barrier()
        yield
    finally:
        dist.destroy_process_group()


def process_group() -> ProcessGroup | None:
    """Return this process's place among those of the host; None if there is one process."""
    if comm.get_world_size() == 1:
        return None
    return ProcessGroup(comm.get_rank(), comm.get_world_size(), comm.all_gather, comm.gather)


def share_buffers(model: nn.Module, average: WeightAverage | None = None) -> None:
    """Give all processes the first one's buffers, as a checkpoint holds them; call it in each.

    Trained in several processes, BN without Sync has running statistics of its own in each. An
    evaluation, of which every process predicts a part, must be that of the saved model. No loss
    depends on them.
    """
    if comm.get_world_size() == 1:
        return
    saved = model.state_dict().keys()
    buffers = {name: value for name, value in model.named_buffers() if name in saved}
    for value in buffers.values():
        dist.broadcast(value, 0)
    if average is not None:
        average.start(model)  # a resumed one is not on the model's device yet
        for name in buffers:
            dist.broadcast(average.weights[name], 0)
