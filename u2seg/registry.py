"""A name -> implementation table that knows where its members live.

A registry exists only where two implementations do. ``locations`` are imported on the first
look-up, so importing ``u2seg`` registers nothing and spawned workers see the same names as their
parent. A member says what it needs and has settings of its own; plug-ins (files outside the
package, see ``u2seg.config.plugins``) register like the package's own modules.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from u2seg.errors import UserError

T = TypeVar("T", bound=Callable[..., Any])
SETTINGS: dict[str, dict[str, type]] = {}
"""Section -> node -> dataclass of the members that were registered with settings."""
MODULES: dict[str, set[str]] = {}
"""Name of members -> modules that registered one of that name."""


class Registry:
    """A table of named factories.

    Args:
        kind: What the members are, used in messages, e.g. ``"feature extractor"``.
        locations: Modules that register members; imported once, on the first look-up.
        section: Section of the settings under which members have theirs, e.g. ``MASKS``.

    Examples:
        >>> shapes = Registry("shape")
        >>> @shapes.register("disc")
        ... def disc() -> str:
        ...     return "a disc"
        >>> shapes.get("disc")()
        'a disc'
        >>> shapes.get("disk")
        Traceback (most recent call last):
            ...
        u2seg.errors.UserError: unknown shape 'disk': known are disc. Did you mean 'disc'?
    """

    def __init__(self, kind: str, locations: tuple[str, ...] = (), section: str = "") -> None:
        self.kind = kind
        self.locations = locations
        self.section = section
        self._settings: dict[str, type] = {}
        self._needs: dict[str, frozenset[str]] = {}
        self._members: dict[str, Callable[..., Any]] = {}
        self._loaded = False

    def register(
        self, name: str, settings: type | None = None, needs: Sequence[str] = ()
    ) -> Callable[[T], T]:
        """Return a decorator that adds its function or class under ``name``.

        Args:
            name: In settings; its own settings are the node of this name in capitals.
            settings: Frozen dataclass of its own settings, all with defaults; None = it has none.
            needs: What it works on, e.g. ``pixels`` or a facet of the patch features.

        Raises:
            ValueError: if ``name`` is taken by another object (the decorator raises it).
        """

        def add(member: T) -> T:
            known = self._members.get(name)
            if known is not None and known is not member:
                raise ValueError(f"{self.kind} {name!r} is registered already, by {known!r}")
            self._members[name] = member
            MODULES.setdefault(name, set()).add(str(getattr(member, "__module__", "")))
            self._needs[name] = frozenset(needs)
            if settings is not None:
                self._settings[name] = settings
                SETTINGS.setdefault(self.section, {})[name.upper()] = settings
            return member

        return add

    def names(self) -> list[str]:
        """Return the registered names, sorted."""
        self._load()
        return sorted(self._members)

    def get(self, name: str) -> Callable[..., Any]:
        """Return the member called ``name``.

        Raises:
            UserError: if there is none; the message lists the known names and the closest.
        """
        self._load()
        if name not in self._members:
            close = difflib.get_close_matches(name, self._members, n=1)
            hint = f". Did you mean {close[0]!r}?" if close else ""
            known = ", ".join(sorted(self._members)) or "none"
            raise UserError(f"unknown {self.kind} {name!r}: known are {known}{hint}")
        return self._members[name]

    def settings(self, name: str) -> type | None:
        """Return the dataclass of the settings of a member; None = it has none."""
        self.get(name)
        return self._settings.get(name)

    def own(self, name: str, section: Any) -> Any:
        """Return the settings of the member called ``name`` within its section; None without."""
        kind = self.settings(name)
        return None if kind is None else section.of(kind)

    def needs(self, name: str) -> frozenset[str]:
        """Return what the member called ``name`` works on."""
        self.get(name)
        return self._needs[name]

    def _load(self) -> None:
        if not self._loaded:
            for location in self.locations:
                importlib.import_module(location)
            self._loaded = True
