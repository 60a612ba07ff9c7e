"""How often labelling decodes a photograph and looks at it: no more than it must."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.pipeline.conftest import tree
from u2seg.config.schema import Settings
from u2seg.features.filter_bank import FilterBank
from u2seg.io.jsonfile import read_json
from u2seg.pipeline import generate_labels, ingest, stage


@pytest.mark.parametrize("descriptor", ["masked_mean", "crop_cls"])
def test_one_decoding_a_pass_and_one_look_for_all_facets(
    photos: Path,
    settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    descriptor: str,
) -> None:
    """Decoded to list, for masks with their descriptors, and for stuff; the fit is left out."""
    clusters = dataclasses.replace(settings.clusters, descriptor=descriptor)
    settings = dataclasses.replace(settings, clusters=clusters)
    fitted = generate_labels(settings, photos, tmp_path / "fit", stages=["semantics"])
    model = str(fitted / "semantics" / "model.safetensors")
    semantics = dataclasses.replace(settings.semantics, model=model, flip=True)
    settings = dataclasses.replace(settings, semantics=semantics)
    counts: Counter[str] = Counter()
    extract = FilterBank._one

    def look(self: FilterBank, image: Any, facets: Any, resample: str) -> Any:
        counts["crops" if facets == ("cls",) else "images"] += 1
        return extract(self, image, facets, resample)

    for module in (ingest, stage):
        real = module.decode_image

        def decode(*arguments: Any, real: Any = real) -> Any:
            counts["decoded"] += 1
            return real(*arguments)

        monkeypatch.setattr(module, "decode_image", decode)
    monkeypatch.setattr(FilterBank, "_one", look)
    run = generate_labels(settings, photos, tmp_path / "run", progress=False)
    masks = read_json(run / "masks" / "manifest.json")["counts"]["masks"]
    # Of each photograph: once for masks and descriptors, once for stuff, once mirrored.
    wanted = {"decoded": 3 * 5, "images": 3 * 5}
    assert counts == (wanted if descriptor == "masked_mean" else {**wanted, "crops": masks})

    apart = tmp_path / "apart"  # stage by stage: looked at again, to the same bytes
    for name in ("masks", "clusters", "semantics", "panoptic"):
        generate_labels(settings, photos, apart, stages=[name], progress=False)
    assert tree(apart) == tree(run)
