"""The FCN head: its parts, its sizes, and whole maps dropped."""

import pytest
import torch
from torch import nn

from atrous.layers.fcn_head import FCNHead


@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("size", [(1, 1), (2, 7), (6, 5)])
def test_logits_lie_on_the_grid_of_the_features(kernel: int, size: tuple[int, int]) -> None:
    head = FCNHead(6, 4, 3, kernel=kernel).eval()
    assert head(torch.randn(2, 6, *size)).shape == (2, 3, *size)
    assert sum(parameter.numel() for parameter in head.parameters()) == 6 * 4 * kernel**2 + 2 * 4 + (4 + 1) * 3


def test_its_parts_are_those_of_the_original() -> None:
    head = FCNHead(6, 4, 3)
    assert [name for name, _ in head.named_children()] == ["conv", "dropout", "classify"]
    norm = head.get_submodule("conv.norm")
    assert isinstance(norm, nn.BatchNorm2d)
    assert (norm.eps, norm.momentum) == (1e-5, 0.1)
    assert "conv.conv.bias" not in head.state_dict()


def test_dropout_takes_whole_maps_in_training_only() -> None:
    torch.manual_seed(0)
    head, maps = FCNHead(4, 32, 2, dropout=0.5), list[torch.Tensor]()
    head.classify.register_forward_pre_hook(lambda _, inputs: maps.append(inputs[0]))
    x = torch.randn(2, 4, 5, 5)
    head(x)
    head.eval()(x)
    dropped = [(features == 0).all((2, 3)) for features in maps]
    assert 10 < int(dropped[0].sum()) < 54
    assert not dropped[1].any()


def test_the_gradient_equals_finite_differences() -> None:
    torch.manual_seed(0)
    head = FCNHead(2, 3, 2).double().eval()
    assert torch.autograd.gradcheck(head, torch.randn(1, 2, 3, 4, dtype=torch.float64, requires_grad=True))
