"""What contradicts itself is refused before a map is read, naming both sides."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.evaluation.datasets import relabelled, write_predictions, write_truth
from tests.evaluation.label_files import CLUSTERS, SPACE, write_labels
from tests.evaluation.test_task_rules import result_folder, river_and_sea
from u2seg.config.evaluation import EvalSettings
from u2seg.errors import UserError
from u2seg.evaluation import evaluate_folder
from u2seg.evaluation.protocols.plan import MappingFile, plan_evaluation
from u2seg.evaluation.truth.coco import read_truth
from u2seg.evaluation.truth.formats import scored_truth
from u2seg.io.png import write_panoptic_png
from u2seg.structures.labels import LabelSpace

IDS = ((1, 2, 3), (4, 5))


@pytest.fixture
def truth(tmp_path: Path):
    return read_truth(write_truth(tmp_path))


def mapping_by(tmp_path: Path, truth, **keys) -> MappingFile:
    """Return the mapping that an evaluation under these keys wrote."""
    folder = write_predictions(tmp_path / "earlier", relabelled(CLUSTERS), SPACE)
    evaluate_folder(folder, truth, EvalSettings(bootstrap=0, **keys))
    return MappingFile(folder / "mapping.json")


def test_a_mapping_of_another_protocol_than_asked_for_is_refused(tmp_path: Path, truth) -> None:
    given = mapping_by(tmp_path, truth, protocol="one-to-one")
    said = r"protocol cups is asked for .*mapping.json was made by the protocol one-to-one"
    with pytest.raises(UserError, match=said):
        plan_evaluation(truth, IDS, EvalSettings(protocol="cups"), given)
    with pytest.raises(UserError, match=said):
        plan_evaluation(truth, IDS, EvalSettings(), given, ["cups"])
    with pytest.raises(UserError, match=r"protocol custom is asked for .*one-to-one"):
        plan_evaluation(truth, IDS, EvalSettings(), given, ["custom"])
    # the option stands above the key; a default asks for nothing
    for settings, names in (
        (EvalSettings(protocol="cups"), ["one-to-one"]),
        (EvalSettings(protocol="one-to-one"), []),
        (EvalSettings(), []),
    ):
        (rule,) = plan_evaluation(truth, IDS, settings, given, names).rules
        assert (rule.name, rule.matching) == ("one-to-one", "hungarian")


@pytest.mark.parametrize(
    ("key", "value", "theirs"),
    [
        ("unmatched", "false_positive", "'void'"),
        ("merge_stuff", False, "True"),
        ("matching", "majority", "'hungarian'"),
        ("match_iou", 0.75, "0.5"),
        ("stuff_votes", "images", "'pixels'"),
    ],
)
def test_keys_that_the_mapping_was_not_made_by_are_refused(
    tmp_path: Path, truth, key: str, value, theirs: str
) -> None:
    settings = EvalSettings(**{key: value})
    given = mapping_by(tmp_path, truth)
    said = rf"U2SEG.EVAL.{key.upper()} is {value!r}, but .*mapping.json was made with {theirs}"
    with pytest.raises(UserError, match=said):
        plan_evaluation(truth, IDS, settings, given)
    same = mapping_by(tmp_path, truth, **{key: value})
    (rule,) = plan_evaluation(truth, IDS, settings, same).rules
    assert (rule.unmatched, rule.merge_stuff) == (settings.unmatched, settings.merge_stuff)


def test_a_mapping_leaves_nothing_to_fit(tmp_path: Path, truth) -> None:
    given = mapping_by(tmp_path, truth)
    with pytest.raises(UserError, match=r"FIT_SHARE is 0.5, but a given mapping leaves nothing"):
        plan_evaluation(truth, IDS, EvalSettings(fit_share=0.5), given)
    with pytest.raises(UserError, match=r"2 protocols are asked for, but a given mapping"):
        plan_evaluation(truth, IDS, EvalSettings(), given, ["cups", "custom"])


def test_merging_of_this_truth_not_of_the_mapping(tmp_path: Path) -> None:
    """River and sea are water: the mapping was made with both merged, and is used with neither."""
    paths = river_and_sea(tmp_path)
    folder = result_folder(tmp_path / "p", {"a": [[2, 2, 3, 3]]}, LabelSpace(1, 2))
    merged = EvalSettings(protocol="cups", classes="coco-95", merge_true_stuff=True, bootstrap=0)
    evaluate_folder(folder, scored_truth("coco-panoptic", paths, merged, folder), merged)
    given = (folder / "mapping.json").rename(tmp_path / "given.json")
    assert json.loads(given.read_text())["protocol"]["merge_stuff"] is True
    neither = EvalSettings(classes="coco-95", bootstrap=0)
    truth = scored_truth("coco-panoptic", paths, neither, folder)
    metrics = evaluate_folder(folder, truth, neither, given)
    assert metrics["protocol"]["merge_stuff"] is False
    assert metrics["panoptic"]["all"]["PQ"] == 100.0  # 0 if two segments stood against one
    half = EvalSettings(classes="coco-95", merge_true_stuff=True, merge_stuff=False)
    truth = scored_truth("coco-panoptic", paths, half, folder)
    with pytest.raises(UserError, match=r"MERGE_STUFF is False, but .*MERGE_TRUE_STUFF is True"):
        plan_evaluation(truth, ((1,), (2, 3)), half)


def test_ids_that_are_no_classes(tmp_path: Path, truth) -> None:
    identity = EvalSettings(protocol="identity")
    with pytest.raises(UserError, match=r"things category 3 of the model is none of .*truth.json"):
        plan_evaluation(truth, IDS, identity)
    labels = write_labels(tmp_path / "run")
    settings = EvalSettings(protocol="identity", labels=str(labels))
    with pytest.raises(UserError, match=r"category 3 of the labels .*run is none of .*truth.json"):
        plan_evaluation(truth, ((1, 2), (3, 4)), settings)


def test_label_maps_are_looked_at_before_the_model_is_scored(tmp_path: Path) -> None:
    files = write_truth(tmp_path)
    folder = write_predictions(tmp_path / "p", relabelled(CLUSTERS), SPACE)
    labels = write_labels(tmp_path / "run")
    settings = EvalSettings(labels=str(labels), bootstrap=0)
    path = labels / "panoptic" / "panoptic" / "a" / "first.png"
    write_panoptic_png(path, np.full((3, 6), 111, dtype=np.int32))
    with pytest.raises(UserError, match=r"a/first.png is 6 x 3 pixels, .*declares 6 x 4"):
        plan_evaluation(read_truth(files), IDS, settings)
    path.unlink()
    before = sorted(folder.rglob("*"))
    with pytest.raises(UserError, match=r"a/first.png"):
        evaluate_folder(folder, files, settings)
    # ids that its JSON lacks are found when the map is read, and nothing is written then either
    write_panoptic_png(path, np.full((4, 6), 7, dtype=np.int32))
    with pytest.raises(UserError, match=r"a/first.png"):
        evaluate_folder(folder, files, settings)
    assert sorted(folder.rglob("*")) == before
