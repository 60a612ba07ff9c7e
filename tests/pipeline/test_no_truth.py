"""Label generation opens no file but the photographs and loads nothing that scores: no ground truth
can leak into a label."""

from __future__ import annotations

import subprocess
import sys
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from tests.faults.harness import forkserver
from tests.pipeline.conftest import FAST
from u2seg.config.load import load_settings
from u2seg.pipeline import generate_labels


def label_and_tell_opened(root: Path, output: Path, told: Connection) -> None:
    opened = set()

    def watch(event: str, arguments: Any) -> None:
        if event == "open" and isinstance(arguments[0], str | bytes):
            path = Path(arguments[0] if isinstance(arguments[0], str) else arguments[0].decode())
            if root in path.resolve().parents:
                opened.add(path.resolve().relative_to(root).as_posix())

    sys.addaudithook(watch)
    generate_labels(load_settings(None, FAST), root / "images" / "train", output, progress=False)
    told.send(sorted(opened))


def test_no_annotation_is_opened_while_labelling(tmp_path: Path) -> None:
    from scenes.export import SceneSettings, write_scenes

    write_scenes(tmp_path / "data", SceneSettings(train=4, val=1, size=64))
    mine, theirs = forkserver().Pipe(duplex=False)
    places = ((tmp_path / "data").resolve(), (tmp_path / "run").resolve())
    process = forkserver().Process(target=label_and_tell_opened, args=(*places, theirs))
    process.start()
    theirs.close()
    opened = mine.recv()
    process.join()
    assert len(opened) == 4
    assert all(name.startswith("images/train/") for name in opened)


LOADED = """
import importlib
import pkgutil
import sys
from pathlib import Path

sys.path[:0] = ["tools", "datasets"]
from tests.pipeline.conftest import FAST
from u2seg.pipeline import STAGES
import generate_pseudo
import u2seg.workflows.label

photos, output = sys.argv[1:]
config = Path(output).with_suffix(".yaml")
config.write_text("U2SEG: {}")

def report(after):
    found = (name for name in sys.modules if name.startswith("u2seg.evaluation"))
    print("LOADED", after, *found)

for method, stages in (("stego", ",".join(STAGES)), ("kmeans_probe", "semantics")):
    # The report comes when the labels are there, and may load what it likes.
    u2seg.workflows.label.report_labels = lambda labels, method=method: report(method)
    code = generate_pseudo.main([
        "--config-file", str(config), "--images", photos, "--output-dir", f"{output}/{method}",
        "--stages", stages, *FAST, "U2SEG.SEMANTICS.SEGMENTER", method,
    ])
    assert code == 0, code
for name in "features masks clusters semantics panoptic pipeline structures io crf shards".split():
    package = importlib.import_module(f"u2seg.{name}")
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)

report("modules")
import u2seg.evaluation.metrics.supervised_linear_probe
report("probe")
"""


def test_labelling_loads_neither_the_linear_probe_nor_anything_that_scores(
    photos: Path, tmp_path: Path
) -> None:
    """The command, with every stage, and every module of the label half; then the opposite."""
    command = [sys.executable, "-c", LOADED, str(photos), str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = [line.split()[1:] for line in done.stdout.splitlines() if line.startswith("LOADED")]
    assert lines[:3] == [["stego"], ["kmeans_probe"], ["modules"]]
    # the report would have told
    assert "u2seg.evaluation.metrics.supervised_linear_probe" in lines[3]
    for method in ("stego", "kmeans_probe"):
        assert len(list((tmp_path / "run" / method / "semantics").rglob("*.png"))) == 5


def test_a_contract_forbids_the_import_for_good() -> None:
    """import-linter (``make lint``) must know the rule for every package of the label half."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        tomllib = pytest.importorskip("tomli")
    text = Path("pyproject.toml").read_text(encoding="utf-8")
    contracts = tomllib.loads(text)["tool"]["importlinter"]["contracts"]
    rules = [c for c in contracts if c.get("forbidden_modules") == ["u2seg.evaluation"]]
    label_half = {f"u2seg.{n}" for n in ("features", "masks", "clusters", "semantics", "panoptic")}
    assert len(rules) == 1
    assert label_half | {"u2seg.pipeline", "u2seg.io"} <= set(rules[0]["source_modules"])
