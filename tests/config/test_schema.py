"""Every setting refuses what it must refuse, naming its key."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from typing import Any

import pytest

from u2seg.config.schema import SECTIONS, Settings
from u2seg.errors import UserError

BAD: list[tuple[str, Any]] = [
    ("images.extensions", ()),
    ("images.max_pixels", 0),
    ("features.image_size", 15),
    ("features.resize", "stretch"),
    ("features.patch_size", 0),
    ("features.patch_size", 65),
    ("features.precision", "fp8"),
    ("features.batch_size", 0),
    ("masks.tau", 1.1),
    ("masks.tau", -1.1),
    ("masks.eps", 0.0),
    ("masks.eps", 1.0),
    ("masks.num_masks", 0),
    ("masks.max_overlap", 1.1),
    ("masks.min_area", -0.1),
    ("masks.max_area", 1.1),
    ("masks.max_border", 1.1),
    ("masks.score", "area"),
    ("masks.min_refine_iou", -0.1),
    ("masks.crf_iterations", 0),
    ("masks.crf_gaussian_sxy", 0.0),
    ("masks.crf_bilateral_sxy", 0.0),
    ("masks.crf_bilateral_srgb", -1.0),
    ("clusters.num_clusters", 0),
    ("clusters.descriptor", "mean"),
    ("clusters.backend", "scipy"),
    ("clusters.iterations", 0),
    ("clusters.restarts", 0),
    ("clusters.seed", -1),
    ("semantics.num_classes", 0),
    ("semantics.num_classes", 255),
    ("semantics.dropout", 1.0),
    ("semantics.dropout", -0.1),
    ("semantics.code_dim", 0),
    ("semantics.steps", 0),
    ("semantics.samples", 0),
    ("semantics.neighbors", 0),
    ("semantics.neg_samples", 0),
    ("semantics.crf_iterations", 0),
    ("semantics.batch_size", 1),
    ("semantics.lr", 0.0),
    ("semantics.probe_lr", -1.0),
    ("semantics.seed", -1),
    ("semantics.crops", "ten"),
    ("semantics.crop_ratio", 0.0),
    ("semantics.crop_ratio", 1.1),
    ("semantics.projection", "deep"),
    ("semantics.weight_rec", -0.1),
    ("semantics.shifts", "guess"),
    ("semantics.quantile_neg", 1.1),
    ("semantics.quantile_inter", -0.1),
    ("semantics.quantile_intra", 2.0),
    ("panoptic.max_stuff_covered", 1.1),
    ("panoptic.stuff_covered", (0.5, 1.1)),
    ("panoptic.min_thing_area", 1.0),
    ("panoptic.min_stuff_area", -0.1),
    ("panoptic.min_visible", 1.1),
    ("panoptic.max_hole", -0.1),
    ("run.shard_size", 0),
    ("run.max_bad", 1.1),
    ("eval.matching", "greedy"),
    ("eval.match_iou", 1.1),
    ("eval.match_score", -0.1),
    ("eval.instance_score", 2.0),
]
EDGES: list[tuple[str, Any]] = [
    ("masks.tau", -1.0),
    ("masks.tau", 1.0),
    ("masks.max_area", 0.0),
    ("masks.max_border", 0.0),
    ("clusters.num_clusters", 1),
    ("semantics.num_classes", 254),
    ("semantics.dropout", 0.0),
    ("semantics.batch_size", 2),
    ("panoptic.max_stuff_covered", 0.0),
    ("panoptic.stuff_covered", (0.0, 1.0)),
    ("panoptic.min_thing_area", 0.0),
    ("panoptic.min_visible", 1.0),
    ("run.max_bad", 0.0),
    ("features.image_size", 16),
]


def _make(key: str, value: Any) -> Any:
    section, name = key.split(".")
    return SECTIONS[section](**{name: value})


@pytest.mark.parametrize(("key", "value"), BAD)
def test_values_out_of_range_name_key_value_and_what_was_expected(key: str, value: Any) -> None:
    with pytest.raises(UserError) as error:
        _make(key, value)
    message = str(error.value)
    assert message.startswith(f"U2SEG.{key.upper()} is {value!r}, expected ")


@pytest.mark.parametrize(("key", "value"), EDGES)
def test_values_at_the_edge_are_allowed(key: str, value: Any) -> None:
    section, name = key.split(".")
    assert getattr(_make(section + "." + name, value), name) == value


def test_nan_is_no_valid_number() -> None:
    for key in ("masks.tau", "masks.max_overlap", "semantics.dropout", "semantics.lr"):
        with pytest.raises(UserError, match="is nan, expected"):
            _make(key, float("nan"))


def test_defaults_are_valid_typed_frozen_and_documented() -> None:
    assert set(SECTIONS) == {f.name for f in fields(Settings)}
    for name, kind in SECTIONS.items():
        assert is_dataclass(kind)
        section = getattr(Settings(), name)
        assert section == kind()
        with pytest.raises(AttributeError):
            setattr(section, fields(kind)[0].name, None)
        for field in fields(kind):
            value = getattr(section, field.name)
            assert isinstance(value, bool | int | float | str | tuple), f"{name}.{field.name}"
            # "crf_*" and "key_a, key_b" stand for several fields.
            stem = field.name.split("_")[0]
            assert field.name in kind.__doc__ or f"{stem}_*" in kind.__doc__, field.name


def test_published_constants() -> None:
    # CutLER's released ImageNet masks, STEGO's COCO-Stuff-27 ViT-S block, U2Seg's merge.
    masks, stego = Settings().masks, Settings().semantics
    assert (masks.tau, masks.num_masks, masks.crf_bilateral_sxy) == (0.15, 3, 50.0)
    assert (stego.weight_neg, stego.weight_inter, stego.weight_intra) == (0.63, 0.25, 0.67)
    assert (stego.shift_neg, stego.shift_inter, stego.shift_intra) == (0.66, 0.02, 0.08)
    assert Settings().panoptic.max_stuff_covered == 0.7


def test_settings_compare_by_value() -> None:
    assert Settings() == Settings()
    assert replace(Settings().run, shard_size=3) != Settings().run
