"""The commands of U2Seg's readme and of the article about it, as printed, on small data.

The working directory is a copy of the repository's layout; what is added to a printed line makes
the model or the data small.
"""

from __future__ import annotations

import glob
import importlib.util
import json
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.evaluation.datasets import FILES, write_truth
from tests.factories import TINY, make_labels
from u2seg.compat import prepare_host
from u2seg.errors import UserError
from u2seg.host.setup import build_cfg
from u2seg.inference.segmenter import VisualizationDemo

pytestmark = pytest.mark.d2
prepare_host()
ROOT = Path(__file__).resolve().parents[2]
COCO = "configs/COCO-PanopticSegmentation"
SMALL = (*TINY, "MODEL.RESNETS.NORM", "BN", "MODEL.FPN.NORM", "BN")


@pytest.fixture(autouse=True)
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("configs", "demo", "tools"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(line: str, more: Sequence[str] = ()) -> int:
    """Run ``python SCRIPT ...`` in this process, after the shell's part: splitting, globbing."""
    python, script, *words = shlex.split(line)
    assert python == "python"
    words = [found for word in words for found in sorted(glob.glob(word)) or [word]]
    spec = importlib.util.spec_from_file_location(Path(script).stem, script)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return int(module.main([*words, *more]))


def write_weights(config: str, weights: str, words: Sequence[str] = ()) -> None:
    """Write a model with random weights where a published checkpoint is put."""
    import torch
    from detectron2.modeling import build_model

    torch.manual_seed(0)
    model = build_model(build_cfg(f"{COCO}/{config}", ["MODEL.DEVICE", "cpu", *words]))
    Path(weights).parent.mkdir(exist_ok=True)
    torch.save({"model": model.state_dict(), "iteration": 89999}, weights)


@pytest.mark.slow
@pytest.mark.parametrize("clusters", [800, 300])
def test_training(
    clusters: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    line = f"python ./tools/train_net.py --config-file ./{COCO}/u2seg_R50_{clusters}.yaml"
    if clusters == 300:
        monkeypatch.setenv("CLUSTER_NUM", "300")
    more = [
        *SMALL,
        *("U2SEG.DATA.EVAL_ROOT", "", "MODEL.WEIGHTS", "", "DATALOADER.NUM_WORKERS", "0"),
        *("TEST.PRECISE_BN.NUM_ITER", "1", "U2SEG.TRAIN.PICTURES", "0"),
    ]
    assert run(line, more) == 2
    told = capfd.readouterr().err.strip().splitlines()[-1]
    labels = f"runs/coco_{clusters}/labels"
    assert f"label folder {labels} (U2SEG.DATA.LABELS) does not exist: make it" in told
    assert f"--output-dir {labels}" in told
    make_labels(Path(labels).parent)
    assert run(line, more) == 0
    assert (Path("runs") / f"coco_{clusters}" / "train" / "model_final.pth").is_file()
    assert ("CLUSTER_NUM" in caplog.text) == (clusters == 300)


@pytest.mark.slow
def test_demo_with_the_published_model() -> None:
    write_weights("u2seg_eval_800.yaml", "ckpts/cocotrain_800_0089999.pth")
    line = (
        f"python ./demo/u2seg_demo.py --config-file {COCO}/u2seg_eval_800.yaml "
        "--input demo/images/*jpg --output results/demo_800"
    )
    assert run(line) == 0
    shown = sorted(path.name for path in Path("results/demo_800/pictures").iterdir())
    assert shown == ["astronaut.png", "chelsea.png", "coffee.png", "rocket.png"]


def test_demo_on_one_photograph(capfd: pytest.CaptureFixture[str]) -> None:
    write_weights("u2seg_eval_300.yaml", "ckpts/cocotrain_300_0089999.pth", TINY)
    (Path("test_image.jpg")).write_bytes((ROOT / "demo/images/coffee.jpg").read_bytes())
    line = f"python ./demo/u2seg_demo.py --config-file {COCO}/u2seg_eval_300.yaml --input "
    tiny = ("--confidence-threshold", "0.25", "--opts", *TINY)
    assert run(f"{line} test_image.jpg --output results/demo_300", tiny) == 0
    assert Path("results/demo_300/pictures/test_image.png").is_file()
    # as Detectron2's demo: one photograph, and a picture to write
    assert run(f"{line} test_image.jpg --output out.jpg", tiny) == 0
    with Image.open("out.jpg") as picture:
        assert (picture.format, picture.size) == ("JPEG", (480, 320))
    assert sorted(p.name for p in Path().glob("*.*")) == ["out.jpg", "test_image.jpg"]
    for inputs, output, told in (
        ("demo/images/*jpg", "out.jpg", "out.jpg is one picture, and there are 4 photographs"),
        ("test_image.jpg", "./test_image.jpg", "would overwrite the photograph"),
    ):
        assert run(f"{line} {inputs} --output {output}", tiny) == 2
        assert told in capfd.readouterr().err


def test_evaluation_of_a_published_checkpoint(caplog: pytest.LogCaptureFixture) -> None:
    """As the first lines of the YAML say; the data set has COCO's layout and four classes."""
    write_weights("u2seg_eval_300.yaml", "ckpts/cocotrain_300_0089999.pth", TINY)
    annotations = Path("datasets/coco/annotations")
    write_truth(annotations)
    (annotations / "truth.json").rename(annotations / "panoptic_val2017.json")
    (annotations / "truth").rename(annotations / "panoptic_val2017")
    for name in FILES.values():
        photograph = Path("datasets/coco/val2017", name).with_suffix(".jpg")
        photograph.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(annotations / "panoptic_val2017" / name) as labels:
            Image.new("RGB", labels.size, (90, 120, 60)).save(photograph)
    header = Path(COCO, "u2seg_eval_300.yaml").read_text().split("# Command:")[1]
    line = header.split("# Weights:")[0].replace("\\\n#", "")
    assert "--eval-only" in line
    few = ("U2SEG.EVAL.CLASSES", "truth", "U2SEG.EVAL.BOOTSTRAP", "0", "OUTPUT_DIR", "runs/eval")
    assert run(f"python {line}", [*TINY, *few, "DATALOADER.NUM_WORKERS", "0"]) == 0
    assert "panoptic" in json.loads(Path("runs/eval/evaluation/metrics.json").read_text())
    assert "evaluating without it" not in caplog.text, "no labels are asked for"


@pytest.mark.parametrize(
    ("script", "option", "value", "instead"),
    [
        ("demo/u2seg_demo.py", "--video-input", "v.mp4", "make pictures of the video"),
        ("demo/u2seg_demo.py", "--webcam", "", "give photographs to --input"),
        ("demo/u2seg_demo.py", "--hungarian_matching", "m.json", "--mapping FILE names"),
        ("tools/train_net.py", "--eval-mode", "eval", "an evaluation fits the mapping"),
    ],
)
def test_what_is_not_here_says_what_is(
    script: str, option: str, value: str, instead: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        run(f"python {script} --config-file x {option} {value}")
    assert f"there is no {option} here: {instead}" in capsys.readouterr().err


@pytest.fixture
def article(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Undo what ``import predictor`` does to this process."""
    monkeypatch.setattr(sys, "path", sys.path[:])
    yield
    from detectron2.config import defaults

    sys.modules.pop("predictor", None)
    defaults._C.pop("U2SEG", None)


@pytest.mark.usefixtures("article")
def test_python_of_the_article() -> None:
    """The lines are those of docs/reference/migration.md; a smaller model is all that is added."""
    write_weights("u2seg_eval_300.yaml", "ckpts/cocotrain_300_0089999.pth", TINY)
    page = (ROOT / "docs" / "reference" / "migration.md").read_text("utf-8")
    lines = page.split("```python\n")[1].split("```")[0]
    assert lines.count("cfg.freeze()") == 1
    smaller = "cfg.merge_from_list(words)\ncfg.freeze()"
    found: dict[str, Any] = {"words": [yaml_word(word) for word in TINY]}
    exec(lines.replace("cfg.freeze()", smaller), found)
    cfg, demo, predictions = found["cfg"], found["demo"], found["predictions"]
    assert {"panoptic_seg", "instances", "sem_seg"} <= set(predictions)
    assert demo.segmenter.cfg.MODEL.PANOPTIC_FPN.COMBINE.INSTANCES_CONFIDENCE_THRESH == 0.25
    assert demo.segmenter.space.num_things == 3 and cfg.is_frozen()
    ids, segments = predictions["panoptic_seg"]
    assert ids.shape == (320, 480) and segments
    with Image.open("coffee_segmented.png") as picture:
        saved = np.asarray(picture)
    assert np.array_equal(saved, found["visualized_output"].get_image())
    with Image.open("demo/images/coffee.jpg") as picture:
        photograph = np.asarray(picture)
    # the photograph shines through: red is red, not blue
    assert np.corrcoef(saved[..., 0].ravel(), photograph[..., 0].ravel())[0, 1] > 0.3
    with pytest.raises(UserError, match=r"\(H, W, 3\) uint8 BGR, got \(2, 2\) uint8"):
        demo.run_on_image(np.zeros((2, 2), np.uint8))


def yaml_word(word: str) -> object:
    import yaml

    return word if word.startswith("(") else yaml.safe_load(word)


def test_a_config_without_this_packages_keys_is_completed(tmp_path: Path) -> None:
    """The released file knows Detectron2's keys alone; class numbers tell of the clusters."""
    import torch
    from detectron2.config import get_cfg
    from detectron2.modeling import build_model

    cfg = get_cfg()
    assert "U2SEG" not in cfg
    mine = build_cfg(f"{COCO}/u2seg_eval_300.yaml", TINY)
    for key in ("MODEL", "INPUT", "TEST"):
        cfg[key] = mine[key].clone()
        cfg[key].defrost()
    cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.ROI_HEADS.NAME = "PanopticFPN", "CascadeROIHeads"
    cfg.MODEL.ROI_MASK_HEAD.NAME = "MaskRCNNConvUpsampleHead"
    cfg.MODEL.WEIGHTS = str(tmp_path / "released.pth")
    torch.save({"model": build_model(cfg).state_dict()}, cfg.MODEL.WEIGHTS)
    segmenter = VisualizationDemo(cfg).segmenter
    assert (segmenter.space.num_things, segmenter.space.num_stuff) == (3, 2)
    assert segmenter.predict(np.zeros((64, 64, 3), np.uint8)).panoptic.ids.shape == (64, 64)
    assert "U2SEG" not in cfg, "the user's config is as it was"


def test_cutlers_detector_goes_with_the_config_that_the_docs_name() -> None:
    """It is a Cascade Mask R-CNN of one class in Detectron2's names."""
    import torch
    from detectron2.modeling import build_model

    config = "configs/ImageNet-InstanceSegmentation/cutler_R50.yaml"
    tiny = [*TINY, "U2SEG.CLUSTERS.NUM_CLUSTERS", "1"]
    cfg = build_cfg(config, tiny).clone()
    cfg.defrost()
    cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.ROI_HEADS.NAME = "GeneralizedRCNN", "CascadeROIHeads"
    cfg.MODEL.ROI_MASK_HEAD.NAME = "MaskRCNNConvUpsampleHead"
    torch.save({"model": build_model(cfg).state_dict()}, "cutler_cascade_final.pth")
    line = f"python demo/u2seg_demo.py --config-file {config} --weights cutler_cascade_final.pth "
    assert run(f"{line} --input demo/images/coffee.jpg --output o.png", ["--opts", *tiny]) == 0
    assert Path("o.png").is_file()


def test_photographs_of_the_demo_are_small_and_licensed() -> None:
    folder = ROOT / "demo" / "images"
    files = sorted(folder.glob("*jpg"))
    assert len(files) == 4
    assert sum(path.stat().st_size for path in files) <= 150_000
    told = (folder / "README.md").read_text()
    for path in files:
        row = next(line for line in told.splitlines() if f"`{path.name}`" in line)
        assert "public domain" in row or "CC0" in row
