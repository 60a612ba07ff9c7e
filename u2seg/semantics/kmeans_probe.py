"""K-means on patch features: the baseline that every learnt segmenter must beat.

Nothing is learnt but S centres. Features, positions, enlarging, CRF and mirror averaging are those
of STEGO, so a difference between the two comes from STEGO's head and probe.

Shapes: D feature channels, S clusters, h x w patches, H x W pixels.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from u2seg.config.schema import SemanticSettings
from u2seg.errors import UserError
from u2seg.semantics.base import SEMANTIC_SEGMENTERS, FeatureSource
from u2seg.semantics.head import grid_tensor
from u2seg.semantics.neighbors import NeighborCache
from u2seg.semantics.persist import load_model, save_model
from u2seg.semantics.predict import check_features, label_map
from u2seg.semantics.sampling import sample_rows, unit_centers
from u2seg.structures.features import ImageInputs

METHOD = "kmeans_probe"


@SEMANTIC_SEGMENTERS.register(METHOD, needs=("token",))
class KMeansProbe:
    """See ``SemanticSegmenter``.

    Args:
        settings: ``num_classes``, ``max_pixels``, ``crf``, ``dense_crf`` and ``seed`` are used.
        in_dim: D >= 1.
    """

    def __init__(self, settings: SemanticSettings, in_dim: int) -> None:
        self.settings = settings
        self.in_dim = in_dim
        self.centers = torch.zeros((settings.num_classes, in_dim))

    def fit(
        self, source: FeatureSource, progress: bool, cache: NeighborCache | None = None
    ) -> dict[str, list[float]]:
        """Find the centres of unit-length features at random positions; return no curves.

        Raises:
            UserError: if the source is empty, features do not fit, or fewer than S patches differ.
        """
        if len(source) == 0:
            raise UserError("no images to learn stuff from: the list of images is empty")
        generator = torch.Generator().manual_seed(self.settings.seed)
        rows = sample_rows(source, self._checked, generator)
        centers = unit_centers(rows, self.settings.num_classes, self.settings.seed)
        if centers is None:
            raise UserError(
                f"fewer than {self.settings.num_classes} patches of these images differ: lower "
                "U2SEG.SEMANTICS.NUM_CLASSES or give more images"
            )
        self.centers = torch.from_numpy(centers)
        return {}

    def _checked(self, features: Tensor) -> Tensor:
        if features.shape[1] != self.in_dim or not bool(torch.isfinite(features).all()):
            raise UserError(
                f"features have {features.shape[1]} channels or are not finite, expected "
                f"{self.in_dim}: fit and extract with the same feature settings"
            )
        return features

    @torch.no_grad()
    def predict(
        self, inputs: ImageInputs, mirrored: ImageInputs | None = None
    ) -> npt.NDArray[np.uint8]:
        """Return the (H, W) uint8 map of nearest centres; see ``SemanticSegmenter``.

        Raises:
            ValueError: if the features have another number of channels, or the mirror image's
                another grid.
        """
        features = inputs.facets["token"]
        flipped = mirrored.facets["token"] if mirrored else None
        check_features(features, flipped, self.in_dim)
        grid = grid_tensor(features.grid)
        if flipped is not None:
            grid = (grid + grid_tensor(flipped.grid).flip(dims=(3,))) / 2
        return label_map(self._log_probs, grid, inputs.pixels, self.settings)

    def _log_probs(self, features: Tensor) -> Tensor:
        """Return (1, S, H, W): log-softmax of minus the squared distance of unit features.

        For centres of unit length that is STEGO's probe: 2 x cosine.
        """
        unit = functional.normalize(features, dim=1)
        inner = torch.einsum("bdhw,sd->bshw", unit, self.centers)
        squares = self.centers.square().sum(dim=1)[:, None, None]
        return functional.log_softmax(2 * inner - squares, dim=1)

    def save(self, path: Path | str) -> None:
        """Write centres and settings as one safetensors file, atomically."""
        save_model(path, METHOD, self.settings, self.in_dim, {"centers": self.centers})

    @classmethod
    def load(cls, path: Path | str, settings: SemanticSettings | None = None) -> KMeansProbe:
        """Return the segmenter saved under ``path``; see ``SemanticSegmenter``."""

        def build(saved: SemanticSettings, in_dim: int, tensors: dict[str, Tensor]) -> KMeansProbe:
            model = cls(saved, in_dim)
            if tensors["centers"].shape != model.centers.shape:
                raise ValueError(f"centres are {tuple(tensors['centers'].shape)}")
            model.centers = tensors["centers"]
            return model

        return load_model(path, METHOD, build, settings)
