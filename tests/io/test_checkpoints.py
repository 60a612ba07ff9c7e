"""Weights that came from anywhere: loaded, or refused without being executed."""

from __future__ import annotations

import argparse
import hashlib
import os
import pickle
import struct
import sys
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from u2seg.errors import UserError
from u2seg.io import checkpoints
from u2seg.io.checkpoints import load_checkpoint, numpy_scalar_globals


class _Touch:
    """Creates a file when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


class _Eval(_Touch):
    def __reduce__(self) -> tuple[Any, ...]:
        return eval, (f"open({str(self.path)!r}, 'w')",)


def _pickle(path: Path, content: object) -> None:
    path.write_bytes(pickle.dumps(content))


def _torch(path: Path, content: object) -> None:
    torch.save(content, path)


def test_tensors_and_numpy_scalars_load_as_in_published_files(tmp_path: Path) -> None:
    # Published U2Seg and CutLER files hold NumPy scalars beside the tensors.
    path = tmp_path / "model.pth"
    content = {
        "model": OrderedDict(w=torch.arange(3.0)),
        "best": np.float64(1.5),
        "iteration": np.int64(7),
        "array": np.arange(2, dtype=np.float32),
        "name": "x",
    }
    torch.save(content, path)
    loaded = load_checkpoint(path)
    torch.testing.assert_close(loaded["model"]["w"], torch.arange(3.0))
    assert (float(loaded["best"]), int(loaded["iteration"]), loaded["name"]) == (1.5, 7, "x")
    np.testing.assert_array_equal(loaded["array"], [0, 1])


def test_the_allow_list_holds_what_torch_2_4_does_not_know_by_itself() -> None:
    (encode,) = [
        f for f in numpy_scalar_globals() if (f.__module__, f.__name__) == ("_codecs", "encode")
    ]
    assert encode("\xff", "latin1") == b"\xff"
    with pytest.raises(pickle.UnpicklingError, match="refuses the codec 'rot13'"):
        encode("x", "rot13")


@pytest.mark.parametrize("protocol", [2, 4])
def test_zoo_pickles_load(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "R-50.pkl"
    weights = OrderedDict(w=np.arange(6, dtype=np.float32).reshape(2, 3), n=np.int64(4))
    content = {"model": weights, "__author__": "x", "matching_heuristics": True}
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    loaded = load_checkpoint(path)
    np.testing.assert_array_equal(loaded["model"]["w"], [[0, 1, 2], [3, 4, 5]])
    assert (int(loaded["model"]["n"]), loaded["matching_heuristics"]) == (4, True)


def test_numpy_1_pickles_load(tmp_path: Path) -> None:
    # Older files name numpy.core instead of numpy._core.
    content = pickle.dumps({"w": np.arange(2.0), "s": np.float32(2)}, protocol=2)
    (tmp_path / "x.pkl").write_bytes(content.replace(b"numpy._core", b"numpy.core"))
    loaded = load_checkpoint(tmp_path / "x.pkl")
    np.testing.assert_array_equal(loaded["w"], [0, 1])
    assert float(loaded["s"]) == 2


def test_safetensors_load(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"w": torch.ones(2)}, tmp_path / "x.safetensors")
    torch.testing.assert_close(load_checkpoint(tmp_path / "x.safetensors")["w"], torch.ones(2))


@pytest.mark.parametrize("evil", [_Touch, _Eval])
@pytest.mark.parametrize(
    ("name", "write"),
    [("x.pkl", _pickle), ("x.pth", _torch), ("x.pth", _pickle), ("x.bin", _torch)],
)
def test_malicious_files_are_refused_and_not_executed(
    tmp_path: Path, name: str, write: Callable[[Path, object], None], evil: type[_Touch]
) -> None:
    canary = tmp_path / "canary"
    write(tmp_path / name, {"model": {"w": evil(canary)}})
    with pytest.raises(UserError, match=f"cannot load .*{name} safely"):
        load_checkpoint(tmp_path / name)
    assert not canary.exists()


def test_the_canary_can_sing(tmp_path: Path) -> None:
    # The control of the test above: plain pickle does execute it.
    pickle.loads(pickle.dumps(_Touch(tmp_path / "canary")))
    assert (tmp_path / "canary").exists()


def test_no_function_of_this_process_is_changed(tmp_path: Path) -> None:
    """The file names a function and gives it another default, which would stay after loading."""
    before = checkpoints._latin1.__defaults__
    change = pickle.dumps({"__defaults__": ("utf-8",)}, 2)[2:-1]
    (tmp_path / "x.pkl").write_bytes(b"\x80\x02c_codecs\nencode\nN" + change + b"\x86b.")
    with pytest.raises(UserError, match="refuses to change function"):
        load_checkpoint(tmp_path / "x.pkl")
    assert checkpoints._latin1.__defaults__ == before


def test_a_missing_library_is_not_the_files_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x.safetensors").write_bytes(b"x")
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    with pytest.raises(ModuleNotFoundError):
        load_checkpoint(tmp_path / "x.safetensors")


def test_a_weight_that_is_there_twice_is_refused() -> None:
    with pytest.raises(UserError, match="the weights hold a twice"):
        checkpoints.plain_names({"module.a": 1, "b": 2, "a": 3})


def test_the_digest_is_checked_before_anything_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    torch.save({"w": torch.ones(1)}, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert "w" in load_checkpoint(path, digest)
    assert "w" in load_checkpoint(path, digest.upper())
    with pytest.raises(UserError, match=rf"has sha256 {digest}, expected {'0' * 64}"):
        load_checkpoint(path, "0" * 64)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.pth", b"PK\x03\x04 not a zip", "cannot load .* safely"),
        ("x.pkl", b"\x80\x04", "cannot load .* safely"),
        ("x.safetensors", b"\xff" * 16, "cannot load .* safely"),
        ("x.pkl", pickle.dumps([1]), "must hold a mapping of tensors, found list"),
    ],
)
def test_damaged_files(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    with pytest.raises(UserError, match=rf"{name} does not exist; give a local file"):
        load_checkpoint(tmp_path / name)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        load_checkpoint(tmp_path / name)


def test_a_refusal_does_not_advise_unsafe_loading(tmp_path: Path) -> None:
    torch.save({"model": Path("x")}, tmp_path / "model.pth")
    with pytest.raises(
        UserError, match=r"safely: it asks for pathlib\.\S*, which is no tensor"
    ) as e:
        load_checkpoint(tmp_path / "model.pth")
    assert "weights_only" not in str(e.value)


@pytest.mark.parametrize("suffix", [".pth", ".pkl", ".safetensors"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\n<!DOCTYPE html><html><title>Quota exceeded</title>", "is an HTML page, not a check"),
        (b"\xef\xbb\xbf<html>", "is an HTML page, not a checkpoint: the download failed"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "Git LFS pointer.*lfs pull"),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied", "is an error message, not a check"),
        (b"", r"is empty \(0 bytes\): the download failed"),
    ],
)
def test_what_comes_in_place_of_weights_is_called_what_it_is(
    tmp_path: Path, suffix: str, content: bytes, message: str
) -> None:
    path = tmp_path / f"model{suffix}"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        load_checkpoint(path)
    assert "\n" not in str(error.value)


def test_a_torchscript_archive_is_called_what_it_is(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.trace(torch.nn.ReLU(), torch.ones(1)), tmp_path / "model.pt")
    with pytest.raises(UserError, match=r"model\.pt is a TorchScript archive"):
        load_checkpoint(tmp_path / "model.pt")


def test_text_that_is_no_checkpoint_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "model.pth").write_bytes(b"<root>")
    with pytest.raises(UserError, match=r"safely: it is damaged or no checkpoint") as error:
        load_checkpoint(tmp_path / "model.pth")
    assert "\n" not in str(error.value) and "weights_only" not in str(error.value)


def test_options_of_a_training_load_as_data(tmp_path: Path) -> None:
    content = {"w": torch.ones(1), "args": argparse.Namespace(arch="vit_small", lr=0.1)}
    torch.save(content, tmp_path / "model.pth")
    assert load_checkpoint(tmp_path / "model.pth")["args"].arch == "vit_small"
    torch.save({"args": argparse.Namespace(w=_Touch(tmp_path / "canary"))}, tmp_path / "model.pth")
    with pytest.raises(UserError, match=r"it asks for \w+\.system"):
        load_checkpoint(tmp_path / "model.pth")
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x05\x96" + struct.pack("<Q", 2**60) + b".",  # an array of bytes
        b"\x80\x04cnumpy\nndarray\n" + pickle.dumps(((10**15,),), 2)[2:-1] + b"R.",
    ],
)
def test_a_damaged_pickle_that_asks_for_too_much_memory_is_refused(
    tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "x.pkl").write_bytes(content)
    with pytest.raises(UserError, match=r"more memory than there is|not callable"):
        load_checkpoint(tmp_path / "x.pkl")


def test_a_damaged_pickle_takes_no_memory_for_a_number_it_names(tmp_path: Path) -> None:
    # Memo entry 4294967295: a table of 64 GiB for the unpickler in C.
    content = pickle.dumps({"w": np.arange(2.0)}, protocol=2)
    assert b"}q\x00" in content
    (tmp_path / "x.pkl").write_bytes(content.replace(b"}q\x00", b"}r\xff\xff\xff\xff", 1))
    assert load_checkpoint(tmp_path / "x.pkl")["w"].tolist() == [0, 1]
