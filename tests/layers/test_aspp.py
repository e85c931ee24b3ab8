import pytest
import torch
from torch import nn

from atrous.layers.aspp import ASPP, RATES
from atrous.layers.conv import HEAD_NORM


def _aspp(rates: tuple[int, ...], *, separable: bool = True) -> ASPP:
    torch.manual_seed(0)
    return ASPP(6, 4, rates, separable=separable)


@pytest.mark.parametrize("rates", [(), (6,), (6, 12, 18)])
@pytest.mark.parametrize("separable", [True, False])
@pytest.mark.parametrize("size", [(1, 1), (2, 3), (9, 7)])
def test_shape(rates: tuple[int, ...], separable: bool, size: tuple[int, int]) -> None:
    aspp = _aspp(rates, separable=separable).eval()
    assert aspp(torch.rand(2, 6, *size)).shape == (2, 4, *size)
    assert aspp.projection.conv.in_channels == 4 * (2 + len(rates))


def test_the_image_comes_first_then_the_1x1_then_the_rates() -> None:
    aspp = _aspp((1, 2)).eval()
    x = torch.rand(1, 6, 5, 5)
    seen: list[torch.Tensor] = []
    aspp.projection.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        aspp(x)
        image = aspp.image_pooling(x.mean((2, 3), keepdim=True)).expand(-1, -1, 5, 5)
        expected = [image, *(branch(x) for branch in aspp.branches)]
    torch.testing.assert_close(list(torch.chunk(seen[0], 4, 1)), expected)


def test_every_rate_reaches_as_far_as_it_says() -> None:
    aspp = _aspp((2, 3)).eval()
    x = torch.zeros(1, 6, 9, 9)
    x[..., 4, 4] = 1.0
    for rate, branch in zip((2, 3), list(aspp.branches)[1:], strict=True):
        depthwise = branch.get_submodule("depthwise.conv")
        hit = depthwise(x).abs().sum((0, 1)) > 0
        assert {tuple(place) for place in hit.nonzero().tolist()} == {
            (4 + rate * i, 4 + rate * j) for i in (-1, 0, 1) for j in (-1, 0, 1)
        }


def test_the_rates_of_a_stride_cover_the_same_pixels() -> None:
    pixels = {stride: tuple(rate * stride for rate in rates) for stride, rates in RATES.items()}
    assert pixels == dict.fromkeys((8, 16, 32), (96, 192, 288))


def test_dropout_follows_the_projection_in_training_only() -> None:
    aspp = _aspp((1,))
    x = torch.rand(4, 6, 9, 9)
    assert not torch.equal(aspp(x), aspp(x))
    aspp.eval()
    assert torch.equal(aspp(x), aspp(x))


def test_norms_have_the_heads_epsilon() -> None:
    norms = [module for module in _aspp((6, 12)).modules() if isinstance(module, nn.BatchNorm2d)]
    assert {norm.eps for norm in norms} == {HEAD_NORM.eps} == {1.001e-5}
    assert len(norms) == 7


def test_one_image_a_batch_is_refused_in_training_unless_its_norm_is_frozen() -> None:
    aspp = _aspp(())
    with pytest.raises(ValueError, match="batch of one image"):
        aspp(torch.rand(1, 6, 5, 5))
    aspp.image_pooling.norm.eval()
    assert aspp(torch.rand(1, 6, 5, 5)).shape == (1, 4, 5, 5)
