"""Checkpoints: round trips, refusals, messages, and what is left after a failed save."""

from __future__ import annotations

import copy
import os
import pickle
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("detectron2", reason="Detectron2 is not installed")
import torch
from detectron2.modeling import build_model
from torch import nn

import u2seg.modeling
from tests.modeling.tiny import tiny_cfg
from u2seg.errors import UserError
from u2seg.modeling.checkpoint import SafeCheckpointer, load_weights

pytestmark = pytest.mark.d2
FILES = ["last_checkpoint", "model_0.pth", "model_0.pth.sha256"]
u2seg.modeling.register()


class Bomb:
    """Executes a command when unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.canary}",)


class Counter:
    """The smallest trainer state."""

    def __init__(self) -> None:
        self.count = 0

    def state_dict(self) -> dict[str, int]:
        return {"count": self.count}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.count = state["count"]


@pytest.fixture(scope="module")
def stock() -> nn.Module:
    torch.manual_seed(1)
    return build_model(tiny_cfg("PanopticFPN"))


@pytest.fixture(scope="module")
def ours() -> nn.Module:
    return build_model(tiny_cfg())


@pytest.fixture(scope="module")
def eight() -> nn.Module:
    return build_model(tiny_cfg(things=8))


def small(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Linear(2, 2)


def same(a: nn.Module, b: nn.Module) -> bool:
    left, right = a.state_dict(), b.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


def test_a_stock_checkpoint_with_numpy_scalars_loads(stock, ours, tmp_path: Path) -> None:
    """As the published U2Seg files: host names, an np.int64 iteration, trainer state."""
    path = tmp_path / "cocotrain_5.pth"
    torch.save(
        {
            "model": stock.state_dict(),
            "iteration": np.int64(89999),
            "trainer": {"hooks": {"best": np.float64(0.5)}},
        },
        path,
    )
    fresh = copy.deepcopy(ours)
    assert not same(stock, fresh)
    load_weights(fresh, path, strict=True)
    assert same(stock, fresh)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.model.module."])
def test_safetensors_and_wrapped_names_load(stock, ours, tmp_path: Path, prefix: str) -> None:
    from safetensors.torch import save_file

    path = tmp_path / "x.safetensors"
    state = {f"{prefix}{k}": v.contiguous() for k, v in stock.state_dict().items()}
    save_file(state, path)
    fresh = copy.deepcopy(ours)
    load_weights(fresh, path, strict=True)
    assert same(stock, fresh)


def test_a_backbone_file_fills_the_backbone_by_suffix(ours, tmp_path: Path) -> None:
    """The layout of CutLER's DINO ResNet-50: bare ResNet names in a pickle."""
    model = copy.deepcopy(ours)
    prefix = "backbone.bottom_up."
    arrays = {
        k.removeprefix(prefix): np.full(v.shape, 0.25, dtype=np.float32)
        for k, v in model.state_dict().items()
        if k.startswith(prefix) and "num_batches" not in k
    }
    path = tmp_path / "dino_RN18_d2_format.pkl"
    content = {"model": arrays, "__author__": "third_party", "matching_heuristics": True}
    path.write_bytes(pickle.dumps(content))
    before = model.state_dict()["roi_heads.mask_head.predictor.weight"].clone()
    load_weights(model, path)
    state = model.state_dict()
    assert state[f"{prefix}res5.1.conv2.weight"].eq(0.25).all()
    assert state[f"{prefix}stem.conv1.norm.running_mean"].eq(0.25).all()
    assert torch.equal(state["roi_heads.mask_head.predictor.weight"], before)
    with pytest.raises(UserError, match="it is a backbone alone or another architecture"):
        load_weights(copy.deepcopy(ours), path, strict=True)


def test_other_class_numbers_are_named_and_nothing_is_loaded(ours, eight, tmp_path: Path) -> None:
    path = tmp_path / "eight.pth"
    torch.save(eight.state_dict(), path)
    before = {k: v.clone() for k, v in ours.state_dict().items()}
    with pytest.raises(UserError) as caught:
        load_weights(ours, path, strict=True)
    text = str(caught.value)
    assert "eight.pth does not fit the model" in text
    assert "The file has 8 thing clusters, the model 5: set U2SEG.CLUSTERS.NUM_CLUSTERS 8" in text
    assert all(torch.equal(v, before[k]) for k, v in ours.state_dict().items())


