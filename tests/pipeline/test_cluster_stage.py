"""The cluster stage: every descriptor and transform end to end, saved centroids, quality."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.pipeline import conftest
from tests.pipeline.conftest import changed
from u2seg.clusters.describe import center_square, mask_crops
from u2seg.clusters.persist import load_centroids
from u2seg.clusters.rows import FileRows
from u2seg.config.schema import Settings
from u2seg.errors import UserError
from u2seg.features import build_extractor
from u2seg.io.images import read_image
from u2seg.io.jsonfile import read_json
from u2seg.pipeline.workspace import Workspace, shard_assignments
from u2seg.shards.attempts import Part
from u2seg.structures.masks import InstanceMask


def label(settings: Settings, photos: Path, output: Path, size: int = 2, **keys: Any) -> Path:
    wanted = changed(changed(settings, "clusters", **keys), "run", shard_size=size)
    return conftest.label(wanted, photos, output, "masks", "clusters")


def ids(run: Path) -> list[int]:
    shards = len(list((run / "masks").glob("part-*.json")))
    return [i for shard in range(shards) for i in shard_assignments(Workspace(run), shard)]


def test_neither_shard_size_nor_streaming_changes_a_cluster(
    run: Path, photos: Path, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FileRows, "resident", lambda self: self)
    other = label(settings, photos, tmp_path, size=3)
    for name in ("centroids.npy", "centroids.json", "quality.json"):
        assert (other / "clusters" / name).read_bytes() == (run / "clusters" / name).read_bytes()
    assert ids(other) == ids(run)


def test_quality_counts_what_was_assigned(run: Path) -> None:
    found = read_json(run / "clusters/quality.json")
    sizes = np.bincount(ids(run), minlength=3)
    assert (found["descriptors"], found["clusters"]) == (len(ids(run)), 3)
    assert (found["sizes"]["min"], found["sizes"]["max"]) == (sizes.min(), sizes.max())
    assert found["empty"] == np.flatnonzero(sizes == 0).tolist()
    manifest = read_json(run / "clusters/manifest.json")
    assert manifest["counts"] == {
        "masks": len(ids(run)),
        "clusters": 3,
        "clusters_used": int((sizes > 0).sum()),
    }


@pytest.mark.parametrize("descriptor", ["crop_cls", "masked_crop"])
def test_crops_are_described_as_the_settings_say(
    descriptor: str, photos: Path, settings: Settings, tmp_path: Path
) -> None:
    keys: dict[str, Any] = {"padding": 0.25, "fit": "center"}
    made = label(settings, photos, tmp_path, descriptor=descriptor, resample="bilinear", **keys)
    (first, *_) = read_json(made / "images.json")["images"]
    results = [r for r in read_json(made / "masks/part-00000.json") if r["image_id"] == first["id"]]
    masks = [InstanceMask.from_result(r).to_array() for r in results]
    image = read_image(photos / first["file_name"])
    paint = descriptor == "masked_crop"
    crops = mask_crops(image, masks, padding=0.25, paint=paint)
    extractor = build_extractor(settings.features)
    side = round(settings.features.image_size / extractor.patch_size) * extractor.patch_size
    squares = [center_square(crop, side, Image.Resampling.BILINEAR) for crop in crops]
    wanted = np.stack([inputs.cls for inputs in extractor.extract(squares, ("cls",))])
    found = np.load(made / "clusters/part-00000.npy")[: len(masks)]
    np.testing.assert_array_equal(found, wanted)
    note = read_json(made / "clusters/centroids.json")
    assert (note["descriptor"], note["crop_padding"]) == (descriptor, 0.25)
    assert note["crop_resample"] == "bilinear"


def test_a_pca_is_used_again_with_its_centroids(
    photos: Path, settings: Settings, tmp_path: Path
) -> None:
    keys: dict[str, Any] = {"whiten": "pca", "pca": 4, "normalize": False}
    first = label(settings, photos, tmp_path / "first", **keys)
    saved = first / "clusters/centroids.npy"
    found = load_centroids(saved)
    assert found.array.shape == (3, 4)
    points = found.transform(np.concatenate([np.load(p) for p in parts(first)]))
    np.testing.assert_allclose(np.cov(points.T, bias=True), np.eye(4), atol=1e-3)
    again = label(settings, photos, tmp_path / "again", centroids=str(saved), **keys)
    assert ids(again) == ids(first)
    with pytest.raises(UserError, match=r"made with U2SEG\.CLUSTERS\.PCA 4, now it is 3"):
        label(settings, photos, tmp_path / "c", centroids=str(saved), **{**keys, "pca": 3})
    assert not (tmp_path / "c").exists()


def test_too_large_a_pca_is_refused_before_any_descriptor_is_made(
    photos: Path, settings: Settings, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"PCA is 9999, but descriptors have \d+ dimensions"):
        label(settings, photos, tmp_path, pca=9999)
    assert parts(tmp_path) == []


def parts(run: Path) -> list[Path]:
    return sorted((run / "clusters").glob("part-*.npy"))


def test_shards_are_assigned_to_the_centroids_in_the_file(
    run: Path, photos: Path, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from u2seg.pipeline.cluster_stage import ClusterStage

    original = ClusterStage._assign

    def killed(self: ClusterStage, part: Part) -> list[Path]:
        if part.index == 1:
            raise KeyboardInterrupt
        return original(self, part)

    monkeypatch.setattr(ClusterStage, "_assign", killed)
    with pytest.raises(KeyboardInterrupt):
        label(settings, photos, tmp_path)
    fitted = (tmp_path / "clusters/centroids.npy").stat().st_mtime_ns
    assert not Workspace(tmp_path).assigned(1).exists()
    monkeypatch.setattr(ClusterStage, "_assign", original)
    label(settings, photos, tmp_path)
    assert (tmp_path / "clusters/centroids.npy").stat().st_mtime_ns == fitted
    assert ids(tmp_path) == ids(run)


@pytest.mark.parametrize(
    ("damage", "message"),
    [(b"", "cannot be read"), (None, "cannot be read"), (np.zeros(2), r"must hold \(n,\) int32")],
)
def test_damaged_assignments_are_named(tmp_path: Path, damage: Any, message: str) -> None:
    path = Workspace(tmp_path).assigned(7)
    path.parent.mkdir()
    if isinstance(damage, bytes):
        path.write_bytes(damage)
    elif damage is not None:
        np.save(path, damage)
    with pytest.raises(UserError, match=message) as error:
        shard_assignments(Workspace(tmp_path), 7)
    assert "assigned-00007.npy" in str(error.value)
