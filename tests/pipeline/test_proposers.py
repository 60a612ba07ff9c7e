"""The stage ``masks`` with other sources than MaskCut: TokenCut, tiles, a detector."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from tests.pipeline.conftest import changed, label, masks_of
from u2seg.config.schema import Settings
from u2seg.errors import UserError
from u2seg.io.jsonfile import read_json
from u2seg.structures.masks import InstanceMask, decode_mask


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
    run = label(changed(settings, "masks", proposer="tokencut"), photos, tmp_path, "masks")
    images = [entry["image_id"] for entry in masks_of(run)]
    assert images and len(set(images)) == len(images)


@pytest.mark.parametrize("descriptor", ["masked_mean", "crop_cls"])
def test_a_detector_s_masks_go_through_all_stages(
    settings: Settings, photos: Path, tmp_path: Path, descriptor: str
) -> None:
    wanted = changed(settings, "masks", proposer="cutler")
    wanted = changed(wanted, "clusters", descriptor=descriptor, num_clusters=1)
    with pytest.raises(UserError, match=r"cutler needs a trained model"):
        label(wanted, photos, tmp_path / "none")
    detector = Corner()
    run = label(wanted, photos, tmp_path / "run", detector=detector)
    assert detector.seen == [(96, 96, 3)] * 5
    assert [entry["bbox"] for entry in masks_of(run)] == [[0.0, 0.0, 12.0, 8.0]] * 5
    assert {entry["score"] for entry in masks_of(run)} == {0.5}
    things = read_json(run / "panoptic/panoptic.json")["annotations"]
    assert all(any(s["area"] == 96 for s in a["segments_info"]) for a in things)
    with pytest.raises(UserError, match="other detector"):
        label(wanted, photos, run, detector=Corner("2"))


def test_tiles_keep_the_first_masks_and_add_small_new_ones(
    settings: Settings, photos: Path, tmp_path: Path
) -> None:
    """Smaller objects: N = 1 leaves some for the second pass."""
    once = changed(settings, "masks", num_masks=1)
    first = masks_of(label(once, photos, tmp_path / "a", "masks"))
    both = masks_of(label(changed(once, "masks", tiles=2), photos, tmp_path / "b", "masks"))
    added = [entry for entry in both if entry not in first]
    assert [entry for entry in both if entry in first] == first
    assert added
    for entry in added:
        mask = decode_mask(entry["segmentation"])
        others = [e for e in both if e["image_id"] == entry["image_id"] and e is not entry]
        under = np.any([decode_mask(e["segmentation"]) for e in others], axis=0)
        assert entry["area"] <= 0.25 * 55 * 55
        assert (mask & under).sum() <= 0.5 * mask.sum()
