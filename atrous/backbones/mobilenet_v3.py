"""MobileNetV3 (Howard et al. 2019, arXiv:1905.02244), as in TensorFlow's DeepLab (section 6.4) and in deeplab2."""

from typing import TYPE_CHECKING, Literal, NamedTuple

from pydantic import Field, PositiveFloat
from torch import Tensor, nn

from atrous.backbones.contract import IMAGENET_MEAN, IMAGENET_STD, Backbone, BlocksConfig, strides_at
from atrous.backbones.rates import AtrousRule, placed, strides_to_rates
from atrous.layers.aspp import Squeeze
from atrous.layers.conv import SLIM_NORM, Activation, ConvNorm, Norm, Padding
from atrous.layers.inverted_residual import InvertedResidual, round_channels
from atrous.types import RGB


class Row(NamedTuple):
    """A line of table 1 or 2 of the paper."""

    kernel: int
    wide: int
    channels: int
    squeeze: bool
    act: Activation
    stride: int


class Program(NamedTuple):
    """What the paper leaves to the program: weights are valid only for the program that they were trained with."""

    norm: Norm
    padding: Padding
    gate: Squeeze
    has_gained_shortcuts: bool  # where a rate replaces a unit's stride, and its channels stay
    rule: AtrousRule = "unit"
    tap: Literal["expanded", "output"] = "expanded"  # of a block, for decoders; expanded: before the squeeze
    mean: RGB = (127.5, 127.5, 127.5)
    std: RGB = (127.5, 127.5, 127.5)


TENSORFLOW = Program(SLIM_NORM, "same", "hard_sigmoid", has_gained_shortcuts=True)
DEEPLAB2 = Program(Norm(eps=1e-3, momentum=0.01), "symmetric", "sigmoid", has_gained_shortcuts=False)
TORCHVISION = DEEPLAB2._replace(gate="hard_sigmoid_6", rule="stage", tap="output", mean=IMAGENET_MEAN, std=IMAGENET_STD)


class Network(NamedTuple):
    """A table, and the blocks that end c2, c3 and c4: decoders tap these unless there are `taps` of their own."""

    rows: tuple[Row, ...]
    last: int  # channels of c5
    ends: tuple[int, int, int]
    program: Program = TENSORFLOW
    taps: tuple[int, int, int] | None = None


STEM = 16
MOBILENETS = {
    "mobilenet_v3_large_seg": Network(
        (
            Row(3, 16, 16, False, "relu", 1),
            Row(3, 64, 24, False, "relu", 2),
            Row(3, 72, 24, False, "relu", 1),
            Row(5, 72, 40, True, "relu", 2),
            Row(5, 120, 40, True, "relu", 1),
            Row(5, 120, 40, True, "relu", 1),
            Row(3, 240, 80, False, "hard_swish", 2),
            Row(3, 200, 80, False, "hard_swish", 1),
            Row(3, 184, 80, False, "hard_swish", 1),
            Row(3, 184, 80, False, "hard_swish", 1),
            Row(3, 480, 112, True, "hard_swish", 1),
            Row(3, 672, 112, True, "hard_swish", 1),
            Row(5, 336, 80, True, "hard_swish", 2),
            Row(5, 480, 80, True, "hard_swish", 1),
            Row(5, 480, 80, True, "hard_swish", 1),
        ),
        last=480,
        ends=(2, 5, 11),
    ),
    "mobilenet_v3_small_seg": Network(
        (
            Row(3, 16, 16, True, "relu", 2),
            Row(3, 72, 24, False, "relu", 2),
            Row(3, 88, 24, False, "relu", 1),
            Row(5, 96, 40, True, "hard_swish", 2),
            Row(5, 240, 40, True, "hard_swish", 1),
            Row(5, 240, 40, True, "hard_swish", 1),
            Row(5, 120, 48, True, "hard_swish", 1),
            Row(5, 144, 48, True, "hard_swish", 1),
            Row(5, 144, 48, True, "hard_swish", 2),
            Row(5, 288, 48, True, "hard_swish", 1),
            Row(5, 288, 48, True, "hard_swish", 1),
        ),
        last=288,
        ends=(0, 2, 7),
    ),
}
LARGE_ROWS = (
    *MOBILENETS["mobilenet_v3_large_seg"].rows[:12],
    Row(5, 672, 160, True, "hard_swish", 2),
    Row(5, 960, 160, True, "hard_swish", 1),
    Row(5, 960, 160, True, "hard_swish", 1),
)
WHOLE_LAST = {  # the last stage is not halved
    "mobilenet_v3_large_d2": Network(LARGE_ROWS, last=960, ends=(2, 5, 11), program=DEEPLAB2),
    "mobilenet_v3_large_tv": Network(LARGE_ROWS, last=960, ends=(2, 5, 11), program=TORCHVISION, taps=(1, 3, 6)),
    "mobilenet_v3_small_d2": Network(
        (
            *MOBILENETS["mobilenet_v3_small_seg"].rows[:8],
            Row(5, 288, 96, True, "hard_swish", 2),
            Row(5, 576, 96, True, "hard_swish", 1),
            Row(5, 576, 96, True, "hard_swish", 1),
        ),
        last=576,
        ends=(0, 2, 7),
        program=DEEPLAB2,
    ),
}
MOBILENETS |= WHOLE_LAST

