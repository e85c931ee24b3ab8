"""Self-attention over positions, channels and the parts of a map against the loops of the definitions."""

import pytest
import torch
from torch import Tensor, nn

from atrous.layers.self_attention import ChannelAttention, ObjectContext, PositionAttention, attend, attend_within
from tests.reference import attention as reference

SIZES = [(1, 1), (1, 5), (3, 4)]


def _random(channels: int, height: int, width: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, channels, height, width, dtype=torch.float64, generator=generator)


def _seeded(layer: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(1)
    for parameter in layer.double().parameters():
        with torch.no_grad():
            parameter.normal_(generator=generator)
    return layer.eval()


def _position() -> nn.Module:
    return _seeded(PositionAttention(4, 2))


def _channel() -> nn.Module:
    return _seeded(ChannelAttention())


def _context() -> nn.Module:
    return _seeded(ObjectContext(4, 2, 3, parts=2))


@pytest.mark.parametrize("size", SIZES)
def test_attention_is_the_loop_of_its_definition(size: tuple[int, int]) -> None:
    query, key, value = (_random(channels, *size, seed) for seed, channels in enumerate((3, 3, 5)))
    torch.testing.assert_close(attend(query, key, value, scale=0.3), reference.attend(query, key, value, 0.3))


@pytest.mark.parametrize("size", SIZES)
def test_position_attention(size: tuple[int, int]) -> None:
    layer, x = _position(), _random(4, *size)
    query, key, value = (layer.get_submodule(name)(x) for name in ("query", "key", "value"))
    torch.testing.assert_close(layer(x), x + layer.get_parameter("gamma") * reference.attend(query, key, value, 1.0))


@pytest.mark.parametrize("size", SIZES)
def test_channel_attention(size: tuple[int, int]) -> None:
    layer, x = _channel(), _random(4, *size)
    torch.testing.assert_close(layer(x), x + layer.get_parameter("gamma") * reference.channel_attention(x))


@pytest.mark.parametrize("pool", [1, 2])
@pytest.mark.parametrize("size", SIZES)
def test_object_context(size: tuple[int, int], pool: int) -> None:
    layer, x = _seeded(ObjectContext(4, 2, 3, pool=pool)), _random(4, *size)
    key, value = layer.get_submodule("key"), layer.get_submodule("value")
    small = nn.functional.max_pool2d(x, [min(pool, side) for side in size])
    context = layer.get_submodule("output")(reference.attend(key(small), key(small), value(small), 2**-0.5))
    expected = nn.functional.interpolate(context, size, mode="bilinear", align_corners=True)
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize(
    ("parts", "rows", "columns"),
    [
        (1, [(0, 5)], [(0, 7)]),
        (2, [(0, 3), (3, 5)], [(0, 4), (4, 7)]),
        (3, [(0, 2), (2, 4), (4, 5)], [(0, 3), (3, 5), (5, 7)]),
        (6, [(i, i + 1) for i in range(5)], [(0, 2), *((i, i + 1) for i in range(2, 7))]),
    ],
)
def test_parts_of_a_map_drawn_by_hand(parts: int, rows: list[tuple[int, int]], columns: list[tuple[int, int]]) -> None:
    query, key, value = (_random(2, 5, 7, seed) for seed in range(3))
    expected = torch.empty_like(value)
    for top, bottom in rows:
        for left, right in columns:
            cell = (..., slice(top, bottom), slice(left, right))
            expected[cell] = reference.attend(query[cell], key[cell], value[cell], 1.0)
    torch.testing.assert_close(attend_within(query, key, value, parts, scale=1.0), expected)


@pytest.mark.parametrize("layer", [_position(), _channel(), _context()])
@pytest.mark.parametrize("size", [(1, 1), (2, 3)])
def test_gradients(layer: nn.Module, size: tuple[int, int]) -> None:
    x = (_random(4, *size) / 2).requires_grad_()
    parameters = dict(layer.named_parameters())

    def call(x: Tensor, *weights: Tensor) -> Tensor:
        y: Tensor = torch.func.functional_call(layer, dict(zip(parameters, weights, strict=True)), (x,))
        return y

    assert torch.autograd.gradcheck(call, (x, *parameters.values()))


@pytest.mark.parametrize("layer", [PositionAttention(4, 2), ChannelAttention()])
def test_they_start_as_the_identity_and_gamma_learns(layer: nn.Module) -> None:
    x = torch.rand(1, 4, 3, 5)
    y = layer(x)
    assert torch.equal(y, x)
    torch.autograd.backward(y.square().sum())
    gradient = layer.get_parameter("gamma").grad
    assert gradient is not None
    assert gradient.any()


def test_object_context_starts_as_zero() -> None:
    assert not ObjectContext(4, 2, 3)(torch.rand(2, 4, 3, 5)).any()


def test_similar_channels_weigh_less() -> None:
    """Of two channels alike and one unlike, each of the two takes the one, and it the two, half and half."""
    x = torch.tensor([[9.0, 0.0], [9.0, 0.0], [0.0, 8.0]]).view(1, 3, 1, 2)
    layer = ChannelAttention()
    nn.init.ones_(layer.gamma)
    expected = torch.tensor([[0.0, 8.0], [0.0, 8.0], [9.0, 0.0]]).view(1, 3, 1, 2)
    torch.testing.assert_close(layer(x) - x, expected)


def test_channel_attention_keeps_full_precision_under_autocast() -> None:
    """Products that differ by one in ten thousand: bfloat16 would not tell them apart."""
    x = torch.ones(1, 2, 100, 100)
    x[0, 1, 0, 0] = 0.0
    layer = ChannelAttention()
    nn.init.ones_(layer.gamma)
    with torch.autocast("cpu", torch.bfloat16):
        context = layer(x)
    torch.testing.assert_close(context, layer(x))
