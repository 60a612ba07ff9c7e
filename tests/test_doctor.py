"""The doctor in whole and in broken environments."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from u2seg import doctor
from u2seg.compat import host

ROOT = Path(__file__).resolve().parents[1]


def run_without(*modules: str) -> subprocess.CompletedProcess[str]:
    code = (
        "import sys\n"
        f"for name in {modules!r}: sys.modules[name] = None\n"
        "from u2seg.doctor import main\n"
        "raise SystemExit(main())"
    )
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=120,
        check=False,
    )  # fmt: skip


def test_without_torch_and_detectron2() -> None:
    result = run_without("torch", "torchvision", "detectron2")
    assert result.returncode == 1, result.stderr
    assert "label stages: NOT ready" in result.stdout
    assert re.search(r"cannot import torch \(.*\); run pip install .*\[labels\]", result.stdout)
    assert "missing; run u2seg doctor --install-detectron2" in result.stdout
    assert "unknown, torch is missing" in result.stdout
    # Each library is complained about once.
    assert result.stdout.count("cannot import torch (") == 1


def test_without_detectron2_the_label_half_is_ready(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch", reason="torch is not installed")
    monkeypatch.setattr(host, "_prepared", False)
    monkeypatch.setattr(host, "HOST", "no_such_host")
    assert doctor.main() == 0
    text = capsys.readouterr().out
    assert "label stages: ready" in text
    assert "training and prediction: NOT ready" in text
    assert "Detectron2 is not installed" in text


@pytest.mark.d2
def test_with_detectron2(capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.main() == 0
    text = capsys.readouterr().out
    assert "training and prediction: ready" in text
    assert re.search(r"^Detectron2 +\S+ \(.+\), (no )?compiled ops", text, re.MULTILINE)
    assert re.search(r"torch \d+\.\d+", text)


def test_optional_parts_name_their_command(monkeypatch: pytest.MonkeyPatch) -> None:
    real = doctor.import_failure
    gone = {"ray", "faiss"}
    monkeypatch.setattr(doctor, "import_failure", lambda m: "gone" if m in gone else real(m))
    text = "\n".join(doctor.optional_missing())
    assert re.search(r"ray \(.*Ray\): pip install .*\[ray\]", text)
    assert re.search(r"faiss-cpu \(label stages\): pip install .*\[labels\]", text)


def test_nms_of_another_build_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    ops = pytest.importorskip("torchvision.ops", reason="torchvision is not installed")

    def broken(*_args: object) -> None:
        raise RuntimeError("operator torchvision::nms does not exist")

    assert doctor.nms_problems() == []
    monkeypatch.setattr(ops, "nms", broken)
    (problem,) = doctor.nms_problems()
    assert "torchvision::nms does not exist" in problem
    assert problem.endswith("--force-reinstall torch torchvision")


def test_without_a_posix_system_nothing_is_ready(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = doctor.import_failure
    monkeypatch.setattr(
        doctor,
        "import_failure",
        lambda m: "No module named 'fcntl'" if m in ("fcntl", "resource", "iopath") else real(m),
    )
    assert doctor.main() == 1
    text = capsys.readouterr().out
    assert "cannot import iopath" not in text
    assert "label stages: NOT ready\n  Python's fcntl is missing: this needs Linux" in text
    assert "training and prediction: NOT ready" in text


def test_the_table_is_that_of_pyproject() -> None:
    """Every dependency of an extra is looked at, and nothing else."""
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 has no tomllib")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = {"core": project["dependencies"], **project["optional-dependencies"]}
    for part in (doctor.CORE, doctor.LABELS, doctor.TRAIN, *doctor.EXTRAS):
        listed = {re.split(r"[<>=\[; ]", item)[0].lower() for item in extras[part.extra]}
        assert listed == set(part.modules), part.extra
        assert part.optional <= set(part.modules)


def test_numba_without_a_cache_folder_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    jit = pytest.importorskip("u2seg.io.jit", reason="numba is not installed")
    monkeypatch.setattr(jit.FunctionCache._impl_class, "_locator_classes", [])
    assert "set NUMBA_CACHE_DIR to a folder" in doctor.cache_problems()[0]
