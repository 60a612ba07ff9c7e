"""A name -> implementation table that knows where its members live.

A registry exists only where two implementations do (feature extractors, mask proposers, mask
refiners, clusterers, semantic segmenters). ``locations`` are imported on the first look-up, so
importing ``u2seg`` registers nothing and spawned workers see the same names as their parent.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable
from typing import Any, TypeVar

from u2seg.errors import UserError

T = TypeVar("T", bound=Callable[..., Any])


class Registry:
    """A table of named factories.

    Args:
        kind: What the members are, used in messages, e.g. ``"feature extractor"``.
        locations: Modules that register members; imported once, on the first look-up.

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

    def __init__(self, kind: str, locations: tuple[str, ...] = ()) -> None:
        self.kind = kind
        self.locations = locations
        self._members: dict[str, Callable[..., Any]] = {}
        self._loaded = False

    def register(self, name: str) -> Callable[[T], T]:
        """Return a decorator that adds its function or class under ``name``.

        Raises:
            ValueError: if ``name`` is taken by another object (the decorator raises it).
        """

        def add(member: T) -> T:
            known = self._members.get(name)
            if known is not None and known is not member:
                raise ValueError(f"{self.kind} {name!r} is registered already, by {known!r}")
            self._members[name] = member
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

    def _load(self) -> None:
        if not self._loaded:
            for location in self.locations:
                importlib.import_module(location)
            self._loaded = True
