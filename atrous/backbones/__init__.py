"""The backbones, by the names of their papers. A new network of a known family is a row of that family's table."""

from typing import TYPE_CHECKING, Annotated, Any, Literal, Union

from pydantic import Discriminator, PlainValidator, SerializeAsAny, TypeAdapter

from atrous.backbones.contract import Backbone, BackboneConfig, read_name
from atrous.backbones.drn import DRN
from atrous.backbones.icnet import ICNetBackbone
from atrous.backbones.mobilenet_edgetpu import MobileNetEdgeTPU
from atrous.backbones.mobilenet_v2 import MobileNetV2
from atrous.backbones.mobilenet_v3 import MobileNetV3
from atrous.backbones.nasnet import NASNet
from atrous.backbones.resnet import ResNet
from atrous.backbones.swidernet import SWideRNet
from atrous.backbones.timm import Timm
from atrous.backbones.vgg import VGG
from atrous.backbones.xception import Xception

__all__ = ["BACKBONES", "FAMILIES", "PREFIXES", "AnyBackboneConfig", "Backbone", "BackboneConfig", "build_backbone"]

FAMILIES: dict[str, type[Backbone]] = {
    "mobilenet_v2": MobileNetV2,
    "mobilenet_v3": MobileNetV3,
    "mobilenet_edgetpu": MobileNetEdgeTPU,
    "resnet": ResNet,
    "drn": DRN,
    "swidernet": SWideRNet,
    "xception": Xception,
    "vgg": VGG,
    "icnet": ICNetBackbone,
    "nasnet": NASNet,
    "timm": Timm,
}
BACKBONES: dict[str, type[Backbone]] = {name: family for family in FAMILIES.values() for name in family.Config.names()}

PREFIXES: dict[str, type[Backbone]] = {  # families of another program's networks, by what all their names begin with
    family.Config.prefix: family for family in FAMILIES.values() if family.Config.prefix
}


def family_of(name: str) -> type[Backbone] | None:
    """The family of a row, or of a name with its prefix; None: there is none."""
    return BACKBONES.get(name) or next((family for prefix, family in PREFIXES.items() if name.startswith(prefix)), None)


if TYPE_CHECKING:
    AnyBackboneConfig = BackboneConfig
else:
    Configs = Annotated[
        Union[tuple(family.Config for family in FAMILIES.values() if family.Config.names())],  # noqa: UP007 - a table
        Discriminator("name"),
    ]
    Others = Union[tuple(family.Config for family in PREFIXES.values())]  # noqa: UP007 - built from the table
    ROWS = TypeAdapter(Configs)

    def _read_config(settings: Any) -> BackboneConfig:  # noqa: ANN401 - any YAML value
        """Rows are told apart by their names, of which pydantic has a table; other networks by their prefix."""
        settings = read_name(settings)
        name = settings.get("name") if isinstance(settings, dict) else getattr(settings, "name", None)
        family = family_of(name) if isinstance(name, str) and name not in BACKBONES else None
        return family.Config.model_validate(settings) if family else ROWS.validate_python(settings)

    AnyBackboneConfig = Annotated[
        SerializeAsAny[Configs | Others],
        PlainValidator(_read_config, json_schema_input_type=Literal[tuple(BACKBONES)] | Configs | str | Others),
    ]


def build_backbone(config: BackboneConfig, output_stride: int) -> Backbone:
    """The network that `config` describes, with fresh weights."""
    family = family_of(config.name)
    assert family is not None
    return family(config, output_stride)
