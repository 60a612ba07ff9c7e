"""Photographs to pseudo-labels: ``u2seg label`` and ``u2seg.label``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from u2seg.compat import host_keys
from u2seg.config.env import warn_unread
from u2seg.config.load import load_settings
from u2seg.config.schema import Settings
from u2seg.config.words import words_of
from u2seg.errors import UserError
from u2seg.io.jsonfile import read_json_object

if TYPE_CHECKING:
    from u2seg.inference.detector import Detector

MAX_REPORTED = 50_000
"""Photographs up to which labelling writes its report: a gigabyte of masks, at three each."""
DRY_RUN = "dry-run"


def label(  # noqa: PLR0913 - all but two have a default
    images: Path | str,
    output: Path | str,
    config: Path | str = "u2seg/quickstart",
    settings: Mapping[str, Any] | Sequence[str] = (),
    *,
    stages: Sequence[str] = (),
    overwrite: bool = False,
    retry_failed: bool = False,
    limit: int = 0,
    executor: str = "local",
    workers: int = 1,
    executor_options: Sequence[str] = (),
) -> Path:
    """Label photographs without any annotation; the same call again resumes.

    Args:
        images: Folder of photographs, list of photographs, or WebDataset shards.
        output: Folder of the labels; made if missing.
        config: YAML settings, or the name of a config that comes along.
        settings: What to change: ``{"U2SEG.CLUSTERS.NUM_CLUSTERS": 100}``, nested or not.
        stages: Some of ``masks``, ``clusters``, ``semantics``, ``panoptic``; empty = all.
        overwrite: Make these stages, and those after them, anew.
        retry_failed: Try what failed or was set aside again.
        limit: Only so many images, evenly spaced; 0 = all.
        executor: ``local``, ``ray`` or ``slurm``.
        workers: Processes.
        executor_options: ``KEY=VALUE`` of the executor.

    Returns:
        ``output``.

    Raises:
        UserError: for anything wrong in arguments or settings, or a folder of another run.
        StageError: if a stage fails.
    """
    from u2seg.pipeline import generate_labels
    from u2seg.pipeline.runner import STAGES
    from u2seg.shards.executors import build_pool

    chosen = load_settings(config, words_of(settings), host_keys())
    warn_unread(chosen)
    return generate_labels(
        chosen,
        Path(images),
        Path(output),
        stages=stages or STAGES,
        overwrite=overwrite,
        retry_failed=retry_failed,
        limit=limit,
        detector=detector_of(chosen),
        pool=build_pool(executor, workers, executor_options),
    )


def dry_run(output: Path, count: int, workers: int, **given: Any) -> str:
    """Label ``count`` images in a folder below ``output``; return what all of them will take."""
    from u2seg.pipeline.runner import estimate
    from u2seg.pipeline.workspace import remove_run

    if count < 0:
        raise UserError(f"a dry run of {count} images, expected a number of images > 0")
    folder = output / DRY_RUN
    remove_run(folder)
    label(output=folder, limit=count, workers=workers, **given)
    return f"{estimate(folder, workers)}\n{report_labels(folder)}"


def status(output: Path) -> str:
    """Return how far the labelling in a folder is."""
    from u2seg.pipeline.runner import ORDER
    from u2seg.pipeline.status import status as told

    return told(output, [stage.name for stage in ORDER])


def report_labels(labels: Path) -> str:
    """Write ``report.html`` among the labels; return a line that says so, or why not."""
    from u2seg.visualization.report import report_line

    listed = labels / "images" / "manifest.json"
    images = read_json_object(listed)["counts"]["images"] if listed.is_file() else 0
    if images > MAX_REPORTED:  # the page is made from all masks in memory
        return f"no report of {images} photographs by itself: u2seg report {labels} writes it"
    return report_line(labels, f"Labels: {labels.resolve().name}", labels=labels)


def detector_of(settings: Settings) -> Detector | None:
    """Return the trained model that predicts the masks, if the settings ask for one."""
    from u2seg.inference.detector import Detector
    from u2seg.masks.base import MASK_PROPOSERS, MODEL

    if MODEL not in MASK_PROPOSERS.needs(settings.masks.proposer):
        return None
    return Detector(settings.masks.cutler, settings.features.device)
