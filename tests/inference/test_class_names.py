"""The demo calls clusters as the classes they stand for."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.engine.test_evalchoice import write_mapping
from tests.factories import BASE_CONFIG, TINY, scene
from u2seg.compat import prepare_host
from u2seg.errors import UserError
from u2seg.evaluation.protocols.mapping import with_class_names
from u2seg.host.arguments import demo_parser
from u2seg.inference import demo
from u2seg.inference.segmenter import Prediction
from u2seg.structures.labels import LabelSpace
from u2seg.structures.panoptic import PanopticLabel, Segment

SPACE = LabelSpace(num_things=3, num_stuff=2)


def test_mapped_clusters_have_names_and_the_rest_numbers(tmp_path: Path) -> None:
    named = with_class_names(SPACE, write_mapping(tmp_path / "m.json"))
    assert named.thing_names == ("thing_0", "cat", "thing_2")
    assert named.stuff_names == ("stuff_0", "stuff_1")
    assert (named.colors() == SPACE.colors()).all()
    content = json.loads((tmp_path / "m.json").read_text())
    for votes, name in ((1, "cat?"), (2, "cat")):
        content["things"]["2"].update(votes=votes, total_votes=2)
        (tmp_path / "m.json").write_text(json.dumps(content))
        assert with_class_names(SPACE, tmp_path / "m.json").thing_names[1] == name


def test_clusters_of_one_class_share_a_colour_and_a_line_of_the_legend(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    space = LabelSpace(3, 2, ("cat", "dog", "cat"), ("cat", "sky"))
    colors = space.colors()
    assert (colors[0] == colors[2]).all() and not (colors[0] == colors[1]).all()
    assert not (colors[0] == colors[3]).all(), "a thing and stuff of one name"
    assert (colors[[0, 1, 3, 4]] == SPACE.colors()[[0, 1, 3, 4]]).all()
    ids = np.array([[1] * 30 + [2] * 30] * 60, dtype=np.int32)
    segments = tuple(Segment(i, c, True, 1800, (0.0, 0.0, 30.0, 60.0)) for i, c in ((1, 1), (2, 3)))
    label, image = PanopticLabel(ids, segments), np.full((60, 60, 3), 9, np.uint8)
    entries = []
    draw = demo.draw_legend
    monkeypatch.setattr(
        demo, "draw_legend", lambda e, width: entries.append(e) or draw(e, width=width)
    )
    for names in (space, SPACE):
        demo.picture(Prediction((60, 60), panoptic=label, space=names, image=image))
    named, numbered = ([name for name, _ in found] for found in entries)
    assert named == ["cat"] and numbered == ["thing_0", "thing_2"]


@pytest.mark.d2
def test_demo_writes_class_names(tmp_path: Path) -> None:
    prepare_host()
    import torch
    from detectron2.modeling import build_model

    from u2seg.host.setup import build_cfg

    torch.manual_seed(0)
    cfg = build_cfg(BASE_CONFIG, TINY)
    torch.save({"model": build_model(cfg).state_dict()}, tmp_path / "model.pth")
    Image.fromarray(scene(0)[0]).save(tmp_path / "photo.png")
    words = ["--config-file", str(BASE_CONFIG), "--weights", str(tmp_path / "model.pth")]
    words += ["--input", str(tmp_path / "photo.png"), "--confidence-threshold", "0"]
    mapping = write_mapping(tmp_path / "m.json")
    names = {}
    for output, given in (("numbers", []), ("names", ["--mapping", str(mapping)])):
        out = tmp_path / output
        args = [*words, "--output", str(out), *given, "--opts", *TINY]
        assert demo.run_demo(demo_parser().parse_args(args)) == 0
        content = json.loads((out / "panoptic.json").read_text())
        names[output] = [c["name"] for c in content["categories"]]
        assert json.loads((out / "labelspace.json").read_text())["thing_names"] == names[output][:3]
        assert (out / "pictures" / "photo.png").is_file()
    assert names["numbers"] == ["thing_0", "thing_1", "thing_2", "stuff_0", "stuff_1"]
    assert names["names"] == ["thing_0", "cat", "thing_2", "stuff_0", "stuff_1"]
    other = write_mapping(tmp_path / "other.json", stuff=(4,))
    args = [*words, "--output", str(tmp_path / "no"), "--mapping", str(other), "--opts", *TINY]
    with pytest.raises(UserError, match=r"other\.json is the mapping of a model with 1 stuff"):
        demo.run_demo(demo_parser().parse_args(args))
    assert not (tmp_path / "no").exists()
