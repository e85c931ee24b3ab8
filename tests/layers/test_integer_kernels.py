"""Graphs that round to 8 bits, as `torch.compile` looks for them: the same numbers, and nothing else is touched."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.nn import functional as F

from atrous.layers import integer_kernels, quantization

IMAGES = torch.randn(1, 3, 21, 30, generator=torch.Generator().manual_seed(0)) * 2


class Small(nn.Module):
    """Its first convolution stays in floats."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3)
        self.atrous = nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=8, bias=False)
        self.last = nn.Conv2d(8, 5, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        x = self.first(x).relu()
        return (self.last(self.atrous(x).clamp(0, 6) + x),)


def exported(module: nn.Module) -> GraphModule:
    program = torch.export.export(module.eval(), (IMAGES,), strict=False)
    return program.module(check_guards=False)


def rounding() -> GraphModule:
    """The graph as a .pt2 file has it."""
    torch.manual_seed(0)
    part = Small().eval().requires_grad_(False)
    quantization.add_ranges(part)
    for _, one in quantization.ranges(part):
        one.set(-1.0, 3.0)
    quantization.to_integers(part)
    quantization.write_as(part, "plain")
    return exported(part)


def test_convolutions_of_integers_compute_just_the_same() -> None:
    graph = rounding()
    (expected,) = graph(IMAGES)
    assert integer_kernels.use(graph) == 2
    names = [str(node.target) for node in graph.graph.nodes]
    assert names.count("quantized_decomposed.quantize_per_tensor.default") == 2
    assert names.count("quantized_decomposed.dequantize_per_channel.default") == 2
    assert not [name for name in names if "round" in name or "aten.to" in name]
    assert torch.equal(graph(IMAGES)[0], expected)


WEIGHT = torch.randint(-127, 128, (4, 3, 1, 1), dtype=torch.int8, generator=torch.Generator().manual_seed(0))
OTHERS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "floats": lambda x, weight: F.conv2d(x, weight.float()),
    "weights alone": lambda x, weight: F.conv2d(x, weight.float() * torch.ones(4).view(-1, 1, 1, 1)),
    "values alone": lambda x, weight: F.conv2d((x * 4.0).round().clamp(0, 255) * 0.25, weight.float()),
    "4 bits": lambda x, weight: of_levels((x * 4.0).round().clamp(0, 15) * 0.25, weight),
    "another step": lambda x, weight: of_levels((x * 4.0).round().clamp(0, 255) * 0.5, weight),
    "0 on no level": lambda x, weight: of_levels((x * 4.0).round().clamp(10, 265) * 0.25, weight),
    "no rounding": lambda x, weight: of_levels((x * 4.0).floor().clamp(0, 255) * 0.25, weight),
}


def of_levels(x: Tensor, weight: Tensor) -> Tensor:
    return F.conv2d(x, weight.float() * torch.ones(4).view(-1, 1, 1, 1))


@pytest.mark.parametrize("kind", OTHERS)
def test_what_only_looks_like_it_is_left_as_it_is(kind: str) -> None:
    class Other(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("weight", WEIGHT)

        def forward(self, x: Tensor) -> Tensor:
            return OTHERS[kind](x, self.get_buffer("weight"))

    graph = exported(Other())
    expected = graph(IMAGES)
    assert integer_kernels.use(graph) == 0
    assert torch.equal(graph(IMAGES), expected)


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [({"avx512_vnni": True}, True), ({"avx_vnni": True}, True), ({"avx2": True, "avx512_f": True}, False), ({}, False)],
)
def test_integers_need_units_that_add_in_32_bits(
    capabilities: dict[str, bool], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert integer_kernels.has_units() == expected
