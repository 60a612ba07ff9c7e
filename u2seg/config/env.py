"""The only module that uses the environment. Nothing here may decide a result."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from u2seg.errors import UserError

if TYPE_CHECKING:
    from u2seg.config.schema import Settings

logger = logging.getLogger(__name__)
_WAITING = {"GOMP_SPINCOUNT": "4000", "KMP_BLOCKTIME": "1"}
"""How long an idle thread of GNU's and of LLVM's OpenMP spins: rounds, and milliseconds.

GNU's default is 300,000 rounds, tens of milliseconds. Beside other work a thread then spins for
one that has no core to run on; a few thousand rounds cost 1 to 2 % on an idle machine
(benchmarks/results/README.md).
"""
_SPINNING = {"GOMP_SPINCOUNT": "300000", "KMP_BLOCKTIME": "200"}
"""What the two take by themselves, with a thread for each core."""
_CHOSEN = (*_WAITING, "OMP_WAIT_POLICY")

_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
_MASTER = ("MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Torchrun:
    """What ``torchrun`` tells a process that it started.

    Args:
        rank: Number of the process, 0..world - 1.
        world: Processes on all machines.
        local_rank: Number of the process on its machine.
        local_world: Processes on this machine; the same on all.
    """

    rank: int
    world: int
    local_rank: int
    local_world: int


def torchrun() -> Torchrun | None:
    """Return what ``torchrun`` says of this process; None if something else started it."""
    if any(name not in os.environ for name in (*_TORCHRUN, *_MASTER)):
        return None
    words = {name: os.environ[name] for name in _TORCHRUN}
    shown = ", ".join(f"{name}={word!r}" for name, word in words.items())
    if not all(word.isdecimal() for word in words.values()):
        raise UserError(f"torchrun's variables must be numbers >= 0, found {shown}")
    found = Torchrun(*(int(word) for word in words.values()))
    if found.rank >= found.world or found.local_rank >= found.local_world:
        raise UserError(f"torchrun's ranks must be below their world sizes, found {shown}")
    if found.world % found.local_world:
        raise UserError(f"every machine must run as many processes as this one, found {shown}")
    return found


def calm_threads() -> bool:
    """Have OpenMP's threads sleep soon after they find no work, unless the user chose otherwise.

    They ask the environment once, when torch is loaded. Processes started later inherit it.

    Returns:
        False if torch was there already, and its threads go on spinning.
    """
    if any(name in os.environ for name in _CHOSEN):
        return True
    os.environ.update(_WAITING)
    return "torch" not in sys.modules


@functools.cache
def tell_spinning() -> None:
    """Say once what can still be done about threads that ``calm_threads`` came too late for."""
    if not CALM:
        logger.warning(
            "torch was imported before u2seg, so its threads spin while they wait, which makes "
            "work on a busy machine many times slower. Import u2seg first; what still helps: "
            "torch.set_num_threads(1)"
        )


CALM = calm_threads()
"""Whether waiting threads sleep in this process."""


def warn_unread(settings: Settings, *, evaluates: bool = False) -> None:
    """Warn of variables that other codes read and this package does not, with the key to set."""
    clusters, data = os.environ.get("CLUSTER_NUM"), os.environ.get("DETECTRON2_DATASETS")
    if clusters:
        _warn_once(
            f"CLUSTER_NUM={clusters} is not read: U2SEG.CLUSTERS.NUM_CLUSTERS is "
            f"{settings.clusters.num_clusters}; set that key"
        )
    root = settings.data.eval_root
    if (
        evaluates
        and data
        and not (root and Path(root).resolve().is_relative_to(Path(data).expanduser().resolve()))
    ):
        _warn_once(
            f"DETECTRON2_DATASETS={data} is not used: U2SEG.DATA.EVAL_ROOT is {root or 'not set'}; "
            f"to evaluate on a data set there: U2SEG.DATA.EVAL_ROOT {os.path.join(data, 'coco')}"
        )


@functools.cache
def _warn_once(message: str) -> None:
    logger.warning("%s", message)


def go_offline() -> None:
    """Ask nothing of the network from here on, in this process and those it starts."""
    os.environ["HF_HUB_OFFLINE"] = "1"


def offline() -> bool:
    """Return whether nothing may be asked of the network; the hub's own variable says so."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def cache_dir() -> Path:
    """Return the folder for downloaded weights: ``$XDG_CACHE_HOME/u2seg`` or ``~/.cache/u2seg``."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(base) / "u2seg"


def inherited_spinning() -> contextlib.AbstractContextManager[None]:
    """Have processes started within the block spin while they wait, as OpenMP's own do."""
    return inherited(_SPINNING)


@contextlib.contextmanager
def inherited(values: Mapping[str, str | None]) -> Iterator[None]:
    """Have processes started within the block find these variables; None = none of the name."""
    saved = {name: os.environ.get(name) for name in values}
    _set(values)
    try:
        yield
    finally:
        _set(saved)


def _set(values: Mapping[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
