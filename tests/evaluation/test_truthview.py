"""Predictions join a truth by the photographs' names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.evaluation import formats
from u2seg.errors import UserError
from u2seg.evaluation.truth.base import paired_by_stem
from u2seg.evaluation.truth.formats import open_truth


def test_ids_of_the_predictions_are_taken(tmp_path: Path) -> None:
    truth = open_truth("voc", formats.voc(tmp_path), "voc-21")
    paired = paired_by_stem(truth, {40: "2007_000032"}, Path("p.json"))
    assert paired.stems == {40: "2007_000032", 41: "2007_000033"}
    assert paired.sizes == {40: (2, 5), 41: (2, 3)}
    assert paired.path(40) == truth.path(1)
    assert np.array_equal(paired.read(40).ids, truth.read(1).ids)
    same = {1: "2007_000032", 2: "2007_000033"}
    assert paired_by_stem(truth, same, Path("p.json")) is truth


def test_instances_get_the_new_id(tmp_path: Path) -> None:
    truth = open_truth("uvo", [formats.coco_instances(tmp_path / "u.json", {1: "object"})])
    image = paired_by_stem(truth, {1: "clip/0"}, Path("p.json")).read(1)
    assert image.instances is not None and {r["image_id"] for r in image.instances} == {1}


def test_names_that_do_not_meet(tmp_path: Path) -> None:
    truth = open_truth("voc", formats.voc(tmp_path), "voc-21")
    with pytest.raises(
        UserError, match=r"p.json has a prediction of cat \(and 0 more\).*2007_000032"
    ):
        paired_by_stem(truth, {1: "cat"}, Path("p.json"))
    with pytest.raises(UserError, match=r"two predictions named 2007_000032"):
        paired_by_stem(truth, {1: "2007_000032", 2: "2007_000032"}, Path("p.json"))
