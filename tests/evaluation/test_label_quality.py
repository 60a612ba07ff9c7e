"""Scores of masks, clusters and panoptic labels before any training."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from sklearn.metrics import normalized_mutual_info_score

from u2seg.errors import UserError
from u2seg.evaluation import GroundTruth
from u2seg.evaluation.label_quality import (
    SLIC_SEGMENTS,
    MaskTruth,
    best_ious,
    format_cluster_scores,
    format_mask_metrics,
    mask_metrics,
    read_mask_results,
    read_mask_truth,
    score_clusters,
    score_labels,
    score_masks,
    slic_superpixels,
    true_classes,
)
from u2seg.evaluation.metrics.clustering import cluster_scores
from u2seg.io.atomic import write_json
from u2seg.io.png import write_panoptic_png
from u2seg.structures.masks import InstanceMask, encode_mask

SIZE = (20, 40)


def not_crowds(records):
    return [record for record in records if not record["iscrowd"]]


def box_mask(top: int, left: int, height: int, width: int) -> np.ndarray:
    mask = np.zeros(SIZE, dtype=bool)
    mask[top : top + height, left : left + width] = True
    return mask


def truth_json(path: Path) -> Path:
    """Image 5: a 10 x 20 object in the middle and a crowd; image 6: one in the corner."""
    rows = [
        (5, box_mask(5, 10, 10, 20), 0),
        (5, box_mask(0, 0, 2, 40), 1),
        (6, box_mask(0, 0, 10, 10), 0),
    ]
    annotations = [
        {
            "id": n + 1,
            "image_id": image_id,
            "category_id": 3,
            "segmentation": encode_mask(mask),
            "area": int(mask.sum()),
            "bbox": [0, 0, 1, 1],
            "iscrowd": crowd,
        }
        for n, (image_id, mask, crowd) in enumerate(rows)
    ]
    images = [
        {"id": i, "file_name": f"{n}.png", "height": 20, "width": 40}
        for i, n in ((5, "a"), (6, "b"))
    ]
    categories = [{"id": 3, "name": "x"}]
    path.write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": categories})
    )
    return path


def results_of(masks: list[tuple[int, np.ndarray, float]]) -> list[dict[str, Any]]:
    return [InstanceMask.from_array(m, s).to_result(i) for i, m, s in masks]


@pytest.fixture
def truth_path(tmp_path: Path) -> Path:
    return truth_json(tmp_path / "instances.json")


def test_best_iou_by_hand(truth_path: Path) -> None:
    truth = read_mask_truth(truth_path)
    results = results_of([(5, box_mask(5, 10, 10, 10), 0.1), (5, box_mask(5, 10, 10, 15), 0.05)])
    # image 5: 100 / 200 and 150 / 200; image 6 has no mask; the crowd does not count
    assert best_ious(not_crowds(truth.annotations), results) == [0.75, 0.0]
    metrics = mask_metrics(truth, results)
    assert metrics["best_mask_iou"] == pytest.approx(37.5)
    counts = {k: metrics[k] for k in ("images", "instances", "masks")}
    assert counts == {"images": 2, "instances": 2, "masks": 2}
    # the mask with IoU 0.5 comes first and takes the object at IoU 0.5: recall 1/2
    assert metrics["AP50"] == pytest.approx(100 * 51 / 101)
    # it is found at 0.50, ..., 0.75: 6 of 10 thresholds of one of two objects
    assert metrics["AR100"] == pytest.approx(30.0)


def test_results_of_a_run_are_joined_by_file_name(truth_path: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "masks").mkdir(parents=True)
    images = [
        {"id": 1, "file_name": "unknown.png", "height": 9, "width": 9},
        {"id": 2, "file_name": "b.png", "height": 20, "width": 40},
    ]
    (run / "images.json").write_text(json.dumps({"images": images}))
    small = InstanceMask.from_array(np.ones((9, 9), dtype=bool)).to_result(1)
    (run / "masks/part-00000.json").write_text(json.dumps([small]))
    found = results_of([(2, box_mask(0, 0, 10, 10), 1.0)])
    (run / "masks/part-00001.json").write_text(json.dumps(found))
    results, truth = read_mask_results(run, read_mask_truth(truth_path))
    assert [r["image_id"] for r in results] == [6]
    assert [i["id"] for i in truth.images] == [6]
    assert mask_metrics(truth, results)["AP"] == pytest.approx(100.0)


def test_a_coco_instances_file_is_joined_by_file_name(truth_path: Path, tmp_path: Path) -> None:
    """Polygons, other ids, no scores; a crowd is no mask."""
    polygon = {"segmentation": [[0, 0, 10, 0, 10, 5, 0, 5]], "area": 50, "bbox": [0, 0, 10, 5]}
    images = [
        {"id": 70, "file_name": "b.png", "height": 20, "width": 40},
        {"id": 71, "file_name": "unknown.png", "height": 9, "width": 9},
    ]
    rows = [{"id": n, "image_id": 70, "category_id": 1, **polygon} for n in (1, 2)]
    rows[0]["iscrowd"] = 1
    rows.append({"id": 3, "image_id": 71, "category_id": 1, **polygon})
    path = tmp_path / "found.json"
    content = {"images": images, "annotations": rows, "categories": [{"id": 1, "name": "x"}]}
    path.write_text(json.dumps(content))
    results, truth = read_mask_results(path, read_mask_truth(truth_path))
    assert [(r["image_id"], r["score"]) for r in results] == [(6, 1.0)]
    assert [i["id"] for i in truth.images] == [6]
    assert best_ious(not_crowds(truth.annotations), results) == [0.5]  # 50 of 100 pixels


def test_runs_that_do_not_fit_are_refused(truth_path: Path, tmp_path: Path) -> None:
    truth = read_mask_truth(truth_path)
    run = tmp_path / "run"
    (run / "masks").mkdir(parents=True)
    image = {"id": 1, "file_name": "b.png", "height": 9, "width": 9}
    (run / "images.json").write_text(json.dumps({"images": [image]}))
    with pytest.raises(UserError, match=r"holds no part-\*\.json"):
        read_mask_results(run, truth)
    mask = InstanceMask.from_array(np.ones((9, 9), dtype=bool)).to_result(1)
    (run / "masks/part-00000.json").write_text(json.dumps([mask]))
    with pytest.raises(UserError, match=r"\(9, 9\), the true image \(20, 40\)"):
        read_mask_results(run, truth)
    image["file_name"] = "c.png"
    (run / "images.json").write_text(json.dumps({"images": [image]}))
    with pytest.raises(UserError, match="none of the 1 photographs"):
        read_mask_results(run, truth)


def test_results_for_an_unknown_image_are_refused(truth_path: Path, tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text(json.dumps(results_of([(7, box_mask(0, 0, 1, 1), 1.0)])))
    with pytest.raises(UserError, match="'image_id' is 7"):
        read_mask_results(path, read_mask_truth(truth_path))


def test_superpixels_cover_the_image_once_and_follow_edges() -> None:
    image = np.zeros((60, 80, 3), dtype=np.uint8)
    image[:, 37:] = (200, 40, 40)
    masks = slic_superpixels(image)
    assert SLIC_SEGMENTS / 2 <= len(masks) <= 2 * SLIC_SEGMENTS
    np.testing.assert_array_equal(sum(m.to_array().astype(int) for m in masks), 1)
    assert sum(m.score for m in masks) == pytest.approx(1.0)
    for mask in masks:
        share = image[mask.to_array()][:, 0].mean() / 200
        assert min(share, 1 - share) < 0.1  # no superpixel lies across the edge


def test_scores_beside_baselines(truth_path: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in "ab":
        pixels = rng.integers(0, 255, (*SIZE, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    path = tmp_path / "results.json"
    path.write_text(json.dumps(results_of([(6, box_mask(0, 0, 10, 10), 1.0)])))
    scores = score_masks(path, truth_path, tmp_path)
    assert set(scores) == {"masks", "centered_box", "slic_superpixels"}
    assert scores["masks"]["best_mask_iou"] == pytest.approx(50.0)
    # the box is the object of image 5 and does not touch that of image 6 (25 of 275 pixels)
    assert scores["centered_box"]["best_mask_iou"] == pytest.approx(50.0)
    assert scores["centered_box"]["masks"] == 2
    lines = format_mask_metrics(scores).splitlines()
    assert lines[0] == "2 images, 2 true instances"
    assert lines[3].split()[:2] == ["masks", "0.50"]


def test_unreadable_photographs_are_named(truth_path: Path, tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text("[]")
    with pytest.raises(UserError, match=r"a\.png: no such file"):
        score_masks(path, truth_path, tmp_path)
    Image.new("RGB", (3, 3)).save(tmp_path / "a.png")
    with pytest.raises(UserError, match=r"a\.png is \(3, 3\), .*\(20, 40\)"):
        score_masks(path, truth_path, tmp_path)


def test_hits_count_masks_that_reach_half_an_instance() -> None:
    """One mask equals the instance, one covers half of it and as much again, one misses."""
    instance = np.zeros((4, 8), dtype=bool)
    instance[:, :4] = True
    shifted = np.roll(instance, 2, axis=1)  # IoU 1/3
    missed = ~instance
    truth = [{"image_id": 1, "iscrowd": 0, "segmentation": encode_mask(instance)}]
    results = [
        {"image_id": 1, "segmentation": encode_mask(mask)} for mask in (instance, shifted, missed)
    ]
    results.append({"image_id": 2, "segmentation": encode_mask(instance)})
    assert best_ious(results, not_crowds(truth)) == pytest.approx([1.0, 1 / 3, 0.0, 0.0])


CLUSTERING_SIZE = (10, 10)


def rle(top: int, left: int, height: int, width: int) -> dict:
    mask = np.zeros(CLUSTERING_SIZE, dtype=np.uint8, order="F")
    mask[top : top + height, left : left + width] = 1
    found = coco_mask.encode(mask)
    return {"size": list(CLUSTERING_SIZE), "counts": found["counts"].decode("ascii")}


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


TOOL = Path(__file__).resolve().parents[2] / "tools" / "evaluate_labels.py"


TRUE = np.array([[1, 1, 1, 1, 2, 2, 2, 2, 0, 0]])


"""A thing of 4 pixels, stuff of 4, void."""


FOUND = np.array([[5, 5, 5, 6, 6, 6, 6, 0, 7, 7]])


"""A thing on 3 of the thing's pixels, stuff on 3 of the stuff's and 1 of its, a thing on void."""


def _write(folder: Path, stem: str, ids: np.ndarray, kinds: dict[int, int], image: int) -> None:
    """A COCO panoptic file of one image; ``kinds``: segment -> category, below 10 a thing."""
    write_panoptic_png(folder / "panoptic" / f"{stem}.png", ids.astype(np.int32))
    segments = [
        {"id": i, "category_id": c, "area": int((ids == i).sum()), "iscrowd": 0}
        for i, c in kinds.items()
    ]
    size = {"height": ids.shape[0], "width": ids.shape[1]}
    content = {
        "images": [{"id": image, "file_name": f"{stem}.jpg", **size}],
        "annotations": [{"image_id": image, "file_name": f"{stem}.png", "segments_info": segments}],
        "categories": [{"id": c, "name": str(c), "isthing": int(c < 10)} for c in (1, 2, 10, 20)],
    }
    write_json(folder / "panoptic.json", content)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, GroundTruth]:
    _write(tmp_path / "truth", "a/p", TRUE, {1: 1, 2: 10}, image=7)
    # Other image id, other categories: neither counts.
    _write(tmp_path / "run" / "panoptic", "a/p", FOUND, {5: 2, 6: 20, 7: 2}, image=1)
    truth = tmp_path / "truth"
    return tmp_path / "run", GroundTruth(truth / "panoptic.json", truth / "panoptic")


def test_counts_by_hand(folders: tuple[Path, GroundTruth]) -> None:
    scores = score_labels(*folders)
    # Thing: 3 / 4. Stuff: 3 of 3 + 1 + 1. The thing on void is forgiven.
    assert scores["things"] == {"PQ": 75.0, "SQ": 75.0, "RQ": 100.0, "tp": 1, "fp": 0, "fn": 0}
    assert scores["stuff"]["PQ"] == pytest.approx(60.0)
    assert scores["segments"]["PQ"] == pytest.approx((75.0 + 60.0) / 2)
    assert (scores["segments"]["tp"], scores["images"]) == (2, 1)
    assert scores["unlabelled"] == pytest.approx(100 / 8)


def test_things_and_stuff_match_as_segments_only(folders: tuple[Path, GroundTruth]) -> None:
    run, truth = folders
    _write(run / "panoptic", "a/p", FOUND, {5: 20, 6: 2, 7: 2}, image=1)
    scores = score_labels(run, truth)
    assert scores["segments"]["PQ"] == pytest.approx(67.5)
    assert scores["things"] == {"PQ": 0.0, "SQ": 0.0, "RQ": 0.0, "tp": 0, "fp": 1, "fn": 1}
    assert (scores["stuff"]["fp"], scores["stuff"]["fn"]) == (1, 1)


def test_foreign_labels_are_refused(folders: tuple[Path, GroundTruth]) -> None:
    run, truth = folders
    _write(run / "panoptic", "b/q", FOUND, {5: 2, 6: 20, 7: 2}, image=1)
    with pytest.raises(UserError, match=r"none of the images of .*run.* is in .*truth"):
        score_labels(run, truth)
    _write(run / "panoptic", "a/p", FOUND[:, :9], {5: 2, 6: 20, 7: 2}, image=1)
    with pytest.raises(UserError, match="is 9 x 1 pixels, the true map has 10 x 1"):
        score_labels(run, truth)


def test_tool_prints_and_writes(
    folders: tuple[Path, GroundTruth], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = importlib.util.spec_from_file_location("evaluate_labels_tool", TOOL)
    assert spec is not None and spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    run, truth = folders
    words = ["--truth-json", str(truth.panoptic_json), "--truth-pngs", str(truth.panoptic_pngs)]
    out = tmp_path / "scores.json"
    assert tool.main(["--labels", str(run), *words, "--json", str(out)]) == 0
    shown = capsys.readouterr().out
    assert "1 images, 12.50 % unlabelled" in shown
    assert "segments        67.50  67.50  100.00   2   0   0" in shown
    assert json.loads(out.read_text())["things"]["PQ"] == 75.0
    assert tool.main(["--labels", str(tmp_path / "none"), *words]) == 2
    assert "none/panoptic/panoptic.json does not exist" in capsys.readouterr().err
