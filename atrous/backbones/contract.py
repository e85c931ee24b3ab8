"""What a backbone is: normalised images in, named feature maps out; and what all configs share."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, Self, get_args

from pydantic import model_validator
from torch import Tensor, nn

from atrous.layers.conv import Activation
from atrous.settings import Rates, Settings
from atrous.types import RGB

# The stride of each feature map on the image, unless the output stride is smaller.
STRIDES = {"c1": 2, "c2": 4, "c3": 8, "c4": 16, "c5": 32, "low_level": 4, "low_level_8": 8, "low_level_16": 16}
OUTPUT_STRIDES = (8, 16, 32)
Stage = Literal["c3", "c4", "c5"]
IMAGENET_MEAN: RGB = (123.675, 116.28, 103.53)  # in torchvision and the programs after it
IMAGENET_STD: RGB = (58.395, 57.12, 57.375)


class Pretrained(NamedTuple):
    """Weights of a backbone by the names of its own state, and what their images were normalised with, in 0..255."""

    weights: Mapping[str, Tensor]
    mean: RGB
    std: RGB


class ImageNet(NamedTuple):
    """Where the weights of a backbone that were trained on ImageNet come from: `source` or `load`, or nowhere."""

    source: str | None = None  # anything that `atrous convert` reads, such as zoo:NAME
    load: Callable[[], Pretrained] | None = None  # of another package, which fetches and keeps them itself
    name: str = ""  # what `load` reads, for people
    advice: str = ""  # where there are none: with which settings of this network there would be


class BackboneConfig(Settings):
    """The settings that all backbones share; a family narrows `name` to its networks and adds its own."""

    prefix: ClassVar[str] = ""  # of a family without a table: what the names of its networks begin with

    name: str
    """The network; `atrous recipes --settings model.backbone` lists them all."""
    bounded: bool = False
    """For 8-bit arithmetic: no activation of the heads exceeds 6, nor any of Xception itself."""

    @property
    def output_strides(self) -> tuple[int, ...]:
        """The possible output strides."""
        return tuple(stride for stride in OUTPUT_STRIDES if stride <= STRIDES[self.deepest])

    @property
    def own_rates(self) -> tuple[int, ...] | None:
        """Atrous rates that don't follow from an output stride: the weights were trained with them."""
        return None

    @property
    def deepest(self) -> Stage:
        """The last stage that is computed."""
        return "c5"

    @property
    def imagenet(self) -> ImageNet:
        """Where `model.pretrained=imagenet` takes the weights of this network from."""
        return ImageNet()

    def read(self, path: Path) -> Pretrained | None:
        """The weights in a file of the program that the network is from; None: `atrous convert` reads these."""
        return None

    @property
    def head_activation(self) -> Activation:
        """The activation of the heads that models put on it."""
        return "relu6" if self.bounded else "relu"

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """The networks of this family."""
        return get_args(cls.model_fields["name"].annotation)


class BlocksConfig(BackboneConfig):
    """The settings of networks whose units are blocks with one rate each: the MobileNets."""

    rates: Rates | None = None
    """Atrous rates of the blocks, one for each; none: those of the output stride."""

    @property
    def num_blocks(self) -> int:
        raise NotImplementedError

    @property
    def own_rates(self) -> tuple[int, ...] | None:
        return self.rates

    @model_validator(mode="after")
    def _each_block_has_a_rate(self) -> Self:
        if self.rates is not None and len(self.rates) != self.num_blocks:
            raise ValueError(f"rates {self.rates}: {self.name} has {self.num_blocks} blocks, one rate each")
        return self


class Backbone(nn.Module, ABC):
    """Features by name: the stages `c1`..`c5`, and what decoders tap.

    `c1` has stride 2, each later stage twice the stride of the one before, until the output stride is reached. Decoders
    at stride 4, 8 and 16 tap `low_level`, `low_level_8` and `low_level_16`, where the backbone has them.
    """

    Config: ClassVar[type[BackboneConfig]]
    mean: RGB  # what images are normalised with, in 0..255
    std: RGB
    channels: dict[str, int]  # by the names that `forward` returns
    strides: dict[str, int]

    def __init__(self, config: BackboneConfig, output_stride: int) -> None:
        super().__init__()

    @abstractmethod
    def forward(self, images: Tensor) -> dict[str, Tensor]:  # [B, 3, H, W], (RGB - mean) / std
        ...

    def parts(self) -> Iterator[nn.Module]:
        """The parts that can be recomputed in the backward pass, each from its inputs: units, cells, the stem."""
        for child in self.children():
            yield from _parts_of(child)


def _parts_of(module: nn.Module) -> Iterator[nn.Module]:
    """A list's units; a sequence of bare layers is one unit, since a layer may overwrite the output of the one before.

    A bare layer keeps little more than its input.
    """
    children = list(module.children())
    is_list = isinstance(module, nn.ModuleList | nn.ModuleDict | nn.Sequential)
    if is_list and all(any(child.children()) for child in children):
        yield from children
    elif children:
        yield module


def read_name(settings: Any) -> Any:  # noqa: ANN401 - any YAML value
    """A name alone stands for the network with its default settings."""
    return {"name": settings} if isinstance(settings, str) else settings


def strides_at(output_stride: int, names: Iterable[str]) -> dict[str, int]:
    """The strides of these feature maps, none coarser than the output stride."""
    return {name: min(STRIDES[name], output_stride) for name in names}


def require_grid(config: BackboneConfig, multi_grid: tuple[int, ...] | None, units: int) -> None:
    """Raises ValueError unless a multi-grid has a factor for each unit of the last stage."""
    if multi_grid is not None and len(multi_grid) != units:
        raise ValueError(f"multi_grid {multi_grid}: the last stage of {config.name} has {units} units, one factor each")
