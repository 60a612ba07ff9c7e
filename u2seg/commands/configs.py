"""``u2seg configs``: the settings files that come along, as ``u2seg/NAME``."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

from u2seg.config.arguments import folder, new_parser

EXAMPLES = """\
examples:
  u2seg configs                              names and what each is for
  u2seg configs --copy mine                  all files, to change them
  u2seg configs --copy mine u2seg/quickstart one, and what it is based on
  u2seg label --config-file u2seg/quickstart ...
  u2seg label --config-file mine/quickstart/quickstart.yaml ...

Files that are there already are never written over.
"""


def parser() -> argparse.ArgumentParser:
    """Return the argument parser."""
    p = new_parser("List the configs that come along, or copy them.", EXAMPLES)
    p.add_argument("--copy", type=folder, metavar="DIR", help="copy them into this folder")
    p.add_argument("names", nargs="*", metavar="NAME", help="only these (all)")
    return p


def run(args: argparse.Namespace) -> int:
    """List or copy; return the exit code."""
    from u2seg.io.packaged import config_names

    chosen = {name: _packaged(name) for name in args.names} or config_names()
    if args.copy:
        copy(chosen.values(), args.copy)
        return 0
    width = max(map(len, chosen), default=0) + 2
    for name, path in chosen.items():
        headline = path.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")
        print(f"{name:<{width}}{headline}")
    return 0


def _packaged(name: str) -> Path:
    """Return the file of a config that comes along; UserError if there is none of that name."""
    from u2seg.errors import UserError
    from u2seg.io.packaged import config_folder, config_path, name_hint

    path = config_path(name)
    if not (path.is_file() and path.resolve().is_relative_to(config_folder().resolve())):
        hint = name_hint(name) or "; `u2seg configs` lists them"
        raise UserError(f"{name} is not the name of a config that comes along{hint}")
    return path


def copy(paths: Iterable[Path], target: Path) -> None:
    """Copy packaged configs and what they are based on; say which.

    Raises:
        UserError: if one of the files is there already; nothing is written then.
    """
    from u2seg.errors import UserError
    from u2seg.io.atomic import write_bytes
    from u2seg.io.packaged import config_folder
    from u2seg.io.yamlfile import base_of

    root = config_folder()
    files: dict[Path, Path] = {}
    for path in paths:
        step: Path | None = path
        while step is not None:
            files[target / step.resolve().relative_to(root.resolve())] = step
            step = base_of(step)
    there = next((file for file in files if file.exists()), None)
    if there is not None:
        raise UserError(f"{there} exists and is not written over: choose another --copy folder")
    for file, source in sorted(files.items()):
        write_bytes(file, source.read_bytes())
        print(file)
