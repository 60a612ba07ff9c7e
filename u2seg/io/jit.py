"""Functions compiled by numba at their first call and kept on disk, where that is possible.

numba itself refuses to import a function if no cache folder can be written (a read-only package
and no home folder), and to call it if a cached file is damaged or the disk is full.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
from numba.core.caching import FunctionCache

logger = logging.getLogger(__name__)
_told: list[str] = []
"""Why something was compiled anew; the first reason is logged."""
F = TypeVar("F", bound=Callable[..., Any])


def njit(**options: Any) -> Callable[[F], F]:
    """Return a decorator that compiles without Python's lock; options are those of ``numba.njit``.

    Examples:
        >>> @njit(error_model="numpy")
        ... def ratio(a, b):
        ...     return a / b
        >>> ratio(1.0, 0.0)
        inf
    """

    def decorate(function: F) -> F:
        found = numba.njit(nogil=True, **options)(function)
        if hasattr(found, "_cache"):  # else compiling is turned off
            try:
                found._cache = _Cache(function)
            except RuntimeError as error:
                _say_once(f"{error}: set NUMBA_CACHE_DIR to a folder that can be written")
        return cast(F, found)

    return decorate


compiled = njit(error_model="numpy")
"""Compile with infinity or NaN for division by 0: checking for it would forbid vector code."""


def cache_problem() -> str:
    """Return why compiled functions cannot be kept on disk; empty if they can."""
    try:
        FunctionCache(cache_problem)
    except RuntimeError as error:
        return str(error)
    return ""


class _Cache(FunctionCache):  # type: ignore[misc]
    """numba's own, where damage means compiling anew, and failing to write nothing."""

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        try:
            return super().load_overload(sig, target_context)
        except Exception as error:  # noqa: BLE001 - of a damaged pickle or object file, anything
            _say_once(f"a file in {self.cache_path} is damaged ({error!r}) and is made anew")
            with contextlib.suppress(OSError):
                self.flush()
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        try:
            super().save_overload(sig, data)
        except OSError as error:
            _say_once(f"{error}: free some space, or set NUMBA_CACHE_DIR to another folder")


def _say_once(reason: str) -> None:
    if not _told and multiprocessing.parent_process() is None:
        logger.warning("numba compiles anew, which takes a while: %s", reason)
    _told.append(reason)
