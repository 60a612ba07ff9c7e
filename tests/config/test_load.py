"""Settings from YAML and overrides: typos and wrong types are refused by name."""

from __future__ import annotations

import operator
from dataclasses import asdict
from pathlib import Path

import pytest

from u2seg.cli import execute
from u2seg.config.arguments import new_parser
from u2seg.config.load import (
    load_settings,
    overrides_tree,
    settings_from_tree,
    settings_hash,
    settings_tree,
)
from u2seg.config.schema import (
    ClusterSettings,
    CropSettings,
    KMeansSettings,
    MaskSettings,
    Settings,
)
from u2seg.errors import UserError


def _yaml(folder: Path, text: str) -> Path:
    path = folder / "x.yaml"
    path.write_text(text)
    return path


def test_file_then_overrides(tmp_path: Path) -> None:
    path = _yaml(
        tmp_path,
        "MODEL: {WEIGHTS: x, UNKNOWN_HERE: 1}\nSOLVER: {BASE_LR: 0.1}\n"
        "U2SEG: {MASKS: {MASKCUT: {TAU: 0.3, NUM_MASKS: 5}}, CLUSTERS: {NORMALIZE: false}}\n",
    )
    settings = load_settings(path, ["U2SEG.MASKS.MASKCUT.TAU", "0.2", "MODEL.DEVICE", "cpu"])
    assert (settings.masks.maskcut.tau, settings.masks.maskcut.num_masks) == (0.2, 5)
    assert settings.clusters.normalize is False
    assert settings.semantics == Settings().semantics


