"""What a worker process does: read which phase is at work, lease shards of it, until told to end.

The stage, and with it the model, is built once per phase and kept between shards.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from typing import Any

from u2seg.errors import UserError
from u2seg.io.jsonfile import read_json_object
from u2seg.pipeline.attempts import drain
from u2seg.pipeline.executors.base import Job
from u2seg.pipeline.executors.threads import limit_threads
from u2seg.pipeline.leases import Holder, Watch, look_at
from u2seg.pipeline.ledger import set_aside_in
from u2seg.pipeline.stage import Stage
from u2seg.pipeline.workspace import Workspace

logger = logging.getLogger(__name__)

IDLE_S = 0.1
"""Pause of a worker without work."""
ORPHAN_S = 600.0
"""A worker ends when the driver showed no sign of life for so long."""


def serve(job: Job, name: str, number: int) -> None:
    """Work on the phases that the driver publishes until it says that there are no more.

    Args:
        job: What it is about.
        name: Of this worker, unique.
        number: From 0; decides where in the list of shards it begins, and which GPU it uses.

    Raises:
        UserError: for settings, files or a disk that cannot be used.
        StageError: if no image can be used.
    """
    limit_threads(job.threads)
    context = _on_own_gpu(job, number)
    holder = Holder.here(name)
    driver = Watch(ORPHAN_S)
    serial = ""
    stage: Stage | None = None
    while True:
        phase = _phase(context.space)
        if phase is None or phase["token"] != job.token or _alone(driver, context.space):
            return
        if stage is None or phase["serial"] != serial:
            serial, stage = phase["serial"], _build(context, phase["stage"])
            work, shards = getattr(stage, phase["method"]), stage.shards()
            ledger = stage.ledger(phase["method"])
            start = number * len(shards) // job.workers
            loaded = False
        if drain(stage, work, shards, ledger, holder, start=start):
            loaded = True
            continue
        if loaded:  # frees the model while others finish, and in the driver's own steps
            stage = None
        time.sleep(IDLE_S)


def _phase(space: Workspace) -> dict[str, Any] | None:
    try:
        return read_json_object(space.phase, "serial", "stage", "method", "token")
    except UserError:  # removed by the driver
        return None


def _build(context: Any, name: str) -> Stage:
    from u2seg.pipeline.runner import ORDER

    kinds = {kind.name: kind for kind in ORDER}
    stage = kinds[name](context)
    stage.set_aside(set_aside_in(context.space))
    return stage


def _alone(watch: Watch, space: Workspace) -> bool:
    mark = look_at(space.lock)
    return bool(watch.silent({0: mark} if mark else {}))


def _on_own_gpu(job: Job, number: int) -> Any:
    """Return the context, with the GPUs of this machine dealt out where the device is ``auto``."""
    settings = job.context.settings
    if job.deal_gpus and settings.features.device == "auto":
        import torch

        if torch.cuda.device_count() > 1:
            device = f"cuda:{number % torch.cuda.device_count()}"
            features = dataclasses.replace(settings.features, device=device)
            settings = dataclasses.replace(settings, features=features)
            return dataclasses.replace(job.context, settings=settings)
    return job.context
