"""STEGO: distil feature correspondences into codes that cluster into stuff.

Shapes: n images, D feature channels, K code channels, S clusters.
Source: Hamilton et al., "Unsupervised semantic segmentation by distilling feature
correspondences", 2022; commit eb4d6b5. Deviations, each chosen for few images or a CPU: the
probe starts from K-means of the codes (``probe_start``), the head sees sampled features
(``dense_codes`` False), random pairs are true permutations. There is no linear probe: it needs
ground truth.
"""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from u2seg.config.schema import SemanticSettings, StegoSettings
from u2seg.errors import UserError
from u2seg.io.progress import Bar
from u2seg.semantics.base import SEMANTIC_SEGMENTERS, FeatureSource
from u2seg.semantics.head import ClusterProbe, CodeHead, Decoder, grid_tensor
from u2seg.semantics.neighbors import NeighborCache, neighbors_of
from u2seg.semantics.persist import load_model, save_model
from u2seg.semantics.predict import check_features, code_of, label_map
from u2seg.semantics.sampling import draw_batch, draw_step, sample_rows, settle_shifts
from u2seg.semantics.training import CURVES, Trainer, start_probe
from u2seg.structures.features import ImageInputs

PROBE_SHARE = 0.25
"""The probe starts from K-means when this share of the steps is left, to follow from there."""

TERMS = ("intra", "inter", "neg")

_log = logging.getLogger(__name__)


METHOD = "stego"


@SEMANTIC_SEGMENTERS.register(METHOD, settings=StegoSettings, needs=("token",))
class StegoSegmenter:
    """See ``SemanticSegmenter``.

    Args:
        settings: All fields of ``U2SEG.SEMANTICS``.
        in_dim: D >= 1.

    Notes:
        ``fit`` is deterministic on the CPU for a given number of threads.
    """

    def __init__(self, settings: SemanticSettings, in_dim: int) -> None:
        self.settings = settings
        self.in_dim = in_dim
        own = settings.stego
        self._generator = torch.Generator().manual_seed(settings.seed)
        self.head = CodeHead(in_dim, own.code_dim, self._generator, own.projection)
        self.probe = ClusterProbe(settings.num_classes, own.code_dim, self._generator)

    def fit(
        self, source: FeatureSource, progress: bool, cache: NeighborCache | None = None
    ) -> dict[str, list[float]]:
        """Train head and probe; return the loss curves ``CURVES``, one value per step.

        Args:
            source: Features of n >= 1 images; those of one image leave out the random pairs
                and pair it with itself.
            progress: Show a bar with the time left.
            cache: Where nearest neighbours are kept for the next time; None = nowhere.

        Raises:
            UserError: if the source is empty, features do not fit, or all images together have
                fewer patches than there are clusters.
        """
        settings = self.settings.stego
        if len(source) == 1:
            _log.warning("one image only: stuff is learnt from correspondences inside it")
        found = neighbors_of(source, self.in_dim, settings.neighbors, progress, cache)
        neighbors = torch.from_numpy(found)
        settings = settle_shifts(settings, source, neighbors, self._generator)
        if settings.shifts == "auto":
            # The saved model tells which shifts it was trained with.
            self.settings = dataclasses.replace(self.settings, stego=settings)
            told = ", ".join(f"{k} {getattr(settings, f'shift_{k}'):.3f}" for k in TERMS)
            _log.info("shifts from the similarity of these features: %s", told)
        trainer = Trainer(settings, self.head, self.probe, self._decoder())
        names = [*CURVES, "rec"] if settings.weight_rec else CURVES
        curves: dict[str, list[float]] = {name: [] for name in names}
        probe_step = int(settings.steps * (1 - PROBE_SHARE))
        bar = Bar(range(settings.steps), desc="STEGO", disable=not progress)
        for step in bar:
            if step == probe_step and settings.probe_start == "kmeans":
                start_probe(
                    self.probe, sample_rows(source, self.head, self._generator), self.settings.seed
                )
            images, partners = draw_batch(neighbors, settings.batch_size, self._generator)
            losses = trainer.step(
                [grid_tensor(source[i])[0] for i in images.tolist()],
                [grid_tensor(source[i])[0] for i in partners.tolist()],
                draw_step(settings, len(images), self.in_dim, self._generator),
            )
            for name, value in losses.items():
                curves[name].append(value)
            if not np.isfinite(losses["total"]):
                raise UserError(
                    f"the STEGO loss became {losses['total']} at step {step}: lower "
                    f"U2SEG.SEMANTICS.STEGO.LR (it is {settings.lr})"
                )
            if step % 20 == 0:
                bar.set_postfix(loss=f"{losses['total']:.4f}", refresh=False)
        return curves

    def _decoder(self) -> Decoder | None:
        if not self.settings.stego.weight_rec:
            return None
        return Decoder(self.settings.stego.code_dim, self.in_dim, self._generator)

    def predict(
        self, inputs: ImageInputs, mirrored: ImageInputs | None = None
    ) -> npt.NDArray[np.uint8]:
        """Return the (H, W) uint8 stuff map, 0..S-1; see ``SemanticSegmenter``.

        Raises:
            ValueError: if the features have another number of channels, or the mirror image's
                another grid.
        """
        features = inputs.facets["token"]
        flipped = mirrored.facets["token"] if mirrored else None
        check_features(features, flipped, self.in_dim)
        code = code_of(self.head, features, flipped)
        return label_map(self.probe.log_probs, code, inputs.pixels, self.settings)

    def save(self, path: Path | str) -> None:
        """Write weights and settings as one safetensors file, atomically."""
        tensors = {f"head.{name}": value for name, value in self.head.state_dict().items()}
        tensors["probe.clusters"] = self.probe.clusters
        save_model(path, METHOD, self.settings, self.in_dim, tensors)

    @classmethod
    def load(cls, path: Path | str, settings: SemanticSettings | None = None) -> StegoSegmenter:
        """Return the segmenter saved under ``path``; see ``SemanticSegmenter``."""
        return load_model(path, METHOD, cls.build, settings)

    @classmethod
    def build(
        cls, settings: SemanticSettings, in_dim: int, tensors: dict[str, Tensor]
    ) -> StegoSegmenter:
        """Return a fitted segmenter of the tensors that ``save`` writes.

        Raises:
            RuntimeError: if names or shapes do not fit (KeyError without the probe).
        """
        model = cls(settings, in_dim)
        model.probe.load_state_dict({"clusters": tensors.pop("probe.clusters")})
        model.head.load_state_dict({k.removeprefix("head."): v for k, v in tensors.items()})
        return model
