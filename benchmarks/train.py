"""The benchmark of training: iterations per second beside plain Detectron2.

Both sides train the same architecture on the same label folder, at the same batch and sizes, and
take turns block by block. Hooks, writers and loading count; nothing is loaded ahead by other
processes on the CPU, as the side whose turn it is not would go on working.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.masks import RowSpec
from benchmarks.rows import Row, Target, judged, skipped
from benchmarks.setting import Setting
from benchmarks.timing import alternate
from benchmarks.train_inputs import write_label_folder
from benchmarks.train_parts import roi_align
from benchmarks.train_sides import (
    FEATURES,
    TrainSizes,
    config,
    largest_difference,
    our_trainer,
    peer_config,
    peer_trainer,
)
from u2seg.structures.labels import LabelSpace

AS_FAST = Target(">=", 0.97)
FASTER = Target(">=", 1.2)
SAME_LOSS = 1e-5
"""Largest relative difference of a loss on the same batch."""
NO_GPU = "no CUDA device is visible"
CPU = ("MODEL.DEVICE", "cpu", "DATALOADER.NUM_WORKERS", "0", "SOLVER.AMP.ENABLED", "False")
R18 = TrainSizes(words=(*CPU, "INPUT.MIN_SIZE_TRAIN", "(192,)", "INPUT.MAX_SIZE_TRAIN", "320"))
PUBLISHED = LabelSpace(num_things=300, num_stuff=27)
"""The smallest numbers of clusters of the published recipes."""
R50 = TrainSizes(
    config="Base-U2Seg-R50-FPN.yaml",
    space=PUBLISHED,
    words=(*CPU, "INPUT.MIN_SIZE_TRAIN", "(192,)", "SOLVER.IMS_PER_BATCH", "2",
           "MODEL.RPN.POST_NMS_TOPK_TRAIN", "500", "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", "128"),
    block=2,
)  # fmt: skip
GPU = TrainSizes(
    config="Base-U2Seg-R50-FPN.yaml",
    space=PUBLISHED,
    words=("MODEL.DEVICE", "cuda", "DATALOADER.NUM_WORKERS", "8", "SOLVER.IMS_PER_BATCH", "16",
           "SOLVER.AMP.ENABLED", "False", "INPUT.MIN_SIZE_TRAIN", "(640,)"),
    photographs=256,
    side=640,
    block=10,
)  # fmt: skip
"""The published recipe at one size; both sides load with 8 processes."""
HALF = ("SOLVER.AMP.ENABLED", "True", "U2SEG.TRAIN.AMP_DTYPE", "bfloat16")
NO_PASTE = tuple(
    word
    for key, value in zip(FEATURES[::2], FEATURES[1::2], strict=True)
    if "COPY_PASTE" not in key
    for word in (key, value)
)
ORDER = ("U2SEG.TRAIN.CHANNELS_LAST", "True")


def iterations(
    setting: Setting,
    *,
    name: str,
    sizes: TrainSizes,
    more: Sequence[str] = (),
    target: Target | None = None,
) -> Row:
    """Return the row of iterations per second.

    Args:
        setting: ``repeats`` is used.
        name: Of the row.
        sizes: What is trained.
        more: Settings of our side alone.
        target: None = the row only tells.
    """
    from u2seg.compat import prepare_host

    prepare_host()
    import torch

    on_gpu = "cuda" in sizes.words
    if on_gpu and not torch.cuda.is_available():
        return skipped(name, "it/s", target or AS_FAST, NO_GPU)
    with _quiet(), _folder(sizes) as (labels, root), contextlib.ExitStack() as opened:
        plain = config(sizes, labels, root / "plain")
        peer = peer_trainer(peer_config(plain, root / "peer"))
        opened.callback(peer.close)
        difference = largest_difference(plain, peer)
        ours = our_trainer(config(sizes, labels, root / "ours", more))
        opened.callback(ours.close)
        pair = alternate(
            name,
            lambda: ours.run(sizes.block),
            lambda: peer.run(sizes.block),
            setting.repeats,
        )
        batch = plain.SOLVER.IMS_PER_BATCH
    told = ", ".join(f"{k} {v}" for k, v in zip(more[::2], more[1::2], strict=True)) or "none"
    row = judged(
        name,
        sizes.block / pair.ours,
        sizes.block / pair.peer,
        ratio=pair.peer / pair.ours,
        unit="it/s",
        target=target or AS_FAST,
        floor=None,
        note=f"{Path(sizes.config).stem}, batch {batch}, blocks of {sizes.block} iterations; of "
        f"our side alone: {told}; on the same batches, features off, losses differ by "
        f"{difference:.1e}, last losses {pair.our_result:.3g} and {pair.peer_result:.3g}",
        correct=difference <= SAME_LOSS,
    )
    return row if target else replace(row, target="none", met=difference <= SAME_LOSS)


@contextlib.contextmanager
def _folder(sizes: TrainSizes) -> Iterator[tuple[Path, Path]]:
    """Yield the labels and a folder for the results, which is deleted in the end."""
    with tempfile.TemporaryDirectory(prefix="u2seg-train-") as name:
        root = Path(name)
        made = sizes.labels or write_label_folder(
            root, sizes.photographs, sizes.side, space=sizes.space
        )
        yield Path(made), root


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Leave the host's and our own information out: both sides would print it."""
    logging.disable(logging.INFO)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def table(labels: str = "", cpu: TrainSizes = R18) -> dict[str, RowSpec]:
    """Return the table of rows.

    Args:
        labels: Label folder to train on; empty = composed scenes.
        cpu: What most rows of the CPU train.
    """

    def spec(
        name: str, sizes: TrainSizes, more: Sequence[str] = (), target: Target | None = None
    ) -> RowSpec:
        sizes = replace(sizes, labels=labels)
        return RowSpec(
            functools.partial(iterations, name=name, sizes=sizes, more=more, target=target)
        )

    rows = {
        "train": spec("train", cpu, FEATURES, AS_FAST),
        "train_plain": spec("train_plain", cpu, (), AS_FAST),
        # Pasted objects are more work for the mask head, so the same without them stands beside.
        "train_r50": spec("train_r50", R50, FEATURES, AS_FAST),
        "train_r50_no_paste": spec("train_r50_no_paste", R50, NO_PASTE, AS_FAST),
        "roi_align": RowSpec(roi_align),
        "gpu_train": spec("gpu_train", GPU, FEATURES, AS_FAST),
        "gpu_train_half": spec("gpu_train_half", GPU, (*FEATURES, *HALF, *ORDER), FASTER),
    }
    options = {
        "channels_last": ORDER,
        "bfloat16": HALF,
        "accumulate": ("U2SEG.TRAIN.ACCUMULATE", "2"),
    }
    return {**rows, **{name: spec(name, cpu, more) for name, more in options.items()}}


ROWS = table()
