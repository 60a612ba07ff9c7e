"""Rows of a whole image on the CPU: time beside the bare ViT, and a worker's peak memory."""

from __future__ import annotations

import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from benchmarks.inputs import (
    REFERENCE_MASKS,
    Sizes,
    bare_vit,
    save_photograph,
    synthetic_features,
    vit_flops,
    vit_settings,
)
from benchmarks.rows import Row, Target, judged
from benchmarks.setting import Setting
from benchmarks.timing import alternate
from u2seg.config.schema import ClusterSettings, SemanticSettings, Settings
from u2seg.errors import StageError
from u2seg.features import FeatureExtractor, build_extractor
from u2seg.features.base import FEATURE_EXTRACTORS
from u2seg.io.images import read_image
from u2seg.masks.propose import propose_masks
from u2seg.pipeline import generate_labels
from u2seg.pipeline.semantic_stage import MODEL_FILE
from u2seg.structures.features import ImageInputs, PatchFeatures

Images = Sequence[npt.NDArray[np.uint8]]
TIME_FACTOR = Target("<=", 1.35)
MEMORY_LIMIT = Target("<=", 1.5, "ours")
VIT_PARAMETERS = {"s": 22e6, "b": 86e6}
LIMIT_S = 900
CHAIN_FACTOR = Target("<=", 1.2)
CHAINED = 4
"""Photographs of a timed run of all stages."""
NEEDED = 3
"""Passes a photograph needs: one for masks and descriptors, two for stuff."""


def label_images(
    extractor: FeatureExtractor, images: Images, cut_in: PatchFeatures, side: int
) -> list[dict[str, Any]]:
    """Return COCO results of some images: extract features, cut, refine, encode.

    The features of a ViT with random weights hold no objects, and an image without masks would
    skip the CRF. So features are extracted, and the cuts are made in ``cut_in``.

    Args:
        extractor: Of the features whose time is spent.
        images: (H, W, 3) uint8.
        cut_in: The features that are cut.
        side: Pixels a side at which masks are refined.
    """
    results = []
    for index, (image, _) in enumerate(zip(images, extractor.extract(images), strict=True)):
        masks = propose_masks(ImageInputs(image, {"key": cut_in}), (side, side), REFERENCE_MASKS)
        results += [mask.to_result(index) for mask in masks]
    return results


def bare_forward(sizes: Sizes, batch: int, device: str = "cpu") -> Callable[[], Any]:
    """Return a call that runs the ViT on a batch of ready inputs and does nothing else."""
    import torch

    model = bare_vit(sizes.vit).to(device)
    pixels = torch.zeros(batch, 3, sizes.side, sizes.side, device=device)

    def forward() -> Any:
        with torch.inference_mode():
            return model.forward_features(pixels)

    return forward


def labelling(setting: Setting) -> Row:
    """Return the row of one image, from its JPEG file to encoded masks."""
    sizes = setting.sizes
    cut_in = synthetic_features(sizes)
    with tempfile.TemporaryDirectory() as name:
        photo = save_photograph(Path(name) / "photo.jpg", sizes.side)
        extractor = build_extractor(vit_settings(sizes, Path(name)))
        pair = alternate(
            "labelling",
            lambda: label_images(extractor, [read_image(photo)], cut_in, sizes.side),
            bare_forward(sizes, 1),
            setting.repeats,
        )
    return judged(
        "labelling",
        pair.ours,
        pair.peer,
        ratio=pair.ours / pair.peer,
        unit="s",
        target=TIME_FACTOR,
        floor=vit_flops(sizes) / setting.rates.flops,
        note=f"{sizes.vit}, random weights, {len(pair.our_result)} masks from synthetic features "
        "(a random ViT sees no objects); floor: the ViT's matrix products",
    )


class WithObjects:
    """A ViT whose keys are replaced, after its pass, by features that hold objects.

    Args:
        inner: Its passes cost the time, and are counted.
        keys: (D, g, g) features.
    """

    def __init__(self, inner: Any, keys: PatchFeatures) -> None:
        self.inner, self.keys = inner, keys
        self.patch_size, self.dim, self.passes = inner.patch_size, inner.dim, 0

    def extract(
        self, images: Images, facets: Sequence[str] = ("key",), resample: str = ""
    ) -> list[ImageInputs]:
        """Return facets, see ``FeatureExtractor.extract``."""
        self.passes += len(images)
        found: list[ImageInputs] = self.inner.extract(images, facets, resample)
        if "key" in facets:
            found = [replace(one, facets={**one.facets, "key": self.keys}) for one in found]
        return found


