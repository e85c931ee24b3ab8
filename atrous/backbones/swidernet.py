"""Wide-ResNet-41 (Chen et al. 2020, arXiv:2005.10266) and SWideRNet (Chen et al. 2020, arXiv:2011.11675)."""

from typing import Literal, NamedTuple

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from atrous.backbones.contract import Backbone, BackboneConfig, strides_at
from atrous.backbones.rates import Placement, strides_to_rates
from atrous.backbones.resnet import Subsample
from atrous.layers.aspp import gate
from atrous.layers.conv import Conv, ConvNorm, Norm
from atrous.layers.drop_path import DropPath

NORM = Norm(eps=1e-3, momentum=0.01)
TAPS = {"c2": "low_level", "c3": "low_level_8", "c4": "low_level_16"}


class Stage(NamedTuple):
    """A line of table 1 of SWideRNet's paper."""

    widths: tuple[int, ...]  # of the convolutions of a unit: two 3x3, or a 3x3 between two 1x1
    units: int


STAGES = {
    "c1": Stage((128, 128), 3),
    "c2": Stage((256, 256), 3),
    "c3": Stage((512, 512), 6),
    "c4": Stage((1024, 1024), 3),
    "c5": Stage((512, 1024, 2048), 3),
}


class Context(nn.Conv2d):
    """A 1x1 of the image's mean, added to every pixel; it begins as zero."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 1)

    def reset_parameters(self) -> None:
        for parameter in self.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x.mean((2, 3), keepdim=True))


class SwitchableConv(Conv):
    """One 3x3 at its rate and at three times that, mixed pixel by pixel (Qiao et al. 2020, arXiv:2006.02334, 3.3).

    A strided one has the plain rate alone. The surroundings decide the mixture, and the image's mean is added before
    and after.
    """

    def __init__(self, inp: int, out: int, *, stride: int, rate: int) -> None:
        super().__init__(inp, out, 3, stride=stride, rate=rate, groups=1, padding="symmetric")
        self.before, self.after = Context(inp), Context(out)
        self.switch = nn.Conv2d(inp, 1, 1) if stride == 1 else None
        if self.switch is not None:
            for parameter in self.switch.parameters():
                nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        x = self.before(x)
        y = super().forward(x)
        if self.switch is not None:
            share = self.switch(F.avg_pool2d(x, 5, 1, 2, count_include_pad=False))
            rates = tuple(3 * rate for rate in self.dilation)
            wide = F.conv2d(x, self.weight, None, self.stride, rates, rates)
            y = share * wide + (1 - share) * y
        out: Tensor = self.after(y)
        return out


class Squeeze(nn.Conv2d):
    """A factor 0..1 on each channel, from one 1x1 of the image's mean (Lee and Park 2019, arXiv:1911.06667, 3.3)."""

    def forward(self, x: Tensor) -> Tensor:
        return x * gate(super().forward(x.mean((2, 3), keepdim=True)), "hard_sigmoid")


class Unit(nn.Module):
    """Two 3x3, or a 3x3 between two 1x1, added to a shortcut."""

    def __init__(
        self, inp: int, widths: tuple[int, ...], place: Placement, *, drop: float, squeeze: bool, switchable: bool
    ) -> None:
        super().__init__()
        is_basic, out = len(widths) == 2, widths[-1]
        if is_basic:
            self.conv1 = ConvNorm(inp, widths[0], 3, norm=NORM, stride=place.stride, rate=place.rate)
            self.conv2 = ConvNorm(widths[0], out, 3, norm=NORM, rate=place.next_rate, act="none")
        else:
            self.conv1 = ConvNorm(inp, widths[0], norm=NORM)
            self.conv2 = ConvNorm(widths[0], widths[1], 3, norm=NORM, stride=place.stride, rate=place.rate)
            if switchable:
                self.conv2.conv = SwitchableConv(widths[0], widths[1], stride=place.stride, rate=place.rate)
            self.conv3 = ConvNorm(widths[1], out, norm=NORM, act="none")
        self.squeeze = Squeeze(out, out, 1) if squeeze else nn.Identity()
        self.drop_path = DropPath(drop)
        self.shortcut: nn.Module = nn.Identity()
        if inp != out:
            self.shortcut = ConvNorm(inp, out, norm=NORM, stride=place.stride, act="none")
        elif place.stride > 1:
            self.shortcut = Subsample(place.stride)

    def forward(self, x: Tensor) -> Tensor:
        residual = self.conv2(self.conv1(x))
        if hasattr(self, "conv3"):
            residual = self.conv3(residual)
        return F.relu(self.shortcut(x) + self.drop_path(self.squeeze(residual)))


class SWideRNet(Backbone):
    """Decoders tap c2, c3 and c4 themselves."""

    mean = (127.5, 127.5, 127.5)
    std = (127.5, 127.5, 127.5)

    class Config(BackboneConfig):
        name: Literal["wide_resnet41", "swidernet"]
        stem_width: float = Field(1.0, gt=0, le=8)
        """Width of the stem and c1, relative to Wide-ResNet-41's."""
        width: float = Field(1.0, gt=0, le=8)
        """Width of c2 to c5, relative to Wide-ResNet-41's (w1 and w2 in the paper)."""
        layers: float = Field(1.0, gt=0, le=32)
        """Number of units in c2 to c5, relative to Wide-ResNet-41's (l in the paper)."""
        squeeze: bool = False
        """Squeeze-and-excitation in every unit."""
        switchable: bool = False
        """Switchable atrous convolutions in c5."""
        drop_path: float = Field(0.2, ge=0, lt=1)
        """Share of the images that skip a unit of the last stage in training; earlier stages have less."""

    def __init__(self, config: Config, output_stride: int) -> None:
        super().__init__(config, output_stride)
        inp = round(64 * config.stem_width)
        self.stem = ConvNorm(3, inp, 3, norm=NORM, stride=2)
        counts = {stage: _units(stage, config) for stage in STAGES}
        strides = [2 if stage != "c1" and not unit else 1 for stage, count in counts.items() for unit in range(count)]
        plan = iter(strides_to_rates([2, *strides], output_stride, "unit")[1:])
        self.channels = {}
        for index, (stage, count) in enumerate(counts.items()):
            factor = config.stem_width if stage == "c1" else config.width
            widths = tuple(round(width * factor) for width in STAGES[stage].widths)
            units = nn.ModuleList()
            for unit in range(count):
                depth = max(
                    0, index - (unit == 0)
                )  # of what comes in: the first unit of a stage counts to the one before
                units.append(
                    Unit(
                        inp,
                        widths,
                        next(plan),
                        drop=config.drop_path * depth / 4 if depth else 0.0,
                        squeeze=config.squeeze,
                        switchable=config.switchable and stage == "c5",
                    )
                )
                inp = widths[-1]
            self.add_module(stage, units)
            self.channels[stage] = inp
        self.channels |= {tap: self.channels[stage] for stage, tap in TAPS.items()}
        self.strides = strides_at(output_stride, self.channels)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        x = self.stem(images)
        features = {}
        for stage in STAGES:
            for unit in self.get_submodule(stage).children():
                x = unit(x)
            features[stage] = x
        return {**features, **{tap: features[stage] for stage, tap in TAPS.items()}}


def _units(stage: str, config: SWideRNet.Config) -> int:
    count = STAGES[stage].units
    return count if stage == "c1" else int(count * config.layers)
