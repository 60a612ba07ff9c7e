"""Run the label stages in order, resume them, and say what a full run will cost."""

from __future__ import annotations

import contextlib
import logging
import resource
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from u2seg.config.env import tell_spinning
from u2seg.config.load import settings_hash
from u2seg.config.schema import Settings
from u2seg.errors import UserError
from u2seg.features.auto import AUTO, remember, resolve
from u2seg.io.atomic import sha256_file, write_json
from u2seg.io.jsonfile import read_json, read_json_object
from u2seg.io.lock import only_run
from u2seg.io.sources import open_source
from u2seg.masks.base import Model
from u2seg.pipeline.batches import collect_skips, skipped_by
from u2seg.pipeline.cluster_stage import ClusterStage
from u2seg.pipeline.ingest import ImagesStage
from u2seg.pipeline.mask_stage import MaskStage
from u2seg.pipeline.panoptic_stage import PanopticStage
from u2seg.pipeline.semantic_stage import SemanticStage
from u2seg.pipeline.stage import RunContext, Stage, library_versions
from u2seg.pipeline.workspace import Workspace, check_apart, remove_stage
from u2seg.shards.attempts import Phase
from u2seg.shards.pool import WorkerPool
from u2seg.structures.manifest import StageManifest
from u2seg.version import __version__

logger = logging.getLogger(__name__)

ORDER: tuple[type[Stage], ...] = (
    ImagesStage, MaskStage, ClusterStage, SemanticStage, PanopticStage,
)  # fmt: skip
NAMES = tuple(stage.name for stage in ORDER)
STAGES = tuple(name for name in NAMES if name != ImagesStage.name)
"""Stages a user can ask for; listing the images always comes first."""


def generate_labels(  # noqa: PLR0913 - all but three have a default
    settings: Settings,
    images: Path,
    output: Path,
    *,
    stages: Sequence[str] = STAGES,
    overwrite: bool = False,
    retry_failed: bool = False,
    limit: int = 0,
    progress: bool = True,
    detector: Model | None = None,
    pool: WorkerPool | None = None,
) -> Path:
    """Label photographs; running it again resumes.

    Args:
        settings: All settings.
        images: Folder of photographs (sub-folders are searched), list of photographs, or
            WebDataset shards; see ``u2seg.io.sources.open_source``.
        output: Where everything is written; made if missing.
        stages: Which of ``STAGES`` to run, in any order.
        overwrite: Make these stages, and those after them, anew.
        retry_failed: Try the shards that were given up and the images that were set aside again.
        limit: Use only so many images, evenly spaced; 0 = all.
        progress: Show progress bars.
        detector: Predicts the masks if ``U2SEG.MASKS.PROPOSER`` is ``cutler``.
        pool: Workers; None = this process does everything. The labels are the same.

    Returns:
        ``output``.

    Raises:
        UserError: for missing photographs, an unknown stage, settings that do not fit what is in
            ``output`` already, another run at work there, an unwritable folder, or one that
            holds the photographs, lies among them or holds files of others.
        StageError: if too many images are unreadable.
    """
    tell_spinning()
    wanted = check_stages(stages)
    names = [name for name in NAMES if name not in settings.left_out()]
    source = open_source(images, settings.images.extensions)
    space, asked = Workspace(output), settings.features.name
    anew = overwrite and wanted == set(STAGES)
    # Masks may be asked for by themselves; nothing else can be made of no cluster.
    wanted &= set(names) if wanted == set(STAGES) else {*names, "masks"}
    settings = resolve(settings, None if anew else space.features)
    finished = space.stage_manifest(ClusterStage.name).is_file() and not overwrite
    describe = ClusterStage.name in wanted and not finished
    context = RunContext(settings, space, source, limit, progress, detector, pool, describe)
    check_apart(source, space, NAMES)
    todo = [kind(context) for kind in ORDER if kind is ImagesStage or kind.name in wanted]
    for stage in todo:  # before hours of work, and before anything is deleted
        stage.check()
    with only_run(space.lock), at_work(context):
        if overwrite:
            _forget(context, {*wanted, "images"} if anew else wanted)
        if asked == AUTO:
            remember(settings, space.features)
        if retry_failed:
            _forgive(space)
        for stage in todo:
            if retry_failed and stage.outdated():
                remove_stage(space, stage.name)
            stage.execute()
            skipped = collect_skips(space, NAMES)
            if skipped and isinstance(stage, ImagesStage):
                logger.warning("%d images skipped, see %s", skipped, space.skipped)
        if all(space.stage_manifest(name).is_file() for name in names):
            finish(context, names)
    return output


