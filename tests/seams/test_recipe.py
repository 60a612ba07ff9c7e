"""A recipe of a plug-in's student and relabel rule, from photographs to the report, and again."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from scenes.export import SceneSettings, write_scenes

import u2seg
from tests.factories import CONFIGS
from tests.pipeline.conftest import FAST
from u2seg.errors import UserError
from u2seg.io.checkpoints import load_checkpoint
from u2seg.io.jsonfile import read_json

pytestmark = [pytest.mark.d2, pytest.mark.slow]
PLUGINS = [str(Path(__file__).parent / "plugins" / name) for name in ("pixels.py", "blend.py")]


def write_config(folder: Path) -> Path:
    rounds = [{"student": "Pixels"}, {"relabel": "blend", "student": "Pixels"}]
    settings = {
        "PLUGINS": PLUGINS,
        "CLUSTERS": {"NUM_CLUSTERS": 0},
        "ROUNDS": {"BLEND": {"SHARE": 0.25}},
        "TRAIN": {"OPTIMIZER": "AdamW", "PICTURES": 0},
        "RECIPE": {"ROUNDS": rounds},
    }
    solver = {"MAX_ITER": 2, "STEPS": [], "IMS_PER_BATCH": 2, "BASE_LR": 0.01}
    base = str(CONFIGS / "quickstart" / "scenes.yaml")
    config = folder / "recipe.yaml"
    config.write_text(yaml.safe_dump({"_BASE_": base, "SOLVER": solver, "U2SEG": settings}))
    return config


def test_a_student_and_a_relabel_rule_from_outside(tmp_path: Path) -> None:
    write_scenes(tmp_path / "data", SceneSettings(train=4, val=2, size=64))
    photos, output, config = (
        tmp_path / "data/images/train",
        tmp_path / "run",
        write_config(tmp_path),
    )
    words = [*FAST, "U2SEG.CLUSTERS.NUM_CLUSTERS", "0"]
    told = u2seg.run(photos, output, config, words, truth=tmp_path / "data").splitlines()
    assert [line.split(":")[0] for line in told] == [
        "trained model", "round 1", "pictures", "report",
    ]  # fmt: skip
    assert "mIoU" in told[1]
    rows = read_json(output / "rounds.json")["rounds"]
    assert 0 < rows[1]["labels"]["stuff_changed"] < 4 * 64 * 64 / 2
    made = read_json(output / "rounds/1/labels/panoptic/manifest.json")["settings"]
    assert "0.25" in str(made["RoundSettings"])
    groups = load_checkpoint(output / "train/model_final.pth")["trainer"]["_trainer"]["optimizer"]
    assert len(groups["param_groups"]) == 2
    assert len(list((output / "predictions/pictures").glob("*.png"))) == 4
    assert 'id="rounds"' in (output / "report.html").read_text()
    before = (output / "rounds/1/train/model_final.pth").read_bytes()
    assert u2seg.run(photos, output, config, words, truth=tmp_path / "data").splitlines() == told
    assert (output / "rounds/1/train/model_final.pth").read_bytes() == before
    trained = output / "rounds/1/train"
    segmenter = u2seg.Segmenter.from_config(trained / "config.yaml", trained / "model_final.pth")
    found = segmenter.predict(min(photos.iterdir()))
    assert found.instances is None and found.to_coco()[0]["category_id"] >= 1
    with pytest.raises(UserError, match=r"ROUNDS\.BLEND\.SHAR"):
        u2seg.label(photos, tmp_path / "no", config, ["U2SEG.ROUNDS.BLEND.SHAR", "1"])
