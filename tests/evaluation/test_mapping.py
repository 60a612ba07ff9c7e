"""Mappings: fitted by hand-computed votes, written, read again, refused where they do not fit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.evaluation.datasets import relabelled, write_predictions, write_truth
from tests.evaluation.tables import table
from u2seg.config.schema import EvalSettings
from u2seg.errors import UserError
from u2seg.evaluation import evaluate_folder
from u2seg.evaluation.collect import NONE
from u2seg.evaluation.figures import Scoring, image_counts
from u2seg.evaluation.metrics.panoptic import TruthSegment
from u2seg.evaluation.protocols.mapping import (
    ClusterMapping,
    fit_mapping,
    mapping_json,
    read_mapping,
)
from u2seg.evaluation.protocols.rules import protocol_of
from u2seg.evaluation.truth.coco import PanopticSet, read_panoptic_set, read_truth
from u2seg.structures.labels import LabelSpace

SPACE = LabelSpace(num_things=3, num_stuff=2)
CLUSTERS = {1: 3, 2: 1, 3: 5, 4: 4}
CAT, DOG, GRASS, SKY = 1, 2, 3, 4


@pytest.fixture
def truth(tmp_path: Path) -> PanopticSet:
    return read_truth(write_truth(tmp_path))


@pytest.fixture
def predicted(tmp_path: Path) -> PanopticSet:
    folder = write_predictions(tmp_path / "p", relabelled(CLUSTERS), SPACE)
    return read_panoptic_set(folder / "panoptic.json", folder / "panoptic")


def fitted(name: str, tables, predicted, truth, **keys) -> ClusterMapping:
    protocol = protocol_of(EvalSettings(protocol=name, **keys), len(predicted.things))
    return fit_mapping(protocol, tables, predicted, truth)


def vote(cluster: int, category: int, times: int) -> list[tuple]:
    return [(i, i, cluster, category, 1.0, 1.0, 1.0, False) for i in range(times)]


def test_three_clusters_two_classes(predicted: PanopticSet, truth: PanopticSet) -> None:
    """Instances: cluster 1 cat 5, dog 4; 2 cat 9; 3 cat 1, dog 2. Stuff 4: grass 8; 5: grass 3."""
    rows = [
        *vote(1, CAT, 5),
        *vote(1, DOG, 4),
        *vote(2, CAT, 9),
        *vote(3, CAT, 1),
        *vote(3, DOG, 2),
    ]
    tables = [table(21, instances=rows, stuff=[(4, GRASS, 8), (5, GRASS, 3)])]
    one = fitted("one-to-one", tables, predicted, truth)
    assert one.things == {1: DOG, 2: CAT} and one.stuff == {4: GRASS}
    many = fitted("custom", tables, predicted, truth, matching="majority")
    assert many.things == {1: CAT, 2: CAT, 3: DOG} and many.stuff == {4: GRASS, 5: GRASS}
    both = fitted("custom", tables, predicted, truth, matching="hungarian+majority")
    assert both.things == {1: DOG, 2: CAT, 3: DOG} and both.stuff == {4: GRASS, 5: GRASS}
    things = ((1, CAT, 5), (1, DOG, 4), (2, CAT, 9), (3, CAT, 1), (3, DOG, 2))
    assert one.votes == (*things, (4, GRASS, 8), (5, GRASS, 3))
    assert (one.rows[1].votes, one.rows[1].total_votes) == (4, 9)
    assert (one.rows[3].votes, one.rows[3].total_votes, one.rows[3].iou) == (0, 3, None)


def panoptic_table(cells: list[tuple[int, int, int]]) -> Any:
    """Return a table whose segments are (class, cluster, pixels); ids are 10 + class and so on."""
    classes = {c for c, _, _ in cells}
    return table(
        21,
        segments=[(10 + c, 20 + k if k else 0, n) for c, k, n in cells],
        truth={10 + c: TruthSegment(c, sum(n for d, _, n in cells if d == c)) for c in classes},
        predicted={20 + k: k for _, k, _ in cells if k},
    )


def test_cups_takes_pixels_and_left_over_clusters_join(
    predicted: PanopticSet, truth: PanopticSet
) -> None:
    cells = [(CAT, 1, 50), (DOG, 1, 10), (CAT, 2, 30), (CAT, 3, 20), (DOG, 3, 5), (CAT, 0, 40)]
    image = panoptic_table(cells)
    mapping = fitted("cups", [image], predicted, truth)
    # one to one, the most pixels: 1 -> cat, 3 -> dog (55) beats 1 -> dog, 2 -> cat (40) and all
    # others; cluster 2 is left over and joins the cats
    assert mapping.things == {1: CAT, 2: CAT, 3: DOG}
    assert mapping.rows[1].votes == 50 and mapping.rows[1].total_votes == 60
    # 50 shared; cluster 60, cats 50 + 30 + 20 + 40
    assert mapping.rows[1].iou == pytest.approx(100 * 50 / (60 + 140 - 50))
    assert mapping.rows[3].iou == pytest.approx(100 * 5 / (25 + 15 - 5))
    strict = fitted("custom", [image], predicted, truth, thing_votes="pixels")
    assert strict.things == {1: CAT, 3: DOG}


def test_together_lets_a_thing_cluster_be_stuff(predicted: PanopticSet, truth: PanopticSet) -> None:
    image = panoptic_table([(CAT, 1, 50), (GRASS, 2, 30), (DOG, 4, 20)])
    keys = {"thing_votes": "pixels", "matching": "majority"}
    apart = fitted("custom", [image], predicted, truth, **keys)
    assert apart.things == {1: CAT} and apart.stuff == {}
    together = fitted("custom", [image], predicted, truth, apart=False, **keys)
    assert together.things == {1: CAT, 2: GRASS} and together.stuff == {4: DOG}
    counts = image_counts(image, truth, together, Scoring())
    assert {c: (r.tp, r.fp, r.fn) for c, r in counts.panoptic.items()} == {
        CAT: (1, 0, 0), GRASS: (1, 0, 0), DOG: (1, 0, 0),
    }  # fmt: skip


def test_classes_are_looked_up_once_not_chained(truth: PanopticSet) -> None:
    """The released code relabels in place: 1 -> 5 -> 8, and what has no class becomes one."""
    clusters = {1: 1, 2: 5, 3: 7, 4: 3}
    image = table(
        segments=[(9, segment, 1) for segment in clusters],
        truth={9: TruthSegment(category=CAT, area=4)},
        predicted=clusters,
    )
    mapping = ClusterMapping(things={1: 5, 5: 8, 7: 2, 16: 4}, stuff={})
    cells = image_counts(image, truth, mapping, Scoring()).confusion
    found = dict(zip(*cells[1:].tolist(), strict=True))
    assert found == {5: 1, 8: 1, 2: 1, NONE: 1}


def test_the_file_holds_classes_votes_and_iou(tmp_path: Path) -> None:
    truth = write_truth(tmp_path)
    maps = relabelled(CLUSTERS)
    maps[21][0][2, 2] = 111  # the cat takes one of 7 grass pixels
    folder = write_predictions(tmp_path / "p", maps, SPACE)
    evaluate_folder(folder, truth, EvalSettings(bootstrap=0))
    content = json.loads((folder / "mapping.json").read_text())
    assert content["version"] == 2
    assert content["clusters"] == {"things": 3, "stuff": 2}
    assert content["class_set"] == "truth"
    assert content["classes"][0] == {"id": 1, "name": "cat", "isthing": 1}
    # cluster 3: 4 + 1 + 6 + 3 pixels, 13 of them cat; cats have 13 pixels
    cat = {"class_id": 1, "class_name": "cat", "votes": 3, "total_votes": 3}
    assert content["things"]["3"] == {**cat, "IoU": pytest.approx(100 * 13 / 14)}
    nothing = {"class_id": None, "class_name": None, "votes": 0, "total_votes": 0, "IoU": None}
    assert content["things"]["2"] == nothing
    # stuff votes by pixels of the stuff maps
    assert content["stuff"]["5"]["votes"] == 21
    assert [1, 2, 1] in content["votes"] and [3, 1, 3] in content["votes"]
    assert content["protocol"]["matching"] == "hungarian"
    fit = content["fitted_on"]
    assert fit["truth"] == str(truth.panoptic_json) and fit["images"] == len(fit["stem_keys"]) == 2


def test_what_is_read_is_what_was_written(
    tmp_path: Path, predicted: PanopticSet, truth: PanopticSet
) -> None:
    tables = [table(21, instances=vote(1, DOG, 2), stuff=[(4, SKY, 3)])]
    mapping = fitted("u2seg-released", tables, predicted, truth)
    path = tmp_path / "m.json"
    path.write_text(json.dumps(mapping_json(mapping)))
    assert read_mapping(path) == mapping
    assert mapping.names() == {1: "dog", 4: "sky"}


def test_a_mapping_of_other_images_is_used_and_named(tmp_path: Path) -> None:
    truth = write_truth(tmp_path)
    maps = relabelled(CLUSTERS)
    first = write_predictions(tmp_path / "first", {21: maps[21]}, SPACE)
    content = json.loads(truth.panoptic_json.read_text())
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] == 21]
    half = tmp_path / "half.json"
    half.write_text(json.dumps(content))
    evaluate_folder(first, type(truth)(half, truth.panoptic_pngs), EvalSettings(bootstrap=0))
    second = write_predictions(tmp_path / "second", {22: maps[22]}, SPACE)
    content = json.loads(truth.panoptic_json.read_text())
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] == 22]
    other = tmp_path / "other.json"
    other.write_text(json.dumps(content))
    given = first / "mapping.json"
    metrics = evaluate_folder(
        second, type(truth)(other, truth.panoptic_pngs), EvalSettings(bootstrap=0), mapping=given
    )
    fit = metrics["protocol"]["mapping"]
    assert (fit["fitted_on"], fit["images"], fit["images_in_both"]) == (str(half), 1, 0)
    assert fit["same_images_as_scored"] is False
    assert metrics["panoptic"]["per_class"]["cat"]["PQ"] == 100.0
    assert (second / "mapping.json").read_bytes() == given.read_bytes()
    # used on its own images it is called so, though it comes from a file
    again = evaluate_folder(
        first, type(truth)(half, truth.panoptic_pngs), EvalSettings(bootstrap=0), mapping=given
    )
    assert again["protocol"]["mapping"]["same_images_as_scored"] is True


def test_a_mapping_brings_its_protocol(tmp_path: Path) -> None:
    truth = write_truth(tmp_path)
    maps = relabelled(CLUSTERS)
    maps[21][1][113] = 4  # the grass of image 21 bears the sky's cluster: two segments of one class
    folder = write_predictions(tmp_path / "p", maps, SPACE)
    released = evaluate_folder(folder, truth, EvalSettings(protocol="u2seg-released", bootstrap=0))
    assert released["protocol"]["merge_stuff"] is False
    kept = (folder / "mapping.json").rename(tmp_path / "mapping.json")
    merged = evaluate_folder(folder, truth, EvalSettings(bootstrap=0))
    again = evaluate_folder(folder, truth, EvalSettings(bootstrap=0), mapping=kept)
    assert again["panoptic"] == released["panoptic"] != merged["panoptic"]
    # nothing voted in the second run
    assert again["protocol"] == {**released["protocol"], "stuff_votes_from": None}


def write_mapping(folder: Path, truth) -> Path:
    predictions = write_predictions(folder / "p", relabelled(CLUSTERS), SPACE)
    evaluate_folder(predictions, truth, EvalSettings(bootstrap=0))
    return predictions / "mapping.json"


def test_a_mapping_of_other_cluster_numbers_is_refused(tmp_path: Path) -> None:
    truth = write_truth(tmp_path)
    path = write_mapping(tmp_path, truth)
    folder = write_predictions(tmp_path / "q", relabelled(CLUSTERS), LabelSpace(3, 9))
    before = sorted(folder.iterdir())
    with pytest.raises(UserError, match="a model with 2 stuff clusters, this model has 9: take"):
        evaluate_folder(folder, truth, EvalSettings(bootstrap=0), mapping=path)
    assert sorted(folder.iterdir()) == before


def test_a_mapping_to_other_classes_is_refused(tmp_path: Path) -> None:
    truth = write_truth(tmp_path)
    path = write_mapping(tmp_path, truth)
    content = json.loads(truth.panoptic_json.read_text())
    content["categories"].append({"id": 9, "name": "sea", "isthing": 0})
    truth.panoptic_json.write_text(json.dumps(content))
    said = r"maps to 4 classes \(truth\), .*truth.json has 5: only .*truth.json has stuff 9 'sea'"
    with pytest.raises(UserError, match=said):
        evaluate_folder(path.parent, truth, EvalSettings(bootstrap=0), mapping=path)


def drop(key: str) -> Callable[[dict], Any]:
    return lambda content: content.pop(key)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop("version"), "version None: an earlier version .* evaluate the model again"),
        (lambda c: c.update(version=3), "version 3: unknown"),
        (drop("stuff"), "lacks the key 'stuff'"),
        (lambda c: c["things"]["1"].update(class_id=77), "class_id 77 is none of classes"),
        (lambda c: c["things"]["1"].update(class_id=[1]), "garbled"),
        (lambda c: c["things"].update(x=c["things"]["1"]), "garbled .*'x'"),
        (lambda c: c["things"].pop("1"), "2 things, but clusters say"),
        (lambda c: c["things"]["1"].pop("IoU"), "garbled .*IoU"),
        (lambda c: c.update(votes=[[1, 2]]), "garbled"),
        (lambda c: c.update(classes=7), "garbled"),
        (drop("class_set"), "lacks the key 'class_set'"),
        (lambda c: c["protocol"].update(unmatched="forgiven"), "garbled .*forgiven"),
        (lambda c: c["protocol"].update(merge_stuff="no"), "garbled .*merge_stuff"),
        (lambda c: c["protocol"].pop("name"), "garbled .*name"),
        (lambda c: c.update(fitted_on=[]), "garbled"),
        (lambda c: c["votes"].append([1, 9999, 3]), r"\[1, 9999, 3\], whose cluster or class is"),
        (lambda c: c["votes"].append([99, 1, 3]), r"\[99, 1, 3\], whose cluster or class is unk"),
        (lambda c: c["votes"].append([1, 1, 2.5]), "a number of votes is 2.5, expected a whole"),
        (lambda c: c["things"]["1"].update(class_id=3), "cluster 1 has class_id 3 of other kind"),
        (lambda c: c["stuff"]["4"].update(class_id=1), "cluster 4 has class_id 1 of other kind"),
        (lambda c: c["things"]["1"].update(class_id=True), "class_id is True, expected a whole"),
        (lambda c: c["things"]["1"].update(class_id=1.0), "class_id is 1.0, expected a whole"),
        (lambda c: c["things"]["1"].update(votes=-1), "votes is -1, expected a whole number"),
        (lambda c: c["things"]["1"].update(IoU=1e9), "IoU is 1000000000.0"),
        (lambda c: c["stuff"].update({"1": c["stuff"].pop("4")}), "cluster 1 is among things and"),
        (lambda c: c["classes"].append(c["classes"][0]), "an id of classes is used twice"),
        (lambda c: c["classes"][0].update(name=5), "a class is .*'name': 5"),
        (lambda c: c["classes"][0].update(isthing=2), "a class is .*'isthing': 2"),
        (lambda c: c["protocol"].update(matching="xx"), "garbled .*'xx'"),
        (lambda c: c["protocol"].update(matching=["x"]), "garbled"),
        (lambda c: c.update(fitted_on=None), "fitted_on is None, but the matching hungarian"),
        (lambda c: c["protocol"].update(matching="identity"), "truth.json, but the matching ide"),
    ],
)
def test_garbled_files_are_refused(tmp_path: Path, change, message: str) -> None:
    path = write_mapping(tmp_path, write_truth(tmp_path))
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=message):
        read_mapping(path)


def test_a_mapping_of_all_clusters_to_all_classes_may_cross_kinds(tmp_path: Path) -> None:
    path = write_mapping(tmp_path, write_truth(tmp_path))
    content = json.loads(path.read_text())
    content["protocol"]["apart"] = False
    content["things"]["1"]["class_id"] = 3
    path.write_text(json.dumps(content))
    assert read_mapping(path).things[1] == 3


def test_fit_on_a_share_and_score_the_rest(tmp_path: Path) -> None:
    """Image 22 is fitted on; clusters that only image 21 has get no class."""
    truth = write_truth(tmp_path)
    maps = relabelled(CLUSTERS)
    maps[21][1][111] = 2
    folder = write_predictions(tmp_path / "p", maps, SPACE)
    metrics = evaluate_folder(folder, truth, EvalSettings(fit_share=0.45, bootstrap=0))
    protocol = metrics["protocol"]
    fit = protocol["mapping"]
    assert (fit["images"], fit["fit_share"], fit["same_images_as_scored"]) == (1, 0.45, False)
    assert protocol["images"] == 1
    assert protocol["mapping_fitted_on"] == "fitted on 1 image held out of the same truth"
    cat = metrics["panoptic"]["per_class"]["cat"]
    assert (cat["tp"], cat["fp"], cat["fn"]) == (0, 0, 1)
    assert metrics["panoptic"]["per_class"]["grass"]["tp"] == 1
    assert metrics["unmatched"]["segments"] == 3  # cat, dog and sky
    assert metrics["panoptic"]["all"]["n"] == 4
    content = json.loads((folder / "mapping.json").read_text())
    assert content["fitted_on"]["fit_share"] == 0.45
    assert content["things"]["3"]["total_votes"] == 2
    # detections of the fitted image are not asked for either
    assert metrics["class_agnostic"]["segm"]["AP"] == pytest.approx(100.0)


def test_unmatched_segments_as_false_positives(tmp_path: Path) -> None:
    """A second cat's cluster stays without a class: void, or a false positive of cats."""
    truth = write_truth(tmp_path)
    maps = relabelled(CLUSTERS)
    maps[22][1][102] = 2
    folder = write_predictions(tmp_path / "p", maps, SPACE)
    void = evaluate_folder(folder, truth, EvalSettings(bootstrap=0))
    positive = evaluate_folder(folder, truth, EvalSettings(unmatched="false_positive", bootstrap=0))
    assert void["unmatched"] == positive["unmatched"]
    assert void["unmatched"]["segments"] == 1
    cats = [m["panoptic"]["per_class"]["cat"] for m in (void, positive)]
    assert [(c["tp"], c["fp"], c["fn"]) for c in cats] == [(2, 0, 1), (2, 1, 1)]
    assert [c["PQ"] for c in cats] == [pytest.approx(100 * 2 / 2.5), pytest.approx(100 * 2 / 3)]
    assert positive["panoptic"]["all"] == positive["unmatched"]["false_positive"]["all"]
    assert void["panoptic"]["all"] == void["unmatched"]["void"]["all"]
    assert void["semantic"] == positive["semantic"]


