"""Settings files: merged by ``_BASE_``, executed never."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from u2seg.errors import UserError
from u2seg.io.yamlfile import load_yaml, merge, parse_yaml


def _write(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text)
    return folder / "top.yaml"


def test_a_chain_of_bases_is_merged_key_by_key(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    _write(tmp_path / "sub", root="A: {x: 1, y: 1, z: 1}\nB: [1, 2]\nC: 1\n")
    top = _write(
        tmp_path,
        middle="_BASE_: sub/root.yaml\nA: {y: 2, z: 2}\nB: [3]\n",
        top="_BASE_: middle.yaml\nA: {z: 3}\n",
    )
    assert load_yaml(top) == {"A": {"x": 1, "y": 2, "z": 3}, "B": [3], "C": 1}


def test_a_base_may_be_absolute_and_a_file_empty(tmp_path: Path) -> None:
    _write(tmp_path, root="A: 1\n", empty="")
    top = _write(tmp_path, top=f"_BASE_: {tmp_path / 'root.yaml'}\n")
    assert load_yaml(top) == {"A": 1}
    assert load_yaml(tmp_path / "empty.yaml") == {}


def test_two_files_may_share_a_base(tmp_path: Path) -> None:
    # A base that appears twice is no cycle unless it is its own ancestor.
    _write(tmp_path, root="A: 1\n", left="_BASE_: root.yaml\n")
    assert load_yaml(_write(tmp_path, top="_BASE_: left.yaml\nB: 2\n")) == {"A": 1, "B": 2}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"top": "_BASE_: top.yaml\n"}, r"cycle: .*top\.yaml -> .*top\.yaml"),
        ({"top": "_BASE_: b.yaml\n", "b": "_BASE_: ./top.yaml\n"}, "cycle"),
        ({"top": "_BASE_: https://example.org/x.yaml\n"}, "must be the path of a local file"),
        ({"top": "_BASE_: file:///etc/passwd\n"}, "must be the path of a local file"),
        ({"top": "_BASE_: [a.yaml]\n"}, r"local file, got \['a.yaml'\]"),
        ({"top": "_BASE_: no.yaml\n"}, r"no\.yaml does not exist"),
        ({"top": "- 1\n"}, "must hold a mapping, found list"),
        ({"top": "A: 1\nA: 2\n"}, "'A' is given twice"),
        ({"top": "A: {x: 1, x: 2}\n"}, "'x' is given twice"),
        ({"top": "A: &a [1]\nB: *a\n"}, "aliases"),
        ({"top": "A: [\n"}, "not plain YAML"),
        ({"top": "A: !!python/tuple [1]\n"}, "not plain YAML"),
        ({"top": "A: !!python/name:os.system\n"}, "not plain YAML"),
        ({"top": "A: " + "[" * 5000 + "]" * 5000}, "not plain YAML"),
        ({"top": "A: 1\n---\nB: 2\n"}, "not plain YAML"),
        ({"top": "{1: 2}: 3\n"}, "not plain YAML"),
    ],
)
def test_bad_files_are_user_errors(tmp_path: Path, files: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_yaml(_write(tmp_path, **files))


@pytest.mark.parametrize(
    "text",
    [
        "A: !!python/object/apply:os.system ['touch {canary}']\n",
        "A: !!python/object/new:os.system ['touch {canary}']\n",
        "A: !!python/object/apply:os.mkdir ['{canary}']\n",
    ],
)
def test_tags_execute_nothing(tmp_path: Path, text: str) -> None:
    canary = tmp_path / "canary"
    top = _write(tmp_path, top=text.format(canary=canary))
    with pytest.raises(UserError, match="not plain YAML"):
        load_yaml(top)
    assert not canary.exists()


@pytest.mark.parametrize(
    "value", ["!!int ''", "!!timestamp x", "!!bool maybe", "!!set {a}", "!x 1"]
)
def test_no_tag_is_read_at_all(tmp_path: Path, value: str) -> None:
    with pytest.raises(UserError, match=r"tags .* are not allowed"):
        load_yaml(_write(tmp_path, top=f"A: {value}\n"))


def test_a_base_that_never_ends_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for base in ("/dev/zero", "pipe"):
        with pytest.raises(UserError, match="not a regular file"):
            load_yaml(_write(tmp_path, top=f"_BASE_: {base}\n"))


def test_other_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"config file .*no\.yaml does not exist"):
        load_yaml(tmp_path / "no.yaml")
    with pytest.raises(UserError, match="cannot read"):
        load_yaml(tmp_path)
    (tmp_path / "big.yaml").write_text("A: 1\n" + "#" * (1 << 20))
    with pytest.raises(UserError, match="larger than 1048576 bytes"):
        load_yaml(tmp_path / "big.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"A: caf\xe9\n")
    with pytest.raises(UserError, match="not plain YAML"):
        load_yaml(tmp_path / "latin.yaml")


def test_merge_replaces_unlike_kinds_and_modifies_neither() -> None:
    base, over = {"A": {"x": 1}, "B": 1}, {"A": 2, "B": {"y": 1}}
    assert merge(base, over) == {"A": 2, "B": {"y": 1}}
    assert base == {"A": {"x": 1}, "B": 1}
    assert parse_yaml("[1, 1.5, true, x, null]") == [1, 1.5, True, "x", None]
