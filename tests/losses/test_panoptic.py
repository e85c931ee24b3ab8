"""Centre and offset losses: values by hand, and the upsampling to the image's size."""

import pytest
import torch

from atrous.losses.panoptic import heatmap_loss, offset_loss


def test_the_heatmap_loss_is_a_mean_of_squares_over_pixels_with_a_weight() -> None:
    heatmap = torch.tensor([[[[0.5, 0.0, 1.0]]]])
    target = torch.tensor([[[[1.0, 0.0, 0.0]]]])
    weight = torch.tensor([[[[1.0, 1.0, 0.0]]]])
    assert heatmap_loss(heatmap, target, weight) == pytest.approx(0.25 / 2)
    assert heatmap_loss(heatmap, target, weight, normalizer=torch.tensor(10.0)) == pytest.approx(0.025)
    assert heatmap_loss(heatmap, target, 0 * weight) == 0


def test_the_offset_loss_is_a_mean_of_absolute_errors_over_both_directions() -> None:
    offset = torch.tensor([[[[1.0, 5.0]], [[-2.0, 5.0]]]])
    weight = torch.tensor([[[[1.0, 0.0]]]])
    assert offset_loss(offset, torch.zeros(1, 2, 1, 2), weight) == pytest.approx(1.5)


def test_outputs_are_upsampled_to_the_image() -> None:
    heatmap = torch.tensor([[[[0.0, 1.0]]]], requires_grad=True)
    target = torch.zeros(1, 1, 1, 3)  # upsampled with aligned corners: 0, 0.5, 1
    loss = heatmap_loss(heatmap, target, torch.ones(1, 1, 1, 3))
    assert loss.item() == pytest.approx((0.25 + 1) / 3)
    loss.backward()  # type: ignore[no-untyped-call]
    assert heatmap.grad is not None
    assert heatmap.grad.abs().sum() > 0


def test_half_precision_is_computed_in_float32() -> None:
    loss = heatmap_loss(torch.ones(1, 1, 2, 2, dtype=torch.bfloat16), torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2, 2))
    assert loss.dtype == torch.float32
