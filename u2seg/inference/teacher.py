"""A trained model as the teacher of a round of self-training."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from u2seg.errors import UserError
from u2seg.io.atomic import sha256_bytes, sha256_file
from u2seg.structures.guess import Guess
from u2seg.structures.labels import VOID_STUFF
from u2seg.structures.masks import InstanceMask


class ModelTeacher:
    """A model of a config with its weights; loaded when it is first asked.

    Args:
        config_file: YAML the model was trained with.
        overrides: Settings that win over the file, as in the training.
        weights: Checkpoint.
        score: Things below are not looked at, 0..1.

    Raises:
        UserError: if there is no such checkpoint.
    """

    def __init__(
        self, config_file: str, overrides: Sequence[str], weights: Path, score: float
    ) -> None:
        if not weights.is_file():
            raise UserError(f"{weights} does not exist: the training that makes it has not ended")
        self.config_file = config_file
        self.overrides = (
            *overrides,
            *("MODEL.ROI_HEADS.SCORE_THRESH_TEST", str(score)),
        )
        self.weights = weights

    def fingerprint(self) -> dict[str, str]:
        """Return digests of the settings that decide a guess, and of the weights."""
        cfg = self._cfg.clone()
        cfg.defrost()
        cfg.MODEL.WEIGHTS = ""
        told = "".join(node.dump() for node in (cfg.MODEL, cfg.INPUT, cfg.TEST))
        return {
            "config": sha256_bytes(told.encode()),
            "weights": sha256_file(self.weights),
        }

    @functools.cached_property
    def _cfg(self) -> Any:
        from u2seg.host.setup import build_cfg

        return build_cfg(self.config_file, self.overrides)

    @functools.cached_property
    def _model(self) -> Any:
        from u2seg.inference.predict import load_model

        return load_model(self._cfg, str(self.weights))

    def __call__(self, image: npt.NDArray[np.uint8]) -> Guess:
        """Return what the model says of an (H, W, 3) uint8 RGB photograph."""
        from u2seg.inference.predict import image_outputs

        return guess_of(image_outputs(self._cfg, self._model, image))


def guess_of(outputs: dict[str, Any]) -> Guess:
    """Return a model's outputs for one image in terms of clusters.

    Args:
        outputs: ``instances`` (host's ``Instances`` with ``scores``, ``pred_classes`` 0..K-1,
            ``pred_masks`` (N, H, W) bool) and, if the model has a semantic head, ``sem_seg``
            ((S + 1, H, W) logits, 0 = any thing).

    Returns:
        Things without empty masks, in the model's order; of stuff, the likeliest class and its
        softmax probability; without a semantic head void and -1, below every threshold, so that
        stuff stays as it was labelled.
    """
    instances = outputs["instances"]
    scores = instances.scores.cpu().numpy()
    masks = instances.pred_masks.cpu().numpy().astype(bool)
    classes = instances.pred_classes.cpu().numpy()
    seen = np.flatnonzero(masks.any(axis=(1, 2)))
    if "sem_seg" in outputs:
        likeliest, best = outputs["sem_seg"].softmax(dim=0).max(dim=0)
        stuff = best.cpu().numpy().astype(np.int64) - 1
        sure = likeliest.cpu().numpy().astype(np.float32)
    else:
        stuff = np.full(instances.image_size, -1)
        sure = np.full(instances.image_size, -1, dtype=np.float32)
    return Guess(
        masks=[InstanceMask.from_array(masks[i], float(scores[i])) for i in seen],
        clusters=[int(classes[i]) for i in seen],
        stuff=np.where(stuff < 0, VOID_STUFF, stuff).astype(np.uint8),
        sure=sure,
    )
