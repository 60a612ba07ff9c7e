"""Options of an evaluation are refused before a model is built."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.evaluation.datasets import write_truth
from tests.factories import BASE_CONFIG
from u2seg.config.load import load_settings
from u2seg.config.schema import EvalSettings
from u2seg.engine.evaluate import (
    EvalChoice,
    check_choice,
    eval_choice,
    mapping_of_labels,
)
from u2seg.errors import UserError
from u2seg.evaluation.protocols.mapping import ClusterMapping, mapping_json
from u2seg.evaluation.protocols.rules import protocol_of
from u2seg.evaluation.truth.coco import read_truth
from u2seg.evaluation.truth.splits import Split
from u2seg.host.arguments import train_parser

KEYS = ["U2SEG.CLUSTERS.NUM_CLUSTERS", "3", "U2SEG.SEMANTICS.NUM_CLASSES", "2"]


def choose(*words: str, keys: tuple[str, ...] = ()) -> EvalChoice:
    args = train_parser().parse_intermixed_args(["--config-file", "x.yaml", *words, *KEYS])
    return eval_choice(args, load_settings(None, [*KEYS, *keys]))


def write_mapping(path: Path, stuff: tuple[int, ...] = (4, 5)) -> Path:
    mapping = ClusterMapping(
        things={2: 17},
        stuff={},
        protocol=protocol_of(EvalSettings(protocol="cups"), 3).to_json(),
        clusters=((1, 2, 3), stuff),
        classes=((17, "cat", True),),
        fitted_on=Split("heldout.json", "", ("12400c316e74",)),
    )
    path.write_text(json.dumps(mapping_json(mapping)))
    return path


@pytest.mark.parametrize(
    ("words", "keys", "message"),
    [
        (["--protocol", "cups"], (), "are for --eval-only"),
        (["--mapping", "m.json"], (), "are for --eval-only"),
        (["--eval-only", "--protocol", "coups"], (), "unknown protocol 'coups'"),
        (["--eval-only", "--mapping", "none.json"], (), "none.json does not exist"),
        (
            ["--eval-only", "--protocol", "cups"],
            ("U2SEG.EVAL.MATCHING", "majority"),
            "MATCHING is 'majority', but the protocol cups",
        ),
        # a training is told at its start, not when it is evaluated
        (
            [],
            ("U2SEG.EVAL.PROTOCOL", "u2seg-paper", "U2SEG.EVAL.MATCH_SCORE", "0.9"),
            "MATCH_SCORE is 0.9, but the protocol u2seg-paper makes it 0.3",
        ),
    ],
)
def test_refusals(words: list[str], keys: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        choose(*words, keys=keys)


@pytest.mark.d2
def test_a_key_is_checked_beside_the_option(tmp_path: Path) -> None:
    """APART False goes with no other default: without the option it would be refused as such."""
    from u2seg.engine.run import launch_run

    words = ["--config-file", str(BASE_CONFIG), "--eval-only", "--protocol", "cups,one-to-one"]
    words += ["U2SEG.EVAL.APART", "False", "OUTPUT_DIR", str(tmp_path), "MODEL.DEVICE", "cpu"]
    told = "APART is False, but the protocol cups makes it True: .*MATCHING hungarian.majority"
    with pytest.raises(UserError, match=told):
        launch_run(train_parser().parse_intermixed_args(words))


def test_a_mapping_of_another_model_is_refused(tmp_path: Path) -> None:
    path = write_mapping(tmp_path / "m.json", stuff=(4, 5, 6))
    with pytest.raises(UserError, match="a model with 3 stuff clusters, this model has 2"):
        choose("--eval-only", "--mapping", str(path))


def test_labels_of_real_classes_bring_their_mapping(tmp_path: Path) -> None:
    def found(*keys: str) -> Path | None:
        return mapping_of_labels(load_settings(None, ["U2SEG.DATA.LABELS", str(tmp_path), *keys]))

    assert found() is None
    path = write_mapping(tmp_path / "mapping.json")
    assert found() == path
    assert found("U2SEG.EVAL.FIT_SHARE", "0.5") is None
    assert mapping_of_labels(load_settings(None)) is None


@pytest.mark.parametrize(
    ("choice", "keys", "message"),
    [
        (EvalChoice(protocols=("identity",)), (), "things category 3 of the model is none of"),
        (EvalChoice(), ("U2SEG.EVAL.LABELS", "/nowhere"), "/nowhere holds no panoptic"),
        (EvalChoice(), ("U2SEG.EVAL.FIT_SHARE", "0.001"), "of 2 images 0 would be fitted on"),
        (EvalChoice(Path("none.json")), (), "none.json does not exist"),
    ],
)
def test_what_the_evaluation_would_refuse_is_refused_before(
    tmp_path: Path, choice: EvalChoice, keys: tuple[str, ...], message: str
) -> None:
    truth = read_truth(write_truth(tmp_path))
    with pytest.raises(UserError, match=message):
        check_choice(choice, load_settings(None, [*KEYS, *keys]), truth)
