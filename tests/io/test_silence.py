"""Warnings are ignored in every thread inside, and the filters are as before after the last."""

from __future__ import annotations

import threading
import warnings

from u2seg.io.silence import Silence


def test_threads_that_leave_in_another_order_leave_the_filters_as_they_were() -> None:
    silence, before = Silence(), list(warnings.filters)
    entered, leave = [threading.Event() for _ in range(2)], [threading.Event() for _ in range(2)]
    errors: list[Exception] = []

    def work(i: int) -> None:
        try:
            with silence:
                entered[i].set()
                leave[i].wait(10)
                warnings.warn("noise", stacklevel=1)  # an error outside: see pyproject.toml
        except UserWarning as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for thread, inside in zip(threads, entered, strict=True):
        thread.start()
        assert inside.wait(10)
    for thread, go in zip(threads, leave, strict=True):  # the first to enter leaves first
        go.set()
        thread.join(10)
    assert errors == [] and list(warnings.filters) == before
