"""Result files that were cut short or lost a bit: noticed by their checksums and made again."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.harness import results
from u2seg.config.schema import Settings
from u2seg.errors import UserError
from u2seg.pipeline import generate_labels
from u2seg.pipeline.stage import Stage

pytestmark = pytest.mark.faults


def damage(path: Path, way: str) -> None:
    """Flip one bit, or cut off the second half, or remove the file."""
    content = bytearray(path.read_bytes())
    if way == "removed":
        path.unlink()
        return
    if way == "flipped":
        content[len(content) // 2] ^= 1
    else:
        del content[len(content) // 2 :]
    path.write_bytes(bytes(content))


@pytest.fixture(scope="module")
def run(photos: Path, settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return generate_labels(settings, photos, tmp_path_factory.mktemp("run"), progress=False)


WAYS = ("flipped", "truncated", "removed")


def test_any_damaged_result_is_made_again(
    run: Path,
    photos: Path,
    settings: Settings,
    calm: dict[str, bytes],
    record_property: Callable[[str, object], None],
) -> None:
    """Every file once, in turn flipped, truncated or removed."""
    assert results(run) == calm
    refused = []
    for number, name in enumerate(calm):
        if not calm[name]:
            continue  # nothing to damage in an empty skipped.jsonl
        damage(run / name, WAYS[number % 3])
        try:
            generate_labels(settings, photos, run, progress=False)
        except UserError as error:
            refused.append((name, str(error)))
            (run / name).write_bytes(calm[name])
            generate_labels(settings, photos, run, progress=False)
        found = results(run)
        assert found.keys() == calm.keys(), name
        assert [n for n in calm if found[n] != calm[n]] == [], name
    record_property("files damaged", len(calm))
    record_property("of these refused, not made again", len(refused))
    # What says how the results were made cannot be made again, only refused.
    assert {Path(name).name for name, _ in refused} <= {"plan.json", "manifest.json"}
    assert [told for name, told in refused if str(run / Path(name).parts[0]) not in told] == []


class Stop(BaseException):
    """Ends a run as Ctrl-C does."""


class StopAt:
    """Stands for ``Stage._finish``: ends the run before the manifest of one stage."""

    real = Stage._finish

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, stage: Stage, _: object) -> Callable[..., None]:
        def finish(*arguments: object) -> None:
            if stage.name == self.name:
                raise Stop
            StopAt.real(stage, *arguments)  # type: ignore[arg-type]

        return finish


def test_damaged_parts_of_a_stage_that_was_interrupted_are_made_again(
    photos: Path,
    settings: Settings,
    calm: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    record_property: Callable[[str, object], None],
) -> None:
    damaged = 0
    for stage in ("images", "masks", "clusters", "semantics", "panoptic"):
        output = tmp_path / stage
        monkeypatch.setattr(Stage, "_finish", StopAt(stage))
        with pytest.raises(Stop):
            generate_labels(settings, photos, output, progress=False)
        monkeypatch.undo()
        parts = {*(output / stage).glob("part-*"), *(output / stage).rglob("*.png")}
        for path in sorted(parts):
            damage(path, WAYS[damaged % 3])
            damaged += 1
        generate_labels(settings, photos, output, progress=False)
        assert results(output) == calm
        shutil.rmtree(output)
    record_property("parts damaged and made again", damaged)
    assert damaged > 10
