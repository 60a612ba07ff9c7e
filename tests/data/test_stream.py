"""The training stream: who gets which draw, randomness per draw, starting anywhere."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from u2seg.data.stream import (
    Sample,
    StreamPlan,
    TrainStream,
)
from u2seg.errors import UserError
from u2seg.structures.draws import DRAW, DRAW_SEED

# wide: 0 2 3, tall: 1 4
RECORDS = [
    {"name": n, "width": w, "height": 2} for n, w in zip("abcde", (3, 1, 3, 3, 2), strict=True)
]


def augment(record: Sample) -> Sample:
    """As a mapper of the host: draws from the shared generators."""
    numbers = [random.random(), float(np.random.rand()), float(torch.rand(()))]  # noqa: NPY002
    return {**record, "numbers": numbers}


def stream(start: int = 0, memory: int = 0, transform: Any = None, **plan: Any) -> TrainStream:
    values = {"seed": 3, "batch": 4, **plan}
    result = TrainStream(RECORDS, augment, StreamPlan(**values), transform=transform, memory=memory)
    result.start_iteration = start
    return result


def first(found: TrainStream, count: int) -> list[list[Sample]]:
    return list(itertools.islice(found, count))


def test_draws_are_places_in_the_run_and_slices_follow_the_rank() -> None:
    """Batches of 4 for two processes: process 1 has the draws 2, 3, then 6, 7."""
    whole = first(stream(), 2)
    assert [[s[DRAW] for s in batch] for batch in whole] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    second = first(stream(rank=1, world=2), 2)
    assert [[s[DRAW] for s in batch] for batch in second] == [[2, 3], [6, 7]]
    assert second == [batch[2:] for batch in whole]


def test_a_batch_holds_wide_or_tall_images() -> None:
    for batch in first(stream(), 10):
        assert len({s["width"] > s["height"] for s in batch}) == 1
    mixed = [{s["width"] > s["height"] for s in b} for b in first(stream(grouped=False), 10)]
    assert {True, False} in mixed


@pytest.mark.parametrize("start", [1, 5, 40])
def test_it_begins_at_any_iteration_without_loading_the_others(start: int) -> None:
    whole = first(stream(), start + 3)
    loaded = []
    later = stream(start)
    later.mapper = lambda record: loaded.append(record["name"]) or augment(record)
    assert first(later, 3) == whole[start:]
    assert len(loaded) == 12


@pytest.mark.parametrize("workers", [1, 2])
def test_loading_processes_change_nothing(workers: int) -> None:
    assert first(stream(workers=workers), 3) == first(stream(), 3)


def test_the_same_image_is_augmented_anew_and_the_shared_generators_are_left_alone() -> None:
    def state() -> list[Any]:
        numpy_state = np.random.get_state()[1].tolist()  # noqa: NPY002
        return [random.getstate(), numpy_state, torch.get_rng_state().tolist()]

    before = state()
    samples = [s for batch in first(stream(), 5) for s in batch]
    assert state() == before
    assert len({tuple(s["numbers"]) for s in samples}) == len(samples)
    assert len({s[DRAW_SEED] for s in samples}) == len(samples)
    # another seed: other numbers for the same draw
    assert first(stream(seed=4), 1)[0][0]["numbers"] != samples[0]["numbers"]


class Notes:
    """A transform that remembers the names of the last two batches."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.past: list[str] = []

    def __call__(self, samples: Sequence[Sample]) -> list[Sample]:
        past = " ".join(self.past)
        self.remember(samples)
        return [{**s, "past": past, "seed": self.seed} for s in samples]

    def remember(self, samples: Sequence[Sample]) -> None:
        self.past = [*self.past, "".join(s["name"] for s in samples)][-2:]


def test_a_transform_gets_the_streams_seed_and_its_memory_back() -> None:
    whole = first(stream(transform=Notes, memory=2), 6)
    names = ["".join(s["name"] for s in batch) for batch in whole]
    assert [batch[0]["past"] for batch in whole[:3]] == ["", names[0], f"{names[0]} {names[1]}"]
    assert whole[0][0]["seed"] == 3
    for start in (1, 3):
        assert first(stream(start, transform=Notes, memory=2), 2) == whole[start : start + 2]


