"""TokenCut: one normalised cut, one object.

Shapes: h x w patches.
Source: Wang et al., "Self-Supervised Transformers for Unsupervised Object Discovery using
Normalized Cut", 2022, section 3; TokenCut commit fed52cd, object_discovery.py. Published with tau
0.2 on keys of ViT-S/16 and the aspect ratio kept. The bounding box is the
component's, which every ``InstanceMask`` carries.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from u2seg.config.schema import TokenCutSettings
from u2seg.masks.base import MASK_PROPOSERS
from u2seg.masks.bitgraph import BitGraph
from u2seg.masks.maskcut import (
    Grid,
    PatchMask,
    bipartition,
    cut_graph,
    cut_score,
    seed_component,
)
from u2seg.masks.ncut import fix_sign
from u2seg.structures.features import ImageInputs, PatchFeatures


@MASK_PROPOSERS.register("tokencut", settings=TokenCutSettings, needs=("key",))
def cut_object(inputs: ImageInputs, settings: TokenCutSettings) -> list[PatchMask]:
    """Return the mask of TokenCut."""
    return tokencut(inputs.facets["key"], settings, inputs.name)


def tokencut(
    features: PatchFeatures, settings: TokenCutSettings, name: str = "an image"
) -> list[PatchMask]:
    """Return the one object of an image.

    No rule of MaskCut's applies beyond the cut itself: neither corners nor areas are looked at.

    Args:
        features: Patch features, facet ``key``.
        settings: ``tau`` and ``eps`` are used.
        name: Of the image, for messages.

    Returns:
        One mask; none if there is nothing to cut (a constant image).
    """
    graph = BitGraph.from_features(features, settings.tau)
    everything = np.ones(features.shape, dtype=bool)
    vector = cut_graph(graph, ~everything, everything, settings.eps, name)
    if vector is None:
        return []
    component = salient_component(vector)
    return [PatchMask(component, cut_score(graph, component.ravel(), settings.eps))]


def salient_component(vector: npt.NDArray[np.float64]) -> Grid:
    """Return the component that holds the seed, the patch of largest modulus.

    The side of the bipartition that holds the seed is foreground, whatever the sign. Ties are
    broken as in MaskCut: by the first patch for the side, by the largest component for the seed.

    Args:
        vector: (h, w) float64, an eigenvector of either sign; not constant.

    Examples:
        The seed is the -9; the -4 is on its side (the mean is -2), but not connected to it:

        >>> salient_component(np.array([[-9.0, 1.0, -4.0, 4.0]])).astype(int).tolist()
        [[1, 0, 0, 0]]
    """
    oriented = fix_sign(vector.ravel()).reshape(vector.shape)
    side = bipartition(oriented, np.ones(vector.shape, dtype=bool))
    return seed_component(side, oriented)
