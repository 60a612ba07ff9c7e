"""The same photographs give the same labels from a folder, a list and tar shards; all read back."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.io.shards import shard_of, write_shard
from tests.pipeline.conftest import label, tree
from u2seg.config.schema import Settings
from u2seg.data.mapper import read_photograph
from u2seg.errors import StageError, UserError
from u2seg.io.jsonfile import read_json
from u2seg.labels import LabelFolder


def same(one: Path, two: Path) -> bool:
    """Whether all label files are the same; manifests and plans name the source."""
    folders = ("masks/part", "clusters/", "semantics/", "panoptic/")
    names = [n for n in tree(one) if n.startswith(folders) and "/ledger/" not in n]
    names = [n for n in names if not n.endswith(("manifest.json", "plan.json"))]
    return len(names) > 20 and all(tree(one)[n] == tree(two)[n] for n in names)


@pytest.fixture(scope="module")
def shards(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two shards; the folders of the photographs are cut apart."""
    folder = tmp_path_factory.mktemp("shards")
    paths = sorted(p for p in photos.rglob("*") if p.is_file())
    for number, some in enumerate((paths[:2], paths[2:])):
        members = {p.relative_to(photos).as_posix(): p.read_bytes() for p in reversed(some)}
        write_shard(folder / f"set-{number:03d}.tar", members)
    return folder


@pytest.fixture(scope="module")
def from_shards(shards: Path, settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pattern = shards / "set-{000..001}.tar"
    return label(settings, pattern, tmp_path_factory.mktemp("tar"))


def test_a_list_gives_the_labels_of_the_folder(
    run: Path, photos: Path, settings: Settings, tmp_path: Path
) -> None:
    paths = [str(p) for p in photos.rglob("*") if p.is_file()]
    (tmp_path / "list.txt").write_text("\n".join(sorted(paths, reverse=True)))
    output = label(settings, tmp_path / "list.txt", tmp_path / "out")
    assert same(output, run)
    assert read_json(output / "images.json")["info"]["image_root"] == str(photos)


def test_shards_give_the_labels_of_the_folder(run: Path, from_shards: Path, shards: Path) -> None:
    assert same(from_shards, run)
    content = read_json(from_shards / "images.json")
    assert content["info"]["image_root"] == str(shards)
    plain = read_json(run / "images.json")["images"]
    for ours, record in zip(content["images"], plain, strict=True):
        assert {**ours, **record} == ours  # the same record, and where it lies in its shard
        assert set(ours) - set(record) == {"shard", "offset", "size"}


def test_training_reads_photographs_out_of_shards(
    run: Path, from_shards: Path, shards: Path, tmp_path: Path
) -> None:
    for moved in ("", shutil.copytree(shards, tmp_path / "moved")):
        records = LabelFolder.open(from_shards, moved).records()
        plain = LabelFolder.open(run).records()
        assert [r["stem"] for r in records] == [r["stem"] for r in plain]
        for ours, record in zip(records, plain, strict=True):
            np.testing.assert_array_equal(read_photograph(ours), read_photograph(record))
    place = records[0]["photograph"].path
    place.write_bytes(place.read_bytes()[:600])
    with pytest.raises(StageError, match=r"set-000\.tar/deep/er/scene 1\.png: cut short"):
        read_photograph(records[0])
    place.unlink()
    with pytest.raises(UserError, match=r"set-000\.tar/deep/er/scene 1\.png, which does not exist"):
        LabelFolder.open(from_shards, tmp_path / "moved").records()


def test_bad_members_and_lines_are_listed(photos: Path, settings: Settings, tmp_path: Path) -> None:
    members = {"scene 0.png": (photos / "scene 0.png").read_bytes(), "../out.png": b"x"}
    members |= {"empty.png": b"", "bad.jpg": b"\xff\xd8 no", "scene 2.png": b""}
    members["scene 2.png"] = (photos / "scene 2.png").read_bytes()
    output = tmp_path / "out"
    write_shard(tmp_path / "s.tar", members)
    label(settings, tmp_path / "s.tar", output, "masks")
    found = [r["file_name"] for r in read_json(output / "images.json")["images"]]
    assert found == ["scene 0.png", "scene 2.png"]
    told = (output / "skipped.jsonl").read_text().splitlines()
    assert len(told) == 3
    assert "leaves its root" in told[0] and "not an image" in told[1] and "empty" in told[2]

    (tmp_path / "list.txt").write_text(f"../x.png\nabsent.png\n{photos / 'scene 0.png'}\n")
    output = tmp_path / "out2"
    label(settings, tmp_path / "list.txt", output, "masks")
    told = (output / "skipped.jsonl").read_text().splitlines()
    assert len(told) == 2
    assert "an absolute path may lie anywhere" in told[0] and "no such file" in told[1]


def test_a_photograph_damaged_inside_its_shard_is_skipped_later(
    shards: Path, settings: Settings, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(shards, tmp_path / "shards"))
    output = tmp_path / "out"
    label(settings, folder, output, "masks")
    record = read_json(output / "images.json")["images"][2]
    with (folder / record["shard"]).open("r+b") as file:
        file.seek(record["offset"] + record["size"] - 5)  # the last chunk of the PNG: no pixel
        file.write(b"\0")
    label(settings, folder, output)
    told = (output / "skipped.jsonl").read_text().splitlines()
    assert told  # one line per stage that met it
    assert all(record["file_name"] in x and "changed since it was labelled" in x for x in told)


def test_results_never_lie_where_photographs_or_shards_do(
    photos: Path, shards: Path, settings: Settings, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(shards, tmp_path / "run" / "masks"))
    with pytest.raises(UserError, match="where stage masks keeps its files"):
        label(settings, folder / "set-{000..001}.tar", folder.parent)
    with pytest.raises(UserError, match="would be taken for photographs"):
        label(settings, folder, folder / "labels")
    listed = tmp_path / "run" / "clusters"
    listed.mkdir()
    shutil.copyfile(photos / "scene 0.png", listed / "a.png")
    (tmp_path / "list.txt").write_text(str(listed / "a.png"))
    with pytest.raises(UserError, match="where stage clusters keeps its files"):
        label(settings, tmp_path / "list.txt", folder.parent)
    # Beside a list, or beside one shard, nothing can be taken for a photograph.
    (photos / "list.txt").write_text("scene 0.png")
    try:
        label(settings, photos / "list.txt", photos / "out", "masks")
    finally:
        shutil.rmtree(photos / "out", ignore_errors=True)
        (photos / "list.txt").unlink()


def test_a_single_image_is_found_in_a_shard_by_the_demo(tmp_path: Path) -> None:
    from u2seg.inference.demo import name_inputs
    from u2seg.io.images import read_image

    Image.new("RGB", (3, 2), (9, 8, 7)).save(tmp_path / "a.png")
    shard = shard_of(tmp_path, tmp_path.parent / f"{tmp_path.name}.tar")
    ((name, place),) = name_inputs([str(shard)], (".png",))
    assert name == "a.png" and read_image(place)[0, 0].tolist() == [9, 8, 7]
