"""Features and sizes that break cuts: a clean result, or one line in ``skipped.jsonl``."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from u2seg.config.schema import MaskSettings, Settings
from u2seg.features import filter_bank
from u2seg.io.jsonfile import read_json
from u2seg.labels.check import check_labels
from u2seg.masks import ncut
from u2seg.masks.base import MASK_PROPOSERS
from u2seg.pipeline import generate_labels
from u2seg.structures.features import ImageInputs, PatchFeatures

CUTS = ["maskcut", "tokencut"]


def with_masks(settings: Settings, resize: str = "square", **changes: object) -> Settings:
    features = dataclasses.replace(settings.features, resize=resize)
    masks = dataclasses.replace(settings.masks, **changes)
    return dataclasses.replace(settings, features=features, masks=masks)


def propose(grid: np.ndarray, proposer: str, **changes: object) -> list[np.ndarray]:
    features = PatchFeatures(grid.astype(np.float32), (8 * grid.shape[1], 8 * grid.shape[2]))
    settings = MaskSettings(proposer=proposer, **changes)  # type: ignore[arg-type]
    return [mask.grid for mask in MASK_PROPOSERS.get(proposer)(features, settings)]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_features_that_are_not_finite_are_one_line_each(
    settings: Settings, photos: Path, tmp_path: Path, value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    lift = filter_bank.lift
    calls = []

    def spoiled(vector: np.ndarray) -> np.ndarray:
        lifted = lift(vector)
        calls.append(1)
        if vector[0].max() == vector[0].min():  # the uniform photograph
            lifted[0, 0, 0] = value
        return lifted

    monkeypatch.setattr(filter_bank, "lift", spoiled)
    folder = tmp_path / "in"
    folder.mkdir()
    for path in photos.glob("*.png"):
        (folder / path.name).write_bytes(path.read_bytes())
    Image.new("RGB", (90, 70), (9, 9, 9)).save(folder / "flat.png")
    run = generate_labels(settings, folder, tmp_path / "out", stages=["masks"], progress=False)
    lines = (run / "skipped.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"file_name": "flat.png", "reason": "its features are not finite", "stage": "masks"}
    ]
    assert calls and any(read_json(p) for p in run.glob("masks/part-*.json"))


def test_a_tile_without_finite_features_only_loses_its_masks(
    settings: Settings, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second pass fails on every tile: the first pass's masks stand, nothing is skipped."""
    once = generate_labels(settings, photos, tmp_path / "a", stages=["masks"], progress=False)
    whole = filter_bank.FilterBank._one

    def spoiled(self, image, *asked):  # type: ignore[no-untyped-def]
        return ImageInputs(image) if image.shape[0] == 55 else whole(self, image, *asked)

    monkeypatch.setattr(filter_bank.FilterBank, "_one", spoiled)
    tiled = with_masks(settings, tiles=2)
    run = generate_labels(tiled, photos, tmp_path / "b", stages=["masks"], progress=False)
    assert (run / "skipped.jsonl").read_text() == ""
    for part in once.glob("masks/part-*.json"):
        assert read_json(run / "masks" / part.name) == read_json(part)


@pytest.mark.parametrize("resize", ["square", "keep"])
@pytest.mark.parametrize("changes", [{}, {"proposer": "tokencut"}, {"refiner": "dense_crf"}])
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
    wanted = with_masks(settings, resize, tiles=2, **changes)
    wanted = dataclasses.replace(
        wanted, clusters=dataclasses.replace(wanted.clusters, num_clusters=1)
    )
    run = generate_labels(wanted, folder, tmp_path / "out", progress=False)
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
@pytest.mark.parametrize("tau", [0.15, -0.5])
def test_zero_norm_patches_are_like_nothing(proposer: str, tau: float) -> None:
    grid = np.zeros((2, 6, 6))
    grid[0, 1:3, 1:3] = 1  # one blob; all the rest has no direction
    with np.errstate(all="raise"):
        masks = propose(grid, proposer, tau=tau)
    for mask in masks:
        assert mask.shape == (6, 6) and mask.any()
    if tau > 0:
        assert propose(np.zeros((2, 6, 6)), proposer, tau=tau) == []


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
def test_one_direction_everywhere_is_no_object(proposer: str) -> None:
    """All patches alike: whatever bipartition a solver returned, all would be foreground."""
    assert propose(np.ones((3, 5, 5)), proposer) == []
    assert propose(-np.ones((3, 5, 5)), proposer, tau=-1.0) == []


def test_an_all_foreground_component_is_dropped_by_its_area() -> None:
    """A frame-filling object: one corner patch differs, the component is the rest."""
    grid = np.zeros((2, 5, 5))
    grid[0] = 1
    grid[:, 0, 0] = (0, 1)
    (mask, *_) = propose(grid, "maskcut", num_masks=1)
    assert mask.sum() in (1, 24)
    limited = propose(grid, "maskcut", num_masks=1, max_area=0.5)
    assert all(m.sum() == 1 for m in limited)


def test_a_warning_names_the_image_whose_cut_did_not_converge(
    settings: Settings,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(ncut, "MAX_STEPS", 2)
    monkeypatch.setattr(ncut, "DENSE_LIMIT", 4)
    run = generate_labels(settings, photos, tmp_path / "out", stages=["masks"], progress=False)
    told = [r.getMessage() for r in caplog.records if "did not converge" in r.getMessage()]
    for record in read_json(run / "images.json")["images"]:
        assert any(t.startswith(record["file_name"] + ": the cut of 64 patches") for t in told), (
            record
        )
    assert all(t.endswith("in 2 steps; solved densely instead") for t in told)
