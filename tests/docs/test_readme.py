"""Every command of the README runs: the three commands and the Python below them on small data."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.docs.test_docs import ROOT, commands
from tests.factories import TINY
from u2seg.cli import main
from u2seg.io.yamlfile import parse_yaml

TEXT = (ROOT / "README.md").read_text("utf-8")
SMALL = (
    *TINY, "U2SEG.FEATURES.IMAGE_SIZE", "128", "U2SEG.MASKS.REFINER", "none",
    "U2SEG.SEMANTICS.STEGO.STEPS", "2", "U2SEG.CLUSTERS.KMEANS.RESTARTS", "1",
    "U2SEG.TRAIN.PICTURES", "0",
    "INPUT.MAX_SIZE_TEST", "96", "INPUT.MAX_SIZE_TRAIN", "96",
)  # fmt: skip


def small_config(path: Path) -> None:
    tree: dict[str, Any] = {"_BASE_": "u2seg/quickstart"}
    for key, value in zip(SMALL[::2], SMALL[1::2], strict=True):
        *parts, last = key.split(".")
        node = tree
        for part in parts:
            node = node.setdefault(part, {})
        node[last] = parse_yaml(value)
    path.write_text(json.dumps(tree))


@pytest.mark.slow
@pytest.mark.d2
def test_three_commands_and_the_python_below_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    photos = Path("runs/quickstart/photos")
    photos.mkdir(parents=True)
    for name in ("astronaut.jpg", "coffee.jpg"):
        shutil.copy(ROOT / "demo" / "images" / name, photos)
    small_config(tmp_path / "small.yaml")
    found = [
        (name, words) for name, words in commands(ROOT / "README.md") if "--config-file" in words
    ]
    assert [name for name, _ in found] == ["u2seg label", "u2seg train", "u2seg predict"]
    for name, words in found:
        small = ["small.yaml" if word == "u2seg/quickstart" else word for word in words]
        assert small != words
        assert main([name.split()[1], *small]) == 0, capsys.readouterr().err
    assert Path("runs/demo/pictures/coffee.png").is_file()
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    assert "u2seg/quickstart" in code
    exec(code.replace("u2seg/quickstart", "small.yaml"), {})


def test_make_knows_the_targets() -> None:
    """The names only: ``make -n`` prints the recipes, and what they do is not run here."""
    lines = re.findall(r"(?:^|`)(make [a-z]+[^`#\n]*)", TEXT, re.MULTILINE)
    assert len(lines) >= 3
    for line in lines:
        words = ["make", "-n", *shlex.split(line)[1:]]
        done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, check=False)
        assert done.returncode == 0, done.stderr
