"""PNASNet-5 (Liu et al. 2017, arXiv:1712.00559) and Auto-DeepLab (Liu et al. 2019, arXiv:1901.02985), found by search.

PNASNet's search found a cell, Auto-DeepLab's also a path through widths and strides. Both are tables here,
as in TensorFlow's DeepLab: PNASNet has twelve cells, after the stem of Auto-DeepLab.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from atrous.backbones.contract import Backbone, BackboneConfig
from atrous.layers.conv import SLIM_NORM, Conv, ConvNorm, same_padding
from atrous.layers.drop_path import DropPath
from atrous.layers.resize import resize

STEM = (64, 64, 128)
HEAD = {16: 512, 32: 1024}  # channels at the strides down to which a classifier goes
HEAD_WIDTH = 2048


class Block(NamedTuple):
    """A sum of two filtered states: 0 is the cell's input, 1 the cell before that, 2 its own first block."""

    left: str  # a row of OPS
    right: str
    left_state: int
    right_state: int


class SearchedNetwork(NamedTuple):
    """The result of a search, and its width."""

    cell: tuple[Block, ...]
    levels: Mapping[int, tuple[int, ...]]  # by output stride; of each cell: stride 4 << level, width filters << level
    filters: int  # called F in the papers
    taps: dict[str, int]  # by feature, the index of its output: 0 and 1 are the stem's, the rest the cells'


PNASNET_CELL = (  # figure 1 of its paper
    Block("sep5x5", "max3x3", 1, 1),
    Block("sep7x7", "max3x3", 0, 0),
    Block("sep5x5", "sep3x3", 0, 0),
    Block("sep3x3", "max3x3", 4, 0),
    Block("sep3x3", "none", 1, 0),
)
PNASNET_LEVELS = {8: (1,) * 12, 16: (1,) * 4 + (2,) * 8, 32: (1,) * 4 + (2,) * 4 + (3,) * 4}
PNASNET_TAPS = {"c1": 0, "c2": 1, "c3": 5, "c4": 9, "low_level": 1, "low_level_8": 5, "low_level_16": 9}

AUTO_DEEPLAB_CELL = (  # figure 3 of its paper
    Block("atr5x5", "sep3x3", 1, 0),
    Block("sep3x3", "atr3x3", 1, 0),
    Block("sep3x3", "sep3x3", 3, 1),
    Block("sep5x5", "sep5x5", 4, 2),
    Block("sep5x5", "atr5x5", 3, 5),
)
AUTO_DEEPLAB_LEVELS = {8: (0, 0, 0, 1, 2, 1, 2, 2, 3, 3, 2, 1)}
AUTO_DEEPLAB_TAPS = {"c1": 0, "c2": 4, "c3": 7, "c4": 9, "low_level": 4, "low_level_8": 7, "low_level_16": 9}

NASNETS = {
    "pnasnet": SearchedNetwork(PNASNET_CELL, PNASNET_LEVELS, 20, PNASNET_TAPS),
    "auto_deeplab_s": SearchedNetwork(AUTO_DEEPLAB_CELL, AUTO_DEEPLAB_LEVELS, 20, AUTO_DEEPLAB_TAPS),
    "auto_deeplab_m": SearchedNetwork(AUTO_DEEPLAB_CELL, AUTO_DEEPLAB_LEVELS, 32, AUTO_DEEPLAB_TAPS),
    "auto_deeplab_l": SearchedNetwork(AUTO_DEEPLAB_CELL, AUTO_DEEPLAB_LEVELS, 48, AUTO_DEEPLAB_TAPS),
}


if TYPE_CHECKING:
    Name = str
else:
    Name = Literal[tuple(NASNETS)]


class Separable(nn.Sequential):
    """Activation, depthwise convolution, 1x1 and batch norm, twice; the first convolution has the stride."""

    def __init__(self, channels: int, stride: int, kernel: int) -> None:
        super().__init__()
        depthwise = partial(Conv, channels, channels, kernel, rate=1, groups=channels, padding="symmetric")
        self.relu = nn.ReLU()
        self.depthwise_1 = depthwise(stride=stride)
        self.pointwise_1 = ConvNorm(channels, channels, norm=SLIM_NORM)  # with the second activation
        self.depthwise_2 = depthwise(stride=1)
        self.pointwise_2 = ConvNorm(channels, channels, norm=SLIM_NORM, act="none")


class Atrous(nn.Module):
    """A convolution of rate 2; where it has a stride, of rate 1 on the smaller map."""

    def __init__(self, channels: int, stride: int, kernel: int) -> None:
        super().__init__()
        self.stride = stride
        self.filter = ConvNorm(channels, channels, kernel, norm=SLIM_NORM, rate=2 // stride, act="none")

    def forward(self, x: Tensor) -> Tensor:  # [B, K, h, w]
        size = [-(-pixels // self.stride) for pixels in x.shape[-2:]]
        y: Tensor = self.filter(resize(x.relu(), size))
        return y


class MaxPool(nn.Module):
    """3x3 max pooling, padded with minus infinity by TensorFlow's SAME."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:  # [B, K, h, w]
        before = [same_padding(pixels, 3, self.stride, 1)[0] for pixels in x.shape[-2:]]
        return F.max_pool2d(x, 3, self.stride, before, ceil_mode=True)


def _project(inp: int, out: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.ReLU(), ConvNorm(inp, out, norm=SLIM_NORM, stride=stride, act="none"))


def _skip(channels: int, stride: int) -> nn.Module:
    return nn.Identity() if stride == 1 else _project(channels, channels, stride)


OPS: dict[str, Callable[[int, int], nn.Module]] = {  # channels, stride
    "sep3x3": partial(Separable, kernel=3),
    "sep5x5": partial(Separable, kernel=5),
    "sep7x7": partial(Separable, kernel=7),
    "atr3x3": partial(Atrous, kernel=3),
    "atr5x5": partial(Atrous, kernel=5),
    "max3x3": MaxPool,
    "none": _skip,
}


def _path(op: str, channels: int, stride: int, drop: float) -> nn.Sequential:
    path = nn.Sequential()
    path.add_module(op, OPS[op](channels, stride))
    if op != "none":
        path.add_module("drop", DropPath(drop))
    return path


class Cell(nn.Module):
    """The next output from the last two: its blocks, concatenated. The filters of the cell's inputs have the stride."""

    def __init__(
        self, blocks: tuple[Block, ...], inp: int, previous: int, width: int, *, stride: int, drop: float
    ) -> None:
        super().__init__()
        self.input = _project(inp, width)
        self.previous = _project(previous, width) if previous != width else nn.Identity()
        self.left, self.right = nn.ModuleList(), nn.ModuleList()
        for block in blocks:
            self.left.append(_path(block.left, width, stride if block.left_state < 2 else 1, drop))
            self.right.append(_path(block.right, width, stride if block.right_state < 2 else 1, drop))
        self.states = [(block.left_state, block.right_state) for block in blocks]

    def forward(self, x: Tensor, previous: Tensor) -> Tensor:
        states = [self.input(x), self.previous(resize(previous, x.shape[-2:]))]
        for (i, j), left, right in zip(self.states, self.left, self.right, strict=True):
            states.append(left(states[i]) + right(states[j]))
        return torch.cat(states[2:], 1)


class NASNet(Backbone):
    """Stages and taps are raw sums, before any activation, except `c5`, which has one.

    Auto-DeepLab goes down to stride 32 and comes back: its `c4` has stride 16 and its `c5` stride 8, the last of the
    network. PNASNet has another path, and so other widths and weights, at each output stride. Rates keep the
    layers of a classification head at the output stride.
    """

    mean = (127.5, 127.5, 127.5)
    std = (127.5, 127.5, 127.5)

    class Config(BackboneConfig):
        name: Name
        depth_multiplier: float = Field(default=1.0, gt=0, le=8)
        """Factor on all widths after the stem, relative to the paper's."""
        classification_head: bool = False
        """Keep the layers between the cells and ImageNet's classifier."""
        remove_stride_32: bool = False
        """Stay at stride 16 where the architecture would go to 32."""
        drop_path: float = Field(default=0.0, ge=0, lt=1)
        """Share of the last cell's paths that are dropped when training ends; against overfitting."""

        @model_validator(mode="after")
        def _some_filters_are_left(self) -> "NASNet.Config":
            if self.filters < 1:
                whole = NASNETS[self.name].filters
                raise ValueError(f"depth_multiplier {self.depth_multiplier} leaves none of {whole} filters")
            return self

        @property
        def filters(self) -> int:
            return round(NASNETS[self.name].filters * self.depth_multiplier)

        @property
        def output_strides(self) -> tuple[int, ...]:
            return tuple(NASNETS[self.name].levels)

    def __init__(self, config: Config, output_stride: int) -> None:
        super().__init__(config, output_stride)
        searched, filters = NASNETS[config.name], config.filters
        levels = searched.levels[output_stride]
        self.scales = [min(level, 2) if config.remove_stride_32 else level for level in levels]
        self.stem = _stem()
        widths = [*STEM[1:], *(len(searched.cell) * filters << level for level in levels)]
        self.cells = nn.ModuleList(
            Cell(
                searched.cell,
                widths[index + 1],
                widths[index],
                filters << level,
                stride=2 if scale > before else 1,
                drop=config.drop_path * (index + 1) / len(levels),
            )
            for index, (level, before, scale) in enumerate(zip(levels, [0, *self.scales], self.scales, strict=False))
        )
        self.head = _head(widths[-1], output_stride) if config.classification_head else nn.Sequential()
        self.taps = searched.taps
        strides = [2, 4, *(4 << scale for scale in self.scales)]
        self.channels = {name: widths[index] for name, index in self.taps.items()}
        self.channels["c5"] = HEAD_WIDTH if config.classification_head else widths[-1]
        self.strides = {name: strides[index] for name, index in self.taps.items()} | {"c5": strides[-1]}

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        outputs = self._outputs(images)
        features = {name: outputs[index] for name, index in self.taps.items()}
        features["c5"] = self.head(outputs[-1].relu())
        return features

    def _outputs(self, images: Tensor) -> list[Tensor]:
        """The stem's, [B, 64, H/2, W/2] and [B, 128, H/4, W/4], then each cell's."""
        half = self.stem[1](self.stem[0](images))
        outputs = [half, self.stem[2](half.relu())]
        sizes, before = {0: outputs[-1].shape[-2:]}, 0
        for scale, cell in zip(self.scales, self.cells, strict=True):
            # The original goes back to 2 * size - 1, which equals this size wherever its own layers fit together.
            x = resize(outputs[-1], sizes[scale]) if scale < before else outputs[-1]
            outputs.append(cell(x, outputs[-2]))
            sizes[scale], before = outputs[-1].shape[-2:], scale
        return outputs


def _stem() -> nn.Sequential:
    return nn.Sequential(
        ConvNorm(3, STEM[0], 3, norm=SLIM_NORM, stride=2),
        ConvNorm(STEM[0], STEM[1], 3, norm=SLIM_NORM, act="none"),
        ConvNorm(STEM[1], STEM[2], 3, norm=SLIM_NORM, stride=2, act="none"),
    )


def _head(inp: int, output_stride: int) -> nn.Sequential:
    head = nn.Sequential()
    for stride, width in HEAD.items():
        if stride > output_stride:
            head.add_module(f"stride_{stride}", ConvNorm(inp, width, 3, norm=SLIM_NORM, rate=stride // output_stride))
            inp = width
    head.add_module("expand", ConvNorm(inp, HEAD_WIDTH, norm=SLIM_NORM))
    return head
