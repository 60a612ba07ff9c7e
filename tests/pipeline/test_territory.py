"""Photographs and foreign files survive every command; results are never taken for photographs."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.pipeline.conftest import label
from u2seg.config.schema import Settings
from u2seg.errors import UserError
from u2seg.pipeline.workspace import Workspace, remove_run, remove_stage


@pytest.fixture
def own(photos: Path, tmp_path: Path) -> Path:
    """A copy of the photographs in the folder that stage ``images`` would use."""
    return Path(shutil.copytree(photos, tmp_path / "run" / "images"))


@pytest.mark.parametrize("overwrite", [False, True])
def test_photographs_in_a_stage_folder_are_kept(
    own: Path, settings: Settings, overwrite: bool
) -> None:
    before = sorted(own.rglob("*"))
    with pytest.raises(UserError, match="where stage images keeps its files"):
        label(settings, own, own.parent, overwrite=overwrite)
    assert sorted(own.rglob("*")) == before


def test_an_output_folder_beside_the_photographs_is_fine(
    photos: Path, settings: Settings, tmp_path: Path
) -> None:
    shutil.copytree(photos, tmp_path / "photos")
    label(settings, tmp_path / "photos", tmp_path, "masks", limit=1)
    assert (tmp_path / "masks/manifest.json").is_file()


@pytest.mark.parametrize("overwrite", [False, True])
def test_files_of_others_are_not_touched(
    photos: Path, settings: Settings, tmp_path: Path, overwrite: bool
) -> None:
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks/mine.txt").write_text("precious")
    with pytest.raises(UserError, match="no labelling run made"):
        label(settings, photos, tmp_path, overwrite=overwrite, limit=1)
    assert (tmp_path / "masks/mine.txt").read_text() == "precious"


def test_what_a_killed_deletion_leaves_never_passes_for_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = Workspace(tmp_path)
    for path in (space.plan("masks"), space.part("masks", 0), space.stage_manifest("masks")):
        path.parent.mkdir(exist_ok=True)
        path.write_text("{}")
    unlink, done = Path.unlink, []

    def killed(path: Path, missing_ok: bool = False) -> None:
        if done:
            raise KeyboardInterrupt
        done.append(path)
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", killed)
    with pytest.raises(KeyboardInterrupt):
        remove_stage(space, "masks")
    monkeypatch.undo()
    assert not space.stage_manifest("masks").exists() and space.plan("masks").is_file()
    remove_stage(space, "masks")
    assert not space.folder("masks").exists()


def test_only_a_run_is_removed_as_a_dry_run(tmp_path: Path) -> None:
    remove_run(tmp_path / "absent")
    (tmp_path / "dry-run").mkdir()
    (tmp_path / "dry-run/mine.txt").write_text("precious")
    with pytest.raises(UserError, match="not made by a dry run"):
        remove_run(tmp_path / "dry-run")
    (tmp_path / "dry-run/.lock").write_text("")
    remove_run(tmp_path / "dry-run")
    assert not (tmp_path / "dry-run").exists()
