"""The processes of a distributed run, as evaluation sees them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from u2seg.evaluation.collect import Ranks

if TYPE_CHECKING:
    from torch import nn

    from u2seg.engine.ema import WeightAverage


def host_ranks() -> Ranks | None:
    """Return this process's place among those of the host; None if there is one process."""
    from detectron2.utils import comm

    if comm.get_world_size() == 1:
        return None
    return Ranks(comm.get_rank(), comm.get_world_size(), comm.all_gather, comm.gather)


def share_buffers(model: nn.Module, average: WeightAverage | None = None) -> None:
    """Give all processes the first one's buffers, as a checkpoint holds them; call it in each.

    Trained in several processes, BN without Sync has running statistics of its own in each. An
    evaluation, of which every process predicts a part, must be that of the saved model. No loss
    depends on them.

    Args:
        model: Of this process; changed in place.
        average: Its moving average, likewise.
    """
    from detectron2.utils import comm

    if comm.get_world_size() == 1:
        return
    import torch.distributed as dist

    bare = getattr(model, "module", model)  # below DistributedDataParallel
    saved = bare.state_dict().keys()
    buffers = {name: value for name, value in bare.named_buffers() if name in saved}
    for value in buffers.values():
        dist.broadcast(value, 0)
    if average is not None:
        average.start(model)  # a resumed one is not on the model's device yet
        for name in buffers:
            dist.broadcast(average.weights[name], 0)
