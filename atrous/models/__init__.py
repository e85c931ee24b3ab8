"""The architectures, by the names of their papers."""

from typing import TYPE_CHECKING, Annotated, Union

from pydantic import Field

from atrous.models.contract import Model, ModelConfig
from atrous.models.deeplab_v3 import DeepLabV3
from atrous.models.deeplab_v3plus import DeepLabV3Plus

__all__ = ["MODELS", "AnyModelConfig", "Model", "ModelConfig", "build"]

MODELS: dict[str, type[Model]] = {"deeplab_v3": DeepLabV3, "deeplab_v3plus": DeepLabV3Plus}


if TYPE_CHECKING:
    AnyModelConfig = ModelConfig
else:
    AnyModelConfig = Annotated[
        Union[tuple(model.Config for model in MODELS.values())],  # noqa: UP007 - made from the table
        Field(discriminator="name"),
    ]


def build(config: ModelConfig, num_classes: int) -> Model:
    """The network that `config` describes, with fresh weights."""
    return MODELS[config.name](config, num_classes)
