"""Implementations from outside the package: files that settings name, and installed packages."""

from __future__ import annotations

import multiprocessing
import pickle
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from u2seg import registry
from u2seg.config import plugins
from u2seg.config.load import load_settings, settings_hash
from u2seg.config.schema import MaskSettings, Settings
from u2seg.errors import UserError
from u2seg.masks.base import MASK_PROPOSERS

SOURCE = """
from dataclasses import dataclass

from u2seg.masks.base import MASK_PROPOSERS


@dataclass(frozen=True)
class BlobSettings:
    size: int = 3


@MASK_PROPOSERS.register("blob", settings=BlobSettings, needs=("pixels",))
def blob(inputs, settings):
    return []
"""


@pytest.fixture(autouse=True)
def forgotten(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every test begins without plug-ins, and leaves none behind."""
    monkeypatch.setattr(plugins, "_loaded", {})
    for name in ("_members", "_settings", "_needs"):
        monkeypatch.setattr(MASK_PROPOSERS, name, dict(getattr(MASK_PROPOSERS, name)))
    own = {section: dict(nodes) for section, nodes in registry.SETTINGS.items()}
    monkeypatch.setattr(registry, "SETTINGS", own)
    monkeypatch.setattr("u2seg.config.load.SETTINGS", own)
    plugins._load_installed.cache_clear()
    yield
    plugins._load_installed.cache_clear()


def config(folder: Path, source: str = SOURCE, more: str = "") -> Path:
    (folder / "my_masks.py").write_text(source)
    path = folder / "run.yaml"
    path.write_text(f"U2SEG:\n  PLUGINS: [my_masks.py]\n{more}")
    return path


def test_a_plugin_beside_the_config_has_settings_of_its_own(tmp_path: Path) -> None:
    path = config(tmp_path, more="  MASKS: {PROPOSER: blob, BLOB: {SIZE: 5}}\n")
    settings = load_settings(path)
    assert settings.plugins == (str(tmp_path / "my_masks.py"),)
    assert MASK_PROPOSERS.needs("blob") == {"pixels"}
    assert MASK_PROPOSERS.own("blob", settings.masks).size == 5
    assert MASK_PROPOSERS.own("blob", Settings().masks).size == 3
    with pytest.raises(UserError, match=r"BLOB\.SIZ\. Did you mean U2SEG\.MASKS\.BLOB\.SIZE"):
        load_settings(path, ["U2SEG.MASKS.BLOB.SIZ", "1"])


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("x = 1\nx.nothing\n", r"my_masks\.py, line 2, fails: AttributeError"),
        ("x = 1\n\nif:\n", r"my_masks\.py, line 3, fails: SyntaxError"),
        ("import no_such_library\n", r"my_masks\.py, line 1, fails: ModuleNotFoundError"),
    ],
)
def test_a_plugin_that_fails_is_named_with_its_line(
    tmp_path: Path, source: str, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        load_settings(config(tmp_path, source))


def test_a_plugin_that_is_missing_is_named(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("U2SEG: {PLUGINS: [gone.py]}\n")
    with pytest.raises(UserError, match=r"plug-in gone\.py \(U2SEG\.PLUGINS\) does not exist"):
        load_settings(tmp_path / "run.yaml")


def test_the_hash_of_settings_is_also_of_what_plugins_say(tmp_path: Path) -> None:
    hashes = [settings_hash(MaskSettings())]
    more = "  MASKS: {PROPOSER: blob}\n"
    for name, source in (("a", SOURCE), ("b", SOURCE), ("c", f"{SOURCE}# changed\n")):
        (tmp_path / name).mkdir()
        plugins._loaded.clear()
        MASK_PROPOSERS._members.pop("blob", None)
        hashes.append(settings_hash(load_settings(config(tmp_path / name, source, more)).masks))
    assert hashes[1] == hashes[2], "where the file lies does not matter"
    assert len(set(hashes)) == 3
    assert settings_hash(MaskSettings()) == hashes[0], "of a stage that uses none nothing changes"


def size_of(settings: Settings) -> int:
    """Return the plug-in's value, in another process."""
    size: int = MASK_PROPOSERS.own("blob", settings.masks).size
    return size


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_other_processes_import_the_plugins_of_their_settings(tmp_path: Path, method: str) -> None:
    more = "  MASKS: {PROPOSER: blob, BLOB: {SIZE: 7}}\n"
    settings = load_settings(config(tmp_path, more=more))
    with multiprocessing.get_context(method).Pool(1) as pool:
        assert pool.apply(size_of, (settings,)) == 7
    changed = replace(settings, run=replace(settings.run, threads=1))
    assert pickle.loads(pickle.dumps(changed)) == changed


def installed(folder: Path, source: str) -> None:
    """Make an installed package with an entry point in ``folder``."""
    (folder / "blob_package.py").write_text(source)
    note = folder / "blob_package-1.0.dist-info"
    note.mkdir()
    (note / "METADATA").write_text("Metadata-Version: 2.1\nName: blob-package\nVersion: 1.0\n")
    (note / "entry_points.txt").write_text(f"[{plugins.GROUP}]\nblob = blob_package\n")


def test_installed_packages_register_the_same_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(tmp_path, SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    settings = load_settings(None, ["U2SEG.MASKS.BLOB.SIZE", "4"])
    assert MASK_PROPOSERS.own("blob", settings.masks).size == 4
    del sys.modules["blob_package"]


def test_an_installed_package_that_fails_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(tmp_path, "raise RuntimeError('too old')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=r"plug-in blob = blob_package of an .*too old"):
        load_settings(None)
