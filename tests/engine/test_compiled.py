"""``torch.compile`` of a part of a model."""

from __future__ import annotations

import logging
from typing import Any, NoReturn

import pytest
import torch
from torch import nn

from u2seg.engine.compiled import compile_forward, is_compiled


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU())


def test_the_same_values_and_names() -> None:
    plain, module = network(), network()
    names = list(module.state_dict())
    compile_forward(module, backend="eager")
    for side in (4, 6):
        x = torch.randn(1, 1, side, side)
        torch.testing.assert_close(module(x), plain(x))
    assert list(module.state_dict()) == names
    assert is_compiled(module)
    assert not is_compiled(plain)
    module(torch.ones(1, 1, 4, 4)).sum().backward()
    assert module[0].weight.grad is not None


def test_a_compiler_that_fails_is_told_once_and_done_without(
    caplog: pytest.LogCaptureFixture,
) -> None:
    calls: list[int] = []

    def broken(graph: Any, inputs: Any) -> NoReturn:
        calls.append(1)
        raise OSError("no C++ compiler")

    plain, module = network(), network()
    compile_forward(module, backend=broken)
    x = torch.randn(1, 1, 4, 4)
    with caplog.at_level(logging.WARNING, "u2seg"):
        for _ in range(2):
            torch.testing.assert_close(module(x), plain(x))
    assert calls == [1]
    assert not is_compiled(module)
    (record,) = [r for r in caplog.records if r.name == "u2seg.engine.compiled"]
    assert "U2SEG.TRAIN.COMPILE: torch.compile failed" in record.message
    assert "no C++ compiler" in record.message


def test_an_error_of_the_module_itself_is_raised() -> None:
    module = network()
    compile_forward(module, backend="eager")
    with pytest.raises(RuntimeError, match="channels"):
        module(torch.ones(1, 3, 4, 4))


def test_running_out_of_memory_is_no_failure_of_the_compiler(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def full(graph: Any, inputs: Any) -> Any:
        def run(*arguments: Any) -> NoReturn:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

        return run

    module = network()
    compile_forward(module, backend=full)
    with caplog.at_level(logging.WARNING, "u2seg"):
        for _ in range(2):
            with pytest.raises(RuntimeError, match="out of memory"):
                module(torch.randn(1, 1, 4, 4))
    assert is_compiled(module)
    assert not [r for r in caplog.records if r.name == "u2seg.engine.compiled"]
