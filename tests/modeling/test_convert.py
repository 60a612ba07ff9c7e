"""ResNets of other projects: same outputs under Detectron2's names, everything else refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("detectron2", reason="Detectron2 is not installed")
torchvision = pytest.importorskip("torchvision", reason="torchvision is not installed")

from detectron2.layers import ShapeSpec  # noqa: E402
from detectron2.modeling import build_backbone, build_model  # noqa: E402

from tests.factories import CONFIGS  # noqa: E402
from tests.modeling.tiny import tiny_cfg  # noqa: E402
from tests.tools.test_train_net import ROOT, call  # noqa: E402
from u2seg.errors import UserError  # noqa: E402
from u2seg.host.setup import build_cfg  # noqa: E402
from u2seg.io.atomic import sha256_file  # noqa: E402
from u2seg.io.checkpoints import load_checkpoint  # noqa: E402
from u2seg.modeling.checkpoint import load_weights  # noqa: E402
from u2seg.modeling.convert import convert_file, convert_resnet  # noqa: E402

pytestmark = pytest.mark.d2


def network(depth: int):
    """Return a torchvision ResNet in evaluation mode, its BN statistics not those of the start."""
    generator = torch.manual_seed(depth)
    made = getattr(torchvision.models, f"resnet{depth}")(num_classes=3)
    for name, value in made.state_dict().items():
        if name.endswith(("running_var", "bn1.weight", "bn2.weight")):
            value.uniform_(0.5, 1.5, generator=generator)
        elif name.endswith(("running_mean", "bn1.bias", "bn2.bias")):
            value.uniform_(-0.5, 0.5, generator=generator)
    return made.eval()


def stages(made, image):
    """Return the outputs of torchvision's four stages."""
    x = made.maxpool(made.relu(made.bn1(made.conv1(image))))
    outputs = {}
    for number in range(1, 5):
        x = outputs[f"res{number + 1}"] = getattr(made, f"layer{number}")(x)
    return outputs


def backbone(depth: int):
    cfg = tiny_cfg()
    cfg.MODEL.BACKBONE.NAME = "build_resnet_backbone"
    cfg.MODEL.RESNETS.DEPTH, cfg.MODEL.RESNETS.STRIDE_IN_1X1 = depth, False
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64 if depth < 50 else 256
    return build_backbone(cfg, ShapeSpec(channels=3))


@pytest.mark.parametrize("depth", [18, 50])
def test_outputs_equal_torchvisions(depth: int) -> None:
    made, ours = network(depth), backbone(depth)
    done = convert_resnet(made.state_dict(), "x.pth")
    assert (done.depth, done.kind) == (depth, "torchvision")
    state = {name: torch.from_numpy(array) for name, array in done.model.items()}
    kept = ours.load_state_dict(state, strict=False)
    assert not kept.unexpected_keys
    assert all("num_batches_tracked" in name for name in kept.missing_keys)
    image = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        expected, found = stages(made, image), ours.eval()(image)
    for name, value in expected.items():
        assert torch.allclose(found[name], value, rtol=1e-5, atol=1e-5), name


def test_places_of_each_source() -> None:
    plain = {k: v for k, v in network(18).state_dict().items() if not k.startswith("fc.")}
    other = {k: v + 1 for k, v in plain.items()}
    head = {"fc.0.weight": torch.zeros(2, 2)}

    def prefixed(prefix, state):
        return {prefix + name: value for name, value in state.items()}

    student_first = {
        "student": prefixed("module.backbone.", other),
        "teacher": {**prefixed("backbone.", plain), "head.mlp.0.weight": torch.zeros(2)},
        "epoch": 800,
    }
    moco = {
        "arch": "resnet18",
        "state_dict": {
            **prefixed("module.encoder_k.", other),
            **prefixed("module.encoder_q.", {**plain, **head}),
            "module.queue": torch.zeros(2),
        },
    }
    moco3 = {
        "state_dict": {
            **prefixed("module.momentum_encoder.", other),
            **prefixed("module.base_encoder.", {**plain, **head}),
        }
    }
    expected = convert_resnet(plain, "x").model
    for content, kind in (
        (student_first, "dino"), (plain, "dino"), (moco, "moco"), (moco3, "moco"),
        ({"state_dict": prefixed("module.", plain)}, "torchvision"), (plain, "timm"),
    ):  # fmt: skip
        for asked in {kind, "auto"}:
            done = convert_resnet(content, "x", asked)
            assert all(np.array_equal(done.model[name], expected[name]) for name in expected)
    assert convert_resnet(student_first, "x").kind == "dino"
    assert convert_resnet(moco, "x").left_out[0] == "bn1.num_batches_tracked"
    assert "fc.0.weight" in convert_resnet(moco, "x").left_out