def test_training_refuses_other_class_numbers_and_offers_the_flag(
    ours, eight, tmp_path: Path
) -> None:
    path = tmp_path / "eight.pth"
    torch.save(eight.state_dict(), path)
    with pytest.raises(UserError) as caught:
        load_weights(ours, path)
    assert "The file has 8 thing clusters, the model 5" in str(caught.value)
    assert "--skip-heads (U2SEG.TRAIN.SKIP_HEADS True)" in str(caught.value)


def test_skipped_heads_are_named_and_everything_else_is_loaded(
    ours, eight, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "eight.pth"
    torch.save(eight.state_dict(), path)
    model = copy.deepcopy(ours)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with caplog.at_level("WARNING", "u2seg"):
        SafeCheckpointer(model, skip_heads=True).load(str(path))
    # K: class scores of three stages and one mask per class. S fits, but its classes need not be
    # the same ones either. Boxes are class-agnostic.
    layers = [f"roi_heads.box_predictor.{stage}.cls_score" for stage in range(3)]
    layers += ["roi_heads.mask_head.predictor", "sem_seg_head.predictor"]
    skipped = {f"{layer}.{part}" for layer in layers for part in ("bias", "weight")}
    for name, value in model.state_dict().items():
        source = before if name in skipped else eight.state_dict()
        assert torch.equal(value, source[name]), name
    assert all(name in caplog.text for name in skipped)
    assert "bbox_pred" not in "".join(m for m in caplog.messages if "not loaded" in m)


@pytest.mark.parametrize("suffix", [".pth", ".pkl", ".pyth"])
def test_files_that_would_execute_code_are_refused(tmp_path: Path, suffix: str) -> None:
    canary, path = tmp_path / "canary", tmp_path / f"evil{suffix}"
    content = {"model": {"weight": torch.ones(1)}, "__author__": Bomb(canary)}
    if suffix == ".pkl":
        path.write_bytes(pickle.dumps({"model": {}, "__author__": Bomb(canary)}))
    else:
        torch.save(content, path)
    with pytest.raises(UserError, match=f"evil{suffix}"):
        load_weights(small(), path)
    assert not canary.exists()
    # The file is live: an ordinary unpickler would have run it.
    if suffix == ".pkl":
        pickle.loads(path.read_bytes())
        assert canary.exists()


def test_offline_weights_are_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match=r"https://host/m\.pth .* --offline was given: download"):
        load_weights(small(), "https://host/m.pth")


def test_truncated_and_missing_files(tmp_path: Path) -> None:
    path = tmp_path / "cut.pth"
    torch.save(small().state_dict(), path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"cut\.pth"):
        load_weights(small(), path)
    with pytest.raises(UserError, match=r"absent\.pth does not exist"):
        load_weights(small(), tmp_path / "absent.pth")
    with pytest.raises(UserError, match=r"cannot download nosuch://x/y\.pth"):
        load_weights(small(), "nosuch://x/y.pth")


def test_save_and_resume(tmp_path: Path) -> None:
    model, counter = small(), Counter()
    counter.count = 41
    SafeCheckpointer(model, tmp_path, trainer=weakref.proxy(counter)).save("model_0", iteration=9)
    assert (tmp_path / "last_checkpoint").read_text() == "model_0.pth"
    assert sorted(p.name for p in tmp_path.iterdir()) == FILES
    other, other_counter = small(1), Counter()
    rest = SafeCheckpointer(other, tmp_path, trainer=other_counter).resume_or_load("")
    assert same(model, other)
    assert other_counter.count == 41
    assert rest["iteration"] == 9
    assert SafeCheckpointer.last_in(tmp_path) == tmp_path / "model_0.pth"


def test_a_failed_save_leaves_the_old_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = small()
    checkpointer = SafeCheckpointer(model, tmp_path)
    checkpointer.save("model_0")
    before = (tmp_path / "model_0.pth").read_bytes()

    def disk_full(_content: object, file: Any) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", disk_full)
    for name in ("model_0", "model_1"):
        with pytest.raises(UserError, match=f"{name}.*No space left"):
            checkpointer.save(name)
    assert sorted(p.name for p in tmp_path.iterdir()) == FILES
    assert (tmp_path / "model_0.pth").read_bytes() == before
    assert (tmp_path / "last_checkpoint").read_text() == "model_0.pth"


