"""Progress bars: on a terminal tqdm's own, in a file a line now and then."""

from __future__ import annotations

import sys
from typing import Any

from tqdm import tqdm

LINE_S = 30.0
"""Seconds between two lines in a file; what takes less writes none."""
LINE = "{desc}: {n_fmt} of {total_fmt}, {elapsed} so far, {remaining} to go, {rate_fmt}{postfix}"


class Bar(tqdm):  # type: ignore[misc]
    """tqdm, arguments and all, on stderr; ``disable=True`` shows nothing.

    Examples:
        >>> list(Bar("ab", desc="letters"))
        ['a', 'b']
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        if not sys.stderr.isatty():
            rate = {"mininterval": LINE_S, "maxinterval": LINE_S, "delay": LINE_S}
            options = {**options, **rate, "file": _Lines(), "bar_format": LINE, "leave": True}
        super().__init__(*args, **options)


class _Lines:
    """A stream of whole lines in place of one line that is written over and over."""

    def write(self, text: str) -> None:
        if text.strip():
            sys.stderr.write(f"{text.strip()}\n")

    def flush(self) -> None:
        sys.stderr.flush()
