"""A few small scenes, settings that label them in seconds, and what a calm run makes of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scenes.compose import compose_scene

from tests.faults.harness import results
from tests.pipeline.conftest import FAST
from u2seg.config.load import load_settings
from u2seg.config.schema import Settings
from u2seg.pipeline import generate_labels


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the figures for benchmarks/results/faults.md."""
    for report in terminalreporter.getreports("passed"):
        figures = ", ".join(f"{name}: {value}" for name, value in report.user_properties)
        if report.when == "call" and "faults" in report.keywords:
            name = report.nodeid.rpartition("::")[2]
            terminalreporter.write_line(f"{name}: {figures} ({report.duration:.1f} s)")


def write_photos(folder: Path, count: int, side: int = 64) -> Path:
    """Write ``count`` scenes of ``side`` pixels."""
    for number in range(count):
        path = folder / f"{number % 2}" / f"{number:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(compose_scene(np.random.default_rng(number), side).image).save(path)
    return folder


@pytest.fixture(scope="session")
def settings() -> Settings:
    return load_settings(None, [*FAST, "U2SEG.SEMANTICS.STEGO.STEPS", "2"])


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photos(tmp_path_factory.mktemp("photos"), 3)


@pytest.fixture(scope="session")
def calm(
    photos: Path, settings: Settings, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, bytes]:
    """All results of a run without a fault."""
    output = tmp_path_factory.mktemp("calm")
    generate_labels(settings, photos, output, progress=False)
    return results(output)
