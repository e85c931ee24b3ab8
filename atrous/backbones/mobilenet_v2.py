"""MobileNetV2 (Sandler et al. 2018, arXiv:1801.04381), as in TensorFlow's DeepLab and in four programs in PyTorch."""

from collections.abc import Iterator
from itertools import islice, repeat
from typing import Literal, NamedTuple

from pydantic import Field, PositiveFloat
from torch import Tensor, nn

from atrous.backbones.contract import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Backbone,
    BlocksConfig,
    ImageNet,
    Stage,
    strides_at,
)
from atrous.backbones.rates import AtrousRule, Placement, placed, strides_to_rates
from atrous.layers.conv import SLIM_NORM, TORCH_NORM, ConvNorm, Norm, Padding
from atrous.layers.inverted_residual import InvertedResidual, round_channels
from atrous.settings import Channels
from atrous.types import RGB


class Row(NamedTuple):
    """A line of table 2 of the paper."""

    expansion: int
    channels: int
    repeats: int
    stride: int  # of the first of the repeats


STEM = 32
ROWS = (
    Row(1, 16, 1, 1),
    Row(6, 24, 2, 2),
    Row(6, 32, 3, 2),
    Row(6, 64, 4, 2),
    Row(6, 96, 3, 1),
    Row(6, 160, 3, 2),
    Row(6, 320, 1, 1),
)
STAGES = {0: "c1", 2: "c2", 5: "c3", 12: "c4", 16: "c5"}  # outputs of blocks
TAPS = {2: "low_level", 5: "low_level_8", 12: "low_level_16"}


class Program(NamedTuple):
    """What the paper leaves to the program: weights are valid only for the program that they were trained with."""

    norm: Norm
    stem: Padding
    padding: Padding
    pads_input: bool  # of the blocks, before the expansion
    rule: AtrousRule
    late: bool  # a whole row of the table keeps its old rate, and only the next one takes the new
    tap: Literal["expanded", "output"]  # of a block, for decoders; expanded: after the depthwise convolution
    last: int | None  # channels of the 1x1 convolution after the blocks
    color: tuple[RGB, RGB]  # mean and std


HALVES = ((127.5, 127.5, 127.5), (127.5, 127.5, 127.5))
TORCH = Program(
    TORCH_NORM, "symmetric", "symmetric", False, "stage", False, "output", 1280, (IMAGENET_MEAN, IMAGENET_STD)
)
PADDED = TORCH._replace(pads_input=True, rule="unit", last=None)
PROGRAMS = {
    "tensorflow": Program(SLIM_NORM, "same", "same", False, "unit", False, "expanded", None, HALVES),
    "torchvision": TORCH,  # and segmentation_models_pytorch
    "mmsegmentation": TORCH._replace(last=None),
    "vainf": PADDED._replace(stem="valid"),
    "jfzhang95": PADDED._replace(late=True),
}


IMAGENET = (0.35, 0.5, 0.75, 1.0, 1.3, 1.4)  # depth multipliers of TF-slim's weights, whose widths are multiples of 8


class MobileNetV2(Backbone):
    """Decoders at stride 4, 8 and 16 tap the last block at that stride."""

    class Config(BlocksConfig):
        name: Literal["mobilenet_v2"] = "mobilenet_v2"
        depth_multiplier: float = Field(default=1.0, gt=0, le=8)
        """Factor on all widths, relative to the paper's: smaller is faster and less accurate."""
        divisible_by: Channels | None = None  # as in TF DeepLab
        """What all widths are a multiple of; none: 8 at full width, else 1."""
        program: Literal["tensorflow", "torchvision", "mmsegmentation", "vainf", "jfzhang95"] = "tensorflow"
        """Whose paddings, rates, epsilon, colours, and whose features for decoders; weights fit only their own."""
        norm_eps: PositiveFloat | None = None
        """Epsilon of the batch norms; none: as in the program."""
        last_stage: Stage = "c5"
        """The stage with which the network ends; c3 and c4 are faster and see less."""

        @property
        def deepest(self) -> Stage:
            return self.last_stage

        @property
        def num_blocks(self) -> int:
            return sum(row.repeats for row in ROWS)

        @property
        def divisor(self) -> int:
            """DeepLab's own rule for the widths; slim's is 8 for all."""
            return self.divisible_by or (8 if self.depth_multiplier == 1 else 1)

        @property
        def imagenet(self) -> ImageNet:
            if self.program != "tensorflow":
                return ImageNet(advice="there are some for program=tensorflow")
            if self.depth_multiplier in IMAGENET and self.divisor == 8:
                return ImageNet(f"zoo:mobilenet_v2_{self.depth_multiplier}_imagenet")
            widths = ", ".join(map(str, IMAGENET))
            return ImageNet(advice=f"there are some for depth_multiplier {widths}, with divisible_by=8")

    def __init__(self, config: Config, output_stride: int) -> None:
        super().__init__(config, output_stride)
        program, width = PROGRAMS[config.program], config.depth_multiplier
        self.mean, self.std = program.color
        count = 1 + next(block for block, stage in STAGES.items() if stage == config.last_stage)
        rows = [row for row in ROWS for _ in range(row.repeats)]
        widths = [STEM, *(row.channels for row in rows)]
        stem, *outs = (round_channels(channels * width, config.divisor) for channels in widths)
        inps = [stem, *outs[:-1]]
        wides = [
            inp if row.expansion == 1 else round_channels(inp * row.expansion, 8)
            for inp, row in zip(inps, rows, strict=True)
        ]
        plan = placed(list(_plan(program, output_stride)), config.rates)
        norm = program.norm if config.norm_eps is None else program.norm._replace(eps=config.norm_eps)
        self.stem = ConvNorm(3, stem, 3, norm=norm, stride=2, act="relu6", padding=program.stem)
        self.blocks = nn.ModuleList(
            InvertedResidual(
                inp,
                wide,
                out,
                norm=norm,
                act="relu6",
                stride=place.stride,
                rate=place.rate,
                padding=program.padding,
                pads_input=program.pads_input,
            )
            for inp, wide, out, place in islice(zip(inps, wides, outs, plan, strict=True), count)
        )
        is_whole = config.last_stage == "c5"
        last = round_channels(program.last * max(1.0, width), 8) if program.last and is_whole else None
        self.last = None if last is None else ConvNorm(outs[-1], last, norm=norm, act="relu6")
        self.tap = program.tap
        taps = outs if self.tap == "output" else wides
        self.channels = {name: outs[block] for block, name in STAGES.items() if block < count}
        self.channels |= {name: taps[block] for block, name in TAPS.items() if block < count}
        self.channels |= {"c5": last} if last else {}
        self.strides = strides_at(output_stride, self.channels)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        x, features = self.stem(images), {}
        for index, block in enumerate(self.blocks):
            x, wide = block(x)
            if index in STAGES:
                features[STAGES[index]] = x
            if index in TAPS:
                features[TAPS[index]] = x if self.tap == "output" else wide
        return features if self.last is None else {**features, "c5": self.last(x)}


def _plan(program: Program, output_stride: int) -> Iterator[Placement]:
    """Of each block, from the rates of the table's rows."""
    rows = strides_to_rates([2, *(row.stride for row in ROWS)], output_stride, program.rule)[1:]
    for row, place in zip(ROWS, rows, strict=True):
        rate = place.rate if program.late else place.next_rate
        yield place
        yield from repeat(Placement(1, rate, rate), row.repeats - 1)
