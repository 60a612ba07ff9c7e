"""A full disk: the run ends with a message, and goes on to the same result when there is room."""

from __future__ import annotations

import re
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.harness import results
from tests.pipeline.conftest import FAST
from u2seg.config.schema import Settings
from u2seg.errors import UserError
from u2seg.pipeline import generate_labels

pytestmark = pytest.mark.faults
PAGE = resource.getpagesize()
TOOL = Path(__file__).resolve().parents[2] / "tools" / "generate_pseudo.py"


class Tmpfs:
    """A file system in memory of a few pages."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def resize(self, pages: int) -> None:
        options = f"remount,size={pages * PAGE}"
        subprocess.run(["mount", "-o", options, str(self.root)], check=True)


@pytest.fixture
def tmpfs(tmp_path: Path) -> Iterator[Tmpfs]:
    root = tmp_path / "disk"
    root.mkdir()
    options = f"size={PAGE}"
    try:
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(root)],
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if done.returncode:
        pytest.skip(f"a tmpfs cannot be mounted: {done.stderr.strip()}")
    try:
        yield Tmpfs(root)
    finally:
        subprocess.run(["umount", str(root)], check=True)


def test_a_full_disk_is_told_and_the_run_goes_on_when_there_is_room(
    photos: Path,
    settings: Settings,
    calm: dict[str, bytes],
    tmpfs: Tmpfs,
    record_property: Callable[[str, object], None],
) -> None:
    output = tmpfs.root / "run"
    told = []
    for pages in range(1, 1000, 7):
        tmpfs.resize(pages)
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


def test_a_disk_full_from_the_start_is_told(photos: Path, settings: Settings, tmpfs: Tmpfs) -> None:
    (tmpfs.root / "other").write_bytes(bytes(PAGE))
    with pytest.raises(UserError, match=r"disk/run/\.lock: No space left"):
        generate_labels(settings, photos, tmpfs.root / "run", progress=False)


def test_a_limit_on_the_size_of_files_is_told(photos: Path, tmp_path: Path) -> None:
    """In a process of its own: the limit holds for everything a process writes, logs too."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300))

    config = tmp_path / "empty.yaml"
    config.write_text("MODEL: {}\n")
    command = [sys.executable, str(TOOL), "--config-file", str(config), "--images", str(photos)]
    command += ["--output-dir", str(tmp_path / "run"), *FAST]
    done = subprocess.run(command, capture_output=True, text=True, check=False, preexec_fn=limit)
    assert done.returncode == 2, done.stderr
    assert re.search(r"cannot write \S+: File too large.*needs \d+ bytes", done.stderr)
    assert "Traceback" not in done.stderr
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and p.stat().st_size > 300]
