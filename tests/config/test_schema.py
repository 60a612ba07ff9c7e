"""Every setting refuses what it must refuse, naming its key."""

from __future__ import annotations

import operator
from dataclasses import fields, is_dataclass
from typing import Any

import pytest

from u2seg.config.load import section_from_tree
from u2seg.config.schema import SECTIONS, MaskCutSettings, Settings, StegoSettings
from u2seg.errors import UserError

BAD: dict[str, list[Any]] = {
    "images.extensions": [()], "images.max_pixels": [0], "features.image_size": [15],
    "features.resize": ["stretch"], "features.filter_bank.patch_size": [0, 65],
    "features.vit.precision": ["fp8"], "features.batch_size": [0],
    "masks.maskcut.tau": [1.1, -1.1], "masks.maskcut.eps": [0.0, 1.0],
    "masks.maskcut.num_masks": [0], "masks.maskcut.max_overlap": [1.1],
    "masks.maskcut.min_area": [-0.1], "masks.maskcut.max_area": [1.1],
    "masks.max_border": [1.1], "masks.score": ["area"], "masks.min_refine_iou": [-0.1],
    "masks.dense_crf.iterations": [0], "masks.dense_crf.gaussian_sxy": [0.0],
    "masks.dense_crf.bilateral_sxy": [0.0], "masks.dense_crf.bilateral_srgb": [-1.0],
    "clusters.num_clusters": [-1], "clusters.kmeans.iterations": [0],
    "clusters.kmeans.restarts": [0], "clusters.seed": [-1], "semantics.num_classes": [-1, 255],
    "semantics.stego.dropout": [1.0, -0.1], "semantics.stego.code_dim": [0],
    "semantics.stego.steps": [0], "semantics.stego.samples": [0],
    "semantics.stego.neighbors": [0], "semantics.stego.neg_samples": [0],
    "semantics.dense_crf.iterations": [0], "semantics.stego.batch_size": [1],
    "semantics.stego.lr": [0.0], "semantics.stego.probe_lr": [-1.0], "semantics.seed": [-1],
    "semantics.crops": ["ten"], "semantics.crop_ratio": [0.0, 1.1],
    "semantics.stego.projection": ["deep"], "semantics.stego.weight_rec": [-0.1],
    "semantics.stego.shifts": ["guess"], "semantics.stego.quantile_neg": [1.1],
    "semantics.stego.quantile_inter": [-0.1], "semantics.stego.quantile_intra": [2.0],
    "panoptic.max_stuff_covered": [1.1], "panoptic.stuff_covered": [(0.5, 1.1)],
    "panoptic.min_thing_area": [1.0], "panoptic.min_stuff_area": [-0.1],
    "panoptic.min_visible": [1.1], "panoptic.max_hole": [-0.1], "run.shard_size": [0],
    "run.max_bad": [1.1], "eval.matching": ["greedy"], "eval.match_iou": [1.1],
    "eval.match_score": [-0.1], "eval.instance_score": [2.0],
}  # fmt: skip
EDGES: dict[str, list[Any]] = {
    "masks.maskcut.tau": [-1.0, 1.0], "masks.maskcut.max_area": [0.0],
    "masks.max_border": [0.0], "clusters.num_clusters": [0], "semantics.num_classes": [0, 254],
    "semantics.stego.dropout": [0.0], "semantics.stego.batch_size": [2],
    "panoptic.max_stuff_covered": [0.0], "panoptic.stuff_covered": [(0.0, 1.0)],
    "panoptic.min_thing_area": [0.0], "panoptic.min_visible": [1.0], "run.max_bad": [0.0],
    "features.image_size": [16],
}  # fmt: skip


def _make(key: str, value: Any) -> Any:
    for part in reversed(key.upper().split(".")[1:]):
        value = {part: value}
    section = key.split(".")[0]
    return section_from_tree(SECTIONS[section](), value, f"U2SEG.{section.upper()}")


@pytest.mark.parametrize(("key", "value"), [(key, v) for key in BAD for v in BAD[key]])
def test_values_out_of_range_name_key_value_and_what_was_expected(key: str, value: Any) -> None:
    with pytest.raises(UserError) as error:
        _make(key, value)
    message = str(error.value)
    assert message.startswith(f"U2SEG.{key.upper()} is {value!r}, expected ")


@pytest.mark.parametrize(("key", "value"), [(key, v) for key in EDGES for v in EDGES[key]])
def test_values_at_the_edge_are_allowed(key: str, value: Any) -> None:
    name = key.partition(".")[2]
    assert operator.attrgetter(name)(_make(key, value)) == value


def test_nan_is_no_valid_number() -> None:
    for kind, key in ((MaskCutSettings, "tau"), (StegoSettings, "dropout"), (StegoSettings, "lr")):
        with pytest.raises(UserError, match="is nan, expected"):
            kind(**{key: float("nan")})


def test_defaults_are_valid_typed_frozen_and_documented() -> None:
    assert {"plugins", *SECTIONS} == {f.name for f in fields(Settings)}
    for name in SECTIONS:
        _check_documented(name, getattr(Settings(), name))


def _check_documented(name: str, section: Any) -> None:
    kind = type(section)
    assert section == kind()
    with pytest.raises(AttributeError):
        setattr(section, fields(kind)[0].name, None)
    for field in fields(kind):
        value = getattr(section, field.name)
        if is_dataclass(value):
            _check_documented(f"{name}.{field.name}", value)
            continue
        assert isinstance(value, bool | int | float | str | tuple), f"{name}.{field.name}"
        documented = "".join(str(k.__doc__) for k in kind.__mro__ if is_dataclass(k))
        assert field.name in documented, f"{name}.{field.name}"


def test_published_constants() -> None:
    # CutLER's released ImageNet masks, STEGO's COCO-Stuff-27 ViT-S block, U2Seg's merge.
    masks, stego = Settings().masks, Settings().semantics.stego
    cuts = masks.maskcut
    assert (cuts.tau, cuts.num_masks, masks.dense_crf.bilateral_sxy) == (0.15, 3, 50.0)
    assert (stego.weight_neg, stego.weight_inter, stego.weight_intra) == (0.63, 0.25, 0.67)
    assert (stego.shift_neg, stego.shift_inter, stego.shift_intra) == (0.66, 0.02, 0.08)
    assert Settings().panoptic.max_stuff_covered == 0.7
