from __future__ import annotations

import base64
import io
import json
import re
import shutil
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from tests.visualization.fake_run import METRICS, write_run
from u2seg.cli import main
from u2seg.io.png import (
    read_label_png,
    read_panoptic_png,
    write_label_png,
    write_panoptic_png,
)
from u2seg.structures.labels import LabelSpace
from u2seg.visualization import report
from u2seg.visualization.report import build_page, write_report


class Page(HTMLParser):
    """Tags, attributes and visible words of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [v for k, v in attrs if k in ("src", "href", "data", "srcset")]
        self.events = [k for k, _ in attrs if k.startswith("on")]
        assert not self.events

    def handle_data(self, data):
        self.words += data


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("run"), count=5)


def render(folders, path):
    write_report(
        path, labels=folders.labels, train=folders.train, predictions=folders.predictions,
        title="A run",
    )  # fmt: skip
    return path.read_text("utf-8")


def facts(page):
    """The figures at the top of the page."""
    found = re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", report.render(page))
    return {name: value.replace("\u00a0", " ").strip() for name, value in found}


def test_page_is_whole_and_self_contained(folders, tmp_path):
    text = render(folders, tmp_path / "report.html")
    page = Page(text)
    assert len(text) < 10e6
    assert "script" not in page.tags and "link" not in page.tags and "iframe" not in page.tags
    assert all(link.startswith(("data:image/jpeg;base64,", "#")) for link in page.links)
    assert page.tags.count("figure") == 5 * 5, "photo, masks, stuff, label, prediction"
    for word in ("thing_0", "stuff_1", "Showing 5 of 5", "broken/half.jpg", "total_loss",
                 "Agreement with the pseudo-labels, not accuracy", "MASKCUT.TAU", "3 min 10 s",
                 "Clusters that hardly differ", "Judged by descriptors alone", "stuff_2",
                 "META_ARCHITECTURE", "2.11.0", "correspondence", "38.2"):  # fmt: skip
        assert word in page.words, word
    assert "left out" not in page.words, "nothing of a whole run is missing"


@pytest.mark.parametrize("library", ["jinja2", "matplotlib"])
def test_a_missing_library_costs_the_report_alone(folders, tmp_path, monkeypatch, library):
    with monkeypatch.context() as patch:
        for name in [library, *(n for n in sys.modules if n.startswith(f"{library}."))]:
            patch.setitem(sys.modules, name, None)
        line = report.report_line(tmp_path, "t", labels=folders.labels)
    assert line.startswith("no report: ") and library in line and "u2seg doctor" in line
    assert "\n" not in line and not (tmp_path / "report.html").exists()


def test_file_names_cannot_inject(tmp_path):
    names = ("<script>alert(1)</script>.png", '"><img src=x onerror=a>.png')
    folders = write_run(tmp_path, count=2, names=tuple(n.replace("/", "∕") for n in names))
    skipped = json.dumps({"file_name": "<script>x</script>", "reason": "<img src=http://e.org>"})
    (folders.labels / "skipped.jsonl").write_text(skipped + "\n")
    metrics = {**METRICS, "protocol": {"reference": "<script>y</script>", "<b>": "<i>"}}
    (folders.predictions / "metrics.json").write_text(json.dumps(metrics))
    text = render(folders, tmp_path / "report.html")
    page = Page(text)
    assert "script" not in page.tags and "b" not in page.tags and "i" not in page.tags
    assert "&lt;script&gt;" in text
    assert all(link.startswith(("data:", "#")) for link in page.links)
    assert "default-src 'none'" in text


def test_nothing_at_all_is_still_a_page(tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    page = build_page(labels=empty, train=empty, predictions=empty, title="t")
    assert len(page.notes) >= 4 and all("left out" in note for note in page.notes)
    text = write_report(
        tmp_path / "r.html", labels=empty, train=empty, predictions=empty, title="t"
    ).read_text("utf-8")
    for sentence in ("There is no evaluation", "There are no clusters", "No labelled image"):
        assert sentence in text


def test_label_half_alone_after_each_stage(tmp_path):
    folders = write_run(tmp_path, count=2)
    (folders.labels / "panoptic").rename(tmp_path / "gone")
    page = build_page(labels=folders.labels, title="t")
    captions = [p.caption for p in page.samples[0].pictures]
    assert captions[0] == "photograph" and captions[2] == "stuff map"
    assert "mask" in captions[1] and len(captions) == 3


def test_levels_of_a_hierarchy_have_a_picture_each(tmp_path):
    folders = write_run(tmp_path, count=1)
    path = folders.labels / "masks" / "part-00000.json"
    masks = json.loads(path.read_text())
    parts = [{**masks[0], "level": level, "parent": 0} for level in (1, 1, 2)]
    path.write_text(json.dumps([{**masks[0], "level": 0}, *parts]))
    page = build_page(labels=folders.labels, title="t")
    assert [p.caption for p in page.samples[0].pictures[1:4]] == [
        "1 mask, level 0", "2 masks, level 1", "1 mask, level 2",
    ]  # fmt: skip


def test_semantic_labels_alone_are_drawn(tmp_path):
    folders = write_run(tmp_path, count=2)
    panoptic = folders.labels / "panoptic"
    for name in ("panoptic.json", "instances.json"):
        (panoptic / name).unlink()
    (panoptic / "labelspace.json").write_text(json.dumps(LabelSpace(0, 4).to_json()))
    for path in (folders.labels / "semantics").rglob("*.png"):
        target = panoptic / "stuff" / path.relative_to(folders.labels / "semantics")
        write_label_png(target, read_label_png(path) + 1)
    page = build_page(labels=folders.labels, title="t")
    assert [p.caption for p in page.samples[0].pictures][-2:] == ["stuff map", "label"]
    assert not page.notes and not page.clusters and "thing clusters" not in report.render(page)


def test_things_alone_are_drawn(tmp_path):
    folders = write_run(tmp_path, count=1)
    panoptic = folders.labels / "panoptic"
    content = json.loads((panoptic / "panoptic.json").read_text())
    row = content["annotations"][0]
    row["segments_info"] = [s for s in row["segments_info"] if s["isthing"]]
    (panoptic / "panoptic.json").write_text(json.dumps(content))
    (panoptic / "labelspace.json").write_text(json.dumps(LabelSpace(6, 0).to_json()))
    path = panoptic / "panoptic" / row["file_name"]
    ids = read_panoptic_png(path)
    kept = [s["id"] for s in row["segments_info"]]
    write_panoptic_png(path, np.where(np.isin(ids, kept), ids, 0).astype(np.int32))
    shutil.rmtree(folders.labels / "semantics")
    page = build_page(labels=folders.labels, title="t")
    assert [p.caption for p in page.samples[0].pictures][-1] == "label"
    assert not page.notes and not page.stuff and page.clusters
    assert 'id="stuff"' not in report.render(page)


def test_quality_of_the_clusters_whole_and_garbled(tmp_path):
    folders = write_run(tmp_path, count=1)
    text = render(folders, tmp_path / "r.html").replace("</td><td>", ": ")
    for words in ("masks per cluster: 0 to 4, median 1.0", "empty clusters: 3 of 6",
                  "silhouette (-1 to 1): 0.312"):  # fmt: skip
        assert words in text
    for content in ('{"sizes": 3}', "[]"):
        (folders.labels / "clusters" / "quality.json").write_text(content)
        page = build_page(labels=folders.labels, title="t")
        assert any(note.startswith("quality of the clusters left out") for note in page.notes)
        assert report.render(page)


def test_garbled_files_become_notes(tmp_path):
    folders = write_run(tmp_path, count=3)
    (folders.labels / "masks" / "part-00000.json").write_text("[{]")
    (folders.labels / "timings.json").write_text('{"masks": "fast"}')
    (folders.labels / "semantics" / "losses.json").write_text("[1]")
    (folders.labels / "skipped.jsonl").write_text('{"file": 1}\n')
    (folders.labels / "panoptic" / "instances.json").write_text('{"annotations": [{}]}')
    (folders.labels / "masks" / "manifest.json").write_text('{"stage": "masks", "settings": 3}')
    (folders.predictions / "panoptic" / "holiday" / "photo_000.png").write_bytes(b"no png")
    (folders.train / "metrics.json").write_text("nothing\n")
    page = build_page(
        labels=folders.labels, train=folders.train, predictions=folders.predictions, title="t"
    )
    words = "\n".join(page.notes)
    for what in ("masks", "losses of the stuff", "skipped", "prediction of holiday/photo_000.png",
                 "training curves"):  # fmt: skip
        assert re.search(rf"^{re.escape(what)}.* left out", words, re.M), (what, words)
    assert len(page.samples) == 3


def test_unreadable_and_changed_photographs_are_left_out(tmp_path):
    folders = write_run(tmp_path, count=4)
    photos = tmp_path / "photos" / "holiday"
    (photos / "photo_000.png").unlink()
    (photos / "photo_001.png").write_bytes((photos / "photo_002.png").read_bytes())
    page = build_page(labels=folders.labels, title="t")
    assert [s.name for s in page.samples] == ["holiday/photo_002.png", "holiday/photo_003.png"]
    assert "no such file" in page.notes[0] and "when it was labelled" in page.notes[1]


def test_names_that_leave_the_image_root_are_not_read(tmp_path):
    folders = write_run(tmp_path, count=1)
    content = json.loads((folders.labels / "images.json").read_text())
    content["images"][0]["file_name"] = "../../secret.png"
    (folders.labels / "images.json").write_text(json.dumps(content))
    page = build_page(labels=folders.labels, title="t")
    assert page.samples == [] and "leaves its root" in page.notes[0]


def test_many_images_are_capped(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "MAX_SAMPLES", 2)
    monkeypatch.setattr(report, "MAX_CLUSTERS", 1)
    folders = write_run(tmp_path, count=5)
    page = build_page(labels=folders.labels, title="t")
    assert [s.name for s in page.samples] == ["holiday/photo_000.png", "holiday/photo_002.png"]
    assert len(page.labels.images) == 5
    assert len(page.clusters) == len(page.stuff) == 1 < len(page.numbers.cluster_sizes)


def test_predictions_of_other_images_have_their_own_section(tmp_path):
    folders = write_run(tmp_path, count=3)
    content = json.loads((folders.labels / "images.json").read_text())
    content["images"] = content["images"][:1]
    (folders.labels / "images.json").write_text(json.dumps(content))
    page = build_page(labels=folders.labels, predictions=folders.predictions, title="t")
    assert [s.name for s in page.predictions] == ["holiday/photo_001.png", "holiday/photo_002.png"]
    assert [p.caption for p in page.predictions[0].pictures] == ["photograph", "prediction"]


def test_evaluation_photographs_with_equal_names_are_not_mixed_up(tmp_path):
    folders = write_run(tmp_path, count=2)
    metrics = {**METRICS, "protocol": {"reference": "scenes val"}}
    (folders.predictions / "metrics.json").write_text(json.dumps(metrics))
    val = tmp_path / "scenes" / "val" / "holiday"
    val.mkdir(parents=True)
    for name in ("photo_000.png", "photo_001.png"):
        Image.new("RGB", (360, 240), (9, 200, 9)).save(val / name)
    (folders.train / "config.yaml").write_text(
        f"U2SEG:\n  DATA:\n    EVAL_ROOT: {tmp_path / 'scenes'}\n    EVAL_IMAGES: val\n"
    )
    page = build_page(
        labels=folders.labels, train=folders.train, predictions=folders.predictions, title="t"
    )
    assert "prediction" not in [p.caption for p in page.samples[0].pictures]
    assert [s.name for s in page.predictions] == ["holiday/photo_000.png", "holiday/photo_001.png"]
    photo = page.predictions[0].pictures[0].uri.partition(",")[2]
    pixel = Image.open(io.BytesIO(base64.b64decode(photo))).getpixel((5, 5))
    assert pixel[1] > 180 > pixel[0], "the photograph of the evaluation, not of the labels"


def test_training_trouble_is_red(tmp_path):
    for rows, words in (
        (
            [{"iteration": 0, "total_loss": 1.0}, {"iteration": 1, "total_loss": 2.0}],
            "did not fall",
        ),
        (
            [{"iteration": 0, "total_loss": 1.0}, {"iteration": 1, "total_loss": float("nan")}],
            "NaN",
        ),
    ):
        (tmp_path / "metrics.json").write_text("\n".join(json.dumps(r) for r in rows))
        page = build_page(train=tmp_path, title="t")
        assert [c.level for c in page.concerns] == ["red"]
        assert words in page.concerns[0].text


def test_the_command_finds_the_parts_of_a_run(tmp_path, capsys):
    run = tmp_path / "run"
    folders = write_run(run, count=1)
    predictions = folders.predictions.rename(run / "train" / "evaluation")
    assert main(["report", str(run)]) == 0
    assert capsys.readouterr().out == f"{run / 'report.html'}\n"
    named = [f"--labels={folders.labels}", f"--train={folders.train}"]
    named += [f"--predictions={predictions}"]
    assert main(["report", str(run), *named, "--output", str(tmp_path / "b.html")]) == 0
    assert (run / "report.html").read_bytes() == (tmp_path / "b.html").read_bytes()
    assert main(["report", str(folders.labels)]) == 0
    assert (folders.labels / "report.html").is_file()
    (tmp_path / "empty").mkdir()
    assert main(["report", str(tmp_path / "empty")]) == 2
    assert "holds no labels, training or evaluation" in capsys.readouterr().err
