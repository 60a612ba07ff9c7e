"""Values and typos of Detectron2 keys."""

from __future__ import annotations

from typing import Any

import pytest
from yacs.config import CfgNode

from u2seg.config.words import coerce, flatten
from u2seg.errors import UserError
from u2seg.host.cfg_merge import merge_values, merge_words


def config() -> CfgNode:
    return CfgNode(
        {
            "MODEL": {"MASK_ON": False, "DEVICE": "cuda", "HEAD": {"IOUS": (0.5, 0.6)}},
            "SOLVER": {"BASE_LR": 0.01, "STEPS": (30000,), "MAX_ITER": 10},
            "INPUT": {"SIZES": [[32], [64]]},
        }
    )


@pytest.mark.parametrize(
    ("default", "value", "expected"),
    [
        (0.5, 1, 1.0),
        (0.5, "1e-3", 0.001),
        (5, "7", 7),
        (False, "true", True),
        (True, "False", False),
        ((1,), [], ()),
        ((1,), "(60000, 80000)", (60000, 80000)),
        ([[32]], ((8,), (16,)), [[8], [16]]),
        (((1.0, 2.0), (3.0, 4.0)), [[5.0, 6.0]], ((5.0, 6.0),)),
        ((0.5, 0.6), [1, 0.25], (1, 0.25)),
        ("text", None, ""),
        ("text", 123, "123"),
        (None, 3, 3),
    ],
)
def test_values_take_the_type_of_their_default(default: Any, value: Any, expected: Any) -> None:
    found = coerce("KEY", value, default)
    assert found == expected
    assert default is None or type(found) is type(default)


@pytest.mark.parametrize(
    ("default", "value"),
    [
        (5, 1.5),
        (5, True),
        (0.5, True),
        (False, 1),
        ("text", True),
        (0.5, "1e999"),
        ((1,), 5),
        ((1,), ["a"]),
        (0.5, "abc"),
        (("a",), [1]),
        (False, "__import__('os').system('true')"),
    ],
)
def test_other_types_are_refused_by_name(default: Any, value: Any) -> None:
    with pytest.raises(UserError, match=r"^A\.KEY is .* in f\.yaml, expected"):
        coerce("A.KEY", value, default, "f.yaml")


def test_merging_sets_what_was_given_and_nothing_else() -> None:
    cfg = config()
    merge_values(cfg, flatten({"SOLVER": {"BASE_LR": 1}, "INPUT": {"SIZES": [[8]]}}), "f.yaml")
    given = merge_words(cfg, ["MODEL.MASK_ON", "true", "MODEL.DEVICE=007", "SOLVER.STEPS", "[]"])
    assert cfg.SOLVER == {"BASE_LR": 1.0, "STEPS": (), "MAX_ITER": 10}
    assert (cfg.MODEL.MASK_ON, cfg.MODEL.DEVICE, cfg.INPUT.SIZES) == (True, "007", [[8]])
    assert given == {"MODEL.MASK_ON": True, "MODEL.DEVICE": "007", "SOLVER.STEPS": ()}


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("MODLE.DEVICE", "Did you mean MODEL.DEVICE?"),
        ("MODEL.HEAD.IOU", "Did you mean MODEL.HEAD.IOUS?"),
        ("SOLVER.BASE_LRR", "Did you mean SOLVER.BASE_LR?"),
        ("BASE_LR", "Did you mean SOLVER.BASE_LR?"),
        ("SOLVER.BASE_LR.X", "Did you mean SOLVER.BASE_LR?"),
        ("MODEL.HEAD", "Known are MODEL.HEAD.IOUS"),
        ("MODEL.ZZZZ", "Known are MODEL.MASK_ON, MODEL.DEVICE, MODEL.HEAD."),
    ],
)
def test_misspelt_keys_at_every_level(key: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        merge_words(config(), [key, "1"])
    assert message in str(caught.value)
    with pytest.raises(UserError) as caught:
        merge_values(config(), {key: 1}, "f.yaml")
    assert message in str(caught.value)
    assert "f.yaml" in str(caught.value)
