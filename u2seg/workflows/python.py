"""The functions of ``import u2seg``: the work of the commands, errors in words of Python."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from u2seg.errors import StageError, UserError
from u2seg.workflows.label import label as _label
from u2seg.workflows.recipe import run as _run
from u2seg.workflows.train import evaluate as _evaluate
from u2seg.workflows.train import train as _train

P = ParamSpec("P")
T = TypeVar("T")
_NAMES = {"--output-dir": "output", "--config-file": "config"}
_SWITCHES = ("--overwrite", "--retry-failed", "--resume")


def in_python_words(message: str) -> str:
    """Return a message with arguments where it has options; commands to type stay as they are.

    Examples:
        >>> in_python_words("--workers is 0: choose another --output-dir, or add --overwrite")
        'workers is 0: choose another output, or add overwrite=True'
        >>> in_python_words("finish u2seg label --resume first")
        'finish u2seg label --resume first'
    """
    if re.search(r"\bu2seg [a-z]", message):
        return message

    def argument(option: re.Match[str]) -> str:
        plain = _NAMES.get(option[0], option[0][2:].replace("-", "_"))
        return f"{plain}=True" if option[0] in _SWITCHES else plain

    return re.sub(r"--[a-z]+(?:-[a-z]+)*", argument, message)


def _of_python(function: Callable[P, T]) -> Callable[P, T]:
    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return function(*args, **kwargs)
        except (UserError, StageError) as error:
            kind = UserError if isinstance(error, UserError) else StageError
            raise kind(in_python_words(str(error))) from error

    return wrapped


label = _of_python(_label)
train = _of_python(_train)
evaluate = _of_python(_evaluate)
run = _of_python(_run)
