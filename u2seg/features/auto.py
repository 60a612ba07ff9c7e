"""``U2SEG.FEATURES.NAME auto``: the best ViT whose weights can be had, else the filter bank."""

from __future__ import annotations

import logging
import operator
from dataclasses import replace
from pathlib import Path
from typing import Any

from u2seg.config.env import offline
from u2seg.config.schema import FeatureSettings, Settings
from u2seg.errors import UserError
from u2seg.io.atomic import write_json
from u2seg.io.jsonfile import read_json_object

logger = logging.getLogger(__name__)

AUTO = "auto"
CROPS = ("crop_cls", "masked_crop")
FILTER_BANK: dict[str, dict[str, Any]] = {
    "features": {"image_size": 320, "resize": "keep", "filter_bank.position_scale": 1.0},
    "masks": {
        "maskcut.tau": 0.28,
        "max_border": 0.4,
        "score": "border",
        "dense_crf.bilateral_sxy": 25.0,
    },
}
"""What suits the filter bank, as in ``configs/quickstart/quickstart.yaml``."""


def resolve(settings: Settings, record: Path | None = None) -> Settings:
    """Return settings that name an extractor, for a run that may have begun.

    Args:
        settings: Of the command; without ``auto`` they are returned as they are.
        record: File of the run that says what an earlier command found. If it is there, its name
            is taken, so that a run never changes its features.

    Returns:
        With the name, and for the filter bank with what suits it in place of the values that are
        at their defaults; descriptors of crops become ``masked_mean``, as there are no CLS tokens.

    Raises:
        UserError: for weights that cannot be read, fit no ViT that is known here, or may not be
            asked for (``--offline``) although the run has not begun.
    """
    features = settings.features
    if features.name != AUTO:
        if offline() and not (record and record.parent.exists()):
            _check_at_hand(features)
        return settings
    if record and record.is_file():
        name, reason = str(read_json_object(record, "name")["name"]), "as this run began"
    else:
        name, reason = choose(features)
    logger.info("U2SEG.FEATURES.NAME auto is %s: %s", name, reason)
    settings = replace(settings, features=replace(features, name=name))
    return _for_filter_bank(settings) if name == "filter_bank" else settings


def _check_at_hand(features: FeatureSettings) -> None:
    """Raise UserError before a run begins, not in its midst, if weights would be asked for."""
    from u2seg.features.vit import ARCHITECTURES, hub_of
    from u2seg.features.weights import at_hand, fetch

    known = features.name in ARCHITECTURES or features.name.startswith("timm:")
    if known and not features.vit.weights and not at_hand(features.name, hub_of(features.name)):
        fetch(features.name, hub_of(features.name))  # says what is missing


def remember(settings: Settings, record: Path) -> None:
    """Write which extractor ``auto`` was, unless that is written already."""
    if not record.is_file():
        write_json(record, {"asked": AUTO, "name": settings.features.name}, indent=1)


def choose(features: FeatureSettings) -> tuple[str, str]:
    """Return an extractor's name, and why it is that one.

    In this order: that of ``weights``, if they are given; the first of ``RELEASED`` whose weights
    are on this machine; the very first, if its weights can be downloaded; ``filter_bank``.
    """
    from u2seg.features.vit import ARCHITECTURES, hub_of, vit_of
    from u2seg.features.weights import RELEASED, at_hand, fetch, local_weights
    from u2seg.io.checkpoints import load_checkpoint

    if features.vit.weights:
        given = local_weights(features.vit.weights, features.vit.sha256)
        return vit_of(load_checkpoint(given, features.vit.sha256), given), f"of {given}"
    best = [*RELEASED, *(name for name in ARCHITECTURES if name not in RELEASED)]
    for name in best:
        if path := at_hand(name, hub_of(name)):
            return name, f"its weights are at hand, {path}"
    try:
        return best[0], f"its weights were downloaded, {fetch(best[0], hub_of(best[0]))}"
    except UserError as error:
        logger.warning(
            "no weights of a ViT are at hand and none can be had (%s); the filter bank sees colour "
            "and texture only. With weights from elsewhere: U2SEG.FEATURES.VIT.WEIGHTS FILE", error,
        )  # fmt: skip
        return "filter_bank", "no weights can be had"


def _for_filter_bank(settings: Settings) -> Settings:
    clusters = settings.clusters
    if clusters.descriptor in CROPS:
        clusters = replace(clusters, descriptor="masked_mean")
    sections: dict[str, Any] = {"clusters": clusters}
    defaults = Settings()
    for name, values in FILTER_BANK.items():
        section, default = getattr(settings, name), getattr(defaults, name)
        get = {key: operator.attrgetter(key) for key in values}
        unset = {k: v for k, v in values.items() if get[k](section) == get[k](default)}
        for key, value in unset.items():
            logger.info(
                "U2SEG.%s.%s %s becomes %s, which suits the filter bank",
                name.upper(), key.upper(), get[key](section), value,
            )  # fmt: skip
        for key, value in unset.items():
            node, _, leaf = key.rpartition(".")
            changed = replace(getattr(section, node), **{leaf: value}) if node else value
            section = replace(section, **{node or leaf: changed})
        sections[name] = section
    return replace(settings, **sections)
