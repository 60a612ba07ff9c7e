"""Rows of a GPU: images per second, batched, in bfloat16, beside the bare ViT."""

from __future__ import annotations

import functools
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from u2seg.benchmark.inputs import bare_vit, photograph, synthetic_features, vit_flops
from u2seg.benchmark.inputs import vit_settings as settings_of
from u2seg.benchmark.labelling import label_images
from u2seg.benchmark.rows import Row, Target, judged, skipped
from u2seg.benchmark.setting import Setting
from u2seg.benchmark.timing import alternate
from u2seg.features import build_extractor

RATE = Target(">=", 100, "ours")
SHARE = Target(">=", 0.5)
NO_GPU = "no CUDA device is visible"


@dataclass(frozen=True)
class GpuRates:
    """Images per second: whole labelling, bare ViT, and what matrix products allow."""

    ours: float
    peer: float
    floor: float
    masks: int


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
    return judged(
        name,
        rates.ours,
        rates.peer,
        ratio=rates.ours / rates.peer,
        unit="img/s",
        target=target,
        floor=rates.floor,
        note=f"batch {setting.sizes.gpu_batch}, bfloat16, {rates.masks} masks a batch; floor: "
        "the ViT's matrix products at the measured rate of one",
        correct=rates.masks > 0,
    )


@functools.lru_cache(maxsize=1)
def measure(setting: Setting) -> GpuRates:
    """Return the rates of one batch; both rows share the measurement."""
    import torch

    sizes = setting.sizes
    batch = sizes.gpu_batch
    images = [photograph(sizes.side)] * batch
    cut_in = synthetic_features(sizes)
    model = bare_vit(sizes.vit).to("cuda")
    pixels = torch.zeros(batch, 3, sizes.side, sizes.side, device="cuda")

    def forward() -> None:
        with torch.inference_mode(), torch.autocast("cuda", torch.bfloat16):
            model.forward_features(pixels)
        torch.cuda.synchronize()

    with tempfile.TemporaryDirectory() as name:
        settings = settings_of(sizes, Path(name), device="cuda", precision="bf16", batch=batch)
        extractor = build_extractor(settings)
        pair = alternate(
            "gpu",
            lambda: label_images(extractor, images, cut_in, sizes.side),
            forward,
            setting.repeats,
        )
    floor = product_rate() / vit_flops(sizes)
    return GpuRates(batch / pair.ours, batch / pair.peer, floor, len(pair.our_result))


def product_rate(side: int = 8192, repeats: int = 10) -> float:
    """Return the FLOP/s of bfloat16 products of (side, side) matrices on the GPU."""
    import torch

    a = torch.rand(side, side, device="cuda", dtype=torch.bfloat16)
    torch.mm(a, a)
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(repeats):
        torch.mm(a, a)
    torch.cuda.synchronize()
    return 2.0 * side**3 * repeats / (time.perf_counter() - start)
