"""Leases: who works on a shard, and whether it still lives, without comparing clocks.

A lease is a file that only one can create (``O_EXCL``). Its holder touches it with every image.
Who watches it asks one question: did the file change since I looked, by *my* stopwatch? What the
clocks of two machines say is never compared.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from u2seg.io.atomic import cannot_write
from u2seg.io.lock import born, machine


class LeaseLostError(RuntimeError):
    """The shard was given to somebody else, because this holder seemed dead."""


@dataclass(frozen=True)
class Holder:
    """Who holds a lease.

    Args:
        name: Of the worker, unique among all runs.
        host: Its machine, for people.
        machine: The same for programs.
        pid: Its process.
        born: When that process began.
        driver: Whether it is the driver itself, not a worker.
        image: The image it tries alone, if it does.
    """

    name: str
    host: str
    machine: str
    pid: int
    born: str
    driver: bool = False
    image: str = ""

    @classmethod
    def here(cls, name: str, *, driver: bool = False) -> Holder:
        """Return this process as a holder."""
        pid = os.getpid()
        return cls(name, socket.gethostname(), machine(), pid, born(pid), driver)

    @property
    def dead(self) -> bool:
        """Whether its process is surely gone; False for those of other machines."""
        return self.machine == machine() and born(self.pid) != self.born


@dataclass(frozen=True)
class Mark:
    """What a lease looks like; equal marks mean that nobody touched it.

    Args:
        state: Inode, time of change by the file server's clock, size.
        holder: Who holds it; None if that is not written (yet).
    """

    state: tuple[int, int, int]
    holder: Holder | None


def look_at(path: Path) -> Mark | None:
    """Return the mark of a lease, None if there is none."""
    try:
        stat = path.stat()
        line = path.read_bytes().split(b"\n")[0]
    except OSError:
        return None
    try:
        holder = Holder(**json.loads(line))
    except (ValueError, TypeError):
        holder = None
    return Mark((stat.st_ino, stat.st_mtime_ns, stat.st_size), holder)


class Lease:
    """A lease held by this process, through an open file.

    The file is only ever touched through its descriptor: if it was unlinked, because the holder
    seemed dead, nothing this process does can harm the lease of the next holder.
    """

    def __init__(self, path: Path, handle: int, holder: Holder) -> None:
        self.path = path
        self.holder = holder
        self._handle = handle

    @classmethod
    def create(cls, path: Path, holder: Holder) -> Lease | None:
        """Create the file; None if it exists; UserError if it cannot be written."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        except FileExistsError:
            return None
        except OSError as error:
            raise cannot_write(path, error) from error
        lease = cls(path, handle, holder)
        try:
            lease.tell("")
        except BaseException:
            lease.release()
            raise
        return lease

    def tell(self, image: str) -> None:
        """Write who holds the lease, and the image tried alone, if one is; UserError if full."""
        self.holder = replace(self.holder, image=image)
        line = json.dumps(asdict(self.holder)).encode() + b"\n"
        try:
            os.pwrite(self._handle, line, 0)
            os.ftruncate(self._handle, len(line))
        except OSError as error:
            raise cannot_write(self.path, error, len(line)) from error

    def beat(self) -> None:
        """Show that the holder lives and gets on; LeaseLostError if the lease was taken away."""
        if not self._held():
            raise LeaseLostError(f"{self.path.name} was given to somebody else")
        os.utime(self._handle)

    def _held(self) -> bool:
        try:
            return os.fstat(self._handle).st_nlink > 0
        except OSError:  # a network file system says so that the file is gone
            return False

    def release(self) -> None:
        """Remove the file if it is still this lease; doing so twice is harmless."""
        if self._handle < 0:
            return
        with contextlib.suppress(OSError):
            if self._held():
                os.unlink(self.path)
        os.close(self._handle)
        self._handle = -1


class Watch:
    """Tells which leases did not change for too long, by the watcher's own stopwatch.

    Args:
        patience: Seconds without a change after which a holder counts as dead.
        clock: A stopwatch in seconds.

    Examples:
        >>> now = iter([0.0, 50.0, 101.0])
        >>> watch, mark = Watch(100.0, lambda: next(now)), Mark((1, 2, 3), None)
        >>> watch.silent({7: mark}), watch.silent({7: mark}), watch.silent({7: mark})
        ([], [], [7])
    """

    def __init__(self, patience: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.patience = patience
        self._clock = clock
        self._seen: dict[int, tuple[Mark, float]] = {}

    def silent(self, leases: dict[int, Mark]) -> list[int]:
        """Return the shards whose leases are the same as ``patience`` seconds ago."""
        now = self._clock()
        self._seen = {
            shard: self._seen[shard]
            if shard in self._seen and self._seen[shard][0] == mark
            else (mark, now)
            for shard, mark in leases.items()
        }
        return [shard for shard, (_, since) in self._seen.items() if now - since > self.patience]
