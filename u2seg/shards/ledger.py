"""The ledger of a sharded phase: files that say which shards are done, at work or in trouble.

A shard ``7`` has at most these files in the ledger's folder:

* ``00007.at``: somebody is at work on it: who, and the image tried alone, if one is. It is touched
  with every image; whether it changed is judged by the watcher's own stopwatch, never by clocks.
* ``00007.done``: its receipt, size and SHA-256 of every file it wrote; renamed into place last.
* ``00007.trouble``: how it failed so far, and which of its images were set aside.
* ``00007.failed``: the same, of a shard that is not tried any more.

While a driver is at work ``driver`` names its run: no worker of another begins a shard. There is
no other state: whoever has these files can go on, on whatever machine.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from u2seg.errors import UserError
from u2seg.io.atomic import cannot_write, sha256_file, write_json, write_text
from u2seg.io.jsonfile import read_json_object

AT, DONE, TROUBLE, FAILED = "at", "done", "trouble", "failed"
DRIVER = "driver"
"""Name of a driver that works itself."""
ISOLATE_AFTER = 2
"""A shard that failed so often is taken apart: its images are tried one by one."""
ASIDE_AFTER = 3
"""An image that failed alone so often is set aside. One failure proves nothing: a worker may be
killed by chance while it holds an innocent image."""
RAISED_LIMIT, LOST_LIMIT = 5, 12
"""A shard is given up after so many errors raised, or failures of any kind. A lost worker counts
less, because it may be no fault of the shard."""


class ShardLostError(RuntimeError):
    """The shard was given to somebody else, because this worker seemed dead."""


@dataclass
class Trouble:
    """How a shard failed."""

    raised: list[str] = field(default_factory=list)  # errors of the whole shard
    lost: list[str] = field(default_factory=list)  # why workers at it ended or were given up
    alone: dict[str, list[str]] = field(default_factory=dict)  # by image, when tried alone
    fine: list[str] = field(default_factory=list)  # images that passed when tried alone

    @property
    def isolate(self) -> bool:
        """Whether its images must be tried one by one."""
        return len(self.raised) + len(self.lost) >= ISOLATE_AFTER

    @property
    def hopeless(self) -> bool:
        """Whether it is given up."""
        return len(self.raised) >= RAISED_LIMIT or len(self.raised) + len(self.lost) >= LOST_LIMIT

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


@dataclass(frozen=True)
class Snapshot:
    """What a look at the folder shows: shard numbers by state."""

    done: frozenset[int]
    failed: frozenset[int]
    troubled: frozenset[int]
    at: dict[int, tuple[int, int]]  # at work -> what changes whenever the mark is touched

    @property
    def settled(self) -> frozenset[int]:
        """Shards that will not change any more."""
        return self.done | self.failed


class Mark:
    """Says that ``worker``, a unique name or ``DRIVER``, is at work on a shard."""

    def __init__(self, path: Path, worker: str) -> None:
        self.path = path
        self.worker = worker
        self._line = b""

    def write(self, image: str = "") -> None:
        """Write who works, and the image tried alone, if one is; UserError if that fails."""
        facts = {"host": socket.gethostname(), "pid": os.getpid(), "image": image}
        self._line = json.dumps({"worker": self.worker, **facts}).encode()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
            try:
                os.write(handle, self._line)
            finally:
                os.close(handle)
        except OSError as error:
            raise cannot_write(self.path, error, len(self._line)) from error

    def beat(self) -> None:
        """Show that work goes on; ShardLostError if the shard was taken away."""
        try:
            os.utime(self.path)
        except FileNotFoundError:
            raise ShardLostError(f"{self.path.name} was taken away") from None

    def holds(self) -> bool:
        """Return whether the shard is still this worker's."""
        try:
            return self.path.read_bytes() == self._line
        except OSError:
            return False

    def remove(self) -> None:
        """Remove the file if it is still this worker's."""
        if self.holds():
            with contextlib.suppress(OSError):
                self.path.unlink()


