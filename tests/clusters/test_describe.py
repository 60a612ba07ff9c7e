"""Descriptors by name: what they need is made, and a plug-in's is used like our own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from u2seg.clusters.describe import DESCRIPTORS, describe, facets_of
from u2seg.config.schema import Settings
from u2seg.errors import UserError
from u2seg.features import build_extractor
from u2seg.structures.features import ImageInputs
from u2seg.structures.masks import InstanceMask

IMAGE = np.zeros((64, 64, 3), np.uint8)
MASK = np.zeros((64, 64), bool)
MASK[:16, :16], IMAGE[:16, :16] = True, (10, 20, 30)


@pytest.fixture
def mean_colour() -> Iterator[str]:
    @DESCRIPTORS.register("mean_colour", needs=("pixels", "attention"))
    def colour(inputs: ImageInputs, masks: Any, settings: Any, embed: Any) -> np.ndarray:
        return np.stack([inputs.pixels[mask].mean(axis=0) for mask in masks])

    yield "mean_colour"
    del DESCRIPTORS._members["mean_colour"]


def test_a_descriptor_from_elsewhere_has_its_own_dimensions(mean_colour: str) -> None:
    settings = Settings()
    clusters = replace(settings.clusters, descriptor=mean_colour)
    assert facets_of(clusters) == ("attention",)
    features = replace(settings.features, name="filter_bank", image_size=64)
    extractor = build_extractor(features)
    masks = [InstanceMask.from_array(MASK, 1.0)] * 2
    assert describe(ImageInputs(IMAGE), masks, extractor, features, clusters) is None
    (inputs,) = extractor.extract([IMAGE], ("key",))
    inputs = replace(inputs, facets={"attention": inputs.facets["key"]})
    rows = describe(inputs, masks, extractor, features, clusters)
    assert rows is not None and rows.tolist() == [[10, 20, 30]] * 2


def test_an_unknown_descriptor_lists_the_known_ones() -> None:
    clusters = replace(Settings().clusters, descriptor="crop_clss")
    with pytest.raises(UserError, match=r"crop_cls, masked_crop, masked_mean\. Did you mean"):
        facets_of(clusters)
