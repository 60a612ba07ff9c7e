"""Rows of a GPU: images per second, batched, in bfloat16, beside the bare ViT.

Both sides work through the same batches. Ours begins with photographs in memory and ends with
their run-length codes; it is what the stage ``masks`` calls, threads and queue included.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from benchmarks.inputs import (
    REFERENCE_MASKS,
    Sizes,
    bare_vit,
    photograph,
    synthetic_features,
    vit_flops,
)
from benchmarks.inputs import vit_settings as settings_of
from benchmarks.rows import Row, Target, judged, skipped
from benchmarks.setting import Setting
from benchmarks.timing import alternate
from u2seg.config.schema import Settings
from u2seg.features import build_extractor
from u2seg.io.images import resize_image
from u2seg.pipeline.mask_stage import Loaded, group_by_size, masks_of_batches, read_ahead

if TYPE_CHECKING:
    from torch import Tensor

RATE = Target(">=", 100, "ours")
SHARE = Target(">=", 0.5)
NO_GPU = "no CUDA device is visible"
BATCHES = 4
"""Batches of a timed call: the device has work while the host reads codes."""
KINDS = 4
"""How many different features there are; their cuts need different numbers of steps."""
PARTS = ("ViT", "cuts", "CRF", "holes, sizes and codes")


@dataclass(frozen=True)
class GpuRates:
    """Images per second: whole labelling, bare ViT, and what matrix products allow.

    Args:
        ours: Of labelling.
        peer: Of the ViT alone, at the same batch.
        floor: Of the ViT's matrix products.
        masks: Of one image, on average.
        shares: Of the device's time in each of ``PARTS``.
        left: Share of the images that a batch left to the CPU.
    """

    ours: float
    peer: float
    floor: float
    masks: float
    shares: tuple[float, ...]
    left: float


class WithObjects:
    """An extractor that works as another, and then gives features of which it knows the objects.

    Args:
        inner: Its features cost the time.
        grids: (B, D, h, w) for every image of a batch, on its device.
    """

    def __init__(self, inner: Any, grids: Tensor) -> None:
        self.inner, self.grids = inner, grids
        self.work_image: Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.uint8]]
        self.work_image = inner.work_image

    def extract_work(
        self, batch: Sequence[npt.NDArray[np.uint8]], facets: Sequence[str]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return pixels and features, see ``VitExtractor.extract_work``."""
        pixels, _ = self.inner.extract_work(batch, facets)
        return pixels, {"key": self.grids[: len(batch)]}


def gpu_rate(setting: Setting) -> Row:
    """Return the row of the rate itself; skipped without a GPU."""
    return _row("gpu_rate", setting, RATE)


def gpu_share(setting: Setting) -> Row:
    """Return the row of the rate relative to the bare ViT's; skipped without a GPU."""
    return _row("gpu_share", setting, SHARE)


def _row(name: str, setting: Setting, target: Target) -> Row:
    import torch

    if not torch.cuda.is_available():
        return skipped(name, "img/s", target, NO_GPU)
    rates = measure(setting)
    spent = ", ".join(f"{k} {v:.0%}" for k, v in zip(PARTS, rates.shares, strict=True))
    return judged(
        name,
        rates.ours,
        rates.peer,
        ratio=rates.ours / rates.peer,
        unit="img/s",
        target=target,
        floor=rates.floor,
        note=f"batch {setting.sizes.gpu_batch}, bfloat16, {rates.masks:.1f} masks an image; time "
        f"on the device: {spent}; {rates.left:.0%} of the images left to the CPU; floor: the "
        "ViT's matrix products at the measured rate of one",
        correct=rates.masks > 0,
    )


@functools.lru_cache(maxsize=1)
def measure(setting: Setting, device: str = "cuda") -> GpuRates:
    """Return the rates of one batch size; both rows share the measurement.

    Args:
        setting: ``sizes`` and ``repeats`` are used.
        device: Where to measure; another than a GPU shows only that measuring works.
    """
    sizes = setting.sizes
    images = [tall_photograph(sizes.side)] * (BATCHES * sizes.gpu_batch)
    with _extractor(sizes, device) as (extractor, settings):
        forward = bare_forwards(sizes, device)
        pair = alternate(
            "gpu", lambda: label_batches(extractor, images, settings), forward, setting.repeats
        )
        shares, left = profile(extractor, images[: sizes.gpu_batch], settings, setting.repeats)
    count = len(images)
    floor = product_rate(device) / vit_flops(sizes)
    masks = pair.our_result / count
    return GpuRates(count / pair.ours, count / pair.peer, floor, masks, shares, left)


