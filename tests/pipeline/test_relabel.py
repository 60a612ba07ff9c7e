"""Rounds of self-training on a few scenes, with a made-up teacher."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from tests.pipeline.conftest import label, tree
from u2seg.config.rounds import AgreeSettings
from u2seg.config.schema import RoundSettings, Settings
from u2seg.errors import UserError
from u2seg.io.jsonfile import read_json
from u2seg.io.png import read_panoptic_png
from u2seg.labels import LabelFolder
from u2seg.pipeline.relabel_stage import relabel_images
from u2seg.structures.masks import InstanceMask
from u2seg.structures.segmentation import Segmentation


@dataclass
class LeftHalf:
    """Says that the left half is a thing of cluster 2 and the rest stuff 1."""

    score: float = 0.9
    name: str = "left"
    calls: int = 0
    fail_at: int = -1

    def __call__(self, image: np.ndarray) -> Segmentation:
        self.calls += 1
        if self.calls == self.fail_at:
            raise KeyboardInterrupt
        size = image.shape[:2]
        mask = np.zeros(size, dtype=bool)
        mask[:, : size[1] // 2] = True
        stuff = np.where(mask, 0, 2).astype(np.uint8)
        masks = (InstanceMask.from_array(mask, self.score, cluster=2),)
        return Segmentation(size, masks, stuff, np.ones(size, dtype=np.float32))

    def fingerprint(self) -> dict[str, str]:
        return {"weights": self.name}


@pytest.fixture(scope="module")
def labels(photos: Path, settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("labels")
    return label(settings, photos, output)


def test_a_sure_teacher_s_labels_are_a_label_folder(
    photos: Path, settings: Settings, labels: Path, tmp_path: Path
) -> None:
    output = relabel_images(settings, photos, tmp_path / "1", labels, LeftHalf(), 1, progress=False)
    assert LabelFolder.open(output).space == LabelFolder.open(labels).space
    for record in LabelFolder.open(output).records():
        found = {s["category_id"]: s["area"] for s in record["segments_info"]}
        half = record["height"] * record["width"] // 2
        assert found[3] == half
        ids = read_panoptic_png(Path(record["pan_seg_file_name"]))
        (left,) = np.unique(ids[:, : record["width"] // 2])
        assert next(s for s in record["segments_info"] if s["id"] == left)["category_id"] == 3
        # What the teacher left of the stuff: cluster 1 is category K + 2.
        assert set(found) <= {1, 2, 3, 3 + 2}
    counts = read_json(output / "panoptic" / "manifest.json")["counts"]
    assert counts["predicted"] == counts["images"] == 5
    assert counts["stuff_changed"] > 0


def test_a_teacher_without_conviction_changes_nothing(
    photos: Path, settings: Settings, labels: Path, tmp_path: Path
) -> None:
    quiet = replace(settings, rounds=RoundSettings(agree=AgreeSettings(stuff_score=1.0)))
    output = relabel_images(quiet, photos, tmp_path / "1", labels, LeftHalf(0.1), 1, progress=False)
    for old, new in zip(
        LabelFolder.open(labels).records(), LabelFolder.open(output).records(), strict=True
    ):
        before, after = (
            {s["category_id"]: s["area"] for s in r["segments_info"] if s["category_id"] <= 3}
            for r in (old, new)
        )
        assert before == after


def test_an_interrupted_round_goes_on_and_yields_the_same_bytes(
    photos: Path, settings: Settings, labels: Path, tmp_path: Path
) -> None:
    once, twice = tmp_path / "once", tmp_path / "twice"
    relabel_images(settings, photos, once, labels, LeftHalf(), 1, progress=False)
    with pytest.raises(KeyboardInterrupt):
        relabel_images(settings, photos, twice, labels, LeftHalf(fail_at=4), 1, progress=False)
    assert not (twice / "panoptic" / "manifest.json").exists()
    again = LeftHalf()
    relabel_images(settings, photos, twice, labels, again, 1, progress=False)
    assert again.calls == 3  # two of five images, one shard, were done
    ours, theirs = (
        {
            name: data
            for name, data in tree(folder).items()
            if "ledger" not in name and name != ".lock"
        }
        for folder in (once, twice)
    )
    assert ours == theirs


def test_other_teachers_rounds_and_photographs_are_not_mixed(
    photos: Path, settings: Settings, labels: Path, tmp_path: Path
) -> None:
    output = tmp_path / "1"
    relabel_images(settings, photos, output, labels, LeftHalf(), 1, progress=False)
    with pytest.raises(UserError, match="made with other teacher"):
        relabel_images(settings, photos, output, labels, LeftHalf(name="r"), 1, progress=False)
    with pytest.raises(UserError, match="made with other round"):
        relabel_images(settings, photos, output, labels, LeftHalf(), 2, progress=False)
    fewer = tmp_path / "fewer"
    shutil.copytree(photos, fewer)
    next(fewer.rglob("*.png")).unlink()
    with pytest.raises(UserError, match="photographs must stay as they are"):
        relabel_images(settings, fewer, tmp_path / "2", labels, LeftHalf(), 1, progress=False)
    with pytest.raises(UserError, match="holds no finished labels"):
        relabel_images(settings, photos, tmp_path / "3", tmp_path, LeftHalf(), 1, progress=False)


def test_a_photograph_that_breaks_keeps_its_label(
    photos: Path, settings: Settings, tmp_path: Path
) -> None:
    mine = tmp_path / "photos"
    shutil.copytree(photos, mine)
    labels = label(settings, mine, tmp_path / "labels")
    output = tmp_path / "1"

    class Vandal(LeftHalf):
        """Breaks a photograph after the list of images was made."""

        def __call__(self, image: np.ndarray) -> Segmentation:
            (mine / "scene 4.png").write_bytes(b"no picture")
            return super().__call__(image)

    relabel_images(settings, mine, output, labels, Vandal(), 1, progress=False)
    assert "scene 4.png" in (output / "skipped.jsonl").read_text()
    old, new = (
        {Path(r["file_name"]).name: r["segments_info"] for r in LabelFolder.open(folder).records()}
        for folder in (labels, output)
    )
    things = [
        sorted((s["category_id"], s["area"]) for s in names["scene 4.png"] if s["category_id"] <= 3)
        for names in (old, new)
    ]
    assert things[0] == things[1]
    assert len(new) == 5
