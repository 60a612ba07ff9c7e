"""The first images of a training, drawn into its output folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.factories import BASE_CONFIG, data_words, make_labels
from u2seg.compat import prepare_host
from u2seg.data.mapper import PanopticMapper
from u2seg.engine.pictures import BatchPictures, named_space
from u2seg.engine.run import train_or_evaluate
from u2seg.host.arguments import train_parser
from u2seg.host.setup import build_cfg
from u2seg.labels import LabelFolder
from u2seg.structures.labels import LabelSpace

pytestmark = pytest.mark.d2
prepare_host()


def batch(labels: Path) -> list[dict[str, Any]]:
    return [PanopticMapper([], is_train=True)(r) for r in LabelFolder.open(labels).records()[:2]]


def test_the_first_images_are_drawn_and_no_others(tmp_path: Path) -> None:
    from detectron2.utils.events import EventStorage

    labels = make_labels(tmp_path)
    words = [*data_words(labels, tmp_path / "out"), "U2SEG.TRAIN.PICTURES", "3"]
    watch = BatchPictures(build_cfg(BASE_CONFIG, words))
    shown = tmp_path / "out" / "pictures"
    with EventStorage(0) as storage:
        for iteration in range(3):
            watch(iteration, batch(labels))
        names = ["train_001", "train_002", "train_003"]
        assert [name for name, *_ in storage._vis_data] == [f"pictures/{n}" for n in names]
        assert [p.stem for p in sorted(shown.iterdir())] == names
        with Image.open(shown / "train_001.jpg") as picture:
            assert picture.width == 448 * 2 + 8, "64 pixels, 7 times as large"
        (shown / "train_003.jpg").unlink()
        watch(2, batch(labels))
        assert len(list(shown.iterdir())) == 2, "a training that goes on draws nothing anew"


def test_names_are_those_of_the_labels() -> None:
    from detectron2.data import MetadataCatalog

    space = LabelSpace(2, 1)
    data_set = "u2seg_test_names"
    try:
        assert named_space(space, [data_set]) == space
        MetadataCatalog.get(data_set).set(
            thing_classes=["cat", "dog"], stuff_classes=["things", "sky"]
        )
        named = named_space(space, [data_set])
        assert (named.thing_names, named.stuff_names) == (("cat", "dog"), ("sky",))
        assert named_space(LabelSpace(3, 1), [data_set]) == LabelSpace(3, 1), "another model"
    finally:
        MetadataCatalog.remove(data_set)


def test_a_training_leaves_pictures_on_disk_and_in_tensorboard(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    words = [*data_words(make_labels(tmp_path), tmp_path / "out"), "U2SEG.TRAIN.PICTURES", "1"]
    words += ["SOLVER.MAX_ITER", "1", "U2SEG.COPY_PASTE.ENABLED", "true"]
    train_or_evaluate(
        train_parser().parse_intermixed_args(["--config-file", str(BASE_CONFIG), *words])
    )
    assert [p.name for p in (tmp_path / "out" / "pictures").iterdir()] == ["train_001.jpg"]
    events = accumulator.EventAccumulator(str(tmp_path / "out"), size_guidance={"images": 0})
    events.Reload()
    assert events.Tags()["images"] == ["pictures/train_001"]
