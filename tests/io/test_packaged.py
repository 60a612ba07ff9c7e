"""Configs by name: found, listed, copied, and never written over."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from u2seg.cli import main
from u2seg.errors import UserError
from u2seg.io.packaged import config_folder, config_names, config_path
from u2seg.io.yamlfile import load_yaml


def test_every_config_has_a_name_that_leads_to_it() -> None:
    names = config_names()
    files = {p for p in config_folder().rglob("*.yaml") if not p.name.startswith("Base-")}
    assert set(names.values()) == files and len(names) == len(files)
    assert all(config_path(name) == path for name, path in names.items())
    long = "u2seg/COCO-PanopticSegmentation/u2seg_eval_800"
    assert config_path(long) == config_path(f"{long}.yaml") == names["u2seg/u2seg_eval_800"]


def test_a_file_goes_before_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "u2seg").mkdir()
    (tmp_path / "u2seg" / "scenes").write_text("SEED: 3\n")
    assert load_yaml("u2seg/scenes") == {"SEED": 3}
    (tmp_path / "mine.yaml").write_text("_BASE_: u2seg/quickstart\nSEED: 4\n")
    assert load_yaml("mine.yaml") == {**load_yaml("u2seg/quickstart"), "SEED": 4}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("u2seg/quikstart", "there are u2seg/quickstart"),
        ("u2seg/u2seg_R50_800", "there are u2seg/COCO-.*/u2seg_R50_800, u2seg/ImageNet/u2seg_R50"),
        ("u2seg/../pyproject", "lists them"),
    ],
)
def test_wrong_names(name: str, message: str) -> None:
    with pytest.raises(UserError, match=f"^{re.escape(name)} is neither a file nor .*{message}"):
        load_yaml(name)


def test_only_configs_that_come_along_are_listed_and_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    along = " is not the name of a config that comes along"
    hint = " (u2seg/quickstart comes along; `u2seg configs` lists them)"
    for words in (["quickstart"], ["--copy", "mine", "quickstart"]):
        assert main(["configs", *words]) == 2
        assert capsys.readouterr().err == f"error: quickstart{along}{hint}\n"
    assert main(["configs", "nothere.yaml"]) == 2
    assert f"nothere.yaml{along}; `u2seg configs` lists them" in capsys.readouterr().err
    assert main(["configs", "u2seg/Base-U2Seg-R50-FPN"]) == 0
    assert capsys.readouterr().out.startswith("u2seg/Base-U2Seg-R50-FPN  ")
    assert not list(tmp_path.iterdir())
    with pytest.raises(UserError, match=f"^config file quickstart does not exist{re.escape(hint)}"):
        load_yaml("quickstart")


def test_copies_are_complete_and_never_written_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["configs", "--copy", str(tmp_path / "mine"), "u2seg/coco_1"]
    assert main(words) == 0
    made = capsys.readouterr().out.split()
    assert [Path(name).name for name in made] == [
        "Base-U2Seg-R50-FPN.yaml", "Base-LowShot.yaml", "coco_1.yaml",
    ]  # fmt: skip
    assert load_yaml(made[-1]) == load_yaml("u2seg/coco_1")
    Path(made[-1]).write_text("SEED: 7\n")
    assert main(["configs", "--copy", str(tmp_path / "mine")]) == 2
    assert "exists and is not written over" in capsys.readouterr().err
    assert Path(made[-1]).read_text() == "SEED: 7\n"
    assert sum(1 for _ in (tmp_path / "mine").rglob("*.yaml")) == 3


def test_the_list_has_the_first_line_of_each(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["configs", "u2seg/quickstart"]) == 0
    assert re.fullmatch(r"u2seg/quickstart +The whole chain .*\n", capsys.readouterr().out)
