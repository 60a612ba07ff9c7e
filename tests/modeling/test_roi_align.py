"""ROIAlign as sums of rows: the host's values and gradients."""

from __future__ import annotations

import pytest
import torch
from detectron2.layers import ROIAlign
from detectron2.modeling import build_model

import u2seg.modeling
from tests.modeling.tiny import tiny_cfg
from u2seg.config.load import add_u2seg_config
from u2seg.modeling.roi_align import RowROIAlign, pooling_weights

pytestmark = pytest.mark.d2

IMAGE = (48.0, 40.0)
"""Width and height in pixels, of maps of 12 x 10 cells at scale 1/4."""


def boxes(count: int = 40, seed: int = 0) -> torch.Tensor:
    """Return boxes of two images: inside, across the border, and the odd ones."""
    generator = torch.Generator().manual_seed(seed)
    size = torch.tensor(IMAGE)
    centre = torch.rand(count, 2, generator=generator) * size
    half = torch.rand(count, 2, generator=generator) * 20
    image = torch.randint(0, 2, (count, 1), generator=generator)
    odd = torch.tensor(
        [
            [0, 0.0, 0.0, 48.0, 40.0],  # the whole image
            [1, 8.0, 8.0, 8.0, 8.0],  # no area
            [1, 20.0, 20.0, 12.0, 12.0],  # the wrong way round
            [0, 100.0, 100.0, 120.0, 130.0],  # outside
            [0, -30.0, -3.0, -1.0, 60.0],
            [1, 2.0, 2.0, 46.0, 2.5],  # long and thin
            [1, 2.0, 2.0, 30.0, 30.0],  # points on the centres of cells
        ]
    )
    return torch.cat([torch.cat([image, centre - half, centre + half], 1), odd])


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("ratio", [0, 1, 3])
@pytest.mark.parametrize("output", [(7, 7), (1, 1), (2, 5)])
def test_values_and_gradients_are_the_hosts(
    output: tuple[int, int], ratio: int, aligned: bool
) -> None:
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(2, 3, 10, 12, generator=generator)
    rois = boxes()
    pooled, gradients = [], []
    for kind in (ROIAlign, RowROIAlign):
        leaf = features.clone().requires_grad_()
        result = kind(output, 0.25, ratio, aligned)(leaf, rois)
        weight = torch.randn(result.shape, generator=torch.Generator().manual_seed(2))
        (result * weight).sum().backward()
        pooled.append(result.detach())
        gradients.append(leaf.grad)
    assert pooled[0].abs().max() > 0.5
    assert gradients[0].abs().max() > 0.5
    torch.testing.assert_close(pooled[1], pooled[0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-5, atol=1e-5)


def test_a_bin_by_hand() -> None:
    """A box of 2 x 1 cells in one bin of 2 x 1 points.

    Between the centres of cells the points lie at x = 0.5 and 1.5, y = 0.5: each is the mean of
    four cells and half of the bin. Image 1 begins at cell 6.
    """
    box = torch.tensor([[1, 0.5, 0.5, 2.5, 1.5]])
    found = pooling_weights(box, (2, 2, 3), (1, 1), 1.0, 0, True)
    assert found.starts.tolist() == [0, 6]
    assert dict(zip(found.cells.tolist(), found.weights.tolist(), strict=True)) == {
        6: 0.125, 7: 0.25, 8: 0.125, 9: 0.125, 10: 0.25, 11: 0.125
    }  # fmt: skip


def test_the_number_of_threads_changes_no_bit() -> None:
    features = torch.randn(2, 64, 10, 12)
    threads = torch.get_num_threads()
    found = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            leaf = features.clone().requires_grad_()
            pooled = RowROIAlign((7, 7), 0.25, 0)(leaf, boxes(200))
            pooled.square().sum().backward()
            found.append((pooled.detach(), leaf.grad))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(one, two) for one, two in zip(*found, strict=True))


def test_a_box_that_is_not_finite() -> None:
    with pytest.raises(FloatingPointError, match="not finite"):
        RowROIAlign((2, 2), 0.25, 0)(
            torch.zeros(1, 3, 4, 4), torch.tensor([[0, 0.0, 0.0, float("nan"), 4.0]])
        )


@pytest.mark.parametrize("heads", ["CascadeROIHeads", "PseudoCascadeROIHeads"])
def test_all_poolers_of_the_heads_sum_rows_of_maps_turned_once(heads: str) -> None:
    u2seg.modeling.register()
    cfg = tiny_cfg()
    add_u2seg_config(cfg)
    cfg.MODEL.ROI_HEADS.NAME = heads
    model = build_model(cfg).eval()
    layers = [layer for layer in model.modules() if isinstance(layer, ROIAlign)]
    assert len(layers) == 4  # two levels, boxes and masks
    assert {type(layer) for layer in layers} == {RowROIAlign}
    strides = []
    for layer in layers:
        layer.register_forward_pre_hook(lambda _, inputs: strides.append(inputs[0].stride(1)))
    with torch.no_grad():
        model([{"image": torch.zeros(3, 64, 64)}])
    assert strides
    assert set(strides) == {1}