@dataclass
class StageSource:
    """Builds the phases of a run in a worker process; see ``u2seg.shards.pool.PhaseSource``."""

    context: RunContext
    _placed: bool = False

    def open(self, stage: str, phase: str, gpu: int | None) -> Phase:
        """Return a phase of one of ``ORDER``; the ViT is loaded once for all of them."""
        if not self._placed:
            self.context, self._placed = self.context.on_gpu(gpu), True
        (kind,) = (kind for kind in ORDER if kind.name == stage)
        return kind(self.context).phase(phase)


@contextlib.contextmanager
def at_work(context: RunContext) -> Iterator[None]:
    """Have the workers ready while the block runs."""
    try:
        if context.pool:
            source = StageSource(replace(context, pool=None, progress=False))
            context.pool.open(source, context.space.root, context.settings.run.threads)
        yield
    finally:
        if context.pool:
            context.pool.close()


def check_stages(stages: Sequence[str]) -> set[str]:
    """Return the stages as a set; UserError names an unknown one."""
    unknown = [stage for stage in stages if stage not in STAGES]
    if unknown or not stages:
        raise UserError(f"unknown stage {unknown or 'none'}: known are {', '.join(STAGES)}")
    return set(stages)


def _forget(context: RunContext, wanted: set[str]) -> None:
    # Everything anew includes the list of images: the folder may have changed.
    stale = set(wanted)
    context.space.manifest.unlink(missing_ok=True)
    for stage in ORDER:
        # Whatever is built on a stage made anew is stale too.
        if stale.intersection((stage.name, *stage.inputs)):
            stale.add(stage.name)
            remove_stage(context.space, stage.name)
    if "images" in stale:
        context.space.images_json.unlink(missing_ok=True)
        context.space.features.unlink(missing_ok=True)


def _forgive(space: Workspace) -> None:
    """Forget what failed, and what was made without the images that were set aside."""
    names = set(space.aside())
    for stage in ORDER:
        forgiven = [shard for ledger in space.ledgers(stage.name) for shard in ledger.forgive()]
        if forgiven:
            space.manifest.unlink(missing_ok=True)
            space.stage_manifest(stage.name).unlink(missing_ok=True)
            logger.info("%s: trying %d shards again", stage.name, len(forgiven))
        elif names.intersection(entry["file_name"] for entry in skipped_by(space, stage.name)):
            remove_stage(space, stage.name)


def finish(context: RunContext, names: Sequence[str]) -> None:
    """Write the manifest of a run all of whose stages are done."""
    space = context.space
    counts = {}
    for name in names:
        made = read_json_object(space.stage_manifest(name), "counts")["counts"]
        counts.update({f"{name}.{key}": value for key, value in made.items()})
    manifest = StageManifest(
        stage="labels",
        settings_hash=settings_hash(context.settings),
        inputs={name: sha256_file(space.stage_manifest(name)) for name in names},
        files={p.name: sha256_file(p) for p in (space.images_json, space.skipped)},
        counts=counts,
        version=__version__,
        libraries=library_versions(),
    )
    write_json(space.manifest, manifest.to_json(), indent=1)


def estimate(output: Path, workers: int = 1) -> str:
    """Return what labelling all images will take, judged by a dry run in ``output``.

    Args:
        output: Output folder of ``generate_labels`` with a limit.
        workers: How many processes it used.
    """
    content = read_json_object(Workspace(output).images_json, "images", "info")
    used, total = len(content["images"]), int(content["info"]["found"])
    # Fitting the stuff model takes the same number of steps however many images there are.
    seconds = {stage: s / used for stage, s in read_json(Workspace(output).timings).items()}
    lines = [f"{'stage':<12}{'s/image':>10}{'hours for ' + str(total):>20}"]
    lines += [f"{stage:<12}{s:>10.3f}{s * total / 3600:>20.3f}" for stage, s in seconds.items()]
    size = sum(p.stat().st_size for p in output.rglob("*") if p.is_file())
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    memory = max(usage.ru_maxrss for usage in usages) / 2**20
    processes = "one process" if workers == 1 else f"{workers} workers"
    hours = sum(seconds.values()) * total / 3600
    lines.append(f"all: {hours:.2f} h at most (fitting counted in proportion), {processes}")
    lines.append(f"disk: {size / used * total / 2**20:.0f} MiB; peak memory: {memory:.1f} GiB each")
    return "\n".join(lines)
