"""Files that break image pipelines: each is labelled rightly or listed with its reason."""

from __future__ import annotations

import json
import re
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from PIL import Image

from tests.faults.harness import forkserver
from tests.pipeline.conftest import FAST, label
from tests.shared import SHARED, needs_shared
from u2seg.config.load import load_settings
from u2seg.io.jsonfile import read_json
from u2seg.io.memory import peak_gb
from u2seg.labels.check import check_labels

FILES = SHARED / "data" / "hard_inputs" / "files"
SKIPPED = {
    "truncated.jpg": "truncated",
    "zero_byte.jpg": "empty",
    "text_renamed.jpg": "not an image",
    "bomb_30000x30000.png": "too large",
    "corrupt_huffman.jpg": "damaged JPEG",
}
UNICODE = "Ünïcode näme – 山の写真 (1) ☃ copy.jpg"
SIZES = {"one_pixel.png": (1, 1), "thin_7x4000.png": (4000, 7), "animated.gif": (120, 160)}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("hard")
    settings = load_settings(None, FAST)
    return label(settings, FILES, output)


@pytest.mark.shared
@needs_shared("data", "hard_inputs")
def test_bad_files_are_listed_with_their_reason(run: Path) -> None:
    lines = [json.loads(line) for line in (run / "skipped.jsonl").read_text().splitlines()]
    assert {line["file_name"] for line in lines} == set(SKIPPED)
    for line in lines:
        assert re.search(SKIPPED[line["file_name"]], line["reason"]), line


@pytest.mark.shared
@needs_shared("data", "hard_inputs")
def test_the_others_are_labelled_at_their_upright_size(run: Path) -> None:
    records = {r["file_name"]: r for r in read_json(run / "images.json")["images"]}
    assert UNICODE in records
    for path in FILES.iterdir():
        if path.name not in SKIPPED:
            expected = SIZES.get(path.name, (240, 320))
            assert (records[path.name]["height"], records[path.name]["width"]) == expected
    assert check_labels(run / "panoptic")["images"] == len(records) == 11


def label_and_tell_peak(images: Path, output: Path, told: Connection) -> None:
    settings = load_settings(None, FAST)
    label(settings, images, output, "masks")
    told.send(peak_gb())


@pytest.mark.slow
def test_a_bomb_costs_no_more_memory_than_a_normal_run(photos: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for path in photos.glob("*.png"):
        (folder / path.name).write_bytes(path.read_bytes())

    def peak(name: str) -> float:
        mine, theirs = forkserver().Pipe(duplex=False)
        process = forkserver().Process(
            target=label_and_tell_peak, args=(folder, tmp_path / name, theirs)
        )
        process.start()
        theirs.close()
        found = float(mine.recv())
        process.join()
        return found

    normal = peak("normal")
    Image.new("1", (20_000, 20_000)).save(folder / "bomb.png")  # 400 Mpx in 50 kB
    Image.new("1", (9_000, 9_000)).save(folder / "small bomb.png")  # below Pillow's own limit
    assert peak("bombed") < 1.5 * normal
    lines = (tmp_path / "bombed/skipped.jsonl").read_text().splitlines()
    reasons = [json.loads(line) for line in lines]
    assert {r["file_name"] for r in reasons} == {"bomb.png", "small bomb.png"}
    assert all("too large" in r["reason"] for r in reasons)
