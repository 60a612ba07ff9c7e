"""The stage around the segmenters: what it keeps, reuses, and refuses."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import u2seg.semantics.neighbors
from tests.pipeline import conftest
from tests.pipeline.conftest import tree
from u2seg.config.schema import Settings
from u2seg.errors import UserError
from u2seg.io.images import read_image
from u2seg.io.png import read_label_png
from u2seg.io.sources import open_source
from u2seg.pipeline.semantic_stage import ImageFeatures
from u2seg.pipeline.stage import RunContext
from u2seg.pipeline.workspace import Workspace


def changed(settings: Settings, **values: Any) -> Settings:
    return conftest.changed(settings, "semantics", **values)


def label(settings: Settings, photos: Path, output: Path, **options: Any) -> Path:
    return conftest.label(settings, photos, output, "semantics", **options)


def maps(run: Path) -> dict[str, bytes]:
    found = tree(run / "semantics")
    return {name: content for name, content in found.items() if name.endswith(".png")}


def features_of(settings: Settings, photos: Path, run: Path) -> ImageFeatures:
    source = open_source(photos, settings.images.extensions)
    context = RunContext(settings, Workspace(run), source, progress=False)
    return ImageFeatures(context)


def test_a_fitted_model_labels_other_photographs(
    photos: Path, settings: Settings, run: Path, tmp_path: Path
) -> None:
    """As in an evaluation: fit on some images, label others. Here the same, so maps are equal."""
    model = run / "semantics" / "model.safetensors"
    again = label(changed(settings, model=str(model)), photos, tmp_path / "again")
    assert maps(again) == maps(run) and len(maps(run)) == 5
    assert (again / "semantics/model.safetensors").read_bytes() == model.read_bytes()
    assert not (again / "semantics/losses.json").exists()
    assert not (again / "semantics/neighbors.safetensors").exists()


def test_results_of_two_models_are_never_mixed(
    photos: Path, settings: Settings, run: Path, tmp_path: Path
) -> None:
    model = tmp_path / "model.safetensors"
    model.write_bytes((run / "semantics/model.safetensors").read_bytes())
    label(changed(settings, model=str(model)), photos, tmp_path / "out")
    other = label(changed(settings, seed=1), photos, tmp_path / "other")
    model.write_bytes((other / "semantics/model.safetensors").read_bytes())
    with pytest.raises(UserError, match="made with other model"):
        label(changed(settings, model=str(model)), photos, tmp_path / "out")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model": "none.safetensors"}, r"none.safetensors does not exist.*SEMANTICS.MODEL"),
        ({"segmenter": "kmeans_probe"}, "not a saved kmeans_probe model"),
        ({"num_classes": 4}, "has 3 stuff clusters, .*NUM_CLASSES asks for 4"),
    ],
)
def test_a_model_that_does_not_fit_is_refused_before_anything_is_made(
    photos: Path, settings: Settings, run: Path, tmp_path: Path, values: dict, message: str
) -> None:
    model = {"model": str(run / "semantics/model.safetensors")}
    with pytest.raises(UserError, match=message):
        label(changed(settings, **{**model, **values}), photos, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_neighbours_survive_an_interruption(
    photos: Path, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = label(settings, photos, tmp_path / "run")
    before = tree(whole)
    for path in (whole / "semantics").rglob("*"):
        if path.is_file() and path.name not in ("plan.json", "neighbors.safetensors"):
            path.unlink()  # what a run leaves that was killed while it trained

    def searched(*_: object) -> None:
        raise AssertionError("the neighbours were searched again")

    monkeypatch.setattr(u2seg.semantics.neighbors, "nearest_images", searched)
    label(settings, photos, tmp_path / "run")
    assert tree(whole) == before
    (whole / "semantics/neighbors.safetensors").unlink()
    with pytest.raises(AssertionError, match="searched again"):
        label(settings, photos, tmp_path / "run", overwrite=True)


def test_the_key_of_the_neighbours_follows_the_features(
    photos: Path, settings: Settings, run: Path
) -> None:
    first = features_of(settings, photos, run).key()
    assert features_of(settings, photos, run).key() == first
    assert features_of(changed(settings, crops="five"), photos, run).key() != first
    assert features_of(changed(settings, resample="nearest"), photos, run).key() != first
    sharper = dataclasses.replace(settings.features, image_size=96)
    assert features_of(dataclasses.replace(settings, features=sharper), photos, run).key() != first


def test_five_crops_are_five_images(photos: Path, settings: Settings, run: Path) -> None:
    source = features_of(changed(settings, crops="five"), photos, run)
    assert len(source) == 25
    image = read_image(photos / source.records[1]["file_name"])
    (inputs,) = source.context.extractor.extract([image[48:, :48]], ("token",))  # 96 a side
    corner = inputs.facets["token"].grid
    assert np.array_equal(source[5 + 2], corner)
    assert [grid.shape for grid in source] == [corner.shape] * 25


def test_k_means_labels_through_the_same_stage(
    photos: Path, settings: Settings, tmp_path: Path
) -> None:
    quick = changed(settings, segmenter="kmeans_probe")
    run = label(quick, photos, tmp_path / "a")
    found = np.stack([read_label_png(run / "semantics" / name) for name in sorted(maps(run))])
    assert np.unique(found).tolist() == [0, 1, 2]
    assert maps(label(quick, photos, tmp_path / "b")) == maps(run)
    assert (run / "semantics/losses.json").read_text().strip() == "{}"