if TYPE_CHECKING:
    Name = str
else:
    Name = Literal[tuple(MOBILENETS)]


class MobileNetV3(Backbone):
    """c1 is the output of the stem, c5 that of the 1x1 convolution after the blocks.

    Squeeze-and-excitation averages over the map, so that features at another output stride are close to the strided
    ones, but not equal. In the small network, the unit that opens c5 has a shortcut unless it has its stride.
    """

    class Config(BlocksConfig):
        name: Name
        depth_multiplier: float = Field(default=1.0, gt=0, le=8)
        """Factor on all widths, relative to the paper's: smaller is faster and less accurate."""
        norm_eps: PositiveFloat | None = None
        """Epsilon of the batch norms; none: as in the original."""

        @property
        def num_blocks(self) -> int:
            return len(MOBILENETS[self.name].rows)

    def __init__(self, config: Config, output_stride: int) -> None:
        super().__init__(config, output_stride)
        network = MOBILENETS[config.name]
        rows, program = network.rows, network.program
        self.mean, self.std, self.tap = program.mean, program.std, program.tap
        norm = program.norm if config.norm_eps is None else program.norm._replace(eps=config.norm_eps)
        paper = [STEM, *(row.channels for row in rows)]
        stem, *outs = (round_channels(width * config.depth_multiplier, 8) for width in paper)
        inps = [stem, *outs[:-1]]
        # The expanded features keep the paper's ratio to their input, which is already rounded.
        ratios = [row.wide / width for row, width in zip(rows, paper[:-1], strict=True)]
        wides = [round_channels(inp * ratio, 8) for inp, ratio in zip(inps, ratios, strict=True)]
        strides = [2, *(row.stride for row in rows)]
        plan = placed(strides_to_rates(strides, output_stride, program.rule)[1:], config.rates)
        last = round_channels(network.last * config.depth_multiplier, 8)
        self.stem = ConvNorm(3, stem, 3, norm=norm, stride=2, act="hard_swish", padding=program.padding)
        self.blocks = nn.ModuleList(
            InvertedResidual(
                inp,
                wide,
                out,
                row.kernel,
                norm=norm,
                act=row.act,
                stride=place.stride,
                rate=place.rate,
                squeeze=row.squeeze,
                gate=program.gate,
                shortcut=program.has_gained_shortcuts or row.stride == 1,
                padding=program.padding,
            )
            for inp, wide, out, row, place in zip(inps, wides, outs, rows, plan, strict=True)
        )
        self.last = ConvNorm(outs[-1], last, norm=norm, act="hard_swish")
        self.stages = dict(zip(network.ends, ("c2", "c3", "c4"), strict=True))
        self.taps = dict(zip(network.taps or network.ends, ("low_level", "low_level_8", "low_level_16"), strict=True))
        self.channels = {"c1": stem, **{name: outs[block] for block, name in self.stages.items()}, "c5": last}
        self.channels |= {name: (outs if self.tap == "output" else wides)[block] for block, name in self.taps.items()}
        self.strides = strides_at(output_stride, self.channels)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        x = self.stem(images)
        features = {"c1": x}
        for index, block in enumerate(self.blocks):
            x, wide = block(x)
            if index in self.stages:
                features[self.stages[index]] = x
            if index in self.taps:
                features[self.taps[index]] = x if self.tap == "output" else wide
        return {**features, "c5": self.last(x)}
