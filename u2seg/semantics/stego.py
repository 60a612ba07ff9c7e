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
import json
import logging
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from tqdm import tqdm

from u2seg.config.schema import SemanticSettings
from u2seg.errors import UserError
from u2seg.io.atomic import write_bytes
from u2seg.semantics.base import SEMANTIC_SEGMENTERS, FeatureSource
from u2seg.semantics.draws import draw_batch, draw_step
from u2seg.semantics.head import ClusterProbe, CodeHead, grid_tensor
from u2seg.semantics.losses import sample
from u2seg.semantics.neighbors import image_descriptors, nearest_images
from u2seg.semantics.predict import code_of, predict_map
from u2seg.semantics.training import CURVES, Trainer, start_probe
from u2seg.structures.features import PatchFeatures

PROBE_POSITIONS = 20_000
"""Positions whose codes start the probe, drawn evenly from up to ``PROBE_IMAGES`` images."""
PROBE_IMAGES = 500
PROBE_SHARE = 0.25
"""The probe starts from K-means when this share of the steps is left, to follow from there."""

_log = logging.getLogger(__name__)


@SEMANTIC_SEGMENTERS.register("stego")
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
        self._generator = torch.Generator().manual_seed(settings.seed)
        self.head = CodeHead(in_dim, settings.code_dim, self._generator)
        self.probe = ClusterProbe(settings.num_classes, settings.code_dim, self._generator)

    def fit(self, source: FeatureSource, progress: bool) -> dict[str, list[float]]:
        """Train head and probe; return the loss curves ``CURVES``, one value per step.

        Args:
            source: Features of n >= 1 images; those of one image leave out the random pairs
                and pair it with itself.
            progress: Show a bar with the time left.

        Raises:
            UserError: if the source is empty, features do not fit, or all images together have
                fewer patches than there are clusters.
        """
        settings = self.settings
        descriptors = image_descriptors(source, self.in_dim, progress)
        if len(source) == 1:
            _log.warning("one image only: stuff is learnt from correspondences inside it")
        neighbors = torch.from_numpy(nearest_images(descriptors, settings.neighbors))
        trainer = Trainer(settings, self.head, self.probe)
        curves: dict[str, list[float]] = {name: [] for name in CURVES}
        probe_step = int(settings.steps * (1 - PROBE_SHARE))
        bar = tqdm(range(settings.steps), desc="STEGO", disable=not progress)
        for step in bar:
            if step == probe_step and settings.probe_start == "kmeans":
                start_probe(self.probe, self._sample_codes(source), settings.seed)
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
                    f"U2SEG.SEMANTICS.LR (it is {settings.lr})"
                )
            if step % 20 == 0:
                bar.set_postfix(loss=f"{losses['total']:.4f}")
        return curves

    @torch.no_grad()
    def _sample_codes(self, source: FeatureSource) -> Tensor:
        """Return (m, K) codes at random positions of evenly spaced images."""
        count = min(len(source), PROBE_IMAGES)
        each = max(1, PROBE_POSITIONS // count)
        rows = []
        for index in np.linspace(0, len(source) - 1, count).round().astype(int).tolist():
            grid = grid_tensor(source[index])
            taken = min(each, grid.shape[2] * grid.shape[3])
            coords = torch.rand((1, taken, 1, 2), generator=self._generator) * 2 - 1
            rows.append(self.head(sample(grid, coords))[0, :, 0].T)
        return torch.cat(rows)

    def predict(
        self,
        features: PatchFeatures,
        flipped: PatchFeatures | None,
        image: npt.NDArray[np.uint8],
    ) -> npt.NDArray[np.uint8]:
        """Return the (H, W) uint8 stuff map, 0..S-1; see ``SemanticSegmenter``.

        Raises:
            ValueError: if the features have another number of channels, or the mirror image's
                another grid.
        """
        if features.grid.shape[0] != self.in_dim:
            raise ValueError(
                f"features have {features.grid.shape[0]} channels, the model {self.in_dim}"
            )
        if flipped is not None and flipped.grid.shape != features.grid.shape:
            raise ValueError(
                f"mirror image has features {flipped.grid.shape}, image {features.grid.shape}"
            )
        code = code_of(self.head, features, flipped)
        return predict_map(self.probe, code, image, self.settings)

    def save(self, path: Path | str) -> None:
        """Write weights and settings as one safetensors file, atomically."""
        from safetensors.torch import save

        tensors = {f"head.{k}": v.contiguous() for k, v in self.head.state_dict().items()}
        tensors["probe.clusters"] = self.probe.clusters.detach().contiguous()
        note = {"in_dim": self.in_dim, "settings": dataclasses.asdict(self.settings)}
        write_bytes(path, save(tensors, {"stego": json.dumps(note, sort_keys=True)}))

    @classmethod
    def load(cls, path: Path | str) -> StegoSegmenter:
        """Return the segmenter saved under ``path``.

        Raises:
            UserError: if the file is missing, damaged, or was not written by ``save``.
        """
        from safetensors import safe_open

        if not Path(path).is_file():
            raise UserError(f"STEGO model {path} does not exist; run the semantics stage first")
        try:
            with safe_open(str(path), framework="pt") as file:
                note = json.loads(file.metadata()["stego"])
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            model = cls(SemanticSettings(**note["settings"]), int(note["in_dim"]))
            model.probe.load_state_dict({"clusters": tensors.pop("probe.clusters")})
            model.head.load_state_dict({k.removeprefix("head."): v for k, v in tensors.items()})
        except UserError:
            raise
        except Exception as error:
            raise UserError(
                f"{path} is not a saved STEGO model ({error}); run the semantics stage again"
            ) from error
        return model
