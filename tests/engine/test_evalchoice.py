"""Options of an evaluation are refused before a model is built."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from u2seg.config.load import load_settings
from u2seg.config.schema import EvalSettings
from u2seg.engine.args import train_parser
from u2seg.engine.evalchoice import EvalChoice, eval_choice, mapping_of_labels
from u2seg.errors import UserError
from u2seg.evaluation.holdout import Split
from u2seg.evaluation.mapping import ClusterMapping
from u2seg.evaluation.mapping_file import mapping_json
from u2seg.evaluation.protocols import protocol_of

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


def test_names_with_commas_and_all() -> None:
    assert choose("--eval-only") == EvalChoice()
    assert choose("--eval-only", "--protocol", "cups,one-to-one").protocols == (
        "cups",
        "one-to-one",
    )
    assert len(choose("--eval-only", "--protocol", "all").protocols) == 4
    assert eval_choice(argparse.Namespace(eval_only=False), load_settings(None)) == EvalChoice()


def test_a_mapping_of_this_model(tmp_path: Path) -> None:
    path = write_mapping(tmp_path / "m.json")
    assert choose("--eval-only", "--mapping", str(path)) == EvalChoice(path)


@pytest.mark.parametrize(
    ("words", "keys", "message"),
    [
        (["--protocol", "cups"], (), "are for --eval-only"),
        (["--mapping", "m.json"], (), "are for --eval-only"),
        (["--eval-only", "--protocol", "coups"], (), "--protocol coups is unknown"),
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
