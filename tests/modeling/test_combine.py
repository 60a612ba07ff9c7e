"""The rules of the panoptic combination, each on a case small enough to do by hand."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("detectron2", reason="Detectron2 is not installed")
from u2seg.errors import UserError  # noqa: E402
from u2seg.modeling.combine import CombineRules, combine_panoptic  # noqa: E402

pytestmark = pytest.mark.d2


def rows(*texts: str) -> torch.Tensor:
    """Return (N, 1, W) masks, one text per mask, ``#`` = set."""
    return torch.tensor([[[c == "#" for c in text]] for text in texts])


def logits(labels: str, classes: int = 4, confidence: float = 8.0) -> torch.Tensor:
    """Return (classes, 1, W) logits whose winner per pixel is the digit of ``labels``."""
    result = torch.zeros(classes, 1, len(labels))
    for pixel, label in enumerate(labels):
        result[int(label), 0, pixel] = confidence
    return result


def combine(masks, scores, labels, **rules):
    rules = {"stuff_area": 1, **rules}
    classes = torch.arange(len(scores)) + 10
    return combine_panoptic(
        masks, torch.tensor(scores), classes, logits(labels), CombineRules(**rules)
    )


def test_higher_score_is_on_top_whatever_the_order() -> None:
    result = combine(rows("###...", "..####"), [0.6, 0.9], "000000")
    assert result[0].tolist() == [[2, 2, 1, 1, 1, 1]]
    first, second = result[1]
    assert (first["category_id"], first["instance_id"], first["area"]) == (11, 1, 4)
    assert (second["category_id"], second["instance_id"], second["area"]) == (10, 0, 2)
    assert first["score"] == pytest.approx(0.9)
    assert first["isthing"]


def test_overlap_at_the_threshold_is_kept_above_it_dropped() -> None:
    # 2 of 4 pixels taken = 0.5: kept, as it is not more than 0.5.
    kept = combine(rows("####..", "..####"), [0.9, 0.8], "000000")
    assert kept[0].tolist() == [[1, 1, 1, 1, 2, 2]]
    # 3 of 4 taken: dropped, and its own pixel stays free for stuff.
    dropped = combine(rows("####..", ".####."), [0.9, 0.8], "111111")
    assert dropped[0].tolist() == [[1, 1, 1, 1, 2, 2]]
    assert [s["category_id"] for s in dropped[1]] == [10, 1]
    # The share is of its own mask, not of the union: 1 of 1.
    inside = combine(rows("####", "#..."), [0.9, 0.8], "0000")
    assert len(inside[1]) == 1


def test_instances_below_the_confidence_are_dropped() -> None:
    result = combine(rows("#..", ".#.", "..#"), [0.5, 0.49, 1.0], "000")
    assert result[0].tolist() == [[2, 0, 1]]


def test_empty_masks_are_left_out() -> None:
    assert combine(rows("..", "#."), [0.9, 0.8], "00")[0].tolist() == [[1, 0]]


def test_stuff_area_counts_what_things_leave() -> None:
    # Class 1 has 4 pixels, 2 of them under the thing.
    assert combine(rows("##...."), [0.9], "111122", stuff_area=2)[0].tolist() == [
        [1, 1, 2, 2, 3, 3]
    ]
    assert combine(rows("##...."), [0.9], "111122", stuff_area=3)[0].tolist() == [
        [1, 1, 0, 0, 0, 0]
    ]


def test_stuff_score_is_the_mean_probability_on_its_own_pixels() -> None:
    semantic = torch.zeros(2, 1, 3)
    # Probabilities of class 1: 0.75, 0.9, and 0.6 under the thing.
    semantic[1, 0] = torch.logit(torch.tensor([0.75, 0.9, 0.6]))
    result = combine_panoptic(
        rows("..#"), torch.ones(1), torch.zeros(1, dtype=torch.long), semantic,
        CombineRules(stuff_area=1),
    )  # fmt: skip
    (stuff,) = result[1][1:]
    assert (stuff["id"], stuff["category_id"], stuff["area"]) == (2, 1, 2)
    assert stuff["score"] == pytest.approx((0.75 + 0.9) / 2)


@pytest.mark.parametrize(
    ("rules", "key"),
    [
        ({"overlap": 1.5}, "OVERLAP_THRESH is 1.5"),
        ({"instance_score": -0.1}, "INSTANCES_CONFIDENCE_THRESH is -0.1"),
        ({"stuff_area": -1}, "STUFF_AREA_LIMIT is -1"),
    ],
)
def test_bad_thresholds_are_named(rules: dict, key: str) -> None:
    with pytest.raises(UserError, match=key):
        CombineRules(**rules)


def test_agrees_with_the_host() -> None:
    """Ids of the host's own function on random overlapping masks."""
    from detectron2.modeling.meta_arch.panoptic_fpn import combine_semantic_and_instance_outputs
    from detectron2.structures import Instances

    generator = torch.Generator().manual_seed(5)
    for _ in range(20):
        centers = torch.rand((8, 2), generator=generator) * 24
        grid = torch.stack(torch.meshgrid(torch.arange(24), torch.arange(24), indexing="ij"), -1)
        masks = (grid[None] - centers[:, None, None]).square().sum(-1) < 40
        instances = Instances((24, 24))
        instances.pred_masks = masks
        instances.scores = torch.rand(8, generator=generator)
        instances.pred_classes = torch.arange(8)
        coarse = torch.randn((1, 4, 3, 3), generator=generator)
        semantic = torch.nn.functional.interpolate(coarse, size=(24, 24))[0]
        ids, _ = combine_semantic_and_instance_outputs(
            instances, semantic.argmax(0), 0.5, 30, 0.3
        )  # fmt: skip
        ours = combine_panoptic(
            masks, instances.scores, instances.pred_classes, semantic,
            CombineRules(overlap=0.5, stuff_area=30, instance_score=0.3),
        )  # fmt: skip
        assert torch.equal(ours[0], ids)
