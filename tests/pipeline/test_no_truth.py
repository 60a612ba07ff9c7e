"""Label generation opens no file but the photographs: no ground truth can leak into a label."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = """
import sys
from pathlib import Path
from tests.pipeline.conftest import FAST
from u2seg.config.load import load_settings
from u2seg.pipeline import generate_labels

root, output = Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve()
opened = set()

def watch(event, arguments):
    if event == "open" and isinstance(arguments[0], (str, bytes)):
        path = Path(arguments[0] if isinstance(arguments[0], str) else arguments[0].decode())
        if root in path.resolve().parents:
            opened.add(path.resolve().relative_to(root).as_posix())

sys.addaudithook(watch)
generate_labels(load_settings(None, FAST), root / "images" / "train", output, progress=False)
print("\\n".join(sorted(opened)))
"""


def test_no_annotation_is_opened_while_labelling(tmp_path: Path) -> None:
    from u2seg.scenes.export import SceneSettings, write_scenes

    write_scenes(tmp_path / "data", SceneSettings(train=4, val=1, size=64))
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "data"), str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    opened = done.stdout.split()
    assert len(opened) == 4
    assert all(name.startswith("images/train/") for name in opened)
