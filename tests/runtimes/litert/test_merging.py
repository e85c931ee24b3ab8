"""Operators that LiteRT computes as one, and those that must stay apart."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from atrous.layers.conv import TORCH_NORM, ConvNorm
from tests.runtimes.litert.conftest import Function, require_same

X = torch.randn(1, 6, 10, 12, generator=torch.Generator().manual_seed(1))


def trained(module: nn.Module) -> nn.Module:
    """With batch norms that do something."""
    generator = torch.Generator().manual_seed(2)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            for values in (part.weight, part.bias, part.running_mean, part.running_var):
                assert values is not None
                values.data.uniform_(0.5, 2, generator=generator)
    return module.eval()


@pytest.mark.parametrize("groups", [1, 6])
@pytest.mark.parametrize("padding", ["same", "symmetric"])
def test_a_batch_norm_an_activation_and_an_uneven_padding_are_part_of_the_convolution(
    groups: int, padding: str
) -> None:
    block = trained(
        ConvNorm(6, 6, 3, norm=TORCH_NORM, stride=2, groups=groups, act="relu6", padding=padding)  # type: ignore[arg-type]
    )
    operators = require_same({"block": block}, X)
    assert [op for op in operators if op not in ("TRANSPOSE", "PAD")] == [
        "DEPTHWISE_CONV_2D" if groups > 1 else "CONV_2D"
    ]
    assert ("PAD" in operators) == (padding == "symmetric")  # on even sizes, which SAME would pad at one side


def test_a_result_that_others_read_too_stays() -> None:
    conv = nn.Conv2d(6, 6, 1)

    def both(x: Tensor) -> Tensor:
        y: Tensor = conv(x)
        return y.relu() + y

    operators = require_same({"both": both, "cut": lambda x: conv(x)[:, :, 1:], "kept": conv}, X)
    assert {"RELU", "SLICE"} <= set(operators)


def test_factors_and_addends_of_pixels_or_images_stay() -> None:
    conv = nn.Conv2d(6, 6, 1)
    rows = torch.arange(10.0)[:, None]
    functions = {
        "rows": lambda x: conv(x) * rows + rows,
        "wider": lambda x: conv(x[:, :, :, :1]) * torch.ones(6, 1, 12),
        "activated": lambda x: F.relu(conv(x)) * torch.arange(6.0)[:, None, None] - 1,
        "itself": lambda x: conv(x) * conv(x),
    }
    operators = require_same(functions, X)
    assert operators.count("MUL") >= 4


def test_zeros_around_what_is_convolved_are_its_padding() -> None:
    conv = nn.Conv2d(6, 4, 3, stride=2)

    def padded(*pads: int, value: float = 0.0) -> Function:
        return lambda x: conv(F.pad(x.permute(0, 3, 1, 2), pads, value=value))

    image = X.permute(0, 2, 3, 1).contiguous()
    operators = require_same({"after": padded(0, 1, 0, 1), "both": padded(1, 1, 2, 2)}, image)
    assert operators.count("PAD") == 1  # SAME is the first, no name has the second
    assert "PADV2" in require_same({"ones": padded(0, 1, 0, 1, value=1.0)}, image)


def test_a_divisor_before_a_convolution_goes_into_its_weights() -> None:
    dense, grouped = nn.Conv2d(6, 4, 3, padding=1), nn.Conv2d(6, 6, 3, groups=3)
    deviation = torch.arange(1.0, 7)
    image = X.permute(0, 2, 3, 1).contiguous()
    assert "DIV" not in require_same({"dense": lambda x: dense((x / deviation).permute(0, 3, 1, 2))}, image)
    assert "DIV" in require_same({"grouped": lambda x: grouped((x / deviation).permute(0, 3, 1, 2))}, image)
