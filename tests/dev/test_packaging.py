"""What ``pyproject.toml`` says of the package, as the tools that build it read it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sysconfig
import venv
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def pyproject() -> dict[str, Any]:
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 has no tomllib")
    content: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    return content


def test_the_licence_is_an_expression_and_stands_in_one_place(pyproject: dict[str, Any]) -> None:
    """A table and a classifier are deprecated: setuptools warns of both, and will refuse them."""
    project = pyproject["project"]
    assert project["license"] == "Apache-2.0"
    assert not [row for row in project["classifiers"] if row.startswith("License ::")]
    for name in project["license-files"]:
        assert "Apache License" in (ROOT / name).read_text("utf-8")


def test_the_build_asks_for_a_setuptools_that_knows_expressions(pyproject: dict[str, Any]) -> None:
    """77.0.3 is the one the packaging guide names; an older one refuses the string."""
    (wanted,) = pyproject["build-system"]["requires"]
    found = re.fullmatch(r"setuptools>=([\d.]+)", wanted)
    assert found is not None
    assert tuple(map(int, found[1].split("."))) >= (77, 0, 3)


def test_the_offline_installation_fetches_what_the_build_asks_for(
    pyproject: dict[str, Any],
) -> None:
    (wanted,) = pyproject["build-system"]["requires"]
    text = (ROOT / "INSTALL.md").read_text("utf-8")
    asked = re.findall(r"setuptools>=[\d.]+", text)
    assert asked
    assert set(asked) == {wanted}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the ``bin`` of an environment with the wheel, and the libraries of this one."""
    root = tmp_path_factory.mktemp("wheel")
    source = root / "source"
    for name in ("u2seg", "configs"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    venv.create(root / "env", symlinks=True)
    scripts = root / "env" / "bin"
    own = sysconfig.get_path(
        "purelib", vars={"base": str(root / "env"), "platbase": str(root / "env")}
    )
    # Libraries of this environment are seen, its .pth files (this repository) are not.
    (Path(own) / "libraries.pth").write_text(sysconfig.get_path("purelib"))
    pip = [scripts / "python", "-m", "pip", "install", "--no-deps", "--no-index", "--quiet"]
    call([*pip, "--no-build-isolation", source], root)
    return scripts


def call(words: list[Any], folder: Path) -> str:
    kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(
        [str(word) for word in words],
        capture_output=True, text=True, cwd=folder, timeout=300, check=False, env=kept,
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.slow
def test_the_wheel_labels_photographs_outside_the_repository(
    installed: Path, tmp_path: Path
) -> None:
    pytest.importorskip("setuptools", minversion="77.0.3", reason="builds the wheel")
    (tmp_path / "photos").mkdir()
    for name in ("astronaut.jpg", "coffee.jpg"):
        shutil.copy(ROOT / "demo" / "images" / name, tmp_path / "photos")
    command = [installed / "u2seg", "label", "--config-file", "u2seg/quickstart", "--offline"]
    small = ["U2SEG.SEMANTICS.STEGO.STEPS", "2", "U2SEG.CLUSTERS.NUM_CLUSTERS", "2"]
    small += ["U2SEG.FEATURES.IMAGE_SIZE", "192", "U2SEG.MASKS.REFINER", "none"]
    words = ["--images", "photos", "--output-dir", "labels", *small]
    assert call([*command, *words], tmp_path).startswith("labels are in labels")
    written = {path.name for path in (tmp_path / "labels" / "panoptic").rglob("*.*")}
    assert {
        "panoptic.json",
        "instances.json",
        "labelspace.json",
        "astronaut.png",
        "coffee.png",
    } <= written


@pytest.mark.slow
def test_the_installed_command_lists_its_configs_and_advises_without_make(
    installed: Path, tmp_path: Path
) -> None:
    python = [installed / "python", "-c"]
    where = call([*python, "import u2seg; print(u2seg.__file__)"], tmp_path)
    assert str(ROOT) not in where
    listed = call([installed / "u2seg", "configs"], tmp_path)
    assert (
        "u2seg/quickstart " in listed and "u2seg/COCO-PanopticSegmentation/u2seg_R50_800 " in listed
    )
    copied = call([installed / "u2seg", "configs", "--copy", "mine", "u2seg/quickstart"], tmp_path)
    assert copied.split() == [
        "mine/quickstart/Base-R18-FPN.yaml",
        "mine/quickstart/quickstart.yaml",
    ]
    told = call([*python, HIDE_RAY], tmp_path)
    assert re.search(r"pip install '/.*\[ray\]'", told)
    assert "make " not in told and "dev/" not in told and "constraints" not in told


HIDE_RAY = """import sys
sys.modules["ray"] = None
from u2seg.cli import main
raise SystemExit(main(["doctor"]))
"""
