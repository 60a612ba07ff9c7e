"""The stage ``masks`` with other sources than MaskCut: TokenCut, tiles, a detector."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from u2seg.config.schema import MaskSettings, Settings
from u2seg.errors import UserError
from u2seg.io.jsonfile import read_json
from u2seg.pipeline import generate_labels
from u2seg.structures.masks import InstanceMask, decode_mask


def with_masks(settings: Settings, **changes: Any) -> Settings:
    return dataclasses.replace(settings, masks=dataclasses.replace(settings.masks, **changes))


def results(run: Path) -> list[dict[str, Any]]:
    return [entry for p in sorted(run.glob("masks/part-*.json")) for entry in read_json(p)]


class Corner:
    """A detector that finds the upper left 8 x 12 pixels of anything, with the score 0.5."""

    def __init__(self, version: str = "1") -> None:
        self.version = version
        self.seen: list[tuple[int, ...]] = []

    def __call__(self, image: npt.NDArray[np.uint8]) -> list[InstanceMask]:
        self.seen.append(image.shape)
        mask = np.zeros(image.shape[:2], dtype=bool)
        mask[:8, :12] = True
        return [InstanceMask.from_array(mask, 0.5)]

    def fingerprint(self) -> dict[str, str]:
        return {"version": self.version}


def test_tokencut_gives_one_mask_per_image(
    settings: Settings, photos: Path, tmp_path: Path
) -> None:
    wanted = with_masks(settings, proposer="tokencut")
    run = generate_labels(wanted, photos, tmp_path / "run", progress=False)
    images = [entry["image_id"] for entry in results(run)]
    assert images and len(set(images)) == len(images)
    assert (run / "manifest.json").is_file()


def test_a_detector_s_masks_go_through_all_stages(
    settings: Settings, photos: Path, tmp_path: Path
) -> None:
    wanted = with_masks(settings, proposer="cutler")
    detector = Corner()
    run = generate_labels(wanted, photos, tmp_path / "run", progress=False, detector=detector)
    assert detector.seen == [(96, 96, 3)] * 5
    found = results(run)
    assert [entry["bbox"] for entry in found] == [[0.0, 0.0, 12.0, 8.0]] * 5
    assert {entry["score"] for entry in found} == {0.5}
    assert read_json(run / "masks/plan.json")["detector"] == {"version": "1"}
    things = read_json(run / "panoptic/panoptic.json")["annotations"]
    assert all(any(s["area"] == 96 for s in a["segments_info"]) for a in things)

    again = Corner()
    generate_labels(wanted, photos, run, progress=False, detector=again)
    assert again.seen == []
    with pytest.raises(UserError, match="other detector"):
        generate_labels(wanted, photos, run, progress=False, detector=Corner("2"))


def test_a_detector_that_nobody_gave_is_asked_for(
    settings: Settings, photos: Path, tmp_path: Path
) -> None:
    wanted = with_masks(settings, proposer="cutler")
    with pytest.raises(UserError, match=r"cutler needs a detector.*u2seg label"):
        generate_labels(wanted, photos, tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_a_detector_looks_at_tiles_too(settings: Settings, photos: Path, tmp_path: Path) -> None:
    """Of the 55 x 55 tiles from 0 and 41, the first finds the same, the others what is cut off."""
    wanted = with_masks(settings, proposer="cutler", tiles=2)
    detector = Corner()
    run = generate_labels(
        wanted, photos, tmp_path / "run", stages=["masks"], progress=False, detector=detector
    )
    assert detector.seen[:5] == [(96, 96, 3), *[(55, 55, 3)] * 4]
    assert len(results(run)) == 5


def test_tiles_keep_the_first_masks_and_add_small_new_ones(
    settings: Settings, photos: Path, tmp_path: Path
) -> None:
    """Smaller objects: N = 1 leaves some for the second pass."""
    once = with_masks(settings, num_masks=1)
    first = results(generate_labels(once, photos, tmp_path / "a", stages=["masks"], progress=False))
    twice = with_masks(once, tiles=2)
    both = results(generate_labels(twice, photos, tmp_path / "b", stages=["masks"], progress=False))
    added = [entry for entry in both if entry not in first]
    assert [entry for entry in both if entry in first] == first
    assert added
    for entry in added:
        mask = decode_mask(entry["segmentation"])
        others = [e for e in both if e["image_id"] == entry["image_id"] and e is not entry]
        under = np.any([decode_mask(e["segmentation"]) for e in others], axis=0)
        assert entry["area"] <= 0.25 * 55 * 55
        assert (mask & under).sum() <= 0.5 * mask.sum()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("tiles", 1, r"MASKS\.TILES is 1, expected 0 \(off\) or 2\.\.8"),
        ("detector_score", 1.5, r"MASKS\.DETECTOR_SCORE is 1\.5"),
        ("detector_nms", -0.1, r"MASKS\.DETECTOR_NMS is -0\.1"),
        ("tile_max_area", 2.0, r"MASKS\.TILE_MAX_AREA is 2\.0"),
    ],
)
def test_values_are_checked(key: str, value: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        MaskSettings(**{key: value})