def test_a_state_keeps_the_seed_and_refuses_other_data() -> None:
    state = stream(seed=8).state_dict()
    other = stream(seed=9)
    other.load_state_dict(state)
    assert first(other, 2) == first(stream(seed=8), 2)
    with pytest.raises(UserError, match="began with 6 images, there are 5 now"):
        other.load_state_dict({**state, "images": 6})


def config(tmp_path: Path, *words: str) -> Any:
    from tests.factories import BASE_CONFIG, data_words, make_labels
    from u2seg.host.setup import build_cfg

    labels = make_labels(tmp_path)
    return build_cfg(BASE_CONFIG, [*data_words(labels, tmp_path / "out"), *words], register=True)


@pytest.mark.d2
def test_from_a_config(tmp_path: Path) -> None:
    pytest.importorskip("detectron2", reason="Detectron2 is not installed")
    from u2seg.data.stream import build_train_loader

    flips = ("INPUT.MIN_SIZE_TRAIN", "(48, 64, 80, 96)")
    cfg = config(tmp_path, *flips)
    found = first(build_train_loader(cfg), 8)
    stream = build_train_loader(cfg)
    stream.start_iteration = 5
    later = first(stream, 3)
    for samples, expected in zip(later, found[5:], strict=True):
        for sample, other in zip(samples, expected, strict=True):
            assert sample[DRAW_SEED] == other[DRAW_SEED]
            assert torch.equal(sample["image"], other["image"])
            masks = sample["instances"].gt_masks.tensor, other["instances"].gt_masks.tensor
            assert torch.equal(*masks)
    assert len({s["image"].shape for batch in found for s in batch}) > 1
    names = {s["stem"] for batch in found for s in batch}
    assert names == {"a/0", "b/1", "2", "3"}


@pytest.mark.d2
def test_the_state_from_a_config_notices_changed_labels(tmp_path: Path) -> None:
    """Another sum of one label file; what else the manifest says does not matter."""
    pytest.importorskip("detectron2", reason="Detectron2 is not installed")
    from u2seg.data.stream import build_train_loader
    from u2seg.io.atomic import sha256_file, write_json

    cfg = config(tmp_path)
    panoptic = tmp_path / "labels" / "panoptic"
    files = {"instances.json": sha256_file(panoptic / "instances.json"), "stuff/**.png": "0" * 64}
    write_json(panoptic / "manifest.json", {"files": files, "seed": 0})
    state = build_train_loader(cfg).state_dict()
    write_json(panoptic / "manifest.json", {"seed": 1, "files": files})
    build_train_loader(cfg).load_state_dict(state)
    write_json(panoptic / "manifest.json", {"files": {**files, "stuff/**.png": "1" * 64}})
    told = f"began with other labels .*U2SEG.DATA.LABELS {tmp_path}/labels was labelled anew since"
    with pytest.raises(UserError, match=told):
        build_train_loader(cfg).load_state_dict(state)


@pytest.mark.d2
def test_images_without_things_are_left_out_on_request(tmp_path: Path) -> None:
    pytest.importorskip("detectron2", reason="Detectron2 is not installed")
    from u2seg.data.stream import build_train_loader

    cfg = config(tmp_path, "DATALOADER.FILTER_EMPTY_ANNOTATIONS", "True")
    names = {s["stem"] for batch in first(build_train_loader(cfg), 8) for s in batch}
    assert names == {"a/0", "b/1", "2"}  # scene 3 has no thing


@pytest.mark.d2
def test_copy_paste_on_demand_with_its_memory_after_a_resume(tmp_path: Path) -> None:
    pytest.importorskip("detectron2", reason="Detectron2 is not installed")
    from u2seg.data.stream import build_train_loader

    words = ("U2SEG.COPY_PASTE.ENABLED", "True", "U2SEG.COPY_PASTE.MEMORY", "2")
    small = ("U2SEG.COPY_PASTE.MIN_AREA", "4")
    cfg = config(tmp_path, *words, *small)
    found = first(build_train_loader(cfg), 6)
    stream = build_train_loader(cfg)
    stream.start_iteration = 4
    later = first(stream, 2)
    assert sum(int(s["pasted"].sum()) for batch in found for s in batch) > 0
    for samples, expected in zip(later, found[4:], strict=True):
        for sample, other in zip(samples, expected, strict=True):
            assert torch.equal(sample["image"], other["image"])
            assert torch.equal(sample["sem_seg"], other["sem_seg"])
