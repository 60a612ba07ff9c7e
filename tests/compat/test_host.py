"""The host after preparation: mended names, the stand-in, the message where it is missing."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from u2seg import compat
from u2seg.compat import host
from u2seg.config.words import flatten

ROOT = Path(__file__).resolve().parents[2]


def run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter, where nothing is prepared yet."""
    return subprocess.run(
        [sys.executable, *arguments, "-c", code],
        capture_output=True, text=True, cwd=ROOT, timeout=120, check=False,
    )  # fmt: skip


def test_missing_host_says_what_to_run() -> None:
    code = (
        "import sys; sys.modules['detectron2'] = None\n"
        "from u2seg.compat import prepare_host, host_version, host_origin\n"
        "print(repr(host_version()), repr(host_origin()))\n"
        "prepare_host()"
    )
    result = run(code)
    assert result.stdout.split() == ["''", "''"]
    assert result.returncode == 1
    assert "u2seg.errors.UserError: Detectron2 is not installed" in result.stderr
    assert "u2seg doctor --install-detectron2" in result.stderr


@pytest.mark.d2
def test_keys_are_read_from_the_source() -> None:
    compat.prepare_host()
    from detectron2.config import get_cfg

    assert compat.host_keys() == set(flatten(get_cfg()))


def write_host(folder: Path, version: str = "0.7", code: str = "") -> Path:
    """Write a package of the host's name; return the folder that belongs on the path."""
    package = folder / "detectron2"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(f'__version__ = "{version}"\n{code}')
    return folder


def use_path(monkeypatch: pytest.MonkeyPatch, *folders: Path) -> None:
    for name in [n for n in sys.modules if n.split(".")[0] == "detectron2"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "path", [str(folder) for folder in folders])
    monkeypatch.setattr(host, "_prepared", False)
    importlib.invalidate_caches()


def test_a_users_own_host_is_told_by_what_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clone before an installed distribution of another version, alone, and editable."""
    clone, site = write_host(tmp_path / "clone"), write_host(tmp_path / "site", "0.5")
    record = site / "detectron2-0.5+pure.dist-info"
    record.mkdir()
    (record / "METADATA").write_text("Metadata-Version: 2.1\nName: detectron2\nVersion: 0.5+pure\n")
    use_path(monkeypatch, clone, site)
    assert compat.host_version() == "0.7"
    assert compat.host_origin() == f"not installed, on the path, in {clone / 'detectron2'}"
    use_path(monkeypatch, site, clone)
    assert compat.host_version() == "0.5+pure"
    assert compat.host_origin().startswith("source distribution of the package index")
    (site / "detectron2" / "__init__.py").unlink()
    (record / "direct_url.json").write_text(
        json.dumps({"url": clone.as_uri(), "dir_info": {"editable": True}})
    )
    use_path(monkeypatch, site, clone)
    assert compat.host_version() == "0.5+pure"
    assert compat.host_origin().endswith(f"in {clone / 'detectron2'}")


def test_what_a_host_does_not_need_is_not_patched(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name in ((Image, "LINEAR"), (np, "int"), (np, "float")):
        if name in vars(module):
            monkeypatch.delattr(module, name)
    code = "x = np.float32(1), interp=Image.BILINEAR, int(np.float64(2))"
    host.mend_pillow(code)
    host.mend_numpy(code)
    assert not {"int", "float"} & set(vars(np))
    assert not hasattr(Image, "LINEAR")
    host.mend_numpy("a.astype(np.int)")
    assert vars(np)["int"] is int
    assert "float" not in vars(np)
    monkeypatch.delattr(np, "int")


@pytest.mark.d2
def test_old_names_are_back_and_mean_what_they_meant() -> None:
    compat.prepare_host()
    compat.prepare_host()
    if not host.host_version().startswith("0.5"):
        pytest.skip("newer hosts need other names, or none")
    assert Image.LINEAR == Image.Resampling.BILINEAR
    aliases = vars(np)
    assert (aliases["int"], aliases["float"]) == (int, float)
    # NumPy 2's own np.bool is left alone; NumPy 1.26 has none.
    numpy_2 = int(np.__version__.split(".")[0]) >= 2
    assert aliases["bool"] is (np.bool_ if numpy_2 else bool)


@pytest.mark.d2
def test_every_part_of_the_host_that_is_used_imports_in_a_fresh_process() -> None:
    """With warnings as errors, but for deprecations inside other libraries."""
    code = (
        "from u2seg.compat import prepare_host; prepare_host()\n"
        "import detectron2.engine, detectron2.data, detectron2.modeling, detectron2.evaluation\n"
        "import detectron2.checkpoint, detectron2.model_zoo, detectron2.projects.point_rend\n"
        "from detectron2.utils.collect_env import collect_env_info\n"
        "assert 'detectron2' in collect_env_info()\n"
        "from detectron2 import model_zoo\n"
        "cfg = model_zoo.get_config('COCO-PanopticSegmentation/panoptic_fpn_R_50_3x.yaml')\n"
        "print(cfg.MODEL.META_ARCHITECTURE)\n"
        # torch.meshgrid without indexing= must not warn here.
        "import torch\n"
        "from detectron2.modeling.anchor_generator import DefaultAnchorGenerator\n"
        "make = DefaultAnchorGenerator(sizes=[[8]], aspect_ratios=[[1.0]], strides=[8])\n"
        "print(len(make([torch.zeros(1, 1, 2, 3)])[0]))\n"
    )
    quiet = ["DeprecationWarning", "FutureWarning", "PendingDeprecationWarning"]
    flags = ["-W", "error", *(f for kind in quiet for f in ("-W", f"ignore::{kind}"))]
    result = run(code, *flags)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == ["PanopticFPN", "6"]


@pytest.mark.d2
def test_uncompiled_ops_explain_themselves() -> None:
    if compat.has_compiled_ops():
        pytest.skip("this Detectron2 is compiled")
    import torch
    from detectron2.layers import nms_rotated
    from detectron2.structures import RotatedBoxes, pairwise_iou_rotated

    boxes = RotatedBoxes(torch.tensor([[5.0, 5.0, 4.0, 2.0, 30.0]]))
    with pytest.raises(NotImplementedError, match=r"box_iou_rotated is compiled C\+\+"):
        pairwise_iou_rotated(boxes, boxes)
    with pytest.raises(NotImplementedError, match=r"nms_rotated is compiled C\+\+"):
        nms_rotated(boxes.tensor, torch.ones(1), 0.5)
    with pytest.raises(NotImplementedError, match=r"box_iou_rotated is compiled C\+\+"):
        torch.ops.detectron2.box_iou_rotated(boxes.tensor, boxes.tensor)  # as main calls it


@pytest.fixture
def compiled_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Let ``detectron2._C`` be found as a file that the test writes."""
    compat.prepare_host()
    import detectron2

    path = tmp_path / "compiled.py"

    class Finder:
        @staticmethod
        def find_spec(name: str, _path: object = None, _target: object = None) -> object:
            found = name == host.COMPILED
            return importlib.util.spec_from_file_location(name, path) if found else None

    monkeypatch.setattr(detectron2, "_C", detectron2._C)
    monkeypatch.delitem(sys.modules, host.COMPILED)
    monkeypatch.setattr(sys, "meta_path", [Finder, *sys.meta_path])
    yield path
    monkeypatch.undo()
    assert detectron2._C is sys.modules[host.COMPILED]


