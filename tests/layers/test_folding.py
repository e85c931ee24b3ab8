"""Folded, packed and lowered networks against the networks that they are made from."""

import copy
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from atrous.layers.conv import ACTIVATIONS, SLIM_NORM, Activation, Clip, Conv, ConvNorm
from atrous.layers.folding import fold, fold_traced, norms_in
from atrous.layers.packed import PackedConv, can_be_packed, joined, pack, split, works


def trained(module: nn.Module, seed: int = 0) -> nn.Module:
    """In evaluation mode, with statistics and weights of batch norms as after a training."""
    generator = torch.Generator().manual_seed(seed)
    for norm in norms_in(module):
        with torch.no_grad():
            for name, low, high in (
                ("running_mean", -1, 1),
                ("running_var", 0.2, 3),
                ("weight", -2, 2),
                ("bias", -1, 1),
            ):
                getattr(norm, name).uniform_(low, high, generator=generator)
    return module.eval()


def maps(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def assert_near(one: Tensor, other: Tensor) -> None:
    assert one.shape == other.shape
    assert (one - other).abs().max() <= 1e-5 * other.abs().max()


def test_a_norm_is_folded_as_by_hand() -> None:
    part = ConvNorm(1, 1, norm=SLIM_NORM, act="none").eval()
    with torch.no_grad():
        part.conv.weight.fill_(3.0)
        for name, value in {"running_mean": 2.0, "running_var": 0.249, "weight": 5.0, "bias": 7.0}.items():
            getattr(part.norm, name).fill_(value)
    fold(part)
    assert part.conv.weight.item() == pytest.approx(3 * 5 / 0.5)  # the root of 0.249 + 0.001
    assert part.conv.bias is not None
    assert part.conv.bias.item() == pytest.approx(7 - 2 * 5 / 0.5)


CONVS: dict[str, dict[str, Any]] = {
    "1x1": {"kernel": 1},
    "3x3": {"kernel": 3},
    "strided, SAME": {"kernel": 3, "stride": 2, "padding": "same"},
    "even kernel, SAME": {"kernel": 2, "padding": "same"},
    "atrous": {"kernel": 3, "rate": 4},
    "a rate for each axis": {"kernel": 3, "rate": (1, 5)},
    "depthwise": {"kernel": 3, "rate": 2, "groups": 8},
    "depthwise, strided, SAME": {"kernel": 5, "stride": 2, "groups": 8, "padding": "same"},
    "depthwise, in phases": {"kernel": 3, "rate": 8, "groups": 8},
    "depthwise, in phases of one axis": {"kernel": 5, "rate": (1, 7), "groups": 8},
    "groups": {"kernel": 3, "groups": 2},
}


@pytest.mark.parametrize("options", CONVS.values(), ids=CONVS.keys())
@pytest.mark.parametrize("size", [(12, 14), (13, 9), (1, 1), (2, 7)])
@torch.no_grad()
def test_a_folded_and_packed_convolution_is_the_same_function(options: dict[str, Any], size: tuple[int, int]) -> None:
    torch.manual_seed(0)  # of the weights: where sums nearly cancel, the last bits are a large part of them
    for act in (*ACTIVATIONS, "none"):
        part = trained(ConvNorm(8, 8, norm=SLIM_NORM, act=act, **options))
        prepared = copy.deepcopy(part)
        fold(prepared)
        assert not norms_in(prepared)
        images = maps(2, 8, *size).contiguous(memory_format=torch.channels_last)
        expected = part(images)
        assert_near(prepared(images), expected)
        pack(prepared)
        assert isinstance(prepared.conv, PackedConv) is works(torch.float32)
        assert_near(prepared.eval()(images), expected)
        assert_near(prepared(images.contiguous()), expected)
        other = maps(1, 8, size[1] + 3, size[0])  # the order of the weights was chosen for the first size
        assert_near(prepared(other), part(other))


def test_phases_are_every_so_manieth_row_and_column() -> None:
    x = torch.arange(15.0).view(1, 1, 3, 5)
    parts = split(x, (2, 3))
    assert parts.shape == (6, 1, 2, 2)
    assert parts[0, 0].tolist() == [[0, 3], [10, 13]] and parts[5, 0].tolist() == [[7, 0], [0, 0]]
    assert joined(parts, (2, 3), x.shape).equal(x)


@pytest.mark.parametrize(
    ("options", "phases"),
    [
        ({"padding": 7, "dilation": 7, "groups": 4}, (7, 7)),
        ({"padding": 6, "dilation": 6, "groups": 4}, None),  # oneDNN has a kernel
        ({"padding": 0, "dilation": 7, "groups": 4}, None),  # the size changes
        ({"padding": 7, "dilation": 7, "stride": 2, "groups": 4}, None),
        ({"padding": 7, "dilation": 7, "groups": 2}, None),  # not depthwise
    ],
)
@pytest.mark.skipif(not works(torch.float32), reason="PyTorch has no oneDNN here")
@torch.no_grad()
def test_depthwise_convolutions_at_great_rates_are_computed_in_phases(
    options: dict[str, Any], phases: tuple[int, int] | None
) -> None:
    conv, x = nn.Conv2d(4, 4, 3, **options), maps(2, 4, 20, 17)
    packed = PackedConv(conv, None)
    assert packed.phases == phases
    assert_near(packed(x), conv(x))


@pytest.mark.skipif(not works(torch.float32), reason="PyTorch has no oneDNN here")
@torch.no_grad()
def test_the_first_maps_may_come_from_many_threads() -> None:
    conv, images = nn.Conv2d(16, 16, 3, padding=1), [maps(1, 16, side, 20) for side in range(5, 45, 5)]
    packed = PackedConv(conv, None)
    with ThreadPoolExecutor(len(images)) as threads:
        results = list(threads.map(torch.no_grad()(packed), images))
    for x, y in zip(images, results, strict=True):
        assert_near(y, conv(x))


@torch.no_grad()
def test_folding_leaves_weights_alone_that_others_share() -> None:
    part = trained(ConvNorm(4, 4, norm=SLIM_NORM))
    other = copy.deepcopy(part, {id(tensor): tensor for tensor in (*part.parameters(), *part.buffers())})
    before = {name: tensor.clone() for name, tensor in part.state_dict().items()}
    fold(other)
    pack(other)
    assert all(torch.equal(tensor, before[name]) for name, tensor in part.state_dict().items())


class Scaled(Conv):
    """Does more than its weight and bias say."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


def test_what_is_more_than_a_convolution_is_left_as_it_is() -> None:
    part = ConvNorm(4, 4, norm=SLIM_NORM)
    part.conv = Scaled(4, 4, 1, stride=1, rate=1, groups=1, padding="symmetric")
    fold(part)
    pack(part)
    assert len(norms_in(part)) == 1
    assert isinstance(part.conv, Scaled)
    reflected = nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect")
    assert not can_be_packed(reflected) and not can_be_packed(nn.Conv2d(4, 4, 3, padding="same"))
    assert not can_be_packed(nn.Conv2d(4, 4, 3).double())


class Tangled(nn.Module):
    """Some norms follow a convolution alone; others share it, or follow something else."""

    def __init__(self) -> None:
        super().__init__()
        self.bn1, self.bn2, self.bn3, self.bn4, self.bn5 = (nn.BatchNorm2d(4) for _ in range(5))
        self.conv1, self.conv2, self.conv3, self.conv4 = (nn.Conv2d(4, 4, 3, padding=1) for _ in range(4))
        self.linear, self.bn6 = nn.Linear(4, 4), nn.BatchNorm1d(4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn1(x)  # after nothing
        x = self.bn2(self.conv1(x)).relu()  # to be folded
        y = self.conv2(x)
        x = self.bn3(y) + y  # what it follows is used twice
        x = self.bn4(self.conv3(x).relu_())  # after an activation
        for _ in range(2):
            x = self.bn5(self.conv4(x))  # to be folded: called twice, always together
        z: Tensor = self.bn6(self.linear(x.mean((2, 3))))  # to be folded
        return z


@torch.no_grad()
def test_a_network_of_any_structure_is_folded_where_that_changes_nothing() -> None:
    network = trained(Tangled())
    images = maps(2, 4, 9, 9)
    expected = network(images)
    fold_traced(network, lambda one: one(images))
    assert len(norms_in(network)) == 3
    assert [type(getattr(network, f"bn{number}")) for number in (2, 5, 6)] == [nn.Identity] * 3
    assert_near(network(images), expected)


def test_an_activation_is_fused_only_where_it_follows_at_once() -> None:
    kept: dict[Activation, int] = {}
    for act in ACTIVATIONS:
        part = trained(ConvNorm(4, 4, norm=SLIM_NORM, act=act))
        pack(part)  # with its norm in between
        kept[act] = isinstance(part.act, nn.Identity)
    assert not any(kept.values())
    assert F.hardtanh(torch.tensor(7.0), 0, 6) == Clip(0.0, 6.0)(torch.tensor(7.0))
