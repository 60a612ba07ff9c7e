"""Which image a warning is about: solvers see numbers only, their warnings name the image."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_NAME: ContextVar[str] = ContextVar("image", default="an image")


def image_name() -> str:
    """Return the name of the image being worked on; ``an image`` if nobody said."""
    return _NAME.get()


@contextmanager
def image_named(name: str) -> Iterator[None]:
    """Say which image the work inside is about.

    Examples:
        >>> with image_named("a.jpg"):
        ...     image_name()
        'a.jpg'
        >>> image_name()
        'an image'
    """
    token = _NAME.set(name)
    try:
        yield
    finally:
        _NAME.reset(token)
