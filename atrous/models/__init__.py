"""The architectures, by the names of their papers."""

from typing import TYPE_CHECKING, Annotated, Union

from pydantic import Field

from atrous.models.ccnet import CCNet
from atrous.models.contract import Model, ModelConfig
from atrous.models.danet import DANet
from atrous.models.deeplab_v1 import DeepLabV1
from atrous.models.deeplab_v2 import DeepLabV2
from atrous.models.deeplab_v3 import DeepLabV3
from atrous.models.deeplab_v3plus import DeepLabV3Plus
from atrous.models.dense_prediction_cell import DensePredictionCellNet
from atrous.models.encnet import EncNet
from atrous.models.fcn import FCN
from atrous.models.icnet import ICNet
from atrous.models.image_classifier import ImageClassifier
from atrous.models.lraspp import LRASPP
from atrous.models.ocnet import OCNet
from atrous.models.panoptic_deeplab import PanopticDeepLab, PanopticDeepLabSemantic
from atrous.models.psanet import PSANet
from atrous.models.pspnet import PSPNet

__all__ = ["MODELS", "AnyModelConfig", "Model", "ModelConfig", "build", "task_of"]

MODELS: dict[str, type[Model]] = {
    "fcn": FCN,
    "deeplab_v1": DeepLabV1,
    "deeplab_v2": DeepLabV2,
    "deeplab_v3": DeepLabV3,
    "deeplab_v3plus": DeepLabV3Plus,
    "dense_prediction_cell": DensePredictionCellNet,
    "lraspp": LRASPP,
    "pspnet": PSPNet,
    "psanet": PSANet,
    "icnet": ICNet,
    "encnet": EncNet,
    "ccnet": CCNet,
    "danet": DANet,
    "ocnet": OCNet,
    "panoptic_deeplab": PanopticDeepLab,
    "panoptic_deeplab_semantic": PanopticDeepLabSemantic,
    "image_classifier": ImageClassifier,
}


if TYPE_CHECKING:
    AnyModelConfig = ModelConfig
else:
    AnyModelConfig = Annotated[
        Union[tuple(model.Config for model in MODELS.values())],  # noqa: UP007 - built from the table
        Field(discriminator="name"),
    ]


def task_of(config: ModelConfig) -> str:
    """What the model is for: a row of TASKS."""
    return MODELS[config.name].task


def build(config: ModelConfig, num_classes: int) -> Model:
    """The network that `config` describes, with fresh weights."""
    return MODELS[config.name](config, num_classes)
