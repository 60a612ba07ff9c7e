"""STEGO's own checkpoints: converted, or refused by name, and never executed."""

from __future__ import annotations

import collections
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from u2seg.commands import convert as run
from u2seg.commands import convert_parser as parser
from u2seg.errors import UserError
from u2seg.io.checkpoints import load_checkpoint
from u2seg.semantics.convert import convert_stego
from u2seg.semantics.stego import StegoSegmenter

CHANNELS, CODE, CLUSTERS = 384, 5, 27
executed: list[str] = []


class Options:
    """Stands for OmegaConf's options, an object with a state; and for malice."""

    def __init__(self) -> None:
        self.content = {"dim": CODE, "cache": collections.defaultdict(dict)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        executed.append("setstate")


def run_me(what: str) -> None:
    executed.append(what)


class Malice:
    """An object whose loading calls a function."""

    def __reduce__(self) -> tuple[Any, ...]:
        return run_me, ("reduce",)


def state_dict() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = {
        "net.model.patch_embed.proj.weight": (CHANNELS, 3, 8, 8),
        "net.cluster1.0.weight": (CODE, CHANNELS, 1, 1),
        "net.cluster1.0.bias": (CODE,),
        "net.cluster2.0.weight": (CHANNELS, CHANNELS, 1, 1),
        "net.cluster2.0.bias": (CHANNELS,),
        "net.cluster2.2.weight": (CODE, CHANNELS, 1, 1),
        "net.cluster2.2.bias": (CODE,),
        "train_cluster_probe.clusters": (CLUSTERS, CODE),
        "cluster_probe.clusters": (CLUSTERS, CODE),
        "linear_probe.weight": (CLUSTERS, CODE, 1, 1),
    }
    return {n: torch.randn(s, generator=generator) for n, s in shapes.items()}


@pytest.fixture
def checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file as Lightning writes it, whose classes this process cannot import any more."""
    module = types.ModuleType("omegaconf_alike")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(Options, "__module__", module.__name__)
    module.Options = Options  # type: ignore[attr-defined]
    content = {
        "epoch": 1,
        "callbacks": {Options: {"best": "x"}},
        "hyper_parameters": {"n_classes": CLUSTERS, "cfg": Options()},
        "state_dict": state_dict(),
    }
    path = tmp_path / "cocostuff27_vit_base_5.ckpt"
    torch.save(content, path)
    monkeypatch.delitem(sys.modules, module.__name__)
    return path


def test_the_converted_model_computes_what_stego_does(
    checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = checkpoint.with_name("stego.safetensors")
    assert run(parser().parse_args([str(checkpoint), str(target), "--kind", "stego"])) == 0
    told = capsys.readouterr().out
    for line in (
        f"U2SEG.SEMANTICS.MODEL {target}",
        "U2SEG.SEMANTICS.NUM_CLASSES 27",
        "U2SEG.FEATURES.NAME dino_vits8",
    ):
        assert line in told
    assert executed == []
    model = StegoSegmenter.load(target)
    features = torch.randn(1, CHANNELS, 3, 4, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        scores = model.probe.log_probs(model.head(features))[0]
    old = state_dict()
    x = features[0].reshape(CHANNELS, -1)
    w = {k: v.flatten(1) if v.ndim == 4 else v[:, None] for k, v in old.items()}
    hidden = torch.relu(w["net.cluster2.0.weight"] @ x + w["net.cluster2.0.bias"])
    code = w["net.cluster1.0.weight"] @ x + w["net.cluster1.0.bias"]
    code = code + w["net.cluster2.2.weight"] @ hidden + w["net.cluster2.2.bias"]
    probe = functional.normalize(old["cluster_probe.clusters"], dim=1)
    cosines = probe @ functional.normalize(code, dim=0)
    expected = functional.log_softmax(2 * cosines, dim=0).reshape(CLUSTERS, 3, 4)
    np.testing.assert_allclose(scores.numpy(), expected.numpy(), atol=1e-5)


def test_what_is_no_stego_is_refused_by_name(tmp_path: Path, checkpoint: Path) -> None:
    target = tmp_path / "x.safetensors"
    other = tmp_path / "picie_and_probes.pth"
    torch.save({"state_dict": {"backbone.conv1.weight": torch.zeros(1)}}, other)
    with pytest.raises(UserError, match=r"has no cluster_probe.clusters.*PiCIE's .*other models"):
        convert_stego(other, target)
    broken = state_dict()
    broken["net.cluster1.0.weight"] = torch.zeros(CODE + 1, CHANNELS, 1, 1)
    torch.save({"state_dict": broken}, other)
    with pytest.raises(UserError, match="is damaged"):
        convert_stego(other, target)
    with pytest.raises(UserError, match=r"must end with .safetensors, got '.pkl'"):
        convert_stego(checkpoint, tmp_path / "x.pkl")
    assert not target.exists()


def test_nothing_in_a_checkpoint_is_executed(tmp_path: Path) -> None:
    path = tmp_path / "evil.ckpt"
    torch.save({"state_dict": state_dict(), "hyper_parameters": Malice()}, path)
    torch.load(path, weights_only=False)
    assert executed.pop() == "reduce", "this file is evil"
    convert_stego(path, tmp_path / "x.safetensors")
    assert executed == []
    with pytest.raises(UserError, match="run_me, which is no tensor"):
        load_checkpoint(path)
