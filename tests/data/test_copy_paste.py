"""Batches with objects pasted between their images: what must hold whatever the labels are."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from u2seg.compat import prepare_host
from u2seg.config.training import CopyPasteSettings
from u2seg.data.copy_paste import CopyPaste
from u2seg.data.copy_paste_pixels import disagreements, panoptic_ids

pytestmark = pytest.mark.d2
pytest.importorskip("detectron2", reason="Detectron2 is not installed")
prepare_host()
torch = pytest.importorskip("torch")

ON = CopyPasteSettings(enabled=True, min_area=1)


def make_sample(
    seed: int, draw: int, *, stuff: bool = True, crowd: bool = False, clusters: int = 3
) -> dict[str, Any]:
    """Return a sample with up to 3 ragged, disjoint objects, stuff 1..2 and some void."""
    from detectron2.structures import BitMasks, Boxes, Instances

    rng = np.random.default_rng(seed)
    height, width = (int(v) for v in rng.integers(12, 40, 2))
    owner = np.zeros((height, width), dtype=np.int64)
    for number in range(int(rng.integers(0, 4))):
        y, x = rng.integers(0, (height - 6, width - 6))
        block = owner[y : y + rng.integers(3, 12), x : x + rng.integers(3, 12)]
        block[rng.random(block.shape) < 0.9] = number + 1
    present = [int(i) for i in np.unique(owner) if i]
    masks = np.array([owner == i for i in present], dtype=bool).reshape(-1, height, width)
    target = rng.integers(1, 3, (height, width))
    target[owner > 0] = 0
    hole = (slice(int(rng.integers(0, height)), None), slice(0, int(rng.integers(0, width))))
    target[hole] = 255
    masks[(slice(None), *hole)] = False
    masks = masks[masks.any(axis=(1, 2))]
    instances = Instances((height, width))
    instances.gt_classes = torch.tensor(rng.integers(0, clusters, len(masks)), dtype=torch.int64)
    instances.gt_masks = BitMasks(torch.from_numpy(masks))
    instances.gt_boxes = instances.gt_masks.get_bounding_boxes() if len(masks) else Boxes([])
    image = rng.integers(0, 256, (3, height, width)).astype(np.uint8)
    sample = {"image": torch.from_numpy(image), "instances": instances, "draw": draw}
    if stuff:
        sample["sem_seg"] = torch.from_numpy(target)
    if crowd:
        sample["ignored"] = torch.from_numpy(rng.random((height, width)) < 0.3)
    return sample


def make_batch(seed: int, size: int = 4, **options: Any) -> list[dict[str, Any]]:
    return [make_sample(100 * seed + i, size * seed + i, **options) for i in range(size)]


def same(one: dict[str, Any], two: dict[str, Any]) -> bool:
    equal = torch.equal(one["image"], two["image"])
    equal &= torch.equal(one["sem_seg"], two["sem_seg"])
    first, second = one["instances"], two["instances"]
    equal &= torch.equal(first.gt_masks.tensor, second.gt_masks.tensor)
    equal &= torch.equal(first.gt_boxes.tensor, second.gt_boxes.tensor)
    return bool(equal and torch.equal(first.gt_classes, second.gt_classes))


def check(before: dict[str, Any], after: dict[str, Any], rules: CopyPasteSettings) -> None:
    assert disagreements(before) == []
    assert disagreements(after) == []
    masks, pasted = after["instances"].gt_masks.tensor, after["pasted"]
    assert len(pasted) == len(masks)
    known, new = masks[~pasted], masks[pasted]
    union = new.any(dim=0)
    ignored = before["sem_seg"] == 255
    if "ignored" in before:
        ignored |= before["ignored"]
    assert not (union & ignored).any(), "nothing on ignored regions"
    assert torch.equal(after["image"][:, ~union], before["image"][:, ~union])
    changed = (after["sem_seg"] != before["sem_seg"]) & ~union
    assert (after["sem_seg"][changed] == 255).all() and (before["sem_seg"][changed] == 0).all()
    assert len(new) <= rules.max_objects
    assert all(int(m.sum()) >= 1 for m in new)
    old = before["instances"]
    left = [i for i, m in enumerate(old.gt_masks.tensor) if any((m & k).any() for k in known)]
    assert after["instances"].gt_classes[~pasted].tolist() == old.gt_classes[left].tolist()
    for row, mask in zip(left, known, strict=True):
        whole = old.gt_masks.tensor[row]
        assert not (mask & ~whole).any() and not (whole & ~mask & ~union).any()
        assert int(mask.sum()) >= rules.min_visible * int(whole.sum())
    if rules.covered == "refuse":
        assert len(left) == len(old)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    scale=st.sampled_from([(0.3, 1.0), (1.0, 1.0), (1.5, 3.0)]),
    blend=st.integers(0, 3),
    covered=st.sampled_from(["drop", "refuse"]),
    share=st.sampled_from([0.0, 0.5, 1.0]),
    crowd=st.booleans(),
)
def test_labels_stay_consistent(
    seed: int, scale: tuple[float, float], blend: int, covered: str, share: float, crowd: bool
) -> None:
    rules = replace(
        ON, scale=scale, blend=blend, covered=covered, min_visible=share, same_cluster=share
    )
    batch = make_batch(seed, crowd=crowd)
    for before, after in zip(batch, CopyPaste(rules, seed)(batch), strict=True):
        check(before, after, rules)


def plain(height: int, width: int, box: tuple[int, int, int, int] | None) -> dict[str, Any]:
    """Return a sample of stuff 1, rows of the image numbered, with one whole box as its object."""
    from detectron2.structures import BitMasks, Boxes, Instances

    masks = torch.zeros((1 if box else 0, height, width), dtype=torch.bool)
    if box:
        masks[0, box[1] : box[3], box[0] : box[2]] = True
    instances = Instances((height, width))
    instances.gt_masks = BitMasks(masks)
    instances.gt_boxes = Boxes(torch.tensor([box] if box else []).reshape(-1, 4).float())
    instances.gt_classes = torch.zeros(len(masks), dtype=torch.int64)
    image = torch.arange(height, dtype=torch.uint8)[None, :, None].expand(3, height, width)
    stuff = torch.ones((height, width), dtype=torch.int64)
    stuff[masks.any(dim=0)] = 0
    return {"image": image.clone(), "instances": instances, "sem_seg": stuff}


def pasted_masks(
    rules: CopyPasteSettings, receiver: dict[str, Any], giver: dict[str, Any], draws: int
) -> list[dict[str, Any]]:
    """Return the receiving image after pasting, for so many draws."""
    return [
        CopyPaste(rules, 0)([{**receiver, "draw": d}, {**giver, "draw": d + draws}])[0]
        for d in range(draws)
    ]


HARD = replace(ON, same_cluster=0.0, blend=0)


def test_a_size_is_relative_to_the_receiving_image() -> None:
    rules = replace(HARD, scale=(0.5, 0.5))
    results = pasted_masks(rules, plain(80, 90, None), plain(20, 30, (3, 5, 9, 9)), 20)
    for sample in results:  # 6 x 4 pixels of an image of 20, half of that for one of 80
        x0, y0, x1, y1 = sample["instances"].gt_boxes.tensor[0].tolist()
        assert (x1 - x0, y1 - y0) == (12, 8)
        assert min(x0, y0) >= 0 and x1 <= 90 and y1 <= 80, "inside the frame"
    assert len({tuple(s["instances"].gt_boxes.tensor[0].tolist()) for s in results}) > 15


def test_something_is_pasted_and_the_given_samples_stay() -> None:
    batch, untouched = make_batch(3), make_batch(3)
    result = CopyPaste(ON, 1)(batch)
    assert sum(int(sample["pasted"].sum()) for sample in result) >= 4
    assert all(same(a, b) for a, b in zip(batch, untouched, strict=True))
    assert not all(same(a, b) for a, b in zip(batch, result, strict=True))


def test_one_seed_one_result_another_seed_another() -> None:
    one, two = (CopyPaste(ON, 5)(make_batch(3)) for _ in range(2))
    assert all(same(a, b) for a, b in zip(one, two, strict=True))
    other = CopyPaste(ON, 6)(make_batch(3))
    assert not all(same(a, b) for a, b in zip(one, other, strict=True))
    moved = [{**sample, "draw": sample["draw"] + 99} for sample in make_batch(3)]
    later = CopyPaste(ON, 5)(moved)
    assert not all(same(a, b) for a, b in zip(one, later, strict=True))


def test_objects_of_the_same_cluster_only() -> None:
    rules = replace(ON, same_cluster=1.0)
    pasted = 0
    for seed in range(30):
        batch = make_batch(seed, clusters=6)
        for before, after in zip(batch, CopyPaste(rules, seed)(batch), strict=True):
            known = set(before["instances"].gt_classes.tolist())
            new = after["instances"].gt_classes[after["pasted"]].tolist()
            assert set(new) <= known
            pasted += len(new)
    assert pasted > 20
    strangers = 0
    for seed in range(30):
        batch = make_batch(seed, clusters=6)
        for before, after in zip(batch, CopyPaste(replace(rules, same_cluster=0.0), 1)(batch)):
            known = set(before["instances"].gt_classes.tolist())
            strangers += len(set(after["instances"].gt_classes[after["pasted"]].tolist()) - known)
    assert strangers > 10


def test_the_bank_holds_earlier_batches_and_forgets_the_oldest() -> None:
    alone = replace(ON, memory=1, same_cluster=0.0)
    copy_paste = CopyPaste(alone, 0)
    first, second, third = ([make_sample(seed, seed)] for seed in (11, 12, 14))
    for batch, cluster in ((first, 7), (second, 8), (third, 9)):
        batch[0]["instances"].gt_classes[:] = cluster
        assert len(batch[0]["instances"])
    assert not copy_paste(first)[0]["pasted"].any(), "an image has nothing for itself"
    found = copy_paste(second)[0]
    assert set(found["instances"].gt_classes[found["pasted"]].tolist()) == {7}
    found = copy_paste(third)[0]
    assert set(found["instances"].gt_classes[found["pasted"]].tolist()) == {8}


def test_the_panoptic_map_follows_from_both() -> None:
    from detectron2.structures import BitMasks, Boxes, Instances

    instances = Instances((1, 5))
    instances.gt_masks = BitMasks(torch.tensor([[[True, False, False, False, False]]]))
    instances.gt_boxes = Boxes([[0, 0, 1, 1]])
    instances.gt_classes = torch.tensor([2])
    image = torch.zeros((3, 1, 5), dtype=torch.uint8)
    target = torch.tensor([[0, 0, 255, 1, 2]])
    sample = {"image": image, "instances": instances, "sem_seg": target}
    assert panoptic_ids(sample).tolist() == [[1, 0, 0, 2, 3]]
    assert disagreements(sample) == ["1 pixels are 'any thing' without an instance"]


def test_disagreements_are_named() -> None:
    from detectron2.structures import BitMasks, Boxes, Instances

    instances = Instances((1, 3))
    masks = [[[True, True, False]], [[False, True, False]], [[False, False, False]]]
    instances.gt_masks = BitMasks(torch.tensor(masks))
    instances.gt_boxes = Boxes([[0, 0, 2, 1], [1, 0, 3, 1], [0, 0, 0, 0]])
    instances.gt_classes = torch.tensor([0, 0, 0])
    image = torch.zeros((3, 1, 3), dtype=torch.uint8)
    sample = {"image": image, "instances": instances, "sem_seg": torch.tensor([[0, 1, 1]])}
    assert disagreements(sample) == [
        "the box of instance 1 is [1.0, 0.0, 3.0, 1.0], its mask has (1, 0, 2, 1)",
        "instance 2 has no pixel",
        "1 pixels belong to several instances",
        "1 pixels of instances are stuff or void in the stuff map",
    ]