def tall_photograph(side: int) -> npt.NDArray[np.uint8]:
    """Return the photograph at 4 : 3, (4 side / 3, side, 3): it has to be resized and back."""
    return resize_image(photograph(side), (side * 4 // 3, side), Image.Resampling.LANCZOS)


@contextlib.contextmanager
def _extractor(sizes: Sizes, device: str) -> Iterator[tuple[WithObjects, Settings]]:
    """Build the extractor of synthetic objects, and the settings of labelling with it."""
    import torch

    batch = sizes.gpu_batch
    kinds = [synthetic_features(sizes, seed).grid for seed in range(min(KINDS, batch))]
    grids = torch.from_numpy(np.stack([kinds[i % len(kinds)] for i in range(batch)]))
    with tempfile.TemporaryDirectory() as name:
        features = settings_of(sizes, Path(name), device=device, precision="bf16", batch=batch)
        inner: Any = build_extractor(features)
        extractor = WithObjects(inner, grids.to(inner.device, torch.bfloat16))
        yield extractor, Settings(features=features, masks=REFERENCE_MASKS)


def label_batches(
    extractor: WithObjects, images: Sequence[npt.NDArray[np.uint8]], settings: Settings
) -> int:
    """Return how many masks the stage finds in photographs, with codes and boxes.

    Args:
        extractor: Of the features.
        images: (H, W, 3) uint8.
        settings: Sections ``features`` and ``masks`` are used.
    """
    batch = settings.features.batch_size
    groups = group_by_size(read_ahead(_loader(extractor), images, batch), batch)
    found = masks_of_batches(groups, extractor, settings)
    return sum(len(masks or ()) for _, some in found for _, masks in some)


def _loader(extractor: WithObjects) -> Callable[[npt.NDArray[np.uint8]], Loaded]:
    return lambda image: Loaded({"file_name": "photograph"}, image, extractor.work_image(image))


def bare_forwards(sizes: Sizes, device: str) -> Callable[[], None]:
    """Return a call that runs the ViT on ``BATCHES`` batches that lie ready on the device."""
    import torch

    model = bare_vit(sizes.vit).to(device)
    pixels = torch.zeros(sizes.gpu_batch, 3, sizes.side, sizes.side, device=device)

    def forward() -> None:
        with torch.inference_mode(), torch.autocast(pixels.device.type, torch.bfloat16):
            for _ in range(BATCHES):
                model.forward_features(pixels)
        if pixels.device.type == "cuda":
            torch.cuda.synchronize(pixels.device)

    return forward


def profile(
    extractor: WithObjects,
    images: Sequence[npt.NDArray[np.uint8]],
    settings: Settings,
    repeats: int,
) -> tuple[tuple[float, ...], float]:
    """Return the share of the device's time in each of ``PARTS``, and of images left over.

    A batch by itself, from the first kernel to the last. Where the device waits for the host to
    queue more, that counts to the part that is queued.

    Args:
        extractor: Of the features.
        images: One batch.
        settings: Section ``masks`` is used.
        repeats: How often, >= 1.
    """
    from u2seg.masks.batched import maskcut_batch
    from u2seg.masks.batched_propose import MaskBatch, refine_cuts

    loaded = list(map(_loader(extractor), images))
    spent = np.zeros(len(PARTS))
    left = 0
    for _ in range(repeats):
        marks = [_mark(extractor)]
        pixels, tensors = extractor.extract_work([part.work for part in loaded], ("key",))
        marks.append(_mark(extractor))
        cuts = maskcut_batch(tensors["key"], settings.masks.maskcut)
        marks.append(_mark(extractor))
        foreground, fits = refine_cuts(cuts, pixels, settings.masks)
        marks.append(_mark(extractor))
        sizes = [(part.image.shape[0], part.image.shape[1]) for part in loaded]
        size = (pixels.shape[1], pixels.shape[2])
        batch = MaskBatch(cuts, foreground, fits, size, sizes, settings.masks)
        left += sum(bool(one.left) for one in batch.collect())
        marks.append(_mark(extractor))
        spent += [_seconds(a, b) for a, b in itertools.pairwise(marks)]
    return tuple((spent / spent.sum()).tolist()), left / (repeats * len(images))


def _mark(extractor: WithObjects) -> Any:
    """Return a point in the queue of a GPU; elsewhere, where work is done at once, the time."""
    import torch

    if extractor.grids.device.type != "cuda":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    event.record(torch.cuda.current_stream(extractor.grids.device))
    return event


def _seconds(first: Any, last: Any) -> float:
    if isinstance(first, float):
        return float(last - first)
    last.synchronize()
    return float(first.elapsed_time(last)) / 1e3


def product_rate(device: str, side: int = 8192, repeats: int = 10) -> float:
    """Return the FLOP/s of bfloat16 products of (side, side) matrices; small ones off a GPU."""
    import torch

    on_gpu = torch.device(device).type == "cuda"
    side = side if on_gpu else 256
    a = torch.rand(side, side, device=device, dtype=torch.bfloat16)
    torch.mm(a, a)
    if on_gpu:
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    for _ in range(repeats):
        torch.mm(a, a)
    if on_gpu:
        torch.cuda.synchronize(device)
    return 2.0 * side**3 * repeats / (time.perf_counter() - start)
