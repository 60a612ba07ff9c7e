"""A method whose every part comes from files outside the package: the house needs no change for it.

Round 0: a proposer of hierarchies, a descriptor, a segmenter that wants pixels, a student without
things that is trained with AdamW. Round 1: a relabel rule.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import u2seg
from u2seg.config.load import load_settings
from u2seg.io.jsonfile import read_json
from u2seg.labels import LabelFolder

RECIPE = Path(__file__).with_name("recipe.yaml")
PHOTOGRAPHS = 4
pytestmark = [pytest.mark.d2, pytest.mark.slow]


def photographs(folder: Path) -> Path:
    folder.mkdir()
    for number in range(PHOTOGRAPHS):
        rng = np.random.default_rng(number)
        pixels = rng.integers(0, 60, (64, 96, 3)).astype(np.uint8)
        pixels[16:48, 16 + 8 * number : 64 + 8 * number] += 150
        pixels[48:] += 60
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("seams")
    u2seg.run(photographs(root / "photos"), root / "run", RECIPE)
    return root


def files(folder: Path, pattern: str) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.glob(pattern))}


def test_the_settings_of_members_are_nodes_of_their_sections() -> None:
    settings = load_settings(RECIPE, ["U2SEG.MASKS.HALVES.FACTOR", "1.5"])
    assert {type(extra).__name__ for extra in settings.masks.extras} == {"HalvesSettings"}
    assert settings.masks.extras[0].factor == 1.5
    with pytest.raises(u2seg.errors.UserError, match=r"Did you mean U2SEG\.MASKS\.HALVES\.FACTOR"):
        load_settings(RECIPE, ["U2SEG.MASKS.HALVES.FACTO", "1.5"])


def test_the_hierarchy_reaches_the_instances(run: Path) -> None:
    annotations = read_json(run / "run/labels/panoptic/instances.json")["annotations"]
    parts = [a for a in annotations if a.get("level")]
    assert len(parts) == 2 * PHOTOGRAPHS
    whole = {a["id"]: a for a in annotations if not a.get("level")}
    for part in parts:
        assert part["source"] == "halves"
        assert whole[part["parent"]]["image_id"] == part["image_id"]


def test_stuff_is_what_the_segmenter_says(run: Path) -> None:
    labels = LabelFolder.open(run / "run/labels")
    assert (labels.space.num_things, labels.space.num_stuff) == (2, 3)
    limits = read_json(run / "run/labels/semantics/model.safetensors")
    grey = np.asarray(Image.open(run / "photos/0.png")).mean(axis=2)
    stuff = np.asarray(Image.open(run / "run/labels/semantics/0.png"))
    np.testing.assert_array_equal(stuff, np.digitize(grey, limits))


def test_both_rounds_train_are_evaluated_and_reported(run: Path) -> None:
    rounds = read_json(run / "run/rounds.json")["rounds"]
    assert [each["round"] for each in rounds] == [0, 1]
    assert all(0 <= each["semantic"]["mIoU"] <= 100 for each in rounds)
    assert (run / "run/report.html").is_file()
    assert len(list((run / "run").glob("**/predictions/pictures/*.png"))) >= PHOTOGRAPHS


def test_the_same_command_goes_on_and_changes_nothing(run: Path) -> None:
    before = files(run / "run", "**/model_final.pth") | files(run / "run", "**/instances.json")
    assert len(before) >= 2
    u2seg.run(run / "photos", run / "run", RECIPE)
    after = files(run / "run", "**/model_final.pth") | files(run / "run", "**/instances.json")
    assert after == before


def test_worker_processes_make_the_same_labels(run: Path, tmp_path: Path) -> None:
    words = ["label", "--config-file", str(RECIPE), "--images", str(run / "photos")]
    words += ["--workers", "2", "--output-dir", str(tmp_path / "two")]
    done = subprocess.run(
        [sys.executable, "-m", "u2seg", *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    for pattern in ("masks/part-*.json", "semantics/*.png", "panoptic/instances.json"):
        made: Any = files(tmp_path / "two", pattern)
        assert made
        assert made == files(run / "run/labels", pattern)
