"""What every stage has: a plan written first, parts in between, a manifest written last.

A stage's ``run`` is a sequence of steps over the whole set and of sharded phases, one call of
``each_shard`` each. A shard with a receipt in the ledger is done and belongs to the plan beside
it, so running the same command again continues where the last run ended and yields the same bytes.
A bad image never stops a shard.
"""

from __future__ import annotations

import functools
import importlib.metadata
import logging
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from u2seg.config.load import settings_hash
from u2seg.config.schema import Settings
from u2seg.errors import StageError, UserError
from u2seg.features import FeatureExtractor, build_extractor
from u2seg.io.atomic import json_bytes, remove_temporaries, sha256_bytes, sha256_file, write_json
from u2seg.io.images import BadImageError, decode_image, read_content
from u2seg.io.jsonfile import read_json, read_json_object
from u2seg.io.paths import image_file
from u2seg.io.progress import Bar
from u2seg.io.sources import ImageSource
from u2seg.masks.base import Model
from u2seg.pipeline.workspace import LEDGER, Workspace, check_owned
from u2seg.shards.attempts import Part, Phase, Work
from u2seg.shards.driver import drive
from u2seg.shards.pool import WorkerPool
from u2seg.shards.records import Record, ShardFile
from u2seg.structures.manifest import StageManifest
from u2seg.version import __version__

logger = logging.getLogger(__name__)

_OF_A_SHARD = re.compile(r"-\d{5,}\.[a-z]+$|\*\*\.png$")
"""File names of one shard, and digests of pictures."""
LIBRARIES = (
    "numpy", "scipy", "pillow", "torch", "timm", "scikit-learn", "scikit-image", "faiss-cpu",
)  # fmt: skip


@dataclass(frozen=True)
class RunContext:
    """What all stages of a run share.

    Args:
        settings: All settings.
        space: Files of the run.
        source: The photographs.
        limit: Use only this many images, evenly spaced; 0 = all.
        progress: Show progress bars.
        detector: Predicts masks where ``U2SEG.MASKS.PROPOSER`` asks for one.
        pool: The workers; None = the driver works itself.
        describe: Whether the masks stage describes its masks too, for the clusters stage that
            follows, while it has the photographs.
    """

    settings: Settings
    space: Workspace
    source: ImageSource
    limit: int = 0
    progress: bool = True
    detector: Model | None = None
    pool: WorkerPool | None = None
    describe: bool = False

    @functools.cached_property
    def extractor(self) -> FeatureExtractor:
        """The feature extractor of this process, built on first use."""
        return build_extractor(self.settings.features)

    def images(self) -> list[Record]:
        """Return the records of ``images.json``."""
        records: list[Record] = read_json_object(self.space.images_json, "images")["images"]
        return records

    def shards(self) -> ShardFile:
        """Return the records cut into shards of ``RUN.SHARD_SIZE``, read one by one."""
        return ShardFile(self.space.records)

    def read(self, record: Record) -> Any:
        """Return the (H, W, 3) uint8 RGB pixels of a record; BadImageError if it changed."""
        limit = self.settings.images.max_pixels
        return decode_image(read_content(image_file(self.source.root, record), limit), limit)

    def on_gpu(self, number: int | None) -> RunContext:
        """Return the context of a worker; those of one machine share its GPUs out."""
        if number is None or self.settings.features.device != "auto":
            return self
        import torch

        if torch.cuda.device_count() < 2:
            return self
        device = f"cuda:{number % torch.cuda.device_count()}"
        features = replace(self.settings.features, device=device)
        return replace(self, settings=replace(self.settings, features=features))


class OtherRunError(UserError):
    """A folder holds the results of another run.

    Args:
        finding: Which folder, and in what the runs differ.
        advice: What a user of ``u2seg label`` can do; other tools know other ways.
    """

    def __init__(self, finding: str, advice: str) -> None:
        super().__init__(f"{finding}. {advice}")
        self.finding = finding


