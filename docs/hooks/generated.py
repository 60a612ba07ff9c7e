"""Fill the generated parts of the documentation from the source, so that they cannot drift.

Two marks are replaced while the site is built: ``<!-- settings -->`` by a table of every key of
``u2seg.config.schema``, and ``<!-- modules: u2seg.masks -->`` by the reference of every public
module of that package. ``python docs/hooks/generated.py`` prints the tables of keys.
"""

from __future__ import annotations

import inspect
import re
import sys
from dataclasses import fields, is_dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from u2seg.config.schema import SECTIONS

ROOT = Path(__file__).resolve().parents[2]
SETTINGS_MARK = "<!-- settings -->"
MODULES_MARK = re.compile(r"<!-- modules: ([\w. ]+) -->")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace the marks of one page (called by MkDocs)."""
    if SETTINGS_MARK in markdown:
        markdown = markdown.replace(SETTINGS_MARK, settings_tables())
    return MODULES_MARK.sub(lambda mark: module_entries(mark[1].split()), markdown)


def settings_tables() -> str:
    """Return one Markdown table per section of the settings."""
    return "\n\n".join(
        table for name, kind in SECTIONS.items() for table in _tables(f"U2SEG.{name.upper()}", kind)
    )


def _tables(name: str, kind: type) -> list[str]:
    """Return the table of a section, and those of its members."""
    summary = (inspect.getdoc(kind) or "").partition("\n")[0]
    own = [f for f in fields(kind) if f.name != "extras"]  # type: ignore[arg-type]
    texts = descriptions(kind)
    rows = [
        f"| `{f.name.upper()}` | {_kind(f.default)} | `{_value(f.default)}` | {texts[f.name]} |"
        for f in own
        if not is_dataclass(f.default)
    ]
    head = ["| key | type | default | meaning |", "|---|---|---|---|"]
    tables = ["\n".join([f"### {name}", "", summary, "", *head, *rows])]
    for f in own:
        if is_dataclass(f.default):
            tables += _tables(f"{name}.{f.name.upper()}", type(f.default))
    return tables


def descriptions(kind: type) -> dict[str, str]:
    """Return what the docstring of a settings class says about each field that is a value.

    Raises:
        ValueError: if a field is not described.
    """
    docs = [k.__doc__ or "" for k in kind.__mro__ if is_dataclass(k)]
    entries = [entry for doc in docs for entry in _entries(inspect.cleandoc(doc))]
    found = {}
    for field in fields(kind):  # type: ignore[arg-type]
        if field.name == "extras" or is_dataclass(field.default):
            continue
        text = next((t for pattern, t in entries if fnmatch(field.name, pattern)), "")
        if not text:
            raise ValueError(f"{kind.__name__}.{field.name} is not described in its docstring")
        found[field.name] = text.replace("|", "\\|").replace("``", "`")
    return found


def _entries(doc: str) -> list[tuple[str, str]]:
    """Return (name or pattern, description) of the ``Args`` of a docstring, exact names first."""
    lines = doc.partition("Args:\n")[2].splitlines()
    entries: list[tuple[list[str], list[str]]] = []
    for line in lines:
        start = re.match(r"^    (\w[\w*]*(?:, \w[\w*]*)*): (.*)$", line)
        if start:
            entries.append((start[1].split(", "), [start[2]]))
        elif line.startswith("     ") and entries:
            entries[-1][1].append(line.strip())
        elif line.strip():
            break
    flat = [(name, " ".join(text)) for names, text in entries for name in names]
    return sorted(flat, key=lambda entry: "*" in entry[0])


def _kind(default: Any) -> str:
    return "list" if isinstance(default, tuple) else type(default).__name__


def _value(default: Any) -> str:
    if isinstance(default, str):
        return default or '""'
    return str(list(default)) if isinstance(default, tuple) else str(default)


def module_entries(names: list[str]) -> str:
    """Return mkdocstrings entries for modules, and for all public modules of packages."""
    found = []
    for name in names:
        path = ROOT.joinpath(*name.split("."))
        if path.is_dir():
            files = sorted(path.glob("*.py"))
            found += [f"{name}.{f.stem}" for f in files if not f.stem.startswith("_")]
        else:
            found.append(name)
    return "\n\n".join(f"::: {module}" for module in found)


if __name__ == "__main__":
    sys.stdout.write(settings_tables() + "\n")