@pytest.mark.parametrize(
    ("note", "message"),
    [
        ("gone.pth", "names gone.pth, which is missing"),
        ("../model_0.pth", "not a file"),
        ("", "not a file"),
    ],
)
def test_a_wrong_last_checkpoint_is_explained(tmp_path: Path, note: str, message: str) -> None:
    checkpointer = SafeCheckpointer(small(), tmp_path)
    checkpointer.save("model_0")
    (tmp_path / "last_checkpoint").write_text(note)
    with pytest.raises(UserError) as caught:
        checkpointer.resume_or_load("", resume=True)
    assert message in str(caught.value)
    assert "intact one (model_0.pth)" in str(caught.value)


def test_a_damaged_last_checkpoint_is_explained(tmp_path: Path) -> None:
    checkpointer = SafeCheckpointer(small(), tmp_path)
    checkpointer.save("model_0")
    checkpointer.save("model_1")
    damaged = tmp_path / "model_1.pth"
    damaged.write_bytes(damaged.read_bytes()[:500])
    with pytest.raises(UserError, match=r"cannot resume: .*model_1\.pth.*one \(model_0\.pth\)"):
        checkpointer.resume_or_load("", resume=True)


def test_resuming_needs_state_and_fit(tmp_path: Path) -> None:
    SafeCheckpointer(small(), tmp_path).save("weights_only")
    with pytest.raises(UserError, match="holds weights, but no state of trainer"):
        SafeCheckpointer(small(), tmp_path, trainer=Counter()).resume_or_load("")
    with pytest.raises(UserError, match=r"bias is \(2,\) in the file and \(3,\)"):
        SafeCheckpointer(nn.Linear(2, 3), tmp_path).resume_or_load("")


def test_weights_of_which_nothing_fits_are_refused_for_a_new_training_too(tmp_path: Path) -> None:
    torch.save({"model": {"decoder.a": torch.zeros(3)}}, tmp_path / "alien.pth")
    model = torch.nn.Linear(2, 2)
    with pytest.raises(UserError, match=r"alien.pth holds none of the model's 2 weights"):
        load_weights(model, tmp_path / "alien.pth")
    torch.save({"model": {"weight": torch.ones(2, 2), "bias": torch.ones(5)}}, tmp_path / "a.pth")
    load_weights(model, tmp_path / "a.pth")
    assert model.weight.tolist() == [[1.0, 1.0], [1.0, 1.0]]


@pytest.mark.parametrize("strict", [True, False])
def test_weights_that_are_not_finite_are_refused(tmp_path: Path, strict: bool) -> None:
    """An evaluation would report scores of 0, a training fail at its first iteration."""
    broken, model = small(), small(1)
    with torch.no_grad():
        broken.weight.view(-1)[:2] = torch.tensor([float("nan"), float("inf")])
    torch.save({"model": broken.state_dict()}, tmp_path / "model.pth")
    before = copy.deepcopy(model)
    with pytest.raises(UserError, match=r"model.pth: 2 of 4 numbers of weight are NaN or inf"):
        load_weights(model, tmp_path / "model.pth", strict=strict)
    assert same(model, before)
    array = np.array([1.0, np.nan], dtype=np.float32)
    with (tmp_path / "model.pkl").open("wb") as file:
        pickle.dump({"model": {"weight": array}, "__author__": "us"}, file)
    with pytest.raises(UserError, match="1 of 2 numbers of weight"):
        load_weights(model, tmp_path / "model.pkl", strict=strict)


def test_a_file_loads_after_a_refusal_and_with_a_question_mark_in_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With main's loading in the host's place, which can do neither."""
    from detectron2.checkpoint import DetectionCheckpointer

    def load_once(self: Any, path: str, *_rest: Any) -> None:
        assert getattr(self, "parsed", None) is None
        self.parsed = path.partition("?")[0]
        raise FileNotFoundError(self.parsed)

    monkeypatch.setattr(DetectionCheckpointer, "load", load_once)
    good, bad = tmp_path / "which one?.pth", tmp_path / "bad.pth"
    torch.save(small(1).state_dict(), good)
    bad.write_bytes(b"nothing")
    model = small()
    checkpointer = SafeCheckpointer(model)
    with pytest.raises(UserError):
        checkpointer.load(bad)
    checkpointer.load(good)
    assert same(model, small(1))