class Stage(ABC):
    """One stage of the labelling run.

    Subclasses name the stage and its inputs, and do the work in ``run``; ``execute`` adds what
    all have in common.
    """

    name: str
    inputs: tuple[str, ...] = ()
    """Stages whose manifests this one builds on."""

    def __init__(self, context: RunContext) -> None:
        self.context = context
        self.space = context.space
        self.folder = context.space.folder(self.name)

    @abstractmethod
    def sections(self) -> tuple[Any, ...]:
        """Return the settings that decide this stage's output."""

    @abstractmethod
    def works(self) -> dict[str, Work]:
        """Return the sharded phases by name.

        They may be called in another process, on a stage built from the same settings, so they
        use nothing that ``run`` did but what is in files.
        """

    @abstractmethod
    def run(self) -> dict[str, int]:
        """Do the work; return counts for the manifest."""

    def seed(self) -> int:
        """Return the seed the stage uses, 0 if none."""
        return 0

    def extra_plan(self) -> dict[str, Any]:
        """Return further facts that must not change between runs into one folder."""
        return {}

    def check(self) -> None:
        """Raise UserError for settings that can be seen to be wrong before anything runs."""
        return

    def execute(self) -> None:
        """Run the stage unless it is done; raise if the folder holds another run.

        Raises:
            UserError: if an input stage is missing, or the folder was made with other settings
                or from other inputs, or holds files of others.
        """
        plan, path = self._plan(), self.space.plan(self.name)
        self._check_plan(plan)
        if self.space.stage_manifest(self.name).is_file() and self._intact():
            if not path.is_file():  # lost, and checked above
                write_json(path, plan, indent=1)
            logger.info("%s: done already", self.name)
            return
        check_owned(self.folder, path)
        remove_temporaries(self.folder)
        write_json(path, plan, indent=1)
        start = time.perf_counter()
        counts = self.run()
        self._finish(plan, counts)
        seconds = time.perf_counter() - start
        timings = read_json(self.space.timings) if self.space.timings.is_file() else {}
        write_json(self.space.timings, {**timings, self.name: round(seconds, 2)}, indent=1)
        made = ", ".join(f"{value} {key}" for key, value in counts.items())
        logger.info("%s: %s in %.1f s", self.name, made, seconds)

    def _plan(self) -> dict[str, Any]:
        return {
            "stage": self.name,
            "settings_hash": settings_hash(*self.sections()),
            "shard_size": self.context.settings.run.shard_size,
            "versions": {"u2seg": __version__, **library_versions()},
            "inputs": {name: self._input_hash(name) for name in self.inputs},
            **self.extra_plan(),
        }

    def outdated(self) -> bool:
        """Return whether the stage's plan names other inputs than there are now."""
        path = self.space.plan(self.name)
        return path.is_file() and read_json_object(path).get("inputs") != self._plan()["inputs"]

    def _input_hash(self, name: str) -> str:
        path = self.space.stage_manifest(name)
        if not path.is_file():
            raise UserError(
                f"stage {self.name} needs stage {name}, which has not finished in "
                f"{self.space.root}: run u2seg label with --stages {name} "
                "(or without --stages) first"
            )
        return sha256_file(path)

    def _check_plan(self, plan: dict[str, Any]) -> None:
        path = self.space.plan(self.name)
        if not path.is_file():  # the manifest of a finished stage says what matters most
            path = self.space.stage_manifest(self.name)
            plan = {key: plan[key] for key in ("stage", "settings_hash", "inputs")}
        if not path.is_file():
            return
        known = read_json(path)
        known = {key: known.get(key) for key in plan} if isinstance(known, dict) else {}
        if known == plan:
            return
        raise OtherRunError(
            f"{self.folder} was made with other {self.differences(known, plan)} than this command "
            "asks for; results are never mixed",
            "Choose another --output-dir, or add --overwrite: it makes the stages named by "
            "--stages (all without) and those built on them anew",
        )

    def differences(self, known: dict[str, Any], plan: dict[str, Any]) -> str:
        """Return in words what of a plan differs from that which a folder was made with."""
        sections = {type(value): key for key, value in vars(self.context.settings).items()}
        keys = [
            f"U2SEG.{sections[type(s)].upper()}" for s in self.sections() if type(s) in sections
        ]
        words = {
            "settings_hash": f"settings (of {', '.join(keys)})",
            "image_list": "photographs (files were added, removed or changed, or others are asked)",
            "shard_size": f"shards (U2SEG.RUN.SHARD_SIZE {known.get('shard_size')}, now "
            f"{plan.get('shard_size')})",
        }
        for key in ("inputs", "versions"):
            then, now = known.get(key) or {}, plan.get(key) or {}
            names = sorted(name for name in {*then, *now} if then.get(name) != now.get(name))
            told = [f"{n} {then.get(n, 'absent')}, now {now.get(n, 'absent')}" for n in names]
            words[key] = f"{key} ({'; '.join(names if key == 'inputs' else told)})"
        return ", ".join(words.get(key, key) for key in plan if known.get(key) != plan[key])

    def _finish(self, plan: dict[str, Any], counts: dict[str, int]) -> None:
        manifest = StageManifest(
            stage=self.name,
            settings_hash=plan["settings_hash"],
            inputs=plan["inputs"],
            files=self.hashes(),
            counts=counts,
            version=__version__,
            seed=self.seed(),
            libraries=library_versions(),
            settings={type(s).__name__: asdict(s) for s in self.sections()},
        )
        write_json(self.space.stage_manifest(self.name), manifest.to_json(), indent=1)

    def shards(self) -> ShardFile:
        """Return the records of every shard."""
        return self.context.shards()

    def phase(self, name: str) -> Phase:
        """Return a sharded phase."""
        ledger = self.space.ledger(self.name, name)
        return Phase(self.name, self.shards(), ledger, self.works()[name], self.space.aside())

    def each_shard(self, name: str) -> None:
        """Have every shard of a phase made that has no receipt, with progress; see ``drive``."""
        sizes, quiet = self.shards().sizes, not self.context.progress
        with Bar(total=sum(sizes), desc=self.name, unit="img", disable=quiet, smoothing=0.1) as bar:
            drive(
                self.phase(name),
                (self.name, name),
                pool=self.context.pool,
                patience=self.context.settings.run.lease_seconds,
                settled=lambda shard: bar.update(sizes[shard]),
            )

    def _intact(self) -> bool:
        """Return whether all files are as the manifest says; prepare to make the others again."""
        path = self.space.stage_manifest(self.name)
        expected, hashes = read_json_object(path, "files")["files"], self.hashes()
        changed = {name for name in expected if expected[name] != hashes.get(name)}
        if not changed:
            return True
        logger.warning("%s: %s changed; making it again", self.name, ", ".join(sorted(changed)))
        self.space.manifest.unlink(missing_ok=True)
        path.unlink()
        # Shards with a changed file are found by their receipts. What was made from the whole set
        # is made again as a whole: a model whose losses are lost says nothing about them.
        whole = {name for name in expected if not _OF_A_SHARD.search(name)}
        if whole & changed:
            for name in whole & hashes.keys():
                (self.folder / name).unlink()
        return False

    def hashes(self) -> dict[str, str]:
        """Return relative name -> SHA-256 of the stage's files."""
        return hash_files(self.folder)

    def readable(
        self, part: Part, records: Iterable[Record], skipped: list[Record]
    ) -> Iterator[tuple[Record, Any]]:
        """Yield (record, pixels); an image that cannot be read goes to ``skipped``."""
        for record in part.each(records):
            try:
                if reason := part.aside.get(record["file_name"]):
                    raise BadImageError(reason)
                yield record, self.context.read(record)
            except BadImageError as error:
                skipped.append(self.skip(record, str(error)))

    def skip(self, record: Record, reason: str) -> Record:
        """Return the ``skipped.jsonl`` entry of an image, and log it."""
        logger.warning("%s: skipped %s: %s", self.name, record["file_name"], reason)
        return {"file_name": record["file_name"], "reason": reason, "stage": self.name}

    def write_part(self, index: int, content: Any, skipped: Sequence[Record]) -> list[Path]:
        """Write a shard's part, and before it what was skipped; return the files."""
        path, listed = (
            self.space.part(self.name, index),
            self.space.part(self.name, index, ".skipped"),
        )
        listed.unlink(missing_ok=True)  # of an interrupted run, which may have met other files
        if skipped:
            write_json(listed, list(skipped))
        if content is not None:
            write_json(path, content)
        return [listed, path]


