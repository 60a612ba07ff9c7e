"""Python's warnings ignored by code that several threads run at once."""

from __future__ import annotations

import threading
import warnings
from types import TracebackType


class Silence:
    """A block without warnings, while at least one thread is inside.

    ``warnings.catch_warnings`` keeps the filters that are there: of two threads, the one that
    leaves last would bring back those of the other.

    Examples:
        >>> silence = Silence()
        >>> with silence, silence:
        ...     warnings.warn("noise")
        >>> with warnings.catch_warnings(record=True) as heard:
        ...     warnings.simplefilter("always")
        ...     with silence:
        ...         warnings.warn("noise")
        ...     warnings.warn("news")
        >>> [str(w.message) for w in heard]
        ['news']
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._filters = warnings.catch_warnings()

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._filters = warnings.catch_warnings()
                self._filters.__enter__()
                warnings.simplefilter("ignore")
            self._inside += 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._filters.__exit__(kind, error, trace)
