"""Values of the public STEGO code: losses and gradients, heads, probes, whole training steps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.factories import with_values
from tests.shared import SHARED, needs_shared
from u2seg.config.schema import SemanticSettings, StegoSettings
from u2seg.semantics.head import ClusterProbe, CodeHead, Decoder, drop_channels
from u2seg.semantics.losses import (
    Correspondence,
    feature_similarity,
    sample,
    similarity_volume,
    unit,
)
from u2seg.semantics.sampling import StepDraws
from u2seg.semantics.training import Trainer

pytestmark = [pytest.mark.shared, needs_shared("golden", "stego")]
FOLDER = SHARED / "golden" / "stego"


def _load(name: str) -> dict[str, Any]:
    with np.load(FOLDER / f"{name}.npz") as saved:
        return {
            key: torch.from_numpy(saved[key])
            if saved[key].dtype.kind in "fiu" and saved[key].dtype != np.uint16
            else saved[key]
            for key in saved.files
        }


def _close(ours: Tensor, theirs: Tensor, tolerance: float = 1e-5) -> None:
    np.testing.assert_allclose(ours.detach().numpy(), theirs.numpy(), rtol=0, atol=tolerance)


@pytest.mark.parametrize(
    "case", ["active_default", "cocostuff27", "noclamp", "nopointwise", "salience", "stabalize"]
)
def test_correspondence_losses_and_gradients(case: str) -> None:
    saved = _load(f"corr_{case}")
    config = json.loads(str(saved["config_json"]))
    compare = Correspondence(config["pointwise"], config["zero_clamp"], config["stabalize"])
    code = saved["code"].clone().requires_grad_()
    code_pos = saved["code_pos"].clone().requires_grad_()
    coords1, coords2 = saved["coords1"], saved["coords2"]
    _close(sample(saved["feats"], coords1), saved["sampled_feats"])
    _close(sample(saved["feats_pos"], coords2), saved["sampled_feats_pos"])
    here = (unit(sample(saved["feats"], coords1)), unit(sample(code, coords1)))
    there = (unit(sample(saved["feats_pos"], coords2)), unit(sample(code_pos, coords2)))
    negatives = [
        (unit(sample(saved["feats"][perm], coords2)), unit(sample(code[perm], coords2)))
        for perm in saved["perm_neg"]
    ]
    _close(feature_similarity(here[0], here[0], compare.pointwise), saved["fd_pos_intra"])
    _close(feature_similarity(here[0], there[0], compare.pointwise), saved["fd_pos_inter"])
    _close(feature_similarity(here[0], negatives[0][0], compare.pointwise), saved["fd_neg_0"])
    _close(similarity_volume(here[1], here[1]), saved["pos_intra_cd"])
    _close(similarity_volume(here[1], there[1]), saved["pos_inter_cd"])

    def loss(other: tuple[Tensor, Tensor], name: str) -> Tensor:
        return compare((here[0], other[0]), (here[1], other[1]), config[f"{name}_shift"])

    intra, inter = loss(here, "pos_intra").mean(), loss(there, "pos_inter").mean()
    apart = [loss(other, "neg_inter") for other in negatives]
    _close(apart[0], saved["neg_inter_loss_0"])
    _close(torch.stack([a.mean() for a in apart]), saved["neg_inter_loss_per_sample"])
    neg = torch.stack([a.mean() for a in apart]).mean()
    total = (
        config["pos_inter_weight"] * inter
        + config["pos_intra_weight"] * intra
        + config["neg_inter_weight"] * neg
    )
    _close(torch.stack([intra, inter, neg, total]), saved["losses_float64"].float())
    total.backward()
    _close(code.grad, saved["grad_code"], 1e-6)
    _close(code_pos.grad, saved["grad_code_pos"], 1e-6)


def _head(weights: dict[str, Any], prefix: str) -> CodeHead:
    code_dim, in_dim = weights[f"{prefix}cluster1.0.weight"].shape[:2]
    head = CodeHead(in_dim, code_dim, torch.Generator())
    names = {"linear": "cluster1.0", "nonlinear.0": "cluster2.0", "nonlinear.2": "cluster2.2"}
    head.load_state_dict(
        {
            f"{ours}.{kind}": weights[f"{prefix}{theirs}.{kind}"].clone()
            for ours, theirs in names.items()
            for kind in ("weight", "bias")
        }
    )
    return head


@pytest.mark.parametrize("facet", ["feat", "KK"])
def test_head_with_and_without_dropout(facet: str) -> None:
    saved = _load("projection_head")
    head = _head(saved, "w_")
    features = saved[f"{facet}_nonlinear_image_feat"]
    _close(head(features), saved[f"{facet}_nonlinear_code"])
    dropout = saved[f"{facet}_nonlinear_train_dropout_masks"].float() / 0.9
    _close(head(features, dropout), saved[f"{facet}_nonlinear_train_code"])
    _close(drop_channels(features, dropout), saved[f"{facet}_nonlinear_train_image_feat"])


@pytest.mark.parametrize("facet", ["feat", "KK"])
def test_linear_head(facet: str) -> None:
    saved = _load("projection_head")
    head = CodeHead(48, 20, torch.Generator(), "linear")
    for kind, value in head.linear.named_parameters():
        value.data = saved[f"w_cluster1.0.{kind}"].clone()
    assert len(list(head.parameters())) == 2
    _close(head(saved[f"{facet}_linear_image_feat"]), saved[f"{facet}_linear_code"])


def test_small_operations() -> None:
    saved = _load("misc_ops")
    first, second = unit(saved["t"]), unit(saved["u"])
    _close(first, saved["norm"])
    _close(similarity_volume(first, second), saved["tensor_correlation"])
    _close(sample(saved["t"], saved["coords"]), saved["sample"])


@pytest.mark.parametrize(("suffix", "alpha"), [("none", None), ("a2", 2.0), ("a3", 3.0)])
def test_cluster_probe(suffix: str, alpha: float | None) -> None:
    saved = _load("probes")
    probe = ClusterProbe(27, 20, torch.Generator())
    probe.clusters.data = saved["clusters"].clone()
    loss = probe.loss(saved["x"], alpha)
    _close(loss, saved[f"cluster_loss_{suffix}"])
    loss.backward()
    _close(probe.clusters.grad, saved[f"cluster_grad_{suffix}"], 1e-6)
    if suffix == "a2":
        _close(probe.log_probs(saved["x"]), saved["cluster_logprobs_a2"])


@pytest.mark.parametrize(("suffix", "alpha"), [("a2", 2.0), ("a3", 3.0)])
def test_cluster_probabilities(suffix: str, alpha: float) -> None:
    saved = _load("probes")
    probe = ClusterProbe(27, 20, torch.Generator())
    probe.clusters.data = saved["clusters"].clone()
    _close(probe.log_probs(saved["x"], alpha).exp(), saved[f"cluster_probs_{suffix}"])
    nearest = saved["cluster_probs_none"].argmax(dim=1)  # one-hot
    assert torch.equal(probe.cosines(saved["x"]).argmax(dim=1), nearest)


def test_cluster_prediction_at_image_size() -> None:
    from u2seg.semantics.predict import log_probabilities

    saved = _load("probes")
    probe = ClusterProbe(27, 20, torch.Generator())
    probe.clusters.data = saved["clusters"].clone()
    for code, expected in zip(saved["x"], saved["val_cluster_preds"]):
        scores = log_probabilities(probe.log_probs, code[None], (40, 48))
        assert (scores.argmax(axis=0) == expected.numpy()).mean() >= 0.999


@pytest.mark.parametrize("case", ["training_steps", "training_steps_rec"])
def test_three_training_steps(case: str) -> None:
    saved = _load(case)
    config = json.loads(str(saved["config_json"]))
    settings = with_values(
        SemanticSettings(stego=StegoSettings(dense_codes=True)),
        num_classes=27,
        code_dim=config["dim"],
        samples=config["feature_samples"],
        neg_samples=config["neg_samples"],
        lr=config["lr"],
        weight_rec=config["rec_weight"],
    )
    head = _head(saved, "w0_net.")
    probe = ClusterProbe(27, 20, torch.Generator())
    probe.clusters.data = saved["w0_cluster_probe.clusters"].clone()
    decoder = _decoder(saved, "w0_") if config["rec_weight"] else None
    trainer = Trainer(settings.stego, head, probe, decoder)
    names = json.loads(str(saved["log_names"]))
    for step in range(3):
        dropout = saved["dropout_masks"][step].float() / 0.9
        losses = trainer.step(
            list(saved["feats"][step]),
            list(saved["feats_pos"][step]),
            StepDraws(
                coords=saved["coords1"][step],
                coords_paired=saved["coords2"][step],
                permutations=saved["perm_neg"][step],
                dropout=dropout[:3],
                dropout_paired=dropout[3:],
            ),
        )
        log = dict(zip(names, saved["log_values"][step].tolist()))
        assert losses["neg"] == pytest.approx(log["loss/neg_inter"], abs=1e-5)
        assert losses["inter"] == pytest.approx(log["loss/pos_inter"], abs=1e-5)
        assert losses["intra"] == pytest.approx(log["loss/pos_intra"], abs=1e-5)
        assert losses["probe"] == pytest.approx(log["loss/cluster"], abs=1e-5)
        head_loss = log["loss/total"] - log["loss/cluster"] - log["loss/linear"]
        assert losses["total"] == pytest.approx(head_loss, abs=1e-5)
        assert losses.get("rec", 0) == pytest.approx(log.get("loss/rec", 0), abs=1e-5)
        if step == 0:
            _same_weights(trainer, saved, "w1_")
    _same_weights(trainer, saved, "w3_")


def _decoder(weights: dict[str, Any], prefix: str) -> Decoder:
    out_dim, code_dim = weights[f"{prefix}decoder.weight"].shape[:2]
    decoder = Decoder(code_dim, out_dim, torch.Generator())
    for kind, value in decoder.linear.named_parameters():
        value.data = weights[f"{prefix}decoder.{kind}"].clone()
    return decoder


def _same_weights(trainer: Trainer, saved: dict[str, Any], prefix: str) -> None:
    expected = _head(saved, f"{prefix}net.").state_dict()
    for name, value in trainer.head.state_dict().items():
        _close(value, expected[name])
    _close(trainer.probe.clusters, saved[f"{prefix}cluster_probe.clusters"])
    if trainer.decoder:
        known = _decoder(saved, prefix).state_dict()
        for name, value in trainer.decoder.state_dict().items():
            _close(value, known[name])


def test_every_file_of_the_reference_is_used() -> None:
    text = Path(__file__).read_text(encoding="utf-8")
    for path in FOLDER.glob("*.npz"):
        assert f'"{path.stem.removeprefix("corr_")}"' in text, f"no test reads {path.name}"
