"""What each protocol says, and what contradicts itself is refused before any work."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.evaluation.datasets import relabelled, write_predictions, write_truth
from tests.evaluation.label_files import CLUSTERS, SPACE, write_labels
from tests.evaluation.test_task_rules import result_folder, river_and_sea
from u2seg.config.evaluation import EvalSettings
from u2seg.config.load import load_settings
from u2seg.errors import UserError
from u2seg.evaluation import evaluate_folder
from u2seg.evaluation.protocols.plan import MappingFile, plan_evaluation
from u2seg.evaluation.protocols.rules import (
    COMPARED,
    PROTOCOLS,
    StuffRule,
    ThingRule,
    expand_names,
    paper_thresholds,
    protocol_of,
)
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


def named(name: str, num_things: int = 800, **keys):
    return protocol_of(EvalSettings(protocol=name, **keys), num_things)


def test_paper_has_its_own_thresholds_and_no_votes_for_crowds() -> None:
    protocol = named("u2seg-paper")
    assert protocol.things == ThingRule("instances", "box", 0.6, True, 0.4, True, False, "all")
    assert protocol.stuff == named("u2seg-released").stuff
    assert protocol.matching == "majority" and not protocol.merge_stuff
    assert protocol.note == "the paper's thresholds for coco and 800 thing clusters"
    assert named("u2seg-paper", 2911, paper_data="voc").things.iou == 0.5
    assert named("u2seg-paper", 300, paper_data="uvo").things.score == 0.1


def test_one_to_one_is_what_the_defaults_of_custom_are() -> None:
    protocol, custom = named("one-to-one"), named("custom")
    assert protocol.matching == custom.matching == "hungarian"
    for field in ("things", "stuff", "apart", "unmatched", "merge_stuff"):
        assert getattr(protocol, field) == getattr(custom, field)
    assert protocol.things == ThingRule("instances", "mask", 0.5, False, 0.3, False, False, "all")
    assert protocol.stuff.votes == "pixels"


def test_custom_takes_every_key() -> None:
    protocol = named(
        "custom",
        matching="majority",
        match_overlap="box",
        match_iou=0.4,
        match_score=0.2,
        match_pairs="best",
        match_crowds=True,
        stuff_votes="images",
        stuff_iou=0.25,
        unmatched="false_positive",
        merge_stuff=False,
    )
    assert protocol.things == ThingRule("instances", "box", 0.4, False, 0.2, False, True, "best")
    assert protocol.stuff == StuffRule("images", 0.25)
    assert (protocol.matching, protocol.unmatched) == ("majority", "false_positive")
    assert not protocol.merge_stuff


@pytest.mark.parametrize(
    ("clusters", "nearest"),
    [(1, 300), (549, 300), (550, 300), (551, 800), (1855, 800), (9999, 2911)],
)
def test_the_nearest_published_k(clusters: int, nearest: int) -> None:
    iou, score, note = paper_thresholds("coco", clusters)
    assert (iou, score) == paper_thresholds("coco", nearest)[:2]
    assert note == (
        f"the paper's thresholds for coco and {nearest} thing clusters "
        f"(it has none for {clusters}; {nearest} is the nearest)"
    )


@pytest.mark.parametrize(
    ("name", "key", "value", "said"),
    [
        ("u2seg-released", "match_iou", 0.6, r"MATCH_IOU is 0.6, .*u2seg-released makes it 0.7"),
        ("u2seg-released", "matching", "identity", "MATCHING is 'identity', .*makes it 'majority'"),
        ("u2seg-paper", "match_score", 0.2, "MATCH_SCORE is 0.2, .* makes it 0.4"),
        ("one-to-one", "merge_stuff", False, "MERGE_STUFF is False, .*makes it True"),
        ("cups", "unmatched", "false_positive", "UNMATCHED is 'false_positive', .*'void'"),
        ("identity", "matching", "majority", "MATCHING is 'majority', .*makes it 'identity'"),
    ],
)
def test_a_key_that_contradicts_the_protocol_is_refused(name, key, value, said) -> None:
    with pytest.raises(UserError, match=rf"U2SEG\.EVAL\.{said}.*PROTOCOL custom"):
        named(name, **{key: value})


def test_the_refusal_says_what_to_write_instead() -> None:
    """The rules of the protocol as keys, with the one that contradicts it."""
    with pytest.raises(UserError, match="APART is False, but the protocol cups makes it") as caught:
        named("cups", apart=False)
    words = str(caught.value).partition("or write ")[2].partition(" in place of ")[0].split()
    assert words == [
        "U2SEG.EVAL.PROTOCOL", "custom", "U2SEG.EVAL.MATCHING", "hungarian+majority",
        "U2SEG.EVAL.THING_VOTES", "pixels", "U2SEG.EVAL.APART", "False",
    ]  # fmt: skip
    written = protocol_of(load_settings(None, words).eval, 800)
    cups = named("cups")
    rules = ("matching", "stuff", "unmatched", "merge_stuff")
    assert [getattr(written, rule) for rule in rules] == [getattr(cups, rule) for rule in rules]
    assert written.things.votes == cups.things.votes == "pixels"
    assert (written.apart, cups.apart) == (False, True)


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("u2seg-released", "match_iou", 0.6),  # its IoU must be above, which no key says
        ("one-to-one", "apart", False),  # pairs of things and pixels of stuff do not compare
    ],
)
def test_nothing_is_recommended_that_keys_cannot_say(name, key, value) -> None:
    with pytest.raises(UserError, match=r"set U2SEG.EVAL.PROTOCOL custom to choose rules one by"):
        named(name, **{key: value})


def test_a_key_that_says_the_same_and_free_keys_are_taken() -> None:
    same = named("u2seg-released", match_iou=0.7, matching="majority", merge_stuff=False)
    assert same == named("u2seg-released")
    assert named("cups", instance_score=0.5, fit_share=0.5) == named("cups")


def test_json_leaves_out_what_does_not_apply() -> None:
    assert set(named("identity").to_json()) == {
        "name", "matching", "unmatched", "merge_stuff", "note",
    }  # fmt: skip
    assert named("cups").to_json()["things"] == {"votes": "pixels"}
    released = named("u2seg-released").to_json()
    assert released["things"]["overlap"] == "box" and released["stuff"]["iou"] == 0.15


def test_every_name_has_a_builder_and_all_means_the_published_ones() -> None:
    for name in PROTOCOLS.names():
        assert named(name).name == name
    assert expand_names(["all"]) == list(COMPARED)
    assert expand_names(["cups", "custom", "cups"]) == ["cups", "custom"]
    with pytest.raises(UserError, match=r"unknown protocol 'hungarian': known are .*one-to-one"):
        expand_names(["cups", "hungarian"])


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(UserError, match=r"unknown protocol 'cup'.*Did you mean 'cups'"):
        named("cup")
    with pytest.raises(UserError, match=r"EVAL.APART is False, .*instances and of pixels"):
        EvalSettings(apart=False)
    EvalSettings(apart=False, thing_votes="pixels")
    with pytest.raises(UserError, match=r"FIT_SHARE is 1.0, expected >= 0 and below 1"):
        EvalSettings(fit_share=1.0)
    with pytest.raises(UserError, match=r"FIT_SHARE is 0.5, .*nothing is fitted"):
        EvalSettings(matching="identity", fit_share=0.5)


CONFIGS = Path(__file__).resolve().parents[2] / "configs"


@pytest.mark.parametrize(
    "path", sorted(CONFIGS.rglob("*.yaml")), ids=lambda p: p.relative_to(CONFIGS).as_posix()
)
def test_no_config_contradicts_its_protocol(path: Path) -> None:
    settings = load_settings(path)
    protocol = protocol_of(settings.eval, settings.clusters.num_clusters)
    if path.parent.name in ("COCO-PanopticSegmentation", "ImageNet"):
        iou, score, _ = paper_thresholds("coco", settings.clusters.num_clusters)
        assert protocol.name == "u2seg-paper"
        assert (protocol.things.iou, protocol.things.score) == (iou, score)


DOCS = Path(__file__).resolve().parents[2] / "docs" / "reference" / "protocols.md"


@pytest.mark.parametrize("name", PROTOCOLS.names())
def test_the_table_in_the_docs_says_what_the_code_does(name: str) -> None:
    row = f"| `{name}` | {' | '.join(named(name).in_words())} |"
    assert row in DOCS.read_text(encoding="utf-8")


@pytest.mark.parametrize("data", ["uvo", "voc", "coco"])
def test_the_published_thresholds_are_in_the_docs(data: str) -> None:
    found = [paper_thresholds(data, k)[:2] for k in (300, 800, 2911)]
    cells = " | ".join(f"{iou:g} / {score:g}" for iou, score in found)
    assert f"| `{data}` | {cells} |" in DOCS.read_text(encoding="utf-8")
