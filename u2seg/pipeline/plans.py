"""What a stage set out to do, compared with what a command asks of it: the difference in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from u2seg.config.schema import SECTIONS
from u2seg.errors import UserError


class OtherRunError(UserError):
    """A folder holds the results of another run.

    Args:
        finding: Which folder, and in what the runs differ.
        advice: What a user of ``u2seg label`` can do; other tools know other ways.
    """

    def __init__(self, finding: str, advice: str) -> None:
        super().__init__(f"{finding}. {advice}")
        self.finding = finding


def differences(known: dict[str, Any], plan: dict[str, Any], sections: Sequence[Any]) -> str:
    """Return which facts of a plan differ from those that a folder was made with.

    Args:
        known: Of the folder; may lack keys.
        plan: Of this command.
        sections: The settings that decide the output of the stage.

    Examples:
        >>> known = {"shard_size": 8, "versions": {"numpy": "2.1", "scipy": "1.14"}}
        >>> plan = {"shard_size": 8, "versions": {"numpy": "2.2", "scipy": "1.14"}}
        >>> differences(known, plan, ())
        'versions (numpy 2.1, now 2.2)'
    """
    changed = [key for key in plan if known.get(key) != plan[key]]
    return ", ".join(_in_words(key, known.get(key), plan[key], sections) for key in changed)


def _in_words(key: str, then: Any, now: Any, sections: Sequence[Any]) -> str:
    if key == "settings_hash":
        names = [f"U2SEG.{name.upper()}" for name in SECTIONS if _is_one(name, sections)]
        return f"settings (of {', '.join(names)})"
    if key == "image_list":
        return "photographs (files were added, removed or changed, or others are asked for)"
    if key == "shard_size":
        return f"shards (U2SEG.RUN.SHARD_SIZE {then}, now {now})"
    if key == "inputs":
        known = then if isinstance(then, dict) else {}
        made = [name for name in now if known.get(name) != now[name]]
        return f"inputs (made anew since: {', '.join(made)})"
    if key == "versions" and isinstance(then, dict):
        names = sorted(name for name in {*then, *now} if then.get(name) != now.get(name))
        told = [f"{n} {then.get(n, 'absent')}, now {now.get(n, 'absent')}" for n in names]
        return f"versions ({'; '.join(told)})"
    return key


def _is_one(name: str, sections: Sequence[Any]) -> bool:
    return any(isinstance(section, SECTIONS[name]) for section in sections)
