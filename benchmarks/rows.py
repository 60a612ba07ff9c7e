"""One measured quantity, its target, and the table and JSON of several."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

SKIPPED: Literal["skipped"] = "skipped"
COMPARE = {">=": operator.ge, "<=": operator.le}


@dataclass(frozen=True)
class Target:
    """What a row must reach.

    Args:
        sense: ``>=`` or ``<=``.
        value: The limit.
        of: ``ratio``, or ``ours`` where the target is not relative to the peer.
    """

    sense: str
    value: float
    of: str = "ratio"

    def text(self, unit: str) -> str:
        """Return it as it is printed.

        Examples:
            >>> Target(">=", 100).text("s"), Target("<=", 1.5, "ours").text("GB")
            ('>= 100x', '<= 1.5 GB')
        """
        return f"{self.sense} {self.value:g}{'x' if self.of == 'ratio' else ' ' + unit}"


@dataclass(frozen=True)
class Row:
    """One line of the benchmark.

    Args:
        name: Of the row.
        ours: Median of this project's way, in ``unit``; None if skipped.
        peer: The same of the peer; None if skipped, or if there is none.
        ratio: How ours compares, in the sense of the target; None without a peer.
        unit: ``s``, ``GB`` or ``img/s``.
        target: As text.
        met: Whether target and correctness were reached, or ``skipped``.
        floor: What the machine could do at best, in ``unit``: counted work over measured speed.
        note: What was checked and counted.
    """

    name: str
    ours: float | None
    peer: float | None
    ratio: float | None
    unit: str
    target: str
    met: bool | Literal["skipped"]
    floor: float | None = None
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the keys of the JSON contract."""
        keys = ("name", "ours", "peer", "ratio", "unit", "target", "met")
        return {key: getattr(self, key) for key in keys}

    def over_floor(self) -> float | None:
        """Return ours over the floor (time, memory) or the floor over ours (rates), >= 1."""
        if not self.ours or not self.floor:
            return None
        return self.floor / self.ours if self.unit.endswith("/s") else self.ours / self.floor


def judged(  # noqa: PLR0913 - the columns of a row
    name: str,
    ours: float,
    peer: float | None,
    *,
    ratio: float | None,
    unit: str,
    target: Target,
    floor: float | None,
    note: str,
    correct: bool = True,
) -> Row:
    """Return a row whose ``met`` follows from the target and from ``correct``.

    Examples:
        >>> row = dict(ratio=6, unit="s", target=Target(">=", 5), floor=None, note="")
        >>> judged("crf", 1, 6, **row).met, judged("crf", 1, 6, **row, correct=False).met
        (True, False)
    """
    value = ratio if target.of == "ratio" else ours
    reached = value is not None and COMPARE[target.sense](value, target.value)
    return Row(
        name, ours, peer, ratio, unit, target.text(unit), bool(reached and correct), floor, note
    )


def skipped(name: str, unit: str, target: Target, why: str) -> Row:
    """Return the row of something that cannot be measured here."""
    return Row(name, None, None, None, unit, target.text(unit), SKIPPED, None, why)


def exit_code(rows: Sequence[Row]) -> int:
    """Return 1 if a target was missed, else 0; skipped rows miss nothing."""
    return int(any(row.met is False for row in rows))


def to_json(machine: dict[str, Any], rows: Sequence[Row]) -> dict[str, Any]:
    """Return ``machine``, ``rows`` and, by row, ``details``: floor, ours over floor, note."""
    details = {
        row.name: {"floor": row.floor, "over_floor": row.over_floor(), "note": row.note}
        for row in rows
    }
    return {"machine": machine, "rows": [row.to_json() for row in rows], "details": details}


def format_table(machine: dict[str, Any], rows: Sequence[Row]) -> str:
    """Return a Markdown table, the machine above it and the notes below."""
    head = ("row", "ours", "peer", "unit", "ratio", "target", "met", "floor", "ours : floor")
    lines = [" | ".join(head), " | ".join("---" for _ in head)]
    for row in rows:
        met = row.met if isinstance(row.met, str) else ("yes" if row.met else "NO")
        values = (row.ours, row.peer, row.unit, row.ratio, row.target, met)
        cells = [_cell(v) for v in (row.name, *values, row.floor, row.over_floor())]
        lines.append(" | ".join(cells))
    told = ", ".join(f"{key}: {_flat(value)}" for key, value in machine.items())
    notes = [f"* {row.name}: {row.note}" for row in rows if row.note]
    return "\n".join([told, "", *(f"| {line} |" for line in lines), "", *notes])


def _cell(value: float | str | None) -> str:
    if value is None:
        return "-"
    return value if isinstance(value, str) else f"{value:.3g}" if value < 100 else f"{value:.0f}"


def _flat(value: Any) -> str:
    if isinstance(value, dict):
        return " ".join(f"{key} {item}" for key, item in value.items())
    return str(value)
