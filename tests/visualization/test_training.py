"""Pictures of training images: what is where, and what the report makes of them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from tests.visualization.fake_run import write_run
from u2seg.errors import UserError
from u2seg.structures.labels import LabelSpace
from u2seg.visualization.compose import encode_picture
from u2seg.visualization.report import build_page, write_report
from u2seg.visualization.samples import RIM
from u2seg.visualization.sources import Notes
from u2seg.visualization.training import (
    draw_training_batch,
    draw_training_sample,
    training_pictures,
)

torch = pytest.importorskip("torch")
SPACE = LabelSpace(3, 2)


def sample(pasted: bool = True) -> dict[str, object]:
    """120 x 160: stuff 1, void in the last 20 columns, a thing of cluster 2 at rows 40-79."""
    mask = torch.zeros((1, 120, 160), dtype=torch.bool)
    mask[0, 40:80, 30:90] = True
    stuff = torch.ones((120, 160), dtype=torch.int64)
    stuff[mask[0]] = 0
    stuff[:, 140:] = 255

    class Instances(SimpleNamespace):
        def __len__(self) -> int:
            return 1

    instances = Instances(gt_masks=SimpleNamespace(tensor=mask), gt_classes=torch.tensor([2]))
    image = torch.full((3, 120, 160), 40, dtype=torch.uint8)
    image[0] = 200
    return {
        "image": image, "instances": instances, "sem_seg": stuff, "file_name": "/photos/a.jpg",
        "pasted": torch.tensor([pasted]),
    }  # fmt: skip


def test_photograph_and_labels_side_by_side() -> None:
    drawn = draw_training_sample(sample(), SPACE)
    left, right = drawn[-360:, :480], drawn[-360:, 488:]  # three times as large, 8 pixels between
    assert left[300, 200].tolist() == [200, 40, 40]
    assert right[300, 460].tolist() == [200, 40, 40], "void keeps the photograph"
    thing, stuff = (SPACE.colors()[i].astype(int) for i in (2, 3))
    for (y, x), color in (((170, 120), thing), ((300, 200), stuff)):
        expected = (np.array([200, 40, 40]) + color) / 2
        assert np.abs(right[y, x] - expected).max() <= 1
    for half in (left, right):
        assert half[120, 180].tolist() == list(RIM), "upper rim of the pasted object"
        assert half[118, 180].tolist() != list(RIM), "nothing of it outside"


def test_only_pasted_objects_are_outlined() -> None:
    drawn = draw_training_sample(sample(pasted=False), SPACE)
    assert not (drawn == RIM).all(axis=2).any()
    without = sample()
    del without["pasted"]
    assert np.array_equal(draw_training_sample(without, SPACE)[-360:], drawn[-360:])


def test_bgr_is_shown_as_rgb() -> None:
    one, two = draw_training_batch([sample()] * 2, SPACE, "BGR")
    assert one[-60, 200].tolist() == [40, 40, 200]
    assert np.array_equal(one, two)


def test_classes_outside_the_label_space_are_refused() -> None:
    with pytest.raises(UserError, match="thing cluster 2 is outside"):
        draw_training_sample(sample(), LabelSpace(2, 2))


def test_the_report_shows_them(tmp_path: Path) -> None:
    folders = write_run(tmp_path, count=2)
    assert 'id="training"' not in write_report(
        tmp_path / "a.html", train=folders.train, title="t"
    ).read_text("utf-8")
    shown = folders.train / "pictures"
    shown.mkdir()
    (shown / "train_001.jpg").write_bytes(encode_picture(draw_training_sample(sample(), SPACE)))
    (shown / "train_002.jpg").write_bytes(b"no picture")
    page = build_page(train=folders.train, title="t")
    assert [picture.caption for picture in page.training] == ["training image 001"]
    assert any("training picture train_002.jpg" in note for note in page.notes)
    path = write_report(tmp_path / "b.html", train=folders.train, title="t")
    text = path.read_text("utf-8")
    assert 'id="training"' in text and page.training[0].uri in text
    assert len(training_pictures(folders.train, 0, Notes())) == 0
