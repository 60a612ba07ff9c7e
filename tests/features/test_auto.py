"""``FEATURES.NAME auto``: the best ViT at hand, else one that can be had, else the filter bank."""

from __future__ import annotations

import http.server
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch

from tests.factories import CONFIGS
from u2seg.config.env import go_offline
from u2seg.config.load import load_settings
from u2seg.config.schema import FeatureSettings, Settings, VitSettings
from u2seg.config.words import flatten
from u2seg.errors import UserError
from u2seg.features import weights
from u2seg.features.auto import FILTER_BANK, choose, remember, resolve
from u2seg.features.vit import ARCHITECTURES, hub_of, vit_of
from u2seg.io.yamlfile import load_yaml

ASKED = replace(Settings(), features=FeatureSettings(name="auto"))


@pytest.fixture(autouse=True)
def no_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "")
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: None)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "torch"))
    folder = tmp_path / "torch" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def refuse(*_: object, **__: object) -> None:
    raise AssertionError("the network was asked")


def test_the_best_at_hand_is_taken_and_no_network_asked(
    no_caches: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "_download", refuse)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", refuse)
    for file in ("dinov2_vits14_pretrain.pth", "dino_deitsmall8_pretrain.pth"):
        (no_caches / file).touch()
    assert choose(FeatureSettings(name="auto"))[0] == "dino_vits8"
    (no_caches / "dino_vitbase8_pretrain.pth").touch()
    assert choose(FeatureSettings(name="auto"))[0] == "dino_vitb8"


def test_offline_nothing_is_asked_and_the_filter_bank_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("huggingface_hub.hf_hub_download", refuse)
    go_offline()
    settings = resolve(ASKED)
    assert settings.features.name == "filter_bank"
    assert "no weights of a ViT are at hand and none can be had" in caplog.text
    with pytest.raises(UserError, match=r"was never downloaded here, and --offline"):
        weights.local_weights("https://example.org/x.pth")


def test_offline_a_run_without_weights_does_not_begin(no_caches: Path, tmp_path: Path) -> None:
    named = replace(ASKED, features=FeatureSettings(name="dino_vits8"))
    assert resolve(named, tmp_path / "run" / "features.json") == named
    go_offline()
    with pytest.raises(UserError, match="dino_vits8 are not on this machine, and --offline"):
        resolve(named, tmp_path / "run" / "features.json")
    (tmp_path / "run").mkdir()  # its masks may be there: what is needed shows
    assert resolve(named, tmp_path / "run" / "features.json") == named
    bank = replace(ASKED, features=FeatureSettings(name="filter_bank"))
    assert resolve(bank) == bank


def test_a_run_keeps_what_it_began_with(no_caches: Path, tmp_path: Path) -> None:
    go_offline()
    record = tmp_path / "features.json"
    first = resolve(ASKED, record)
    remember(first, record)
    (no_caches / "dino_vitbase8_pretrain.pth").touch()
    assert resolve(ASKED, record) == first
    assert resolve(ASKED).features.name == "dino_vitb8"


def test_the_filter_bank_gets_settings_that_suit_it_but_for_those_given(
    caplog: pytest.LogCaptureFixture,
) -> None:
    go_offline()
    caplog.set_level("INFO", "u2seg")
    config = CONFIGS / "own" / "photographs.yaml"
    given = load_settings(config, ["U2SEG.MASKS.MASKCUT.TAU", "0.3"])
    settings = resolve(given)
    assert (settings.features.image_size, settings.masks.max_border) == (320, 0.4)
    assert (settings.masks.maskcut.tau, settings.clusters.descriptor) == (0.3, "masked_mean")
    default = Settings().masks.max_border
    assert f"U2SEG.MASKS.MAX_BORDER {default} becomes 0.4, which suits" in caplog.text
    assert "MASKS.MASKCUT.TAU" not in caplog.text
    node = load_yaml(CONFIGS / "quickstart" / "quickstart.yaml")["U2SEG"]
    for section, values in FILTER_BANK.items():
        given = {k.lower(): v for k, v in flatten(node[section.upper()]).items()}
        assert values.items() <= given.items()


@pytest.mark.parametrize("name", ["dino_vits16", "dinov2_vits14", "dinov3_vits16"])
def test_given_weights_say_which_vit_they_are_of(name: str) -> None:
    with torch.device("meta"):
        model = timm.create_model(ARCHITECTURES[name], pretrained=False, num_classes=0)
    assert (
        vit_of({"teacher": {f"backbone.{k}": v for k, v in model.state_dict().items()}}, Path())
        == name
    )
    assert hub_of(name).startswith("timm/vit_small")


def test_weights_of_no_known_vit_are_refused(tmp_path: Path) -> None:
    torch.save({"patch_embed.proj.weight": torch.zeros(7, 3, 8, 8)}, tmp_path / "x.pth")
    with pytest.raises(UserError, match=r"of no ViT that is known here \(width 7, patches of 8"):
        choose(FeatureSettings(name="auto", vit=VitSettings(weights=str(tmp_path / "x.pth"))))


class Server(http.server.BaseHTTPRequestHandler):
    """Answers ``/short`` with a part of what it promises, else with a page."""

    def do_GET(self) -> None:
        self.send_response(200)
        short = self.path == "/short"
        self.send_header("Content-Length", "1000" if short else "11")
        self.end_headers()
        self.wfile.write(b"x" * 100 if short else b"<html>login")

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def address() -> Iterator[str]:
    with http.server.HTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_what_broke_off_or_is_no_checkpoint_is_not_kept(address: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot download .*/short: .*100.*1000|900 more"):
        weights.local_weights(f"{address}/short", folder=tmp_path)
    with pytest.raises(UserError, match=r"/page is an HTML page, not a checkpoint"):
        weights.local_weights(f"{address}/page", folder=tmp_path)
    assert list((tmp_path / "weights").iterdir()) == []


def test_a_silent_server_is_waited_for_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It accepts and never answers; neither is the hub's own client called, nor a disk blamed."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setattr(weights, "TIMEOUT_S", 0.05)
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", url)
        monkeypatch.setattr("huggingface_hub.hf_hub_download", pytest.fail)
        monkeypatch.setitem(weights.RELEASED, "dino_vitb8", f"{url}/x.pth")
        with pytest.raises(UserError, match=r"cannot download .*/x\.pth: timed out"):
            weights.fetch("dino_vitb8", "timm/any")
