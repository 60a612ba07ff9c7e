"""The benchmark of labelling: which rows there are, and a run of them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.cuts import dense_crf, one_cut, three_cuts
from benchmarks.gpu import gpu_rate, gpu_share
from benchmarks.inputs import Sizes
from benchmarks.labelling import chain, labelling, memory
from benchmarks.machine import describe, measure_rates, pin_threads, require, usable_cores
from benchmarks.rows import Row
from benchmarks.setting import Setting
from benchmarks.timing import check_repeats
from u2seg.errors import UserError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RowSpec:
    """A row and the modules it cannot be measured without."""

    measure: Callable[[Setting], Row]
    needs: tuple[str, ...] = ()


ROWS: dict[str, RowSpec] = {
    "cut": RowSpec(one_cut),
    "three_cuts": RowSpec(three_cuts),
    "crf": RowSpec(dense_crf, ("pydensecrf.densecrf", "skimage")),
    "labelling": RowSpec(labelling, ("timm", "safetensors", "skimage")),
    "chain": RowSpec(chain, ("timm", "safetensors", "skimage")),
    "memory": RowSpec(memory, ("timm", "safetensors", "skimage")),
    "gpu_rate": RowSpec(gpu_rate, ("timm", "safetensors", "skimage")),
    "gpu_share": RowSpec(gpu_share, ("timm", "safetensors", "skimage")),
}


def run(
    names: Sequence[str] = (),
    repeats: int = 5,
    sizes: Sizes | None = None,
    table: dict[str, RowSpec] | None = None,
) -> tuple[dict[str, Any], list[Row]]:
    """Measure some rows in this process, with threads pinned to the usable cores.

    Args:
        names: Rows, in this order; none = all.
        repeats: Timed calls of each side, >= 1.
        sizes: Of the problems; the published ones by default.
        table: The rows there are; ``ROWS`` by default.

    Returns:
        The machine, and the rows.

    Raises:
        UserError: if a name is unknown, ``repeats`` is below 1, or a peer is not installed;
            before anything is measured.
        StageError: if a child process fails.
    """
    table = ROWS if table is None else table
    chosen = list(names) or list(table)
    for name in chosen:
        if name not in table:
            raise UserError(f"no row is called {name!r}; there are {', '.join(table)}")
    check_repeats(repeats)
    require(*dict.fromkeys(module for name in chosen for module in table[name].needs))
    threads = usable_cores()
    pin_threads(threads)
    rates = measure_rates()
    setting = Setting(repeats, threads, rates, sizes or Sizes())
    rows = []
    for number, name in enumerate(chosen, 1):
        logger.info("row %d of %d: %s", number, len(chosen), name)
        rows.append(table[name].measure(setting))
    return describe(threads, rates), rows
