"""Threads that wait for work sleep, unless the user chose otherwise or torch came first."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from u2seg.config import env

ROOT = Path(__file__).parents[2]
TOLD = "import os; print(*(os.environ.get(k) for k in ('GOMP_SPINCOUNT', 'KMP_BLOCKTIME')))"


def run(code: str, **environment: str) -> list[str]:
    """Return what a new Python prints, on both streams."""
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), **environment}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    return (done.stdout + done.stderr).splitlines()


def test_importing_the_package_has_threads_sleep() -> None:
    assert run(f"import u2seg; {TOLD}") == ["4000 1"]


def test_what_the_user_chose_stays() -> None:
    assert run(f"import u2seg; {TOLD}", OMP_WAIT_POLICY="ACTIVE") == ["None None"]
    assert run(f"import u2seg; {TOLD}", GOMP_SPINCOUNT="7") == ["7 None"]


def test_torch_imported_first_is_told_once() -> None:
    late = "import sys, types; sys.modules['torch'] = types.ModuleType('torch'); import u2seg"
    tell = "from u2seg.config.env import tell_spinning; tell_spinning(); tell_spinning()"
    (line,) = run(f"{late}; {tell}")
    assert line.startswith("torch was imported before u2seg")
    assert "torch.set_num_threads(1)" in line
    assert run(f"import u2seg; {tell}") == []


def test_other_processes_can_be_had_to_spin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    with env.inherited_spinning():
        assert os.environ["GOMP_SPINCOUNT"] == "300000"
    assert os.environ["GOMP_SPINCOUNT"] == "7"
