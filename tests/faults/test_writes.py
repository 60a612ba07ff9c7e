"""A write that fails, wherever it is: old file or new file, a message, a rerun that ends well."""

from __future__ import annotations

import errno
import io
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.harness import results
from u2seg.config.schema import Settings
from u2seg.errors import UserError
from u2seg.io import atomic
from u2seg.pipeline import generate_labels

pytestmark = pytest.mark.faults


class Full(io.FileIO):
    """A file on a disk that fills up: half of what is written arrives, then there is no space."""

    def write(self, content: Any) -> int:
        super().write(content[: len(content) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class EachFailsOnce:
    """Stands for ``os`` in the module that writes files.

    Every file fails once, the first time it is written, each at another operation.
    """

    OPERATIONS = ("write", "fsync", "chmod", "replace")

    def __init__(self) -> None:
        self.failed: dict[str, str] = {}
        self.path = ""

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def _due(self, operation: str) -> bool:
        due = self.OPERATIONS[len(self.failed) % len(self.OPERATIONS)]
        if self.path in self.failed or operation != due:
            return False
        self.failed[self.path] = due
        return True

    def _fail_if_due(self, operation: str, number: int) -> None:
        if self._due(operation):
            raise OSError(number, os.strerror(number))

    def fdopen(self, handle: int, mode: str) -> Any:
        if self._due("write"):
            return io.BufferedWriter(Full(handle, mode))
        return os.fdopen(handle, mode)

    def fsync(self, handle: int) -> None:
        self._fail_if_due("fsync", errno.EIO)
        os.fsync(handle)

    def chmod(self, path: str, mode: int) -> None:
        self._fail_if_due("chmod", errno.EIO)
        os.chmod(path, mode)

    def replace(self, source: str, target: Path) -> None:
        self._fail_if_due("replace", errno.ENOSPC)
        os.replace(source, target)


def attempt(settings: Settings, photos: Path, output: Path) -> str:
    """Run once; return the message of the error, empty if there is none."""
    try:
        generate_labels(settings, photos, output, progress=False)
    except UserError as error:
        return str(error)
    return ""


def check_old_or_new(
    before: dict[str, bytes], after: dict[str, bytes], calm: dict[str, bytes]
) -> None:
    """Every file there is has the content it had, or the one it is to have."""
    for name, content in after.items():
        assert content in (before.get(name), calm.get(name, before.get(name))), name


def check_message(message: str, output: Path) -> None:
    assert re.search(rf"cannot write {re.escape(str(output))}/\S+: ", message), message
    if os.strerror(errno.ENOSPC) in message:
        assert re.search(r"needs (more than )?\d+ bytes, the free space there is \d+", message)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[EachFailsOnce]:
    disk = EachFailsOnce()
    real = atomic.tempfile.mkstemp

    def mkstemp(**options: Any) -> tuple[int, str]:
        disk.path = str(options["dir"]) + options["prefix"]
        return real(**options)

    monkeypatch.setattr(atomic.tempfile, "mkstemp", mkstemp)
    monkeypatch.setattr(atomic, "os", disk)
    yield disk
    monkeypatch.undo()


def test_every_file_fails_once_and_the_run_still_ends_well(
    photos: Path,
    settings: Settings,
    calm: dict[str, bytes],
    tmp_path: Path,
    disk: EachFailsOnce,
    record_property: Callable[[str, object], None],
) -> None:
    before: dict[str, bytes] = {}
    for _ in range(1000):
        faults = len(disk.failed)
        message = attempt(settings, photos, tmp_path)
        after = results(tmp_path)
        check_old_or_new(before, after, calm)
        if not message:
            break
        assert len(disk.failed) == faults + 1
        check_message(message, tmp_path)
        before = after
    assert message == ""
    record_property("files, each failed once", len(disk.failed))
    assert {"write", "fsync", "chmod", "replace"} == set(disk.failed.values())
    assert len(disk.failed) > len(calm)  # all results, and the receipts
    assert results(tmp_path) == calm
    assert not list(tmp_path.rglob(f".*{atomic.TEMPORARY}"))