def test_the_base_chain_reaches_the_settings(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(
        "U2SEG: {MASKS: {MASKCUT: {TAU: 0.3}}, RUN: {SHARD_SIZE: 2}}\n"
    )
    path = _yaml(tmp_path, "_BASE_: base.yaml\nU2SEG: {RUN: {SHARD_SIZE: 3}}\n")
    settings = load_settings(path)
    assert (settings.masks.maskcut.tau, settings.run.shard_size) == (0.3, 3)


@pytest.mark.parametrize(
    ("words", "value"),
    [
        (["U2SEG.MASKS.MASKCUT.TAU", "1"], 1.0),
        (["U2SEG.MASKS.MASKCUT.TAU", "1e-1"], 0.1),
        (["U2SEG.MASKS.MASKCUT.EPS", "1e-5"], 1e-5),
        (["U2SEG.MASKS.MASKCUT.NUM_MASKS", "4"], 4),
        (["U2SEG.CLUSTERS.NORMALIZE", "false"], False),
        (["U2SEG.CLUSTERS.NORMALIZE", "True"], True),
        (["U2SEG.FEATURES.NAME", "dino_vits8"], "dino_vits8"),
        (["U2SEG.FEATURES.DEVICE", "cuda:1"], "cuda:1"),
        (["U2SEG.FEATURES.VIT.WEIGHTS", ""], ""),
        (["U2SEG.FEATURES.VIT.WEIGHTS", "a: b"], None),
        (["U2SEG.FEATURES.VIT.SHA256", "123"], "123"),
        (["U2SEG.IMAGES.EXTENSIONS", "['.jpg', '.png']"], (".jpg", ".png")),
        (["U2SEG.MASKS.MASKCUT.TAU", "0.3", "U2SEG.MASKS.MASKCUT.TAU", "0.4"], 0.4),
    ],
)
def test_overrides_take_the_type_of_the_default(words: list[str], value: object) -> None:
    if value is None:
        with pytest.raises(UserError, match=r"U2SEG\.FEATURES\.VIT\.WEIGHTS is .*expected str"):
            load_settings(None, words)
        return
    key = words[0].removeprefix("U2SEG.").lower()
    got = operator.attrgetter(key)(load_settings(None, words))
    assert got == value
    assert type(got) is type(value)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["U2SEG.MASKS.TAO", "1"],
            "unknown key U2SEG.MASKS.TAO. Did you mean U2SEG.MASKS.MASKCUT.TAU?",
        ),
        (["U2SEG.MASKS.DETECTOR_CONFIG", "x"], r"Did you mean U2SEG\.MASKS\.CUTLER\.CONFIG\?"),
        (["U2SEG.CLUSTERS.CROP_FIT", "x"], r"Did you mean U2SEG\.CLUSTERS\.CROPS\.FIT\?"),
        (["U2SEG.SEMANTICS.METHOD", "x"], r"Known are .*U2SEG\.SEMANTICS\.SEGMENTER"),
        (["U2SEG.MASK.TAU", "1"], r"unknown key U2SEG\.MASK\. Did you mean U2SEG\.MASKS\?"),
        (["U2SEQ.MASKS.MASKCUT.TAU", "1"], r"unknown key U2SEQ\. Did you mean U2SEG\?"),
        (["U2SEG.masks.TAU", "1"], r"unknown key U2SEG\.masks"),
        (["U2SEG.MASKS.ZZZZ", "1"], r"unknown key U2SEG\.MASKS\.ZZZZ\. Known are U2SEG\.MASKS\."),
        (
            ["U2SEG.MASKS.MASKCUT.TAU.X", "1"],
            r"MASKCUT\.TAU is \{'X': 1\}.*expected float",
        ),
        (["U2SEG.MASKS", "1"], "U2SEG.MASKS must be a mapping of keys, found 1"),
        (["U2SEG", "1"], "U2SEG must be a mapping of sections, found 1"),
        (
            ["U2SEG.MASKS.MASKCUT.TAU"],
            r"come in pairs KEY VALUE, got 1 words: U2SEG\.MASKS",
        ),
        (
            ["U2SEG.MASKS.MASKCUT.TAU", "0.2", "--workers", "4"],
            r"--workers stands behind the first KEY VALUE pair, U2SEG\.MASKS\.MASKCUT\.TAU 0\.2",
        ),
        (
            ["U2SEG.MASKS.MASKCUT.TAU", "0.2", "--baselines"],
            "--baselines stands .* move it to the front",
        ),
        (
            ["U2SEG.MASKS.MASKCUT.TAU", "high"],
            r"TAU is 'high' \(str\), expected float such as 0\.15",
        ),
        (["U2SEG.MASKS.MASKCUT.TAU", "true"], r"TAU is True \(bool\), expected float"),
        (["U2SEG.MASKS.MASKCUT.NUM_MASKS", "2.5"], r"NUM_MASKS is 2\.5 \(float\), expected int"),
        (["U2SEG.MASKS.MASKCUT.NUM_MASKS", "true"], r"NUM_MASKS is True \(bool\), expected int"),
        (["U2SEG.CLUSTERS.NORMALIZE", "1"], r"NORMALIZE is 1 \(int\), expected bool"),
        (["U2SEG.IMAGES.EXTENSIONS", ".jpg"], r"EXTENSIONS is '\.jpg' \(str\), expected tuple"),
        (["U2SEG.MASKS.MASKCUT.TAU", "2"], r"U2SEG\.MASKS\.MASKCUT\.TAU is 2\.0, expected -1\.\.1"),
        (["U2SEG.MASKS.MASKCUT.TAU", ".nan"], r"TAU is nan \(float\), expected"),
        (["", "1"], "unknown key "),
        (["U2SEG.MASKS.MASKCUT.TAU=2"], r"U2SEG\.MASKS\.MASKCUT\.TAU is 2\.0, expected -1\.\.1"),
        (["U2SEG.FEATURES.FILTER_BANK.POSITION_SCALE", ".inf"], "POSITION_SCALE is inf"),
        (["U2SEG.SEMANTICS.STEGO.WEIGHT_NEG", ".nan"], "WEIGHT_NEG is nan"),
        (["U2SEG.SEMANTICS.STEGO.LR", "1e999"], "LR is '1e999'"),
        (["U2SEG.SEMANTICS.STEGO.LR", "1" + "0" * 400], "expected float"),
        (["U2SEG.IMAGES.EXTENSIONS", "[1, 2]"], r"EXTENSIONS is \[1, 2\]"),
        (["U2SEG.IMAGES.EXTENSIONS", "[.JPG]"], "lower case"),
        (["U2SEG.IMAGES.EXTENSIONS", "[jpg]"], "with the dot"),
        (["U2SEG.IMAGES.EXTENSIONS", "[]"], "at least one"),
        (["U2SEG.SEMANTICS.SEED", "4294967296"], r"0\.\.4294967295"),
        (["U2SEG.SEMANTICS.DENSE_CRF.BILATERAL_SXY", "0"], r">= 0\.01"),
    ],
)
def test_bad_overrides_are_named(words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_settings(None, words)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("MODLE: {}\n", r"unknown key MODLE\. Did you mean MODEL\?"),
        ("U2SEG: [1]\n", r"U2SEG must be a mapping of sections, found \[1\]"),
        ("U2SEG: {MASKS: {MASKCUT: {TAU: 5}}}\n", r"U2SEG\.MASKS\.MASKCUT\.TAU is 5\.0"),
        ("U2SEG: {1: {}}\n", r"unknown key U2SEG\.1"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_settings(_yaml(tmp_path, text))


def test_values_of_the_host_are_not_looked_at() -> None:
    words = ["MODEL.WEIGHTS", "{broken", "U2SEG.RUN.SHARD_SIZE=8", "OUTPUT_DIR", "x=1"]
    assert load_settings(None, words).run.shard_size == 8
    assert overrides_tree(words)["OUTPUT_DIR"] == "x=1"


HOST = {"MODEL.DEVICE", "SOLVER.MAX_ITER", "OUTPUT_DIR"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["MODEL.DEVICE", "U2SEG.MASKS.MASKCUT.TAU"],
            r"^MODEL\.DEVICE has no value: U2SEG\.MASKS\.MASKCUT\.TAU is",
        ),
        (["MODEL.DEVICE", "SOLVER.MAX_ITER=6"], r"has no value: SOLVER\.MAX_ITER is a key"),
        (["SOLVER.MAX_ITR", "6"], r"unknown key SOLVER\.MAX_ITR\. Did you mean SOLVER\.MAX_ITER\?"),
        (["SOLVER.MAX_ITR=6"], r"Did you mean SOLVER\.MAX_ITER\?"),
        (["MODEL.QQQQQQQQQQQQQ", "6"], r"key MODEL\.Q+\. The installed Detectron2 has none such"),
        (["6", "SOLVER.MAX_ITER=6"], r"6 has no value: SOLVER\.MAX_ITER is a key"),
    ],
)
def test_keys_of_the_host_are_known_or_refused(words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_settings(None, words, HOST)


def test_keys_of_the_host_in_a_file_and_without_a_host(tmp_path: Path) -> None:
    path = _yaml(tmp_path, "SOLVER: {MAX_ITR: 6}\n")
    with pytest.raises(UserError, match=r"Did you mean SOLVER\.MAX_ITER\?"):
        load_settings(path, (), HOST)
    load_settings(path)
    with pytest.raises(UserError, match=r"MODEL\.device\. Detectron2 writes its keys in capitals"):
        load_settings(None, ["MODEL.device", "cpu"])


def test_overrides_execute_nothing(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    text = f"!!python/object/apply:os.mkdir ['{canary}']"
    assert load_settings(None, ["U2SEG.FEATURES.VIT.WEIGHTS", text]).features.vit.weights == text
    assert not canary.exists()


def test_tree_round_trip() -> None:
    settings = load_settings(
        None, ["U2SEG.MASKS.MASKCUT.TAU", "0.2", "U2SEG.EVAL.MATCHING", "majority"]
    )
    assert settings_from_tree(settings_tree(settings)) == settings


def test_hash_changes_with_every_key_and_with_the_class() -> None:
    base = settings_hash(ClusterSettings())
    changed = {
        "num_clusters": 7, "descriptor": "crop_cls", "normalize": False, "whiten": "pca", "pca": 7,
        "kmeans": KMeansSettings(iterations=7), "crops": CropSettings(padding=0.5),
        "centroids": "x", "seed": 7,
    }  # fmt: skip
    assert set(changed) <= set(asdict(ClusterSettings()))
    hashes = {settings_hash(ClusterSettings(**{k: v})) for k, v in changed.items()}
    assert len(hashes | {base}) == len(changed) + 1
    assert settings_hash(MaskSettings(), ClusterSettings()) != settings_hash(
        ClusterSettings(), MaskSettings()
    )
    assert settings_hash(ClusterSettings()) == base


def test_a_tilde_in_front_of_a_path_is_the_home_folder_wherever_paths_come_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    file = tmp_path / "a.yaml"
    file.write_text("U2SEG: {DATA: {LABELS: ~/labels, IMAGES: '~/photos'}}")
    data = load_settings(file, ["U2SEG.DATA.EVAL_ROOT=~/coco"]).data
    assert (data.labels, data.images) == (f"{tmp_path}/labels", f"{tmp_path}/photos")
    assert data.eval_root == f"{tmp_path}/coco"
    assert load_settings("~/a.yaml", ["U2SEG.DATA.LABELS", "~/b"]).data.labels == f"{tmp_path}/b"
    seen = []
    parser = new_parser("Do it.", "")
    parser.add_argument("--output-dir")
    parser.add_argument("--input", nargs="+")
    for words in (["--output-dir=~/out", "--input", "a", "~/b"], ["--output-dir", "~/out"]):
        execute(parser, lambda args: seen.append(args) or 0, words)
    assert {args.output_dir for args in seen} == {f"{tmp_path}/out"}
    assert seen[0].input == ["a", f"{tmp_path}/b"]


def test_an_empty_node_is_the_default(tmp_path: Path) -> None:
    assert load_settings(_yaml(tmp_path, "U2SEG:\n")) == Settings()
