"""Samples: colours, labels and boxes after known augmentations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from tests.factories import make_labels, scene
from u2seg.compat import prepare_host
from u2seg.data.mapper import PanopticMapper, read_photograph
from u2seg.errors import StageError
from u2seg.labels import LabelFolder
from u2seg.structures.masks import encode_mask

pytestmark = pytest.mark.d2
pytest.importorskip("detectron2", reason="Detectron2 is not installed")
prepare_host()


def test_sample_without_augmentation(tmp_path: Path) -> None:
    record = LabelFolder.open(make_labels(tmp_path)).records()[1]
    sample = PanopticMapper([], is_train=True)(record)
    image, _ = scene(1)
    assert np.array_equal(sample["image"].numpy(), image.transpose(2, 0, 1))
    assert sample["sem_seg"].dtype.is_floating_point is False
    values = [int(sample["sem_seg"][y, x]) for y, x in ((0, 0), (63, 0), (30, 30))]
    assert values == [1, 2, 0]
    instances = sample["instances"]
    assert instances.gt_boxes.tensor.tolist() == [[25.0, 24.0, 41.0, 40.0]]
    assert instances.gt_classes.tolist() == [1]
    assert int(instances.gt_masks.tensor.sum()) == 256
    assert "annotations" in record


def test_crowds_are_ignored_regions_and_no_instances(tmp_path: Path) -> None:
    from detectron2.data import transforms

    record = LabelFolder.open(make_labels(tmp_path)).records()[1]
    assert "ignored" not in PanopticMapper([], is_train=True)(record)
    record["annotations"][0]["iscrowd"] = 1
    sample = PanopticMapper([transforms.RandomFlip(prob=1.0)], is_train=True)(record)
    assert len(sample["instances"]) == 0
    rows, columns = sample["ignored"].nonzero(as_tuple=True)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (24, 39, 23, 38)
    assert int(sample["ignored"].sum()) == 256


def test_void_is_ignored_where_no_stuff_is_learnt_and_objects_are_pasted(tmp_path: Path) -> None:
    """Void in columns 0..9, flipped to 54..63; the crowd of 16x16 pixels is ignored as well."""
    from detectron2.data import transforms

    from tests.factories import BASE_CONFIG, data_words
    from u2seg.host.setup import build_cfg

    labels = make_labels(tmp_path)
    record = LabelFolder.open(labels).records()[1]
    stuff = np.array(Image.open(record["sem_seg_file_name"]))
    stuff[:, :10] = 255
    Image.fromarray(stuff).save(record["sem_seg_file_name"])
    words = [*data_words(labels, tmp_path / "out")]
    words += ["U2SEG.COPY_PASTE.ENABLED"]

    def sample(pasting: str) -> dict[str, Any]:
        mapper = PanopticMapper.from_cfg(
            build_cfg(BASE_CONFIG, [*words, pasting]), True, tasks=frozenset({"things"})
        )
        mapper.augmentations = transforms.AugmentationList([transforms.RandomFlip(prob=1.0)])
        return mapper(record)

    assert "ignored" not in sample("False")
    found = sample("True")
    assert "sem_seg" not in found
    assert found["ignored"].all(0).nonzero()[:, 0].tolist() == list(range(54, 64))
    assert int(found["ignored"].sum()) == 64 * 10
    record["annotations"][0]["iscrowd"] = 1
    assert int(sample("True")["ignored"].sum()) == 64 * 10 + 256


def test_flip_moves_image_and_labels_alike(tmp_path: Path) -> None:
    from detectron2.data import transforms

    record = LabelFolder.open(make_labels(tmp_path)).records()[1]
    sample = PanopticMapper([transforms.RandomFlip(prob=1.0)], is_train=True)(record)
    image, _ = scene(1)
    assert np.array_equal(sample["image"].numpy(), image[:, ::-1].transpose(2, 0, 1))
    assert sample["instances"].gt_boxes.tensor.tolist() == [[23.0, 24.0, 39.0, 40.0]]
    assert int(sample["sem_seg"][30, 38]) == 0
    assert int(sample["sem_seg"][30, 39]) != 0


@pytest.mark.parametrize(
    ("stuff", "message"),
    [
        (np.full((64, 64), 77, dtype=np.uint8), "holds the value 77, but there are 2 stuff"),
        (np.ones((60, 64), dtype=np.uint8), "is 60x64 pixels .* its photograph 64x64"),
        (None, "cannot identify image file"),
    ],
)
def test_a_damaged_stuff_target_is_named(
    tmp_path: Path, stuff: npt.NDArray[np.uint8] | None, message: str
) -> None:
    record = LabelFolder.open(make_labels(tmp_path)).records()[1]
    path = Path(record["sem_seg_file_name"])
    if stuff is None:
        path.write_bytes(b"no PNG")
    else:
        Image.fromarray(stuff).save(path)
    with pytest.raises(StageError, match=rf"1.png.*{message}.*u2seg label"):
        PanopticMapper([], is_train=True, num_stuff=2)(record)


def test_things_that_a_crop_leaves_out_are_dropped(tmp_path: Path) -> None:
    """The object of columns 25..40 and rows 24..39 is beyond a crop to the left 20 columns."""
    from detectron2.data import transforms

    class Left(transforms.Augmentation):
        def get_transform(self, image: Any) -> Any:
            return transforms.CropTransform(0, 0, 20, 64)

    record = LabelFolder.open(make_labels(tmp_path)).records()[1]
    (thing,) = record["annotations"]
    corner = np.zeros((64, 64), dtype=bool)
    corner[:3, 2:6] = True
    other = {**thing, "category_id": 0, "segmentation": encode_mask(corner)}
    record["annotations"] = [thing, other]
    instances = PanopticMapper([Left()], is_train=True)(record)["instances"]
    assert instances.gt_classes.tolist() == [0]
    assert instances.gt_boxes.tensor.tolist() == [[2.0, 0.0, 6.0, 3.0]]
    assert np.array_equal(instances.gt_masks.tensor.numpy(), corner[None, :, :20])
    assert record["annotations"] == [thing, other]


def test_image_without_things_has_empty_masks(tmp_path: Path) -> None:
    record = LabelFolder.open(make_labels(tmp_path)).records()[3]
    sample = PanopticMapper([], is_train=True)(record)
    assert len(sample["instances"]) == 0
    assert tuple(sample["instances"].gt_masks.tensor.shape) == (0, 64, 64)
    assert int(sample["sem_seg"].min()) == 1


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    wide = Image.fromarray(np.zeros((2, 6, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[274] = 6  # rotate by 90 degrees
    wide.save(tmp_path / "turned.jpg", exif=exif)
    record = {"file_name": str(tmp_path / "turned.jpg"), "height": 6, "width": 2}
    assert read_photograph(record).shape == (6, 2, 3)


def test_changed_or_broken_photographs_are_named(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "small.png")
    record = {"file_name": str(tmp_path / "small.png"), "height": 8, "width": 8}
    with pytest.raises(StageError, match=r"small.png is 4x4 .* says 8x8"):
        read_photograph(record)
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(StageError, match=r"broken\.png: not an image"):
        read_photograph({**record, "file_name": str(tmp_path / "broken.png")})
