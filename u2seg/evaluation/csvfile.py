"""Tables as CSV: one header line, numbers with enough digits to be read back exactly."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence

Cell = str | float | int | None


def csv_text(header: Sequence[str], rows: Iterable[Sequence[Cell]]) -> str:
    r"""Return a table as CSV; None is an empty cell.

    Examples:
        >>> csv_text(["class", "PQ"], [["a, b", 41.25], ["c", None]])
        'class,PQ\n"a, b",41.25\nc,\n'
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return buffer.getvalue()
