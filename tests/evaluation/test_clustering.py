"""Clusters against classes: hand-computed, beside scikit-learn, and read from runs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from sklearn.metrics import normalized_mutual_info_score

from u2seg.errors import UserError
from u2seg.evaluation.label_quality import (
    MaskTruth,
    format_cluster_scores,
    score_clusters,
    true_classes,
)
from u2seg.evaluation.metrics.clustering import cluster_scores

SIZE = (10, 10)


def rle(top: int, left: int, height: int, width: int) -> dict:
    mask = np.zeros(SIZE, dtype=np.uint8, order="F")
    mask[top : top + height, left : left + width] = 1
    found = coco_mask.encode(mask)
    return {"size": list(SIZE), "counts": found["counts"].decode("ascii")}


def test_figures_by_hand() -> None:
    # Cluster 0: 3 of class 7, 1 of 8. Cluster 1: 2 of class 7. Cluster 2: 1 of class 8.
    clusters = np.array([0, 0, 0, 0, 1, 1, 2])
    classes = np.array([7, 7, 7, 8, 7, 7, 8])
    found = cluster_scores(clusters, classes)
    assert found["purity"] == pytest.approx(100 * (3 + 2 + 1) / 7)
    # One to one: 0 -> 7 and 2 -> 8; cluster 1 is left over.
    assert found["matched_accuracy"] == pytest.approx(100 * (3 + 1) / 7)
    nmi = normalized_mutual_info_score(classes, clusters)
    assert found["NMI"] == pytest.approx(100 * nmi)


def test_agreement_is_100_and_independence_0() -> None:
    ids = np.array([4, 4, 9, 9, 2])
    assert cluster_scores(ids, ids * 10) == {
        "NMI": pytest.approx(100),
        "ARI": 100,
        "purity": 100,
        "matched_accuracy": 100,
    }
    found = cluster_scores(np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1]))
    # No pair is together in both, 2 / 3 are expected by chance: (0 - 2/3) / (2 - 2/3).
    assert found.pop("ARI") == pytest.approx(-50)
    assert found == {"NMI": pytest.approx(0), "purity": 50, "matched_accuracy": 50}
    assert cluster_scores(np.zeros(3, int), np.zeros(3, int))["NMI"] == 100


def test_random_tables_as_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        clusters, classes = rng.integers(0, 12, 100), rng.integers(0, 5, 100)
        wanted = normalized_mutual_info_score(classes, clusters)
        assert cluster_scores(clusters, classes)["NMI"] == pytest.approx(100 * wanted)


@pytest.mark.parametrize("classes", [np.zeros(2, int), np.zeros(0, int)])
def test_other_lengths_are_refused(classes: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"expected \(n,\)"):
        cluster_scores(np.zeros(len(classes) and 3, int), classes)


def _instance(image: int, category: int, crowd: int, mask: dict) -> dict:
    return {"image_id": image, "category_id": category, "iscrowd": crowd, "segmentation": mask}


def test_a_mask_has_the_class_of_the_instance_it_overlaps_most() -> None:
    truth = MaskTruth(
        Path("x"),
        ({"id": 1}, {"id": 2}),
        (
            _instance(1, 5, 0, rle(0, 0, 10, 4)),
            _instance(1, 6, 0, rle(0, 4, 10, 6)),
            _instance(2, 8, 1, rle(0, 0, 10, 10)),
        ),
    )
    masks = [
        {"image_id": 1, "segmentation": rle(0, 0, 10, 5)},  # 40 / 50 of class 5, 10 / 100 of 6
        {"image_id": 1, "segmentation": rle(0, 4, 5, 6)},  # 30 / 60 of class 6: just enough
        {"image_id": 1, "segmentation": rle(0, 4, 4, 6)},  # 24 / 60
        {"image_id": 2, "segmentation": rle(0, 0, 10, 10)},  # a crowd is no instance
    ]
    assert true_classes(masks, truth, 0.5).tolist() == [5, 6, -1, -1]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run of two parts beside ``truth.json``; every mask is a true instance."""
    names = {1: "a.png", 2: "b.png"}
    images = [{"id": i, "file_name": n, "height": 10, "width": 10} for i, n in names.items()]
    run = tmp_path / "run"
    (run / "masks").mkdir(parents=True)
    (run / "clusters").mkdir()
    (run / "images.json").write_text(json.dumps({"images": images}))
    annotations = []
    for image in (1, 2):
        masks = [rle(0, 0, 5, 5), rle(5, 5, 5, 5)]
        results = [
            {"image_id": image, "category_id": 1, "score": 1.0, "segmentation": mask,
             "bbox": [0, 0, 5, 5], "area": 25}
            for mask in masks
        ]  # fmt: skip
        (run / f"masks/part-0000{image - 1}.json").write_text(json.dumps(results))
        np.save(run / f"clusters/assigned-0000{image - 1}.npy", np.int32([3, image]))
        annotations += [
            {**r, "id": 10 * image + k, "category_id": k + 1, "iscrowd": 0}
            for k, r in enumerate(results)
        ]
    truth = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 1, "name": "one"}, {"id": 2, "name": "two"}],
    }
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    return run


def test_clusters_of_a_run_are_read_part_by_part(folder: Path) -> None:
    found = score_clusters(folder, folder.parent / "truth.json")
    counts = [found[key] for key in ("masks", "with_class", "clusters", "classes")]
    assert counts == [4, 4, 3, 2]
    # Cluster 3 holds both masks of class 1; clusters 1 and 2 one each of class 2.
    assert found["scores"]["purity"] == 100
    assert found["scores"]["matched_accuracy"] == 75
    text = format_cluster_scores(found)
    assert "4 of 4 masks have a class (IoU 0.5): 3 clusters, 2 classes" in text
    assert "shuffled" in text


def test_a_run_without_clusters_is_told(folder: Path) -> None:
    for path in (folder / "clusters").iterdir():
        path.unlink()
    with pytest.raises(UserError, match=r"holds no clusters: run .* --stages clusters"):
        score_clusters(folder, folder.parent / "truth.json")


def test_clusters_of_other_masks_are_told(folder: Path) -> None:
    np.save(folder / "clusters/assigned-00001.npy", np.int32([1, 2, 3]))
    with pytest.raises(UserError, match=r"assigned-00001\.npy holds \(3,\) cluster ids"):
        score_clusters(folder, folder.parent / "truth.json")
    (folder / "clusters/assigned-00001.npy").write_bytes(b"x")
    with pytest.raises(UserError, match="not a readable"):
        score_clusters(folder, folder.parent / "truth.json")


def test_no_match_no_score(folder: Path) -> None:
    with pytest.raises(UserError, match=r"none of the 4 masks .* IoU 1\.1"):
        score_clusters(folder, folder.parent / "truth.json", match_iou=1.1)