def test_several_protocols_from_one_pass(tmp_path: Path) -> None:
    truth = write_truth(tmp_path)
    maps = relabelled(CLUSTERS)
    maps[22][1][102] = 2
    folder = write_predictions(tmp_path / "p", maps, SPACE)
    names = ["one-to-one", "u2seg-released", "cups", "custom"]
    metrics = evaluate_folder(folder, truth, EvalSettings(bootstrap=0), protocols=names)
    assert list(metrics["protocols"]) == names
    assert metrics["panoptic"] == metrics["protocols"]["one-to-one"]["panoptic"]
    assert json.loads((folder / "metrics.json").read_text()) == metrics
    written = {f"mapping_{name}.json" for name in names[1:]} | {"mapping.json"}
    assert {path.name for path in folder.glob("mapping*.json")} == written
    assert read_mapping(folder / "mapping_cups.json").protocol["name"] == "cups"
    for name in names:
        alone = evaluate_folder(folder, truth, EvalSettings(protocol=name, bootstrap=0))
        assert {key: alone[key] for key in metrics["protocols"][name]} == metrics["protocols"][name]
    cats = {n: metrics["protocols"][n]["panoptic"]["per_class"]["cat"]["tp"] for n in names}
    # the second cat's cluster has a class where many to one is allowed
    assert cats == {"one-to-one": 2, "u2seg-released": 3, "cups": 3, "custom": 2}
    assert [path.name for path in folder.glob("mapping*.json")] == ["mapping.json"]
