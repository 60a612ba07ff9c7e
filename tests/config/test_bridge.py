"""The yacs node is derived from the settings classes and leads back to them."""

from __future__ import annotations

from pathlib import Path

import pytest

from u2seg.config.env import cache_dir
from u2seg.config.load import add_u2seg_config, settings_from_cfg, settings_tree
from u2seg.config.schema import Settings

yacs = pytest.importorskip("yacs.config")


class OwnNode(yacs.CfgNode):  # type: ignore[name-defined, misc]
    """Detectron2 has such a subclass; yacs refuses nodes of another class."""


@pytest.fixture(params=[yacs.CfgNode, OwnNode])
def cfg(request: pytest.FixtureRequest) -> yacs.CfgNode:  # type: ignore[name-defined]
    node = request.param()
    add_u2seg_config(node)
    return node


def test_every_default_is_in_the_node(cfg: yacs.CfgNode) -> None:  # type: ignore[name-defined]
    assert settings_tree(Settings()) == cfg.U2SEG
    assert settings_from_cfg(cfg) == Settings()
    assert type(cfg.U2SEG.MASKS) is type(cfg)


def test_adding_twice_keeps_changes(cfg: yacs.CfgNode) -> None:  # type: ignore[name-defined]
    cfg.U2SEG.MASKS.MASKCUT.TAU = 0.5
    add_u2seg_config(cfg)
    assert settings_from_cfg(cfg).masks.maskcut.tau == 0.5


def test_overrides_and_files_round_trip(
    cfg: yacs.CfgNode,  # type: ignore[name-defined]
    tmp_path: Path,
) -> None:
    (tmp_path / "x.yaml").write_text("U2SEG: {CLUSTERS: {NUM_CLUSTERS: 800}}\n")
    cfg.merge_from_file(str(tmp_path / "x.yaml"))
    cfg.merge_from_list(["U2SEG.MASKS.MASKCUT.TAU", "0.25", "U2SEG.IMAGES.EXTENSIONS", "('.jpg',)"])
    settings = settings_from_cfg(cfg)
    assert (settings.clusters.num_clusters, settings.masks.maskcut.tau) == (800, 0.25)
    assert settings.images.extensions == (".jpg",)
    again = type(cfg)()
    add_u2seg_config(again)
    (tmp_path / "dump.yaml").write_text(cfg.dump())
    again.merge_from_file(str(tmp_path / "dump.yaml"))
    assert settings_from_cfg(again) == settings


def test_the_cache_follows_the_xdg_convention(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache_dir() == Path("/somewhere/u2seg")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/someone")
    assert cache_dir() == Path("/home/someone/.cache/u2seg")
