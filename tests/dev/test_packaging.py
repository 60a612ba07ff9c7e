"""What ``pyproject.toml`` says of the package, as the tools that build it read it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def pyproject() -> dict[str, Any]:
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 has no tomllib")
    content: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    return content


def test_the_licence_is_an_expression_and_stands_in_one_place(pyproject: dict[str, Any]) -> None:
    """A table and a classifier are deprecated: setuptools warns of both, and will refuse them."""
    project = pyproject["project"]
    assert project["license"] == "Apache-2.0"
    assert not [row for row in project["classifiers"] if row.startswith("License ::")]
    for name in project["license-files"]:
        assert "Apache License" in (ROOT / name).read_text("utf-8")


def test_the_build_asks_for_a_setuptools_that_knows_expressions(pyproject: dict[str, Any]) -> None:
    """77.0.3 is the one the packaging guide names; an older one refuses the string."""
    (wanted,) = pyproject["build-system"]["requires"]
    found = re.fullmatch(r"setuptools>=([\d.]+)", wanted)
    assert found is not None
    assert tuple(map(int, found[1].split("."))) >= (77, 0, 3)


def test_the_offline_installation_fetches_what_the_build_asks_for(
    pyproject: dict[str, Any],
) -> None:
    (wanted,) = pyproject["build-system"]["requires"]
    text = (ROOT / "INSTALL.md").read_text("utf-8")
    asked = re.findall(r"setuptools>=[\d.]+", text)
    assert asked
    assert set(asked) == {wanted}