class Ledger:
    """The ledger of one phase.

    Args:
        folder: Where its files lie; made if missing.
        root: Receipts name files relative to it.
        run: Of the driver: nothing is begun for another one. Empty = not asked.
    """

    def __init__(self, folder: Path, root: Path, run: str = "") -> None:
        self.folder = folder
        self.root = root
        self.run = run

    def begin(self, run: str) -> None:
        """Take the ledger over from drivers that are gone; count what killed one that worked."""
        self.run = run
        write_text(self.folder / DRIVER, run)
        for shard in self.snapshot().at:
            # The workers of a killed driver end with it; that is no fault of their shards.
            if self._at(shard).get("worker") == DRIVER:
                self.lose(shard, "killed")
            self.path(shard, AT).unlink(missing_ok=True)

    def end(self) -> None:
        """Let nobody begin a shard any more."""
        (self.folder / DRIVER).unlink(missing_ok=True)

    def _is_driven(self) -> bool:
        try:
            return (self.folder / DRIVER).read_text() == self.run
        except OSError:  # a network file system may show a new file late
            return True

    def snapshot(self) -> Snapshot:
        """Look once at the folder; marks that vanish meanwhile are left out."""
        shards: dict[str, set[int]] = {AT: set(), DONE: set(), TROUBLE: set(), FAILED: set()}
        with contextlib.suppress(FileNotFoundError):
            for name in os.listdir(self.folder):
                number, _, kind = name.partition(".")
                if number.isdigit() and kind in shards:
                    shards[kind].add(int(number))
        at = {}
        for shard in sorted(shards[AT]):
            with contextlib.suppress(OSError):
                stat = self.path(shard, AT).stat()
                at[shard] = (stat.st_ino, stat.st_mtime_ns)
        done, failed, troubled = (frozenset(shards[kind]) for kind in (DONE, FAILED, TROUBLE))
        return Snapshot(done, failed, troubled, at)

    def path(self, shard: int, kind: str) -> Path:
        """Return the name of a shard's file."""
        return self.folder / f"{shard:05d}.{kind}"

    def is_settled(self, shard: int) -> bool:
        """Return whether a shard is done or given up."""
        return any(self.path(shard, kind).exists() for kind in (DONE, FAILED))

    def take(self, shard: int, worker: str) -> Mark | None:
        """Mark a shard as at work; None if it is settled, or another driver is there now.

        A mark that is there already was left by a process that died and is called again.

        Raises:
            UserError: if the mark cannot be written.
        """
        if self.run and not self._is_driven():
            return None
        self.lose(shard, "killed")
        if self.is_settled(shard):
            return None
        mark = Mark(self.path(shard, AT), worker)
        mark.write()
        return mark

    def settle(self, shard: int, mark: Mark, files: Iterable[Path]) -> None:
        """Write the receipt of a shard: the files it wrote, but those that were removed since.

        Raises:
            ShardLostError: if somebody else has been given the shard.
            UserError: if the receipt cannot be written.
        """
        content: dict[str, list[Any]] = {}
        for path in sorted(set(files)):
            if path.is_file():
                name = path.relative_to(self.root).as_posix()
                content[name] = [path.stat().st_size, sha256_file(path)]
        if not mark.holds():
            raise ShardLostError(f"{mark.path.name} was given to somebody else")
        write_json(self.path(shard, DONE), {"files": content})
        if not self.trouble(shard).aside:
            self.path(shard, TROUBLE).unlink(missing_ok=True)

    def damaged(self, shards: Iterable[int]) -> dict[int, str]:
        """Return done shards of which a file is not what the receipt says -> which and how."""
        reasons = {shard: self._damage(shard) for shard in shards}
        return {shard: reason for shard, reason in reasons.items() if reason}

    def _damage(self, shard: int) -> str:
        try:
            files = read_json_object(self.path(shard, DONE), "files")["files"]
            for name, (size, digest) in files.items():
                path = self.root / name
                if not path.is_file():
                    return f"{name} is missing"
                if path.stat().st_size != size or sha256_file(path) != digest:
                    return f"{name} is not as it was written"
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

    def fail(self, shard: int, reason: str, *, image: str = "", raised: bool = False) -> None:
        """Count a failure of a shard, or of one image of it tried alone."""
        trouble = self.trouble(shard)
        if image:
            trouble.alone.setdefault(image, []).append(reason)
        else:
            (trouble.raised if raised else trouble.lost).append(reason)
        self._write(shard, trouble)

    def passed(self, shard: int, image: str) -> None:
        """Count that an image passed when tried alone."""
        trouble = self.trouble(shard)
        trouble.fine.append(image)
        self._write(shard, trouble)

    def _write(self, shard: int, trouble: Trouble) -> None:
        write_json(self.path(shard, FAILED if trouble.hopeless else TROUBLE), asdict(trouble))
        if trouble.hopeless:
            self.path(shard, TROUBLE).unlink(missing_ok=True)

    def lose(self, shard: int, reason: str) -> bool:
        """Take a shard away from a worker that is gone, if one was at it, and count that."""
        if not self.path(shard, AT).exists():
            return False
        # The failure is written first: the next worker must see it.
        self.fail(shard, reason, image=self._at(shard).get("image", ""))
        self.path(shard, AT).unlink(missing_ok=True)
        return True

    def _at(self, shard: int) -> dict[str, str]:
        """Return what a mark says; nothing if its writer was killed too early."""
        try:
            return read_json_object(self.path(shard, AT))
        except UserError:
            return {}

    def aside(self) -> dict[str, str]:
        """Return the images that were set aside -> why."""
        shards = self.snapshot()
        aside: dict[str, str] = {}
        for shard in sorted(shards.troubled | shards.failed):
            aside.update(self.trouble(shard).aside)
        return aside

    def forgive(self) -> list[int]:
        """Forget all failures, and what was made without images set aside; return these shards."""
        shards = self.snapshot()
        forgiven = sorted(shards.troubled | shards.failed)
        for shard in forgiven:
            self.undo(shard)
            self.path(shard, FAILED).unlink(missing_ok=True)
            self.path(shard, TROUBLE).unlink(missing_ok=True)
        return forgiven
