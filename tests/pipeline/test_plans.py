"""The difference of two plans, in words that say what to look at."""

from __future__ import annotations

from typing import Any

import pytest

from u2seg.config.schema import ClusterSettings, FeatureSettings
from u2seg.pipeline.plans import differences

PLAN = {
    "stage": "clusters",
    "settings_hash": "1",
    "shard_size": 8,
    "versions": {"numpy": "2.1", "scipy": "1.14"},
    "inputs": {"images": "a", "masks": "b"},
    "image_list": "c",
    "teacher": "d",
}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, ""),
        ({"settings_hash": "2"}, "settings (of U2SEG.FEATURES, U2SEG.CLUSTERS)"),
        ({"shard_size": 4}, "shards (U2SEG.RUN.SHARD_SIZE 4, now 8)"),
        ({"versions": {"numpy": "2.0", "faiss": "1"}},
         "versions (faiss 1, now absent; numpy 2.0, now 2.1; scipy absent, now 1.14)"),
        ({"inputs": {"images": "a", "masks": "x"}}, "inputs (made anew since: masks)"),
        ({"image_list": "x"},
         "photographs (files were added, removed or changed, or others are asked for)"),
        ({"teacher": "x", "stage": "masks"}, "stage, teacher"),
        ({"versions": "?", "inputs": None}, "versions, inputs (made anew since: images, masks)"),
    ],
)  # fmt: skip
def test_differences_in_words(changes: dict[str, Any], told: str) -> None:
    sections = (ClusterSettings(), FeatureSettings())
    assert differences({**PLAN, **changes}, PLAN, sections) == told