def chain(setting: Setting) -> Row:
    """Return the row of all label stages of a photograph, fitting excluded, beside its passes.

    Centroids and stuff model are those of a run before. Masks and descriptors come from one pass,
    stuff from two (the photograph and its mirror image).
    """
    sizes = setting.sizes
    with tempfile.TemporaryDirectory() as name, registered() as extractors:
        root = Path(name)
        for number in range(CHAINED):
            save_photograph(root / "photos" / f"{number}.jpg", sizes.side)
        features = vit_settings(sizes, root, batch=2)
        made = WithObjects(build_extractor(features), synthetic_features(sizes))
        extractors["chain"] = lambda settings: made
        first = Settings(
            features=replace(features, name="chain"),
            masks=REFERENCE_MASKS,
            clusters=ClusterSettings(num_clusters=3),
            semantics=SemanticSettings(segmenter="kmeans_probe", num_classes=5),
        )
        generate_labels(first, root / "photos", root / "first", progress=False)
        fitted = replace(
            first,
            clusters=replace(first.clusters, centroids=str(root / "first/clusters/centroids.npy")),
            semantics=replace(first.semantics, model=str(root / "first/semantics" / MODEL_FILE)),
        )

        def label() -> int:
            before = made.passes
            with tempfile.TemporaryDirectory(dir=name) as folder:
                generate_labels(fitted, root / "photos", Path(folder) / "run", progress=False)
            return made.passes - before

        forward = bare_forward(sizes, 2)
        pair = alternate(
            "chain",
            label,
            lambda: [forward() for _ in range(NEEDED * CHAINED // 2)],
            setting.repeats,
        )
    return judged(
        "chain",
        pair.ours / CHAINED,
        pair.peer / CHAINED,
        ratio=pair.ours / pair.peer,
        unit="s",
        target=CHAIN_FACTOR,
        floor=NEEDED * vit_flops(sizes) / setting.rates.flops,
        note=f"{CHAINED} photographs, files to merged labels, {pair.our_result / CHAINED:g} passes "
        f"each; peer: {NEEDED} bare passes each, two images at a time",
        correct=pair.our_result == NEEDED * CHAINED,
    )


@contextlib.contextmanager
def registered() -> Iterator[dict[str, Any]]:
    """Yield the table of extractors; what is added within the block goes at its end."""
    FEATURE_EXTRACTORS.names()
    before = dict(FEATURE_EXTRACTORS._members)
    try:
        yield FEATURE_EXTRACTORS._members
    finally:
        FEATURE_EXTRACTORS._members.clear()
        FEATURE_EXTRACTORS._members.update(before)


def memory(setting: Setting) -> Row:
    """Return the row of peak resident memory, beside a process that only runs the ViT."""
    sizes = setting.sizes
    peaks: dict[str, list[float]] = {"label": [], "vit": []}
    with tqdm(total=2 * setting.repeats, desc="memory", leave=False) as bar:
        for _ in range(setting.repeats):
            for mode, seen in peaks.items():
                seen.append(worker_peak(mode, setting))
                bar.update()
    ours, peer = (statistics.median(seen) for seen in peaks.values())
    dim = 768 if "vitb" in sizes.vit else 384
    weights = 4 * VIT_PARAMETERS["b" if "vitb" in sizes.vit else "s"]
    patches = sizes.grid**2
    # The perceptron's hidden layer is the largest activation: 4 d per token.
    counted = weights + (patches + 1) * 4 * dim * 4 + patches**2 / 8
    return judged(
        "memory",
        ours,
        peer,
        ratio=ours / peer,
        unit="GB",
        target=MEMORY_LIMIT,
        floor=counted / 1e9,
        note=f"peak resident memory of a fresh process (largest {max(peaks['label']):.2f} GB), "
        f"libraries included, {sizes.batch} images at a time; the peer process runs the ViT "
        "alone, on one image; floor: weights, largest activation and bits, without libraries",
    )


def worker_peak(mode: str, setting: Setting) -> float:
    """Return the peak resident memory in GB of a child process, see ``worker``.

    Raises:
        StageError: if the child fails.
    """
    sizes = setting.sizes
    task = {
        "mode": mode,
        "threads": setting.threads,
        "sizes": {"grid": sizes.grid, "vit": sizes.vit, "batch": sizes.batch},
    }
    command = [sys.executable, "-m", "benchmarks.worker", json.dumps(task)]
    done = subprocess.run(  # noqa: S603 - our own module
        command, capture_output=True, text=True, check=False, timeout=LIMIT_S
    )
    if done.returncode != 0:
        raise StageError(f"the memory worker {mode!r} failed: {done.stderr[-2000:]}")
    return float(json.loads(done.stdout.splitlines()[-1])["peak_gb"])
