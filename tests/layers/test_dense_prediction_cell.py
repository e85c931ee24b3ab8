"""The dense prediction cell: which branch feeds which, at which rates, over which windows."""

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from atrous.layers.dense_prediction_cell import BEST, Branch, DensePredictionCell
from atrous.layers.resize import resize

IMAGE = (65, 97)  # at output stride 16 a map of 5 x 7
POOLED = Branch(op="pyramid_pooling", grid_size=(2, 3))


def _cell(*branches: Branch, output_stride: int = 16, dropout: float = 0.1) -> DensePredictionCell:
    torch.manual_seed(0)
    return DensePredictionCell(6, 4, branches, output_stride=output_stride, dropout=dropout).eval()


def _x(height: int = 5, width: int = 7, batch: int = 1) -> Tensor:
    return torch.rand(batch, 6, height, width, generator=torch.Generator().manual_seed(0))


def _rates(cell: DensePredictionCell) -> list[tuple[int, ...]]:
    return [conv.dilation for conv in cell.modules() if isinstance(conv, nn.Conv2d) and conv.kernel_size == (3, 3)]


@torch.no_grad()
def test_branches_feed_one_another_and_all_are_projected() -> None:
    cell, x = _cell(*BEST), _x()
    b = list(cell.branches)
    first = b[0](x)
    second = b[1](first)
    maps = [first, second, b[2](second), b[3](first), b[4](first)]  # figure 5a
    torch.testing.assert_close(cell(x, IMAGE), cell.projection(torch.cat(maps, 1)))


def test_rates_are_those_of_output_stride_16_and_twice_as_large_at_8() -> None:
    rates = [branch.rate for branch in BEST]
    assert _rates(_cell(*BEST)) == rates == [(1, 6), (18, 15), (6, 3), (1, 1), (6, 21)]
    assert _rates(_cell(*BEST, output_stride=8)) == [(2, 12), (36, 30), (12, 6), (2, 2), (12, 42)]


def test_a_rate_has_its_height_first() -> None:
    cell, x = _cell(Branch(rate=(1, 2))), torch.zeros(1, 6, 5, 7)
    x[..., 2, 3] = 1.0
    hit = cell.get_submodule("branches.0.depthwise.conv")(x).abs().sum((0, 1)) > 0
    assert {tuple(place) for place in hit.nonzero().tolist()} == {
        (2 + i, 3 + 2 * j) for i in (-1, 0, 1) for j in (-1, 0, 1)
    }


@torch.no_grad()
@pytest.mark.parametrize(
    ("output_stride", "size", "window"),
    [
        (16, (5, 7), (3, 3)),
        (8, (9, 13), (5, 5)),
    ],  # int(64 / 32 + 1), int(96 / 48 + 1); int(64 / 16 + 1), int(96 / 24 + 1)
)
def test_pooling_is_over_a_part_of_the_image(
    output_stride: int, size: tuple[int, int], window: tuple[int, int]
) -> None:
    cell, x = _cell(POOLED, output_stride=output_stride), _x(*size)
    project = cell.get_submodule("branches.0.project")
    pooled = project(nn.functional.avg_pool2d(x, window, 1))
    torch.testing.assert_close(cell(x, IMAGE), cell.projection(resize(pooled, size)))


@torch.no_grad()
def test_a_grid_of_one_pools_the_whole_image() -> None:
    cell, x = _cell(Branch(op="pyramid_pooling")), _x()
    pooled = cell.get_submodule("branches.0.project")(x.mean((2, 3), keepdim=True))
    torch.testing.assert_close(cell(x, IMAGE), cell.projection(pooled.expand(-1, -1, 5, 7)))


def test_a_1x1_has_no_depthwise_part() -> None:
    names = [name for name, _ in _cell(Branch(kernel=1)).named_parameters() if name.startswith("branches")]
    assert names == ["branches.0.conv.weight", "branches.0.norm.weight", "branches.0.norm.bias"]


def test_dropout_comes_before_the_projection_in_training_only() -> None:
    cell, x, inputs_of_projection = _cell(Branch(kernel=1), dropout=0.5), _x(batch=4), list[Tensor]()
    cell.projection.register_forward_pre_hook(lambda _, inputs: inputs_of_projection.append(inputs[0]))
    nn.init.constant_(cell.get_submodule("branches.0.norm").bias, 9.0)  # type: ignore[arg-type]
    cell(x, IMAGE)
    cell.train()(x, IMAGE)
    assert not (inputs_of_projection[0] == 0).any()
    assert 0.3 < float((inputs_of_projection[1] == 0).float().mean()) < 0.7


@settings(max_examples=20, deadline=None)
@given(st.tuples(st.integers(1, 70), st.integers(1, 70)), st.tuples(st.integers(1, 9), st.integers(1, 9)))
@example((1, 1), (9, 9))
def test_any_image_size_works(image: tuple[int, int], grid: tuple[int, int]) -> None:
    cell = _cell(Branch(), Branch(op="pyramid_pooling", grid_size=grid, input=0))
    size = [-(-side // 16) for side in image]
    assert cell(_x(*size), image).shape == (1, 4, *size)


def test_gradients_reach_every_parameter() -> None:
    cell = _cell(Branch(kernel=1), POOLED, Branch(rate=(1, 2), input=1)).train()
    torch.autograd.backward(cell(_x(batch=2), IMAGE).square().sum())
    assert [name for name, p in cell.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_one_image_per_batch_is_refused_in_training_if_the_whole_image_is_pooled() -> None:
    with pytest.raises(ValueError, match="batch of one image"):
        _cell(Branch(op="pyramid_pooling")).train()(_x(), IMAGE)
    assert _cell(POOLED).train()(_x(), IMAGE).shape == (1, 4, 5, 7)


@pytest.mark.parametrize(
    ("branches", "output_stride", "message"),
    [
        ([Branch()], 32, "output_stride of a dense prediction cell must be 8 or 16, got 32"),
        ([Branch(input=0)], 16, "branch 0 of a cell: input must be -1 or an earlier branch, got 0"),
        ([Branch(), Branch(input=2)], 16, "branch 1 .* got 2"),
        ([Branch(), Branch(input=-2)], 8, "branch 1 .* got -2"),
    ],
)
def test_impossible_cells_are_refused(branches: list[Branch], output_stride: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _cell(*branches, output_stride=output_stride)
