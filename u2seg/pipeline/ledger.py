"""The ledger of a sharded phase: files that say which shards are done, taken or in trouble.

A shard ``7`` has at most these files in the ledger's folder:

* ``00007.lease``: somebody works on it; see ``leases``.
* ``00007.done``: its receipt, size and SHA-256 of every file it wrote; renamed into place last.
* ``00007.trouble``: how it failed so far, and which of its images were set aside.
* ``00007.failed``: the same, of a shard that is not tried any more.

There is no other state: whoever holds these files can go on, on whatever machine.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from u2seg.errors import UserError
from u2seg.io.atomic import sha256_file, write_json
from u2seg.io.jsonfile import read_json_object
from u2seg.pipeline.leases import Holder, Lease, Mark, look_at
from u2seg.pipeline.workspace import LEDGER, Workspace

DONE, LEASE, TROUBLE, FAILED = "done", "lease", "trouble", "failed"
ISOLATE_AFTER = 2
"""A shard that failed so often is taken apart: its images are tried one by one."""
ASIDE_AFTER = 3
"""An image that failed alone so often is set aside. One failure proves nothing: a worker may be
killed by chance while it holds an innocent image."""
RAISED_LIMIT, LOST_LIMIT = 5, 12
"""A shard is given up after so many errors raised, or failures of any kind. A lost worker counts
less, because it may be no fault of the shard."""


@dataclass
class Trouble:
    """How a shard failed.

    Args:
        raised: Errors of the whole shard.
        lost: Reasons for which its worker ended or was given up.
        alone: Image -> how it failed when tried alone.
        fine: Images that passed when tried alone.
    """

    raised: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    alone: dict[str, list[str]] = field(default_factory=dict)
    fine: list[str] = field(default_factory=list)

    @property
    def isolate(self) -> bool:
        """Whether its images must be tried one by one."""
        return len(self.raised) + len(self.lost) >= ISOLATE_AFTER

    @property
    def hopeless(self) -> bool:
        """Whether it is given up."""
        failures = len(self.raised) + len(self.lost)
        return len(self.raised) >= RAISED_LIMIT or failures >= LOST_LIMIT

    @property
    def aside(self) -> dict[str, str]:
        """Images set aside -> why.

        Examples:
            >>> Trouble(alone={"a.jpg": ["killed"] * 3, "b.jpg": ["killed"]}).aside
            {'a.jpg': 'set aside after it failed 3 times alone: killed'}
        """
        return {
            name: f"set aside after it failed {len(reasons)} times alone: {reasons[-1]}"
            for name, reasons in self.alone.items()
            if len(reasons) >= ASIDE_AFTER
        }

    def add(self, reason: str, image: str, *, raised: bool) -> None:
        """Count a failure of the shard, or of one image tried alone."""
        if image:
            self.alone.setdefault(image, []).append(reason)
        else:
            (self.raised if raised else self.lost).append(reason)


@dataclass(frozen=True)
class Snapshot:
    """What a look at the folder shows: shard numbers by state; leases with their marks."""

    done: frozenset[int]
    failed: frozenset[int]
    troubled: frozenset[int]
    leases: dict[int, Mark]

    @property
    def busy(self) -> frozenset[int]:
        """Shards that need nobody: done, given up or taken."""
        return self.done | self.failed | self.leases.keys()

    @property
    def settled(self) -> frozenset[int]:
        """Shards that will not change any more."""
        return self.done | self.failed


class Ledger:
    """The ledger of one phase.

    Args:
        folder: Where its files lie; made if missing.
        root: Output folder of the run; receipts name files relative to it.
    """

    def __init__(self, folder: Path, root: Path) -> None:
        self.folder = folder
        self.root = root

    def snapshot(self) -> Snapshot:
        """Look once at the folder; leases that vanish meanwhile are left out."""
        found: dict[str, set[int]] = {DONE: set(), LEASE: set(), TROUBLE: set(), FAILED: set()}
        for shard, kind in self._entries():
            found[kind].add(shard)
        marks = {shard: look_at(self.path(shard, LEASE)) for shard in sorted(found[LEASE])}
        return Snapshot(
            frozenset(found[DONE]),
            frozenset(found[FAILED]),
            frozenset(found[TROUBLE]),
            {shard: mark for shard, mark in marks.items() if mark},
        )

    def _entries(self) -> Iterator[tuple[int, str]]:
        try:
            entries = os.listdir(self.folder)
        except FileNotFoundError:
            return
        for name in entries:
            number, _, kind = name.partition(".")
            if number.isdigit() and kind in (DONE, LEASE, TROUBLE, FAILED):
                yield int(number), kind

    def path(self, shard: int, kind: str) -> Path:
        """Return the name of a shard's file."""
        return self.folder / f"{shard:05d}.{kind}"

    def take(self, shard: int, holder: Holder) -> Lease | None:
        """Lease a shard; None if it is taken, done or given up.

        Raises:
            UserError: if the lease cannot be written.
        """
        lease = Lease.create(self.path(shard, LEASE), holder)
        if lease and any(self.path(shard, kind).exists() for kind in (DONE, FAILED)):
            lease.release()
            return None
        return lease

    def settle(self, shard: int, lease: Lease, files: Iterable[Path]) -> None:
        """Write the receipt of a shard and end the lease.

        Args:
            shard: Its number.
            lease: Of it.
            files: What it wrote; a file written twice counts once, one removed since not.

        Raises:
            LeaseLostError: if somebody else has been given the shard.
            UserError: if the receipt cannot be written.
        """
        content: dict[str, list[Any]] = {}
        for path in sorted(set(files)):
            if path.is_file():
                name = path.relative_to(self.root).as_posix()
                content[name] = [path.stat().st_size, sha256_file(path)]
        lease.beat()
        write_json(self.path(shard, DONE), {"files": content})
        if not self.trouble(shard).aside:
            self.path(shard, TROUBLE).unlink(missing_ok=True)
        lease.release()

    def damaged(self, shards: Iterable[int]) -> dict[int, str]:
        """Return done shards of which a file is not what the receipt says -> which and how."""
        found = {}
        for shard in shards:
            reason = self._damage(shard)
            if reason:
                found[shard] = reason
        return found

    def _damage(self, shard: int) -> str:
        try:
            files = read_json_object(self.path(shard, DONE), "files")["files"]
            for name, (size, digest) in files.items():
                path = self.root / name
                if not path.is_file():
                    return f"{name} is missing"
                if path.stat().st_size != size:
                    return f"{name} has {path.stat().st_size} bytes, not {size}"
                if sha256_file(path) != digest:
                    return f"{name} has another checksum"
        except (UserError, ValueError, TypeError, AttributeError):
            return f"the receipt {self.path(shard, DONE).name} cannot be read"
        return ""

    def undo(self, shard: int) -> None:
        """Take back that a shard is done."""
        self.path(shard, DONE).unlink(missing_ok=True)

    def trouble(self, shard: int) -> Trouble:
        """Return how a shard failed so far; nothing if its file is missing or damaged."""
        for kind in (FAILED, TROUBLE):
            try:
                return Trouble(**read_json_object(self.path(shard, kind)))
            except (UserError, TypeError):
                continue
        return Trouble()

    def write_trouble(self, shard: int, trouble: Trouble) -> None:
        """Write how a shard failed; only its holder does so, or who takes its lease away."""
        kind = FAILED if trouble.hopeless else TROUBLE
        write_json(self.path(shard, kind), asdict(trouble))
        if trouble.hopeless:
            self.path(shard, TROUBLE).unlink(missing_ok=True)

    def fail(self, shard: int, reason: str, *, image: str = "", raised: bool = False) -> Trouble:
        """Count a failure of a shard, or of one image of it tried alone; return all of them."""
        trouble = self.trouble(shard)
        trouble.add(reason, image, raised=raised)
        self.write_trouble(shard, trouble)
        return trouble

    def free(self, shard: int, reason: str = "") -> None:
        """Take a lease away from a holder that is gone; count it as a failure if there is a reason.

        The failure is written first: the next holder must see it.
        """
        if reason:
            mark = look_at(self.path(shard, LEASE))
            self.fail(shard, reason, image=mark.holder.image if mark and mark.holder else "")
        self.path(shard, LEASE).unlink(missing_ok=True)

    def aside(self) -> dict[str, str]:
        """Return the images that were set aside -> why."""
        shards = self.snapshot()
        found: dict[str, str] = {}
        for shard in sorted(shards.troubled | shards.failed):
            found.update(self.trouble(shard).aside)
        return found

    def forgive(self) -> list[int]:
        """Forget all failures, and what was made without images set aside; return these shards."""
        shards = self.snapshot()
        forgiven = sorted(shards.troubled | shards.failed)
        for shard in forgiven:
            self.undo(shard)
            self.path(shard, FAILED).unlink(missing_ok=True)
            self.path(shard, TROUBLE).unlink(missing_ok=True)
        return forgiven


def ledgers_of(space: Workspace, stage: str) -> list[Ledger]:
    """Return the ledgers of a stage, one per sharded phase that began."""
    folders = sorted((space.folder(stage) / LEDGER).glob("*"))
    return [Ledger(folder, space.root) for folder in folders]


def set_aside_in(space: Workspace) -> dict[str, str]:
    """Return all images that any stage of a run set aside -> why."""
    found: dict[str, str] = {}
    for folder in sorted(space.root.glob(f"*/{LEDGER}/*")):
        found.update(Ledger(folder, space.root).aside())
    return found