@pytest.mark.d2
def test_a_compiled_module_that_does_not_load_is_replaced_with_a_warning(
    compiled_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As after a change of torch: the file is there, its symbols are not."""
    compiled_file.write_text("raise ImportError('undefined symbol: _ZN2at')\n")
    host._ensure_compiled_module()
    assert not compat.has_compiled_ops()
    assert "undefined symbol: _ZN2at" in caplog.text
    assert "Rebuild Detectron2" in caplog.text


def test_pkg_resources_stand_in_only_where_it_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    real = host.importlib.util.find_spec
    monkeypatch.delitem(sys.modules, "pkg_resources", raising=False)
    monkeypatch.setattr(
        host.importlib.util,
        "find_spec",
        lambda name: None if name == "pkg_resources" else real(name),
    )
    host.mend_pkg_resources("import importlib.resources")
    assert "pkg_resources" not in sys.modules
    host.mend_pkg_resources("import pkg_resources")
    import pkg_resources

    path = Path(pkg_resources.resource_filename("u2seg", "py.typed"))
    assert path.is_file()
    del sys.modules["pkg_resources"]  # by hand: monkeypatch would put the stand-in back


def test_origin_from_the_installation_record(monkeypatch: pytest.MonkeyPatch) -> None:
    class Record:
        version = "0.6"
        text = '{"url": "https://x", "vcs_info": {"vcs": "git", "commit_id": "0123456789abcdef"}}'

        def read_text(self, _name: str) -> str:
            return self.text

        def locate_file(self, name: str) -> Path:
            return Path("/site", name)

    monkeypatch.setattr(host, "host_folder", lambda: Path("/site/detectron2"))
    monkeypatch.setattr(host.importlib.metadata, "distribution", lambda _name: Record())
    assert host.host_origin() == "git commit 0123456789ab, in /site/detectron2"
    Record.text = ""
    assert host.host_origin() == "installed by other means, in /site/detectron2"
    Record.version = "0.5+pure"
    assert host.host_origin().startswith("source distribution")


@pytest.mark.d2
@pytest.mark.parametrize(("rank", "mine"), [(0, [0, 1]), (3, [2, 3])])
def test_processes_of_a_machine_have_successive_numbers(
    monkeypatch: pytest.MonkeyPatch, rank: int, mine: list[int]
) -> None:
    """Two machines of two processes; each process makes both groups and belongs to one."""
    pytest.importorskip("detectron2", reason="Detectron2 is not installed")
    compat.prepare_host()
    import torch.distributed as dist
    from detectron2.utils import comm

    made: list[list[int]] = []
    monkeypatch.setattr(dist, "new_group", lambda ranks: made.append(ranks) or ranks)
    monkeypatch.setattr(comm, "_LOCAL_PROCESS_GROUP", None)
    monkeypatch.delattr(comm, "create_local_process_group", raising=False)
    compat.name_machines(rank, world=4, local_world=2)
    assert made == [[0, 1], [2, 3]]
    assert mine == comm._LOCAL_PROCESS_GROUP
    asked: list[int] = []
    monkeypatch.setattr(comm, "create_local_process_group", asked.append, raising=False)
    compat.name_machines(rank, world=4, local_world=2)
    assert asked == [2]
