"""Whoever does the work, and however it is cut: the labels are the same bytes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from tests.pipeline.conftest import tree
from u2seg.config.schema import Settings
from u2seg.pipeline import generate_labels
from u2seg.pipeline.executors.build import build_crew


@pytest.fixture(scope="module")
def plain(photos: Path, settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one process."""
    return generate_labels(settings, photos, tmp_path_factory.mktemp("plain"), progress=False)


@pytest.mark.slow
def test_worker_processes_leave_the_same_files(
    plain: Path, photos: Path, settings: Settings, tmp_path: Path
) -> None:
    crew = build_crew("local", 2)
    generate_labels(settings, photos, tmp_path / "run", progress=False, crew=crew)
    assert tree(tmp_path / "run") == tree(plain)


def labels(folder: Path) -> dict[str, bytes]:
    """What training reads, and the centroids: everything that is not cut into shards."""
    return {
        name: content
        for name, content in tree(folder).items()
        if name.startswith(("panoptic/", "semantics/", "clusters/centroids"))
        and "/part-" not in name
        and "/ledger/" not in name
        and not name.endswith(("manifest.json", "plan.json"))
    }


@pytest.mark.parametrize("size", [1, 3, 64])
def test_the_shard_size_changes_no_label(
    plain: Path, photos: Path, settings: Settings, tmp_path: Path, size: int
) -> None:
    run = dataclasses.replace(settings.run, shard_size=size)
    other = dataclasses.replace(settings, run=run)
    generate_labels(other, photos, tmp_path / "run", progress=False)
    ours, theirs = labels(tmp_path / "run"), labels(plain)
    assert {"panoptic/panoptic.json", "panoptic/instances.json", "clusters/centroids.npy"} < set(
        ours
    )
    assert any(name.endswith(".png") for name in ours)
    assert ours == theirs
