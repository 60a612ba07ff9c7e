"""Features and sizes that break cuts: a clean result, or one line in ``skipped.jsonl``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.factories import seen, with_values
from tests.pipeline.conftest import changed, label
from u2seg.config.schema import MaskSettings, Settings
from u2seg.features import filter_bank
from u2seg.io.jsonfile import read_json
from u2seg.labels.check import check_labels
from u2seg.masks import ncut
from u2seg.masks.base import MASK_PROPOSERS
from u2seg.structures.features import ImageInputs, PatchFeatures

CUTS = ["maskcut", "tokencut"]
PIXEL = np.zeros((1, 1, 3), np.uint8)


def propose(grid: np.ndarray, proposer: str, **changes: object) -> list[np.ndarray]:
    features = PatchFeatures(grid.astype(np.float32), (8 * grid.shape[1], 8 * grid.shape[2]))
    settings = with_values(MaskSettings(), proposer=proposer, **changes)
    own = MASK_PROPOSERS.own(proposer, settings)
    return [mask.grid for mask in MASK_PROPOSERS.get(proposer)(seen(features, PIXEL, "key"), own)]


def test_a_tile_without_finite_features_only_loses_its_masks(
    settings: Settings, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second pass fails on every tile: the first pass's masks stand, nothing is skipped."""
    once = label(settings, photos, tmp_path / "a", "masks")
    whole = filter_bank.FilterBank._one

    def spoiled(self, image, *asked):  # type: ignore[no-untyped-def]
        return ImageInputs(image) if image.shape[0] == 55 else whole(self, image, *asked)

    monkeypatch.setattr(filter_bank.FilterBank, "_one", spoiled)
    tiled = changed(settings, "masks", tiles=2)
    run = label(tiled, photos, tmp_path / "b", "masks")
    assert (run / "skipped.jsonl").read_text() == ""
    for part in once.glob("masks/part-*.json"):
        assert read_json(run / "masks" / part.name) == read_json(part)


@pytest.mark.parametrize(
    ("resize", "changes"),
    [("square", {"proposer": "tokencut"}), ("keep", {"refiner": "dense_crf"})],
)
def test_extreme_sizes_go_through_all_stages(
    settings: Settings, photos: Path, tmp_path: Path, resize: str, changes: dict[str, object]
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for width, height in ((1, 1), (7, 4000), (4000, 7), (2, 3), (150, 90)):
        pixels = rng.integers(0, 255, (height, width, 3)).astype(np.uint8)
        pixels[: height // 2, : width // 2] //= 4
        Image.fromarray(pixels).save(folder / f"{width} x {height}.png")
    (folder / "scene.png").write_bytes((photos / "scene 0.png").read_bytes())
    wanted = changed(settings, "masks", tiles=2, **changes)
    wanted = changed(changed(wanted, "clusters", num_clusters=1), "features", resize=resize)
    run = label(wanted, folder, tmp_path / "out")
    assert (run / "skipped.jsonl").read_text() == ""
    records = {r["id"]: r for r in read_json(run / "images.json")["images"]}
    assert len(records) == 6
    for path in run.glob("masks/part-*.json"):
        for entry in read_json(path):
            record = records[entry["image_id"]]
            assert entry["segmentation"]["size"] == [record["height"], record["width"]]
            assert entry["area"] > 0
    assert check_labels(run / "panoptic")["images"] == 6


@pytest.mark.parametrize("proposer", CUTS)
@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (2, 1), (1, 7), (2, 2)])
@pytest.mark.parametrize("painted", ["isolate", "exclude"])
@pytest.mark.parametrize("rule", ["stop", "released"])
def test_fewer_patches_than_masks_asked(
    proposer: str, shape: tuple[int, int], painted: str, rule: str
) -> None:
    for seed in range(3):
        grid = np.random.default_rng(seed).standard_normal((3, *shape))
        masks = propose(grid, proposer, num_masks=20, painted=painted, rule=rule, min_area=0.0)
        assert len(masks) <= shape[0] * shape[1]
        total = np.zeros(shape, dtype=int)
        for mask in masks:
            assert mask.any()
            total += mask
        assert total.max(initial=0) <= 1, "disjoint"


@pytest.mark.parametrize("proposer", CUTS)
@pytest.mark.parametrize("tau", [0.15, -0.5])
def test_zero_norm_patches_are_like_nothing(proposer: str, tau: float) -> None:
    grid = np.zeros((2, 6, 6))
    grid[0, 1:3, 1:3] = 1  # one blob; all the rest has no direction
    with np.errstate(all="raise"):
        masks = propose(grid, proposer, tau=tau)
    assert all(mask.shape == (6, 6) and mask.any() for mask in masks)
    if tau > 0:
        assert propose(np.zeros((2, 6, 6)), proposer, tau=tau) == []


@pytest.mark.parametrize("proposer", CUTS)
@pytest.mark.parametrize(("value", "tau"), [(1, 0.15), (-1, -1.0)])
def test_one_direction_everywhere_is_no_object(proposer: str, value: int, tau: float) -> None:
    assert propose(np.full((3, 5, 5), value), proposer, tau=tau) == []


def test_a_warning_names_the_image_whose_cut_did_not_converge(
    settings: Settings,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(ncut, "MAX_STEPS", 2)
    monkeypatch.setattr(ncut, "DENSE_LIMIT", 4)
    run = label(settings, photos, tmp_path / "out", "masks")
    told = [r.getMessage() for r in caplog.records if "did not converge" in r.getMessage()]
    for record in read_json(run / "images.json")["images"]:
        assert any(t.startswith(record["file_name"] + ": the cut of 64 patches") for t in told), (
            record
        )
    assert all(t.endswith("in 2 steps; solved densely instead") for t in told)
