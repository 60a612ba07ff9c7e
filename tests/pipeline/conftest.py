"""A folder of small composed scenes and settings that label it in seconds."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scenes.compose import compose_scene

from tests.factories import with_values
from u2seg.config.load import load_settings
from u2seg.config.schema import Settings
from u2seg.io.jsonfile import read_json
from u2seg.pipeline import STAGES, generate_labels

CHANGES = {
    "FEATURES.IMAGE_SIZE": "64",
    "MASKS.MASKCUT.TAU": "0.3",
    "MASKS.REFINER": "none",
    "MASKS.MASKCUT.MAX_AREA": "0.5",
    "CLUSTERS.NUM_CLUSTERS": "3",
    "SEMANTICS.NUM_CLASSES": "3",
    "SEMANTICS.STEGO.STEPS": "6",
    "SEMANTICS.STEGO.BATCH_SIZE": "2",
    "SEMANTICS.CRF": "false",
    "RUN.SHARD_SIZE": "2",
}
FAST = [word for key, value in CHANGES.items() for word in (f"U2SEG.{key}", value)]


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for i in range(5):
        scene = compose_scene(np.random.default_rng(i), 96)
        path = folder / ("deep/er" if i % 2 else ".") / f"scene {i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(scene.image).save(path)
    return folder


@pytest.fixture(scope="session")
def settings() -> Settings:
    return load_settings(None, FAST)


def tree(folder: Path) -> dict[str, bytes]:
    """Every file of a run but those that hold seconds."""
    return {
        p.relative_to(folder).as_posix(): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and p.name not in ("timings.json", "report.html")
    }


@pytest.fixture(scope="session")
def run(photos: Path, settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of one process; read only."""
    return label(settings, photos, tmp_path_factory.mktemp("run"))


def changed(settings: Settings, section: str, **values: Any) -> Settings:
    part = with_values(getattr(settings, section), **values)
    return dataclasses.replace(settings, **{section: part})


def label(settings: Settings, images: Path, output: Path, *stages: str, **options: Any) -> Path:
    """Run some stages, all without names."""
    wanted = stages or STAGES
    return generate_labels(settings, images, output, stages=wanted, progress=False, **options)


def masks_of(run: Path) -> list[dict[str, Any]]:
    return [entry for p in sorted(run.glob("masks/part-*.json")) for entry in read_json(p)]


def skips_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "skipped.jsonl").read_text("utf-8").splitlines()]
