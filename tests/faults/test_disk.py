"""A full disk: the run ends with a message, and goes on to the same result when there is room."""

from __future__ import annotations

import re
import resource
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.harness import results
from u2seg.config.schema import Settings
from u2seg.errors import UserError
from u2seg.pipeline import generate_labels

pytestmark = pytest.mark.faults
PAGE = resource.getpagesize()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system in memory of a page."""
    root = tmp_path / "disk"
    root.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={PAGE}", "tmpfs", str(root)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"a tmpfs cannot be mounted: {done.stderr.strip()}")
    try:
        yield root
    finally:
        subprocess.run(["umount", str(root)], check=True)


def test_a_full_disk_is_told_and_the_run_goes_on_when_there_is_room(
    photos: Path,
    settings: Settings,
    calm: dict[str, bytes],
    disk: Path,
    record_property: Callable[[str, object], None],
) -> None:
    output = disk / "run"
    told = []
    for pages in range(1, 1000, 7):
        options = f"remount,size={pages * PAGE}"
        subprocess.run(["mount", "-o", options, str(disk)], check=True)
        try:
            generate_labels(settings, photos, output, progress=False)
        except UserError as error:
            told.append(str(error))
        else:
            break
        for name, content in results(output).items():
            assert content == calm[name], name
    record_property("times the disk was full", len(told))
    assert results(output) == calm
    assert len(told) > 5
    for message in told:
        assert re.search(r"cannot write \S+/disk/run/\S+: No space left", message), message
        assert re.search(r"needs (more than )?\d+ bytes, the free space there is \d+", message)
