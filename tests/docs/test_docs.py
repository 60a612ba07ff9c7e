"""What the documentation says must be so: commands, keys, links, and a strict build."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from u2seg.commands import COMMANDS
from u2seg.config.load import HOST_SECTIONS, load_settings, settings_tree
from u2seg.config.schema import Settings
from u2seg.config.words import flatten
from u2seg.io.packaged import config_path
from u2seg.masks.base import MASK_PROPOSERS
from u2seg.structures.features import ImageInputs, PatchFeatures

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    [
        *ROOT.glob("docs/**/*.md"),
        *ROOT.glob("benchmarks/results/*.md"),
        *(ROOT / name for name in ("README.md", "INSTALL.md", "CONTRIBUTING.md", "CHANGELOG.md")),
        ROOT / "datasets" / "README.md",
    ]
)
COMMAND = re.compile(r"(?:python )?((?:tools|demo|datasets|dev)/\w+\.py|u2seg \w+)([^`|]*)")


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def commands(page: Path) -> list[tuple[str, list[str]]]:
    """Return (script, arguments) of every command in the code blocks of a page."""
    blocks = re.findall(r"```bash\n(.*?)```", page.read_text("utf-8"), re.DOTALL)
    return parsed(line for block in blocks for line in block.replace("\\\n", " ").splitlines())


def mentioned(page: Path) -> list[tuple[str, list[str]]]:
    """Return the same of every command in the text of a page."""
    text = re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.DOTALL)
    return parsed(re.findall(r"`((?!dev/)[^`\n]+)`", text))


def parsed(lines: Iterable[str]) -> list[tuple[str, list[str]]]:
    matches = filter(None, (COMMAND.match(line.strip()) for line in lines))
    return [(match[1], shlex.split(match[2], comments=True)) for match in matches]


def options(script: str) -> set[str]:
    """Return the options that a command knows."""
    name = script.removeprefix("u2seg ")
    if name == script:
        text = (ROOT / script).read_text("utf-8")
        same = re.search(r'partial\(command, "(\w+)"\)', text)
        if not same:
            done = subprocess.run(
                [sys.executable, script, "--help"],
                capture_output=True, text=True, cwd=ROOT, check=False,
                env={"PYTHONPATH": str(ROOT)},
            )  # fmt: skip
            assert done.returncode == 0, done.stderr
            return set(re.findall(r"--[a-z][\w-]*", done.stdout))
        name = same[1]
    parser = COMMANDS[name].parser()
    return set(parser._option_string_actions)


ALL_COMMANDS = [(page, *command) for page in PAGES for command in commands(page)]
ALL_COMMANDS += [
    (page, *command) for page in PAGES if page.name != "CHANGELOG.md" for command in mentioned(page)
]


def test_there_are_commands_to_check():
    assert len(ALL_COMMANDS) > 15
    scripts = {script for _, script, _ in ALL_COMMANDS}
    assert {"u2seg label", "u2seg train", "u2seg predict", "tools/train_net.py"} <= scripts


@pytest.mark.parametrize("script", sorted({script for _, script, _ in ALL_COMMANDS}))
def test_commands_are_real(script):
    known = options(script)
    for page, name, words in ALL_COMMANDS:
        if name == script:
            used = {w for w in words if w.startswith("--")}
            assert used <= known, f"{name_of(page)}: {sorted(used - known)}"


def test_pages_with_commands_say_once_where_python_comes_from():
    """One way for all: the environment is active. What was measured has commands as notes."""
    for page in PAGES:
        text = page.read_text("utf-8")
        assert ".venv/bin/python" not in text, name_of(page)
        if "results" not in page.parts and page.name != "CHANGELOG.md" and commands(page):
            assert ". .venv/bin/activate" in text, name_of(page)


def test_config_files_named_in_commands_exist():
    for page, script, words in ALL_COMMANDS:
        if "--config-file" in words:
            config = words[words.index("--config-file") + 1]
            assert config_path(ROOT / config if (ROOT / config).is_file() else config).is_file(), (
                f"{name_of(page)}: {script} {config}"
            )


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_settings_named_in_pages_exist(page):
    leaves = {f"U2SEG.{key}" for key in flatten(settings_tree(Settings()))}
    known = {".".join(key.split(".")[:n]) for key in leaves for n in (3, 4)}
    deliberately_wrong = {"MASKS.TAO"}
    if page.name == "CHANGELOG.md":  # tells of earlier keys
        return
    for key in re.findall(r"U2SEG\.([A-Z_]+\.[A-Z0-9_.]*[A-Z0-9])", page.read_text("utf-8")):
        assert key in deliberately_wrong or f"U2SEG.{key}" in known, f"{name_of(page)}: {key}"


def test_arguments_in_capitals_are_settings():
    for page, script, words in ALL_COMMANDS:
        for word in words:
            if re.fullmatch(r"[A-Z][A-Z0-9_]+(\.[A-Z0-9_]+)+", word):
                section = word.split(".")[0]
                assert section in ("U2SEG", *HOST_SECTIONS), f"{name_of(page)}: {script} {word}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_relative_links_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#\s]+)", text):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{name_of(page)}: {target}"


def test_make_targets_named_in_pages_exist():
    makefile = ROOT / "Makefile"
    if not makefile.exists():
        pytest.skip("no Makefile yet")
    targets = set(re.findall(r"^([a-z][\w-]*):", makefile.read_text("utf-8"), re.MULTILINE))
    for page in PAGES:
        named = set(re.findall(r"(?:^|`)make ([a-z]+)", page.read_text("utf-8"), re.MULTILINE))
        assert named <= targets, f"{name_of(page)}: {sorted(named - targets)}"


def test_every_setting_has_a_row_with_its_meaning():
    sys.path.insert(0, str(ROOT / "docs" / "hooks"))
    try:
        import generated
    finally:
        sys.path.pop(0)
    text = generated.on_page_markdown(generated.SETTINGS_MARK)
    for key in flatten(settings_tree(Settings())):
        section, _, leaf = key.rpartition(".")
        assert not section or f"### U2SEG.{section}\n" in text
        assert not section or f"| `{leaf}` |" in text
    row = next(line for line in text.splitlines() if line.startswith("| `TAU` |"))
    assert "| float | `0.15` | Affinity threshold" in row


def test_the_tables_of_settings_are_printed():
    script = ROOT / "docs" / "hooks" / "generated.py"
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True)
    assert "### U2SEG.MASKS.MASKCUT\n" in done.stdout
    assert (
        "python docs/hooks/generated.py"
        in (ROOT / "docs" / "reference" / "configuration.md").read_text()
    )


def test_a_setting_without_meaning_is_refused():
    sys.path.insert(0, str(ROOT / "docs" / "hooks"))
    try:
        import generated
    finally:
        sys.path.pop(0)
    from dataclasses import dataclass

    @dataclass(frozen=True)
    class Half:
        """Two settings, one described.

        Args:
            one: The first.
        """

        one: int = 1
        two: int = 2

    with pytest.raises(ValueError, match=r"Half\.two is not described"):
        generated.descriptions(Half)


def test_the_plugin_of_the_guide_registers_and_runs(tmp_path):
    page = (ROOT / "docs" / "extend.md").read_text("utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (tmp_path / "my_masks.py").write_text(code)
    (tmp_path / "mine.yaml").write_text(page.split("```yaml\n")[1].split("```")[0])
    settings = load_settings(tmp_path / "mine.yaml", []).masks
    own = settings.of(MASK_PROPOSERS.settings(settings.proposer))
    keys = PatchFeatures(np.arange(4, dtype=np.float32).reshape(1, 2, 2), (8, 8))
    inputs = ImageInputs(np.zeros((8, 8, 3), np.uint8), {"key": keys})
    (mask,) = MASK_PROPOSERS.get(settings.proposer)(inputs, own)
    assert own.factor == 0.9 and mask.grid.tolist() == [[True, True], [False, False]]


@pytest.mark.slow
def test_site_builds_strictly_and_asks_no_other_host(tmp_path):
    pytest.importorskip("mkdocs")
    pytest.importorskip("material")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)],
        capture_output=True, text=True, timeout=300, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    reference = (tmp_path / "api" / "structures" / "index.html").read_text("utf-8")
    assert "u2seg.structures.labels.LabelSpace" in reference
    settings = (tmp_path / "reference" / "configuration" / "index.html").read_text("utf-8")
    assert "Affinity threshold" in settings
    for page in tmp_path.rglob("*.html"):
        loaded = re.findall(
            r"<(?:script|img|iframe)[^>]+src=\"(https?:[^\"]+)", page.read_text("utf-8")
        )
        loaded += re.findall(
            r"<link rel=\"stylesheet\"[^>]+href=\"(https?:[^\"]+)", page.read_text("utf-8")
        )
        assert not loaded, f"{page.name} loads {loaded}"


def table_rows(page: Path, head: str) -> dict[str, list[str]]:
    """Return first cell -> other cells of the table whose head begins so."""
    text = page.read_text("utf-8").split(f"| {head} |", 1)[1].split("\n\n", 1)[0]
    rows = [[cell.strip() for cell in line.strip("| ").split("|")] for line in text.splitlines()]
    return {row[0].strip("`"): row[1:] for row in rows[2:]}


def test_tables_of_formats_and_class_sets_are_the_codes():
    from u2seg.config.evaluation import EVAL_FORMATS
    from u2seg.evaluation.truth.classes import class_sets
    from u2seg.evaluation.truth.formats import FORMATS, find_format

    page = ROOT / "datasets" / "README.md"
    rows = table_rows(page, "format")
    assert sorted(rows) == FORMATS.names()
    for name, (paths, _, places) in rows.items():
        assert paths == ", ".join(find_format(name).parts)
        tree = EVAL_FORMATS[name]
        known = [p for p in (tree.images, tree.json, tree.pngs) if p]
        assert places == ", ".join(f"`{p}`" for p in known)
    rows = table_rows(page, "set")
    assert list(rows) == list(class_sets())
    for name, (things, stuff, tasks, _) in rows.items():
        one = class_sets()[name]
        assert (int(things), int(stuff)) == (len(one.things), len(one.stuff)), name
        assert set(tasks.split(", ")) == one.tasks, name
    named = table_rows(ROOT / "docs" / "reference" / "protocols.md", "set")
    assert set(named) <= set(class_sets())
