"""The architectures, by the names of their papers."""

from typing import TYPE_CHECKING, Annotated, Union

from pydantic import Discriminator, Tag

from atrous.models.contract import Model, ModelConfig
from atrous.models.deeplab_v3 import DeepLabV3
from atrous.models.deeplab_v3plus import DeepLabV3Plus

__all__ = ["MODELS", "AnyModelConfig", "Model", "ModelConfig", "build"]

MODELS: dict[str, type[Model]] = {"deeplab_v3": DeepLabV3, "deeplab_v3plus": DeepLabV3Plus}


def _name(config: object) -> object:
    return config.get("name") if isinstance(config, dict) else getattr(config, "name", None)


if TYPE_CHECKING:
    AnyModelConfig = ModelConfig
else:
    AnyModelConfig = Annotated[
        Union[tuple(Annotated[model.Config, Tag(name)] for name, model in MODELS.items())],  # noqa: UP007 - from the table
        Discriminator(_name),  # a function, as pydantic wants no "before" validator on a field that tells kinds apart
    ]


def build(config: ModelConfig, num_classes: int) -> Model:
    """The network that `config` describes, with fresh weights."""
    return MODELS[config.name](config, num_classes)
