"""The processes of a distributed run, as evaluation sees them."""

from __future__ import annotations

from u2seg.evaluation.passes import Ranks


def host_ranks() -> Ranks | None:
    """Return this process's place among those of the host; None if there is one process."""
    from detectron2.utils import comm

    if comm.get_world_size() == 1:
        return None
    return Ranks(comm.get_rank(), comm.get_world_size(), comm.all_gather, comm.gather)
