"""The registry's promises."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from u2seg.errors import UserError
from u2seg.registry import Registry


def test_a_name_is_taken_once() -> None:
    registry = Registry("shape")

    def disc() -> int:
        return 1

    assert registry.register("disc")(disc) is disc
    assert registry.register("disc")(disc) is disc  # the same member again is harmless
    with pytest.raises(ValueError, match="shape 'disc' is registered already"):
        registry.register("disc")(lambda: 2)
    assert registry.get("disc") is disc


def test_unknown_names_list_the_known_and_the_closest() -> None:
    registry = Registry("shape")
    registry.register("square")(int)
    registry.register("disc")(int)
    with pytest.raises(UserError) as error:
        registry.get("sqare")
    assert str(error.value) == (
        "unknown shape 'sqare': known are disc, square. Did you mean 'square'?"
    )
    with pytest.raises(UserError, match=r"unknown shape 'zzz': known are disc, square$"):
        registry.get("zzz")
    with pytest.raises(UserError, match="known are none"):
        Registry("empty").get("x")


def test_locations_are_imported_once_on_the_first_look_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "shape_members.py").write_text("import sys\nsys.shape_imports += 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "shape_imports", 0, raising=False)
    registry = Registry("shape", locations=("shape_members",))
    assert sys.shape_imports == 0
    assert registry.names() == []
    registry.names()
    assert sys.shape_imports == 1
    sys.modules.pop("shape_members")
