"""A model's outputs as a guess, by hand, and a small model as a teacher."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.inference.test_detector import save_random_model
from tests.label_folder import BASE_CONFIG, TINY, scene
from u2seg.compat import prepare_host
from u2seg.errors import UserError
from u2seg.inference.teacher import ModelTeacher, guess_of

pytestmark = pytest.mark.d2
prepare_host()


def test_outputs_by_hand() -> None:
    import torch
    from detectron2.structures import Instances

    instances = Instances((1, 4))
    instances.scores = torch.tensor([0.9, 0.8, 0.4])
    instances.pred_classes = torch.tensor([5, 1, 2])
    instances.pred_masks = torch.tensor([[[1, 1, 0, 0]], [[0, 0, 0, 0]], [[0, 0, 0, 1]]]).bool()
    # Odds 3 : 1 for any thing, 3 : 1 and 1 : 9 for the first stuff class, even for both.
    odds = torch.tensor([[[3.0, 1.0, 9.0, 1.0]], [[1.0, 3.0, 1.0, 1.0]]])
    guess = guess_of({"instances": instances, "sem_seg": odds.log()})
    assert guess.clusters == [5, 2]
    assert [m.score for m in guess.masks] == pytest.approx([0.9, 0.4])
    assert [m.area for m in guess.masks] == [2, 1]
    assert guess.stuff.tolist()[0][:3] == [255, 0, 255]
    np.testing.assert_allclose(guess.sure, [[0.75, 0.75, 0.9, 0.5]], rtol=1e-6)
    # Without a semantic head every threshold keeps the stuff as it was labelled.
    alone = guess_of({"instances": instances})
    assert alone.clusters == [5, 2]
    assert (alone.stuff.tolist(), alone.sure.tolist()) == ([[255] * 4], [[-1.0] * 4])


def test_a_model_teaches_and_is_told_apart(tmp_path: Path) -> None:
    from u2seg.host.setup import build_cfg

    weights = save_random_model(build_cfg(BASE_CONFIG, TINY), tmp_path / "model.pth")
    teacher = ModelTeacher(str(BASE_CONFIG), TINY, weights, 0.0)
    image, label = scene(0)
    guess = teacher(image)
    assert guess.stuff.shape == guess.sure.shape == label.ids.shape
    assert guess.masks and set(guess.clusters) <= {0, 1, 2}
    moved = [*TINY, "OUTPUT_DIR", "elsewhere", "U2SEG.DATA.LABELS", "somewhere"]
    same = ModelTeacher(str(BASE_CONFIG), moved, weights, 0.0).fingerprint()
    assert same == teacher.fingerprint()
    larger = [*TINY, "INPUT.MIN_SIZE_TEST", "96"]
    assert ModelTeacher(str(BASE_CONFIG), larger, weights, 0.0).fingerprint() != same
    with pytest.raises(UserError, match=r"none.pth does not exist"):
        ModelTeacher(str(BASE_CONFIG), TINY, tmp_path / "none.pth", 0.0)
