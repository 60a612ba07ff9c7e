"""Habits that a linter does not check, checked."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MODULES = sorted((ROOT / "u2seg").rglob("*.py"))
TOOLS = sorted([*(ROOT / "tools").glob("*.py"), *(ROOT / "demo").glob("*.py")])
HALF = "features masks clusters semantics panoptic pipeline structures config io crf".split()  # noqa: SIM905


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_modules_are_short_and_described(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 600
    docstring = ast.get_docstring(ast.parse(text))
    assert docstring and "Placeholder" not in docstring


@pytest.mark.parametrize("path", TOOLS, ids=name)
def test_tools_are_thin(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert len(path.read_text().splitlines()) <= 70
    kinds = (ast.ClassDef, ast.For, ast.While)
    assert not [node for node in ast.walk(tree) if isinstance(node, kinds)]


def test_only_one_module_reads_the_environment() -> None:
    readers = [name(p) for p in MODULES if re.search(r"os\.(environ|getenv)", p.read_text())]
    # the installer serves the index that pip is set up with
    assert readers == ["u2seg/compat/install.py", "u2seg/config/env.py"]


BANNED = {
    r"weights_only\s*=\s*False": "unsafe checkpoint loading",
    r"\bpickle\.loads?\(": "pickle executes files",
    r"yaml\.(unsafe_load|full_load)\(|Loader=yaml\.(Unsafe|Full)?Loader": "unsafe YAML",
    r"\.merge_from_file\(": "Detectron2's loader may fall back to unsafe YAML",
    r"\ballow_pickle\s*=\s*True": "pickle executes files",
}


@pytest.mark.parametrize("pattern", BANNED)
def test_banned_calls_do_not_occur(pattern: str) -> None:
    files = [*MODULES, *TOOLS, *(ROOT / "datasets").glob("*.py")]
    assert not [name(p) for p in files if re.search(pattern, p.read_text())], BANNED[pattern]


def test_files_are_written_in_one_place() -> None:
    pattern = re.compile(r"\bopen\([^)]*[\"'][wax]b?\+?[\"']|\.write_text\(|\.write_bytes\(")
    writers = [name(p) for p in MODULES if pattern.search(p.read_text())]
    assert writers == ["u2seg/compat/install.py"]  # into a temporary folder


def run(code: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)


def test_importing_the_package_loads_nothing_heavy() -> None:
    done = run(
        "import sys, u2seg; heavy = {'torch', 'detectron2', 'numpy', 'PIL'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    assert done.returncode == 0, done.stderr


def test_label_half_imports_without_detectron2() -> None:
    imports = "; ".join(f"import u2seg.{part}" for part in HALF)
    done = run(
        "import warnings; warnings.simplefilter('ignore', DeprecationWarning); "
        f"import sys; sys.modules['detectron2'] = None; {imports}; import u2seg.pipeline.runner"
    )
    assert done.returncode == 0, done.stderr


def test_layers_hold() -> None:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout
