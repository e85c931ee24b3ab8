"""ResNet (He et al. 2015, arXiv:1512.03385), as in torchvision, semseg, TensorFlow's DeepLab and deeplab2.

ResNeXt (Xie et al. 2016, arXiv:1611.05431), as in torchvision, are rows with other bottlenecks.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple

from pydantic import model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from atrous.backbones.contract import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Backbone,
    BackboneConfig,
    ImageNet,
    Stage,
    require_grid,
    strides_at,
)
from atrous.backbones.rates import AtrousRule, Placement, strides_to_rates
from atrous.layers.conv import TORCH_NORM, ConvNorm, Norm, Padding
from atrous.settings import Rates
from atrous.types import RGB

STAGES = ("c2", "c3", "c4", "c5")
TAPS = {"c2": "low_level", "c3": "low_level_8", "c4": "low_level_16"}


class Subsample(nn.Module):
    """The shortcut of a unit that has a stride and keeps its channels: every stride-th pixel, from the first on."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:  # [B, K, h, w]
        return x[:, :, :: self.stride, :: self.stride]


def _shortcut(inp: int, out: int, stride: int, norm: Norm) -> nn.Module:
    if inp != out:
        return ConvNorm(inp, out, norm=norm, stride=stride, act="none")
    return Subsample(stride) if stride > 1 else nn.Identity()


class Basic(nn.Module):
    """Two 3x3, for the shallow networks (figure 5, left); returns the output and the residual added to the shortcut."""

    expansion = 1

    def __init__(self, inp: int, width: int, place: Placement, norm: Norm) -> None:
        super().__init__()
        self.conv1 = ConvNorm(inp, width, 3, norm=norm, stride=place.stride, rate=place.rate)
        self.conv2 = ConvNorm(width, width, 3, norm=norm, rate=place.next_rate, act="none")
        self.shortcut = _shortcut(inp, width, place.stride, norm)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        residual = self.conv2(self.conv1(x))
        return (self.shortcut(x) + residual).relu_(), residual


class OnceDilated(Basic):
    """mmsegmentation's `Basic`: the second 3x3 is never dilated."""

    def __init__(self, inp: int, width: int, place: Placement, norm: Norm) -> None:
        super().__init__(inp, width, place._replace(next_rate=1), norm)


class Lite(nn.Module):
    """TensorFlow's `Basic`: the second of its 3x3 has the stride, so that both have one rate."""

    expansion = 1

    def __init__(self, inp: int, width: int, place: Placement, norm: Norm) -> None:
        super().__init__()
        self.conv1 = ConvNorm(inp, width, 3, norm=norm, rate=place.rate)
        self.conv2 = ConvNorm(width, width, 3, norm=norm, stride=place.stride, rate=place.rate, act="none")
        self.shortcut = _shortcut(inp, width, place.stride, norm)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        residual = self.conv2(self.conv1(x))
        return (self.shortcut(x) + residual).relu_(), residual


class Bottleneck(nn.Module):
    """A 3x3, which has the stride, between two 1x1, for the deep networks (figure 5, right); returns as `Basic`."""

    expansion = 4
    widening: ClassVar[int] = 1  # of the 3x3, and so of what comes before it
    groups: ClassVar[int] = 1

    def __init__(self, inp: int, width: int, place: Placement, norm: Norm) -> None:
        super().__init__()
        out, wide = self.expansion * width, self.widening * width
        self.conv1 = ConvNorm(inp, wide, norm=norm)
        self.conv2 = ConvNorm(wide, wide, 3, norm=norm, stride=place.stride, rate=place.rate, groups=self.groups)
        self.conv3 = ConvNorm(wide, out, norm=norm, act="none")
        self.shortcut = _shortcut(inp, out, place.stride, norm)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        residual = self.conv3(self.conv2(self.conv1(x)))
        return (self.shortcut(x) + residual).relu_(), residual


class Grouped4(Bottleneck):
    """ResNeXt's 32x4d: 32 groups, of 4 channels each in c2."""

    widening, groups = 2, 32


class Grouped8(Bottleneck):
    """ResNeXt's 32x8d."""

    widening, groups = 4, 32


class Caffe(Bottleneck):
    """The paper's own bottleneck: the first 1x1 has the stride."""

    def __init__(self, inp: int, width: int, place: Placement, norm: Norm) -> None:
        super().__init__(inp, width, place, norm)
        self.conv1.conv.stride, self.conv2.conv.stride = self.conv2.conv.stride, self.conv1.conv.stride


class Program(NamedTuple):
    """What the paper leaves to the program: weights are valid only for the program that they were trained with."""

    rule: AtrousRule
    strided: Literal["first", "last"]  # the first unit of c3..c5 has the stride, or the last of c2..c4
    pool: Padding | Literal["ceil", "none"]  # of the max pool after the stem; ceil: the last may be a part; none: c2's
    tap: Literal["output", "residual"]  # of a unit, for decoders; residual: without its shortcut
    norm: Norm
    mean: RGB
    std: RGB


TORCHVISION = Program(
    rule="unit",
    strided="first",
    pool="symmetric",
    tap="output",
    norm=TORCH_NORM,
    mean=IMAGENET_MEAN,
    std=IMAGENET_STD,
)
SEMSEG = TORCHVISION._replace(rule="stage")
TENSORFLOW = Program(
    rule="unit",
    strided="last",
    pool="same",
    tap="residual",
    norm=Norm(eps=1.001e-5, momentum=0.05),
    mean=(123.15, 115.90, 103.06),
    std=(1.0, 1.0, 1.0),
)
TENSORFLOW_BETA = TENSORFLOW._replace(mean=(127.5, 127.5, 127.5), std=(127.5, 127.5, 127.5))
CAFFE = SEMSEG._replace(pool="ceil", mean=(122.675, 116.669, 104.008), std=(1.0, 1.0, 1.0))
DEEPLAB2 = TORCHVISION._replace(
    pool="none", norm=Norm(eps=1e-3, momentum=0.01), mean=(127.5, 127.5, 127.5), std=(127.5, 127.5, 127.5)
)


class Row(NamedTuple):
    """A column of table 1 of the paper."""

    unit: type[Basic | Lite | Bottleneck]
    blocks: tuple[int, int, int, int]  # units in c2..c5
    program: Program
    width: int = 64  # of the stem and of the 3x3 in c2; each stage doubles it
    deep_stem: tuple[int, ...] = ()  # channels of the 3x3 instead of the stem's 7x7; (): a 7x7
    imagenet: str | None = None  # where weights for ImageNet are, as `atrous convert` reads them


RESNETS = {
    "resnet_tiny": Row(Basic, (1, 1, 1, 1), TORCHVISION, width=8),  # for tests
    "resnet_small": Row(Basic, (2, 2, 1, 1), TORCHVISION, width=24),  # learns simple scenes in minutes on a CPU
    "resnet18": Row(Basic, (2, 2, 2, 2), TORCHVISION, imagenet="zoo:resnet18_imagenet"),
    "resnet34": Row(Basic, (3, 4, 6, 3), TORCHVISION, imagenet="zoo:resnet34_imagenet"),
    "resnet50": Row(Bottleneck, (3, 4, 6, 3), TORCHVISION, imagenet="zoo:resnet50_imagenet"),
    "resnet101": Row(Bottleneck, (3, 4, 23, 3), TORCHVISION, imagenet="zoo:resnet101_imagenet"),
    "resnet152": Row(Bottleneck, (3, 8, 36, 3), TORCHVISION, imagenet="zoo:resnet152_imagenet"),
    "resnext50_32x4d": Row(Grouped4, (3, 4, 6, 3), TORCHVISION),
    "resnext101_32x4d": Row(Grouped4, (3, 4, 23, 3), TORCHVISION),
    "resnext101_32x8d": Row(Grouped8, (3, 4, 23, 3), TORCHVISION),
    "resnet18b": Row(OnceDilated, (2, 2, 2, 2), TORCHVISION),
    "resnet18c": Row(OnceDilated, (2, 2, 2, 2), TORCHVISION, deep_stem=(32, 32, 64)),
    "resnet50c": Row(Bottleneck, (3, 4, 6, 3), TORCHVISION, deep_stem=(32, 32, 64)),
    "resnet101c": Row(Bottleneck, (3, 4, 23, 3), TORCHVISION, deep_stem=(32, 32, 64)),
    "resnet50s": Row(Bottleneck, (3, 4, 6, 3), SEMSEG, deep_stem=(64, 64, 128)),
    "resnet101s": Row(Bottleneck, (3, 4, 23, 3), SEMSEG, deep_stem=(64, 64, 128)),
    "resnet152s": Row(Bottleneck, (3, 8, 36, 3), SEMSEG, deep_stem=(64, 64, 128)),
    "resnet18s": Row(Basic, (2, 2, 2, 2), SEMSEG, deep_stem=(64, 64, 128)),
    "resnet101_caffe": Row(Caffe, (3, 4, 23, 3), CAFFE),
    "resnet_v1_18": Row(Lite, (2, 2, 2, 2), TENSORFLOW),
    "resnet_v1_50": Row(Bottleneck, (3, 4, 6, 3), TENSORFLOW),
    "resnet_v1_101": Row(Bottleneck, (3, 4, 23, 3), TENSORFLOW),
    "resnet_v1_18_beta": Row(Lite, (2, 2, 2, 2), TENSORFLOW_BETA, deep_stem=(16, 16, 32)),
    "resnet_v1_50_beta": Row(
        Bottleneck, (3, 4, 6, 3), TENSORFLOW_BETA, deep_stem=(64, 64, 128), imagenet="zoo:resnet_v1_50_beta_imagenet"
    ),
    "resnet_v1_101_beta": Row(
        Bottleneck, (3, 4, 23, 3), TENSORFLOW_BETA, deep_stem=(64, 64, 128), imagenet="zoo:resnet_v1_101_beta_imagenet"
    ),
    "resnet50_d2": Row(Bottleneck, (3, 4, 6, 3), DEEPLAB2),
    "resnet50_beta_d2": Row(Bottleneck, (3, 4, 6, 3), DEEPLAB2, deep_stem=(64, 64, 128)),
}


if TYPE_CHECKING:
    Name = str
else:
    Name = Literal[tuple(RESNETS)]


class ResNet(Backbone):
    """Each stage is the output of its last unit at its stride, or of the unit before if that unit has the next stride.

    Decoders tap the same units, except c5.
    """

    class Config(BackboneConfig):
        name: Name
        multi_grid: Rates | None = None  # arXiv:1706.05587, 3.2.1
        """A factor on the rates of each unit of the last stage, such as [1, 2, 4]; none: all 1."""
        atrous_rule: AtrousRule | None = None
        """The unit that loses its stride keeps its old rate (unit) or has the new one (stage); none: as in its row."""
        last_stage: Stage = "c5"
        """The stage with which the network ends; c3 and c4 are faster and see less."""

        @property
        def deepest(self) -> Stage:
            return self.last_stage

        @property
        def imagenet(self) -> ImageNet:
            return ImageNet(RESNETS[self.name].imagenet)

        @model_validator(mode="after")
        def _grid_has_a_factor_for_each_unit(self) -> "ResNet.Config":
            require_grid(self, self.multi_grid, RESNETS[self.name].blocks[-1])
            return self

    def __init__(self, config: Config, output_stride: int) -> None:
        super().__init__(config, output_stride)
        row = RESNETS[config.name]
        self.program = row.program._replace(rule=config.atrous_rule or row.program.rule)
        self.mean, self.std = row.program.mean, row.program.std
        self.stem = _stem(row)
        plan = iter(_plan(row._replace(program=self.program), output_stride, config.multi_grid))
        inp = (row.deep_stem or (row.width,))[-1]
        self.channels = {"c1": inp}
        stages = STAGES[: STAGES.index(config.last_stage) + 1]
        for index, (stage, count) in enumerate(zip(stages, row.blocks, strict=False)):
            width = row.width << index
            units = nn.ModuleList()
            for _ in range(count):
                units.append(row.unit(inp, width, next(plan), row.program.norm))
                inp = width * row.unit.expansion
            self.add_module(stage, units)
            self.channels[stage] = inp
        self.channels |= {tap: self.channels[stage] for stage, tap in TAPS.items() if stage in stages}
        self.strides = strides_at(output_stride, self.channels)
        self.ends = {stage: end for stage, end in _ends(row).items() if stage in stages}

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        x = self.stem(images)
        features = {"c1": x}
        x = x if self.program.pool == "none" else _max_pool(x, self.program.pool)
        for stage, end in self.ends.items():
            for index, unit in enumerate(self.get_submodule(stage).children()):
                x, residual = unit(x)
                if index == end:
                    features |= self._features(stage, x, residual)
                del residual  # it is as large as x: free it before the next unit's
        return features

    def _features(self, stage: str, output: Tensor, residual: Tensor) -> dict[str, Tensor]:
        if stage not in TAPS:
            return {stage: output}
        return {stage: output, TAPS[stage]: residual if self.program.tap == "residual" else output}


def _stem(row: Row) -> nn.Sequential:
    widths, kernel = (row.deep_stem, 3) if row.deep_stem else ((row.width,), 7)
    return nn.Sequential(
        *(
            ConvNorm(inp, out, kernel, norm=row.program.norm, stride=1 if index else 2)
            for index, (inp, out) in enumerate(pairwise((3, *widths)))
        )
    )


def _ends(row: Row) -> dict[str, int]:
    """The index of the unit whose output is the stage."""
    c2, c3, c4, c5 = (count - 1 for count in row.blocks)
    early = row.program.strided == "last"
    return {"c2": c2 - early, "c3": c3 - early, "c4": c4 - early, "c5": c5}


def _max_pool(x: Tensor, padding: Padding | Literal["ceil"]) -> Tensor:
    """3x3 at stride 2; TensorFlow's SAME pads odd sizes by a pixel on each side, even sizes by one at the end."""
    around = [size % 2 for size in x.shape[-2:]] if padding == "same" else 1
    return F.max_pool2d(x, 3, 2, around, ceil_mode=padding != "symmetric")


def _plan(row: Row, output_stride: int, multi_grid: Sequence[int] | None) -> list[Placement]:
    strides = [1 if unit else 2 for count in row.blocks for unit in range(count)]
    stem = 2
    if row.program.pool != "none":  # which has the stride of c2's first unit
        stem, strides[0] = 4, 1
    if row.program.strided == "last":
        strides = [*strides[1:], 1]  # each one unit earlier
    plan = strides_to_rates([stem, *strides], output_stride, row.program.rule)[1:]
    grid = [1] * (len(plan) - row.blocks[-1]) + list(multi_grid or [1] * row.blocks[-1])
    return [
        Placement(stride, rate * factor, next_rate * factor)
        for (stride, rate, next_rate), factor in zip(plan, grid, strict=True)
    ]
