"""Where a run may write and what it may delete: never the photographs, never foreign files.

A stage folder belongs to a run if it holds ``plan.json``, which is written before anything else
and deleted after everything else.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from u2seg.errors import UserError
from u2seg.io.sources import ImageSource
from u2seg.io.territory import PHOTOGRAPHS, check_outside
from u2seg.pipeline.workspace import Workspace


def check_apart(source: ImageSource, space: Workspace, stages: Iterable[str]) -> None:
    """Raise UserError if photographs and results would share a folder.

    Label maps below a searched folder would be labelled as photographs by the next run, and
    photographs inside a stage's folder deleted by ``--overwrite``.

    Args:
        source: The photographs.
        space: The run's files.
        stages: Names of all stages.
    """
    if source.searched:
        check_outside(space.root, source.root, PHOTOGRAPHS)
    homes = {folder.resolve(): folder for folder in source.folders()}
    for stage in stages:
        folder = space.folder(stage)
        for home, named in homes.items():
            if home.is_relative_to(folder.resolve()):
                raise UserError(
                    f"the image folder {named} lies where stage {stage} keeps its files "
                    f"({folder}): choose another --output-dir"
                )


def check_owned(folder: Path, plan: Path) -> None:
    """Raise UserError if a stage folder holds files, but not a stage's.

    Hidden entries do not count: a killed writer leaves them.
    """
    if not folder.exists() or plan.is_file():
        return
    if not folder.is_dir() or any(not p.name.startswith(".") for p in folder.iterdir()):
        raise UserError(
            f"{folder} holds files that no labelling run made; they are not touched. Choose "
            "another --output-dir, or move them away"
        )


def remove_stage(space: Workspace, stage: str) -> None:
    """Delete the folder of a stage; UserError if it holds anything else.

    The manifest goes first, so that what a killed deletion leaves never passes for a finished
    stage; the plan goes last.
    """
    folder, plan = space.folder(stage), space.plan(stage)
    check_owned(folder, plan)
    if not folder.exists():
        return
    space.stage_manifest(stage).unlink(missing_ok=True)
    for path in folder.iterdir():
        if path == plan:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    plan.unlink(missing_ok=True)
    folder.rmdir()


def remove_run(output: Path) -> None:
    """Delete the folder of a whole run, if there is one; UserError if it is not a run's."""
    if not output.exists():
        return
    if not (Workspace(output).lock).is_file() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(
            f"{output} was not made by a dry run, so it is not deleted: choose another "
            "--output-dir, or move it away"
        )
    shutil.rmtree(output)
