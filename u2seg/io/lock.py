"""One writer per output folder: a lock that says who holds it, on this or another machine."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from u2seg.errors import UserError
from u2seg.io.atomic import cannot_write

logger = logging.getLogger(__name__)

LOCK = ".lock"
"""Name of the lock in the folder that it guards."""
BEAT_S = 2.0
"""How often a driver touches its lock."""
FOREIGN_S = 15.0
"""How long to watch a lock that another machine left: longer than its driver could be silent."""


_HELD: set[int] = set()
"""Descriptors of the locks of this process."""


def _close_inherited() -> None:
    """Let go of the parent's locks in a forked child: one that outlives it must not hold them."""
    for handle in _HELD:
        os.close(handle)
    _HELD.clear()


os.register_at_fork(after_in_child=_close_inherited)


@functools.cache
def machine() -> str:
    """Return what tells this machine, boot and process namespace from all others."""
    facts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        facts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        facts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(facts)


def born(pid: int) -> str:
    """Return when a process of this machine began, in its own units; empty if it is dead.

    With it a process id that was given out again is told from the first one.
    """
    status = Path(f"/proc/{pid}/stat")
    if not Path("/proc/self/stat").exists():  # no Linux
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return ""
        except PermissionError:
            return "?"
        return "?"
    try:
        fields = status.read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]


def holder_of(lock: Path) -> dict[str, str]:
    """Return ``host``, ``pid``, ``since``, ``machine`` and ``born`` of who wrote a lock.

    Empty if there is none, or the last one ended in order.
    """
    try:
        content = json.loads(lock.read_bytes()[:4096])
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def told(holder: dict[str, str]) -> str:
    """Return who holds a lock, in words.

    Examples:
        >>> told({"host": "node-3", "pid": "123", "since": "2026-01-31 10:00:00 UTC"})
        'process 123 on node-3, since 2026-01-31 10:00:00 UTC'
    """
    facts = {key: holder.get(key, "unknown") for key in ("pid", "host", "since")}
    return "process {pid} on {host}, since {since}".format(**facts)


@contextlib.contextmanager
def only_run(lock: Path, patience: float = FOREIGN_S) -> Iterator[None]:
    """Hold an output folder.

    A process of the same machine is kept out by the operating system, and so is one of another
    machine where the file system carries locks. Where it does not, the driver there is known to
    live by its touching the lock.

    Args:
        lock: The lock's file; its folder is made if missing, and goes again if nothing came.
        patience: Seconds to watch a lock that another machine left.

    Raises:
        UserError: if another live driver holds it (names host, process and since when), or the
            folder cannot be written to.
    """
    made = not lock.parent.exists()
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise UserError(
            f"cannot write to {lock.parent}: {error.strerror}. Choose another output folder"
        ) from error
    _HELD.add(handle)
    locked = False
    try:
        holder = holder_of(lock)
        locked = _locked(handle) and not _lives(lock, holder, patience)
        if not locked or not _is(handle, lock):
            raise UserError(
                f"{lock.parent} is in use by another run: {told(holder_of(lock))}. Wait for it, "
                "end it, or choose another output folder"
            )
        _write(handle, lock)
        stop = threading.Event()
        beat = threading.Thread(target=_beat, args=(handle, stop), daemon=True)
        beat.start()
        try:
            yield
        finally:
            stop.set()
            beat.join()
            if handle in _HELD:
                os.ftruncate(handle, 0)
    finally:
        if handle in _HELD:  # not so in a forked child
            if made and locked:
                _remove_if_alone(lock)
            _HELD.discard(handle)
            os.close(handle)


def may_live(holder: dict[str, str]) -> bool:
    """Return whether a driver may be alive; of another machine that cannot be known."""
    if not holder:
        return False
    return holder.get("machine") != machine() or born(int(holder["pid"])) == holder.get("born")


def _locked(handle: int) -> bool:
    """Lock a file; False if another process has. A file system without locks lets all pass."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in (errno.EWOULDBLOCK, errno.EACCES)
    return True


def _is(handle: int, lock: Path) -> bool:
    """Return whether the lock that could be had is still the one in the folder."""
    try:
        return os.path.samestat(os.fstat(handle), os.stat(lock))
    except OSError:
        return False


def _remove_if_alone(lock: Path) -> None:
    """Remove a lock and its folder if there is nothing else in it: the work was refused."""
    with contextlib.suppress(OSError):
        if [path.name for path in lock.parent.iterdir()] == [lock.name]:
            lock.unlink()
            lock.parent.rmdir()


def _lives(lock: Path, holder: dict[str, str], patience: float) -> bool:
    """Return whether a driver lives although its lock could be had.

    One on another machine is watched: does it touch the lock, by this machine's stopwatch?
    """
    if not holder or holder.get("machine") == machine():
        return may_live(holder)
    logger.info("%s was left by %s; watching it for %g s", lock, told(holder), patience)
    start, seen = time.monotonic(), lock.stat().st_mtime_ns
    while time.monotonic() - start < patience:
        time.sleep(min(BEAT_S / 4, patience / 4))
        if lock.stat().st_mtime_ns != seen:
            return True
    return False


def _write(handle: int, lock: Path) -> None:
    since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
    facts = {
        "host": socket.gethostname(), "pid": str(os.getpid()), "since": since,
        "machine": machine(), "born": born(os.getpid()),
    }  # fmt: skip
    content = json.dumps(facts).encode()
    try:
        os.ftruncate(handle, 0)
        os.pwrite(handle, content, 0)
    except OSError as error:
        raise cannot_write(lock, error, len(content)) from error


def _beat(handle: int, stop: threading.Event) -> None:
    while not stop.wait(BEAT_S):
        with contextlib.suppress(OSError):
            os.utime(handle)
