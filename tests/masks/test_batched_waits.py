"""The device is waited for once a batch: counted on a pretended GPU, and on a real one.

Tensors of a pretended GPU have shapes and a device, but no values: whatever needs a value
(``item``, ``nonzero``, an index of booleans, an ``if``) fails on them, as do mixed devices.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    FakeTensorMode,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from u2seg.config.schema import FeatureSettings, MaskCutSettings, MaskSettings
from u2seg.crf import batched as crf
from u2seg.features import vit
from u2seg.masks import batched_ncut
from u2seg.masks.batched_propose import MaskBatch, propose_batch

SIZES = [(100, 200), (160, 160), (100, 200)]


class Watch(TorchDispatchMode):
    """Sorts every copy between devices by whether the host waits for it."""

    def __init__(self) -> None:
        super().__init__()
        self.pinned: list[torch.Tensor] = []
        self.waits: list[str] = []
        self.free = 0
        self.operations = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        out = func(*args, **(kwargs or {}))
        self.operations += 1
        tensors = [t for t in tree_leaves((args, kwargs, out)) if isinstance(t, torch.Tensor)]
        # A number of the host may go along with a kernel: a tensor of no dimension.
        if len({t.device.type for t in tensors if t.dim()}) > 1:
            self._judge(func, tensors, args, kwargs or {})
        return out

    def _judge(self, func: Any, tensors: list[torch.Tensor], args: Any, kwargs: Any) -> None:
        # As a keyword, or last: ``copy_(target, source, non_blocking)``.
        free = kwargs.get("non_blocking", False) or args[2:3] == (True,)
        on_host = next(t for t in tensors if t.dim() and t.device.type == "cpu")
        if free and any(on_host is t for t in self.pinned):
            self.free += 1
        else:
            self.waits.append(str(func))


class PretendedEvent:
    waited = 0

    def record(self, _stream: object) -> None:
        pass

    def synchronize(self) -> None:
        type(self).waited += 1


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Iterator[Watch]:
    """Pretend that there is a GPU; pinned memory is remembered instead of made."""
    watch = Watch()
    empty = torch.empty

    def pin(tensor: torch.Tensor) -> torch.Tensor:
        watch.pinned.append(tensor)
        return tensor

    def allocate(*args: Any, pin_memory: bool = False, **kwargs: Any) -> torch.Tensor:
        made = empty(*args, **kwargs)
        return pin(made) if pin_memory else made

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    monkeypatch.setattr(torch, "empty", allocate)
    monkeypatch.setattr(torch.cuda, "Event", PretendedEvent)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _device: None)
    monkeypatch.setattr(PretendedEvent, "waited", 0)
    caches = (batched_ncut.start_vector, batched_ncut._places, crf._smoothness_filter)
    for cache in caches:
        cache.cache_clear()
    with FakeTensorMode(), watch:
        yield watch
    for cache in caches:  # they hold tensors without values
        cache.cache_clear()


def test_nothing_between_features_and_the_download_waits(
    watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batched_ncut.cut_vectors, "__defaults__", (6,))  # all steps are alike
    features = torch.empty(3, 16, 20, 20, dtype=torch.bfloat16, device="cuda")
    pixels = torch.empty(3, 160, 160, 3, dtype=torch.uint8, device="cuda")
    settings = MaskSettings(maskcut=MaskCutSettings(painted="exclude"))
    batch = propose_batch(features, pixels, SIZES, settings)
    assert isinstance(batch, MaskBatch)
    assert watch.operations > 500, "the whole chain was seen"
    assert watch.waits == [] and PretendedEvent.waited == 0
    uploads = watch.free - 1
    assert uploads == 2, "start vector and places, once a size"
    again = propose_batch(features, pixels, SIZES, settings)
    assert watch.free == uploads + 2, "one copy a batch, and that to the host"
    assert watch.waits == [] and PretendedEvent.waited == 0
    batch._download.wait()
    again._download.wait()
    assert PretendedEvent.waited == 2


@pytest.fixture
def tiny_vit() -> torch.nn.Module:
    model: torch.nn.Module = timm.create_model(
        "test_vit", pretrained=False, dynamic_img_size=True, num_classes=0
    )
    return model


def test_pixels_go_up_once_and_features_stay(
    tiny_vit: torch.nn.Module, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in tiny_vit.modules():
        for name, weights in module._parameters.items():
            if weights is not None:
                made = torch.empty(weights.shape, device="cuda")
                module._parameters[name] = torch.nn.Parameter(made)
    monkeypatch.setattr(torch.nn.Module, "to", lambda self, _device: self)
    monkeypatch.setattr(vit, "_create", lambda _settings: tiny_vit)
    monkeypatch.setattr(vit, "choose_device", lambda _name: torch.device("cuda"))
    extractor = vit.VitExtractor(FeatureSettings(name="timm:test_vit"))
    watch.waits.clear()
    watch.free = 0
    pixels, tensors = extractor.extract_work([np.zeros((160, 160, 3), np.uint8)] * 3)
    features = tensors["key"]
    assert pixels.dtype == torch.uint8 and pixels.shape == (3, 160, 160, 3)
    assert pixels.device.type == features.device.type == "cuda"
    assert features.shape == (3, 64, 10, 10)
    assert watch.waits == [] and watch.free == 1


def test_the_watch_notices_what_waits(watch: Watch) -> None:
    there = torch.empty(3, 3, device="cuda")
    there + torch.ones(3).to(there.device)
    there.to("cpu", non_blocking=True)
    assert len(watch.waits) == 2
    with pytest.raises(DataDependentOutputException):
        there.sum().item()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_is_waited_for_only_when_masks_are_collected() -> None:
    rng = np.random.default_rng(0)
    walk = rng.standard_normal((3, 8, 20, 20)).cumsum(axis=2).cumsum(axis=3)
    features = torch.from_numpy(walk.astype(np.float32)).cuda()
    pixels = torch.from_numpy(rng.integers(0, 99, (3, 160, 160, 3), dtype=np.uint8)).cuda()
    settings = MaskSettings(maskcut=MaskCutSettings(tau=0.4))
    propose_batch(features, pixels, SIZES, settings).collect()  # what is kept for a size
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        batch = propose_batch(features, pixels, SIZES, settings)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(batch.collect()) == 3