@pytest.mark.parametrize("suffix", [".pkl", ".pth"])
def test_published_config_finds_every_weight(tmp_path: Path, suffix: str) -> None:
    """The R50-FPN config loads the file through the safe checkpointer, all of the backbone."""
    made = network(50)
    torch.save(made.state_dict(), tmp_path / "r50.pth")
    text = convert_file(tmp_path / "r50.pth", tmp_path / f"out{suffix}")
    assert "ResNet-50 of torchvision: 265 arrays, 55 left out" in text  # 53 counters, fc
    assert sha256_file(tmp_path / f"out{suffix}") in text
    assert "MODEL.PIXEL_MEAN [123.675,116.28,103.53]" in text
    config = CONFIGS / "COCO-PanopticSegmentation" / "u2seg_R50_300.yaml"
    cfg = build_cfg(config, ["MODEL.DEVICE", "cpu"])
    cfg.defrost()
    cfg.MODEL.ROI_BOX_HEAD.FC_DIM = 8  # what is not the backbone may be small here
    model = build_model(cfg)
    load_weights(model, tmp_path / f"out{suffix}")
    bottom_up, state = model.backbone.bottom_up.state_dict(), made.state_dict()
    wanted = convert_resnet(state, "x").model
    loaded = {k: v for k, v in bottom_up.items() if not k.endswith("num_batches_tracked")}
    assert loaded.keys() == wanted.keys()
    assert all(np.array_equal(value, wanted[name]) for name, value in loaded.items())


def test_other_networks_are_refused(tmp_path: Path) -> None:
    state = network(18).state_dict()

    def refused(message: str, kind: str = "auto", **changes):
        changed = {**state, **{k.replace("__", "."): v for k, v in changes.items()}}
        changed = {k: v for k, v in changed.items() if v is not None}
        with pytest.raises(UserError, match=message):
            convert_resnet(changed, "x.pth", kind)

    refused(r"stem\.conv1\.weight is \(64, 3, 3, 3\) in the file, expected \(64, 3, 7, 7\)",
            conv1__weight=torch.zeros(64, 3, 3, 3))  # fmt: skip
    refused(r"lacks 1 of the 100 arrays .* stem\.conv1\.norm\.running_var", bn1__running_var=None)
    refused(r"also has 1 arrays such as res2\.0\.se\.fc1\.weight",
            layer1__0__se__fc1__weight=torch.zeros(1))  # fmt: skip
    refused(r"\(2, 2, 2, 3\) basic blocks, expected one of \(2, 2, 2, 2\) \(ResNet-18\)",
            layer4__2__conv1__weight=torch.zeros(1))  # fmt: skip
    refused("not finite", bn1__bias=torch.full((64,), torch.nan))
    refused("no ResNet of moco", "moco")
    refused("--kind is 'd2'", "d2")
    with pytest.raises(UserError, match=r"norm\.bias is \(\) in the file, expected \(64,\)"):
        convert_resnet({**state, "bn1.bias": "text"}, "x.pth")
    with pytest.raises(UserError, match=r"first entries are stem\.conv1\.weight"):
        convert_resnet({"stem.conv1.weight": 1}, "x.pth")
    torch.save(state, tmp_path / "in.pth")
    with pytest.raises(UserError, match=r"must end with \.pkl or \.pth, got '\.bin'"):
        convert_file(tmp_path / "in.pth", tmp_path / "out.bin")


def test_tool(tmp_path: Path) -> None:
    tool = ROOT / "tools" / "convert_weights.py"
    torch.save(network(18).half().state_dict(), tmp_path / "in.pth")
    done = call(tool, str(tmp_path / "in.pth"), str(tmp_path / "new" / "out.pkl"))
    assert done.returncode == 0, done.stderr
    assert "ResNet-18 of torchvision" in done.stdout
    written = load_checkpoint(tmp_path / "new" / "out.pkl")
    assert written["matching_heuristics"] is True
    assert {array.dtype.name for array in written["model"].values()} == {"float32"}
    (tmp_path / "evil.pkl").write_bytes(b"cos\nsystem\n(S'touch OWNED'\ntR.")
    refused = call(tool, str(tmp_path / "evil.pkl"), str(tmp_path / "x.pkl"), cwd=tmp_path)
    assert refused.returncode == 2
    assert "refuses to load os.system" in refused.stderr
    assert not list(tmp_path.glob("OWNED")) and not (tmp_path / "x.pkl").exists()