def hash_files(folder: Path) -> dict[str, str]:
    """Return relative name -> SHA-256 of a stage's files; PNG trees as one digest per folder.

    Plans, manifests, ledgers and what is hidden are left out.
    """
    files: dict[str, str] = {}
    pictures: dict[str, list[tuple[str, str]]] = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = path.relative_to(folder).as_posix()
        if name in ("manifest.json", "plan.json") or name.startswith((f"{LEDGER}/", ".")):
            continue
        if path.name.startswith("."):
            continue
        if path.suffix == ".png":
            top = name.split("/", 1)[0] + "/" if "/" in name else ""
            pictures.setdefault(f"{top}**.png", []).append((name, sha256_file(path)))
        else:
            files[name] = sha256_file(path)
    return {**files, **{n: sha256_bytes(json_bytes(entries)) for n, entries in pictures.items()}}


def library_versions() -> dict[str, str]:
    """Return the versions of the libraries that can change a label."""
    versions = {}
    for name in LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def check_share(bad: int, total: int, limit: float) -> None:
    """Raise StageError if more than ``limit`` of the images are bad."""
    if total and bad / total > limit:
        raise StageError(
            f"{bad} of {total} images are unreadable, more than U2SEG.RUN.MAX_BAD = {limit}; "
            "see skipped.jsonl"
        )
