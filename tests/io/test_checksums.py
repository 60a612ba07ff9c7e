"""Checksums beside checkpoints: their format, what they notice, and what is kept."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from u2seg.errors import UserError
from u2seg.io import checksums
from u2seg.io.checkpoints import load_checkpoint
from u2seg.io.checksums import (
    intact,
    remove_leftovers,
    save_checked,
    save_checkpoint,
    sidecar,
    verify,
)


def bytes_of(text: str) -> Callable[[Any], object]:
    return lambda file: file.write(text.encode())


def torch_file(value: float) -> Callable[[Any], object]:
    return lambda file: torch.save({"model": {"w": torch.full((50,), float(value))}}, file)


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_the_checksum_is_a_line_of_sha256sum(tmp_path: Path) -> None:
    path = tmp_path / "model_final.pth"
    save_checked(path, bytes_of("abc"))
    # sha256 of "abc", FIPS 180-2, appendix B.1
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sidecar(path).read_text() == f"{known}  model_final.pth\n"
    assert verify(path)
    save_checked(path, bytes_of("other"))
    assert sidecar(path).read_text() == f"{digest('other')}  model_final.pth\n"


def test_while_a_file_is_replaced_its_checksum_knows_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped right before and right after the rename: the file there is known either way."""
    path = tmp_path / "a.pth"
    save_checked(path, bytes_of("old"))

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        real = checksums.write_text

        def after_the_note(target: Path, content: str) -> None:
            real(target, content)
            stop()

        patch.setattr(checksums, "write_text", after_the_note)
        with pytest.raises(KeyboardInterrupt):
            save_checked(path, bytes_of("new"))
    assert path.read_text() == "old"
    assert sidecar(path).read_text().splitlines() == [
        f"{digest('old')}  a.pth",
        f"{digest('new')}  a.pth",
    ]
    assert verify(path)
    path.write_text("new")
    assert verify(path)
    path.write_text("else")
    with pytest.raises(UserError, match=r"a\.pth is damaged"):
        verify(path)
    save_checked(path, bytes_of("third"))
    assert sidecar(path).read_text() == f"{digest('third')}  a.pth\n"


def test_a_published_file_needs_no_checksum(tmp_path: Path) -> None:
    with (tmp_path / "published.pth").open("wb") as file:
        torch_file(1)(file)
    assert not verify(tmp_path / "published.pth")
    assert load_checkpoint(tmp_path / "published.pth")["model"]["w"][0] == 1


def test_damage_is_refused_and_an_intact_file_named(tmp_path: Path) -> None:
    for number in range(3):
        save_checkpoint(tmp_path, f"model_{number:07d}.pth", torch_file(number))
    damaged = tmp_path / "model_0000002.pth"
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    message = r"model_0000002\.pth is damaged: its SHA-256 .* Intact beside it: model_0000001\.pth"
    with pytest.raises(UserError, match=message):
        load_checkpoint(damaged)
    for name in ("model_0000000.pth", "model_0000001.pth"):
        (tmp_path / name).unlink()
    with pytest.raises(UserError, match="No other checkpoint is beside it"):
        load_checkpoint(damaged)


@pytest.mark.parametrize(
    "text",
    ["", "\n", "0" * 64, "0" * 63 + "  a.pth\n", "0" * 64 + "  b.pth\n", "0" * 64 + " \na.pth\n",
     "é" * 64 + "  a.pth\n", ("0" * 64 + "  a.pth\n") * 3],
)  # fmt: skip
def test_a_garbled_checksum_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.pth"
    save_checked(path, torch_file(1))
    sidecar(path).write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=r"a\.pth\.sha256 is damaged.* Remove it to load a\.pth"):
        load_checkpoint(path)
    assert intact(tmp_path) == []


def test_intact_files_are_found_with_and_without_checksums(tmp_path: Path) -> None:
    save_checked(tmp_path / "b.pth", torch_file(1))
    for name in ("a.pth", "c.pth"):
        with (tmp_path / name).open("wb") as file:
            torch_file(2)(file)
    content = bytearray((tmp_path / "c.pth").read_bytes())
    content[content.index(torch.full((4,), 2.0).numpy().tobytes())] ^= 1
    (tmp_path / "c.pth").write_bytes(content)  # the zip's own sum notices
    (tmp_path / "d.pth").write_bytes(b"no zip")
    assert intact(tmp_path) == ["a.pth", "b.pth"]
    assert intact(tmp_path, without="b.pth") == ["a.pth"]
    assert intact(tmp_path / "none") == []


def test_the_last_checkpoints_are_kept(tmp_path: Path) -> None:
    """Keep two of five numbered ones; the final one and others are not counted."""
    (tmp_path / "other.pth").write_bytes(b"")
    for number in range(4):
        save_checkpoint(tmp_path, f"model_{number:07d}.pth", bytes_of("x"), keep=2)
    save_checkpoint(tmp_path, "model_final.pth", bytes_of("x"), keep=2)
    expected = ["model_0000002.pth", "model_0000003.pth", "model_final.pth"]
    assert names(tmp_path) == sorted(
        ["last_checkpoint", "other.pth", *expected, *(f"{n}.sha256" for n in expected)]
    )
    assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth"
    save_checkpoint(tmp_path, "model_10000000.pth", bytes_of("x"), keep=2)
    assert intact_numbers(tmp_path) == ["model_0000003.pth", "model_10000000.pth"]


def intact_numbers(folder: Path) -> list[str]:
    return [n for n in names(folder) if n.startswith("model_") and n[6].isdigit() and n[-1] == "h"]


def test_the_checkpoint_just_written_is_kept_though_higher_numbers_are_there(
    tmp_path: Path,
) -> None:
    """As after going back to an older one: numbers start again below those of the old future."""
    for number in (5, 6, 2):
        save_checkpoint(tmp_path, f"model_{number:07d}.pth", bytes_of("x"), keep=1 * (number == 2))
    assert intact_numbers(tmp_path) == ["model_0000002.pth"]


def test_leftovers_of_killed_writers_are_removed(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, "model_0000001.pth", bytes_of("x"))
    kept = names(tmp_path)
    (tmp_path / ".model_0000002.pth.abc.tmp").write_bytes(b"half")
    (tmp_path / ".last_checkpoint.abc.tmp").write_bytes(b"half")
    (tmp_path / "model_0000002.pth.sha256").write_text("")
    (tmp_path / ".other.tmp").write_bytes(b"somebody else's")
    assert remove_leftovers(tmp_path) == [
        ".last_checkpoint.abc.tmp",
        ".model_0000002.pth.abc.tmp",
        "model_0000002.pth.sha256",
    ]
    assert names(tmp_path) == sorted([".other.tmp", *kept])
