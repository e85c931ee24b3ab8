"""The backbones, by the names of their papers. A new network of a known family is a row of that family's table."""

from typing import TYPE_CHECKING, Annotated, Literal, Union

from pydantic import BeforeValidator, Discriminator

from atrous.backbones.contract import Backbone, BackboneConfig, read_name
from atrous.backbones.icnet import ICNetBackbone
from atrous.backbones.mobilenet_edgetpu import MobileNetEdgeTPU
from atrous.backbones.mobilenet_v2 import MobileNetV2
from atrous.backbones.mobilenet_v3 import MobileNetV3
from atrous.backbones.nasnet import NASNet
from atrous.backbones.resnet import ResNet
from atrous.backbones.swidernet import SWideRNet
from atrous.backbones.vgg import VGG
from atrous.backbones.xception import Xception

__all__ = ["BACKBONES", "FAMILIES", "AnyBackboneConfig", "Backbone", "BackboneConfig", "build_backbone"]

FAMILIES: dict[str, type[Backbone]] = {
    "mobilenet_v2": MobileNetV2,
    "mobilenet_v3": MobileNetV3,
    "mobilenet_edgetpu": MobileNetEdgeTPU,
    "resnet": ResNet,
    "swidernet": SWideRNet,
    "xception": Xception,
    "vgg": VGG,
    "icnet": ICNetBackbone,
    "nasnet": NASNet,
}
BACKBONES: dict[str, type[Backbone]] = {name: family for family in FAMILIES.values() for name in family.Config.names()}


if TYPE_CHECKING:
    AnyBackboneConfig = BackboneConfig
else:
    Configs = Annotated[
        Union[tuple(family.Config for family in FAMILIES.values())],  # noqa: UP007 - built from the table
        Discriminator("name"),
    ]
    AnyBackboneConfig = Annotated[
        Configs, BeforeValidator(read_name, json_schema_input_type=Literal[tuple(BACKBONES)] | Configs)
    ]


def build_backbone(config: BackboneConfig, output_stride: int) -> Backbone:
    """The network that `config` describes, with fresh weights."""
    return BACKBONES[config.name](config, output_stride)
