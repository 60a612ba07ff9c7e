"""A small model of random weights as an object; as a teacher it is told apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.factories import BASE_CONFIG, TINY, scene
from tests.inference.test_detector import save_random_model
from u2seg.compat import prepare_host
from u2seg.errors import UserError
from u2seg.inference.segmenter import Segmenter

pytestmark = pytest.mark.d2
prepare_host()


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from u2seg.host.setup import build_cfg

    folder = tmp_path_factory.mktemp("segmenter")
    return save_random_model(build_cfg(BASE_CONFIG, TINY), folder / "model.pth")


def test_a_model_is_told_apart_before_it_is_loaded(weights: Path, tmp_path: Path) -> None:
    def fingerprint(*words: str) -> dict[str, str]:
        segmenter = Segmenter.from_config(BASE_CONFIG, weights, [*TINY, *words], lazy=True)
        assert "model" not in vars(segmenter)
        return segmenter.fingerprint()

    moved = ["OUTPUT_DIR", "elsewhere", "U2SEG.DATA.LABELS", "somewhere"]
    assert fingerprint(*moved) == fingerprint() != fingerprint("INPUT.MIN_SIZE_TEST", "96")
    with pytest.raises(UserError, match=r"none.pth does not exist"):
        Segmenter.from_config(BASE_CONFIG, tmp_path / "none.pth", TINY)


def test_one_image_several_and_batches(weights: Path, tmp_path: Path) -> None:
    segmenter = Segmenter.from_config(BASE_CONFIG, weights, TINY, 0.0, device="cpu")
    assert repr(segmenter) == "Segmenter(PanopticCascadeRCNN on cpu, 3 things, 2 stuff)"
    image = scene(0)[0]
    one = segmenter.predict(image)
    assert one.image is image and one.instances and one.stuff.shape == image.shape[:2]
    lying = Image.fromarray(np.rot90(image))
    exif = lying.getexif()
    exif[274] = 6  # to be turned right by 90 degrees
    lying.save(tmp_path / "lying.png", exif=exif)
    both = segmenter.predict([image, tmp_path / "lying.png"], batch_size=2)
    for found in both:
        assert np.array_equal(found.image, image)
        assert np.array_equal(found.panoptic.ids, one.panoptic.ids)
    assert segmenter.predict([]) == []
    with pytest.raises(UserError, match="takes no prompts"):
        segmenter.predict(image, prompts=[(3, 4)])
