"""What a model is: a frozen `Config` and a network from images to `Outputs`, without loss or post-processing."""

from abc import ABC, abstractmethod
from typing import ClassVar, Literal

import torch
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor, nn

from atrous.backbones import build_backbone, check_backbone
from atrous.backbones.contract import Color
from atrous.types import Outputs, Settings


class ModelConfig(Settings):
    """The settings that all models share; a model narrows `name` to its own and adds what its paper adds."""

    name: str
    backbone: str  # a row of BACKBONES
    output_stride: Literal[8, 16, 32] = 16  # of c5; may differ between training and evaluation, with the same weights
    depth_multiplier: float = Field(default=1.0, gt=0)  # width of a MobileNet, as a part of the paper's
    multi_grid: tuple[PositiveInt, ...] | None = None  # factor on the rate of each unit of a ResNet's c5
    num_classes: int | None = Field(default=None, ge=2)  # None: as many as the label space has

    @model_validator(mode="after")
    def _backbone_exists(self) -> "ModelConfig":
        check_backbone(self.backbone, self.depth_multiplier, self.multi_grid)
        return self


class Model(nn.Module, ABC):
    """Takes RGB in 0..255, `uint8` or float, of any size, normalises inside, and returns logits at its own grid."""

    Config: ClassVar[type[ModelConfig]]
    align_corners: ClassVar[bool] = True  # how its logits are to be upsampled
    config: ModelConfig
    shift: Tensor  # [3, 1, 1]
    scale: Tensor  # [3, 1, 1]

    def __init__(self, config: ModelConfig, num_classes: int) -> None:
        super().__init__()
        if num_classes < 2:
            raise ValueError(f"{num_classes} classes: a model must choose between at least two")
        self.config = config
        self.num_classes = num_classes
        self.backbone = build_backbone(
            config.backbone, config.output_stride, config.depth_multiplier, config.multi_grid
        )
        self.register_buffer("shift", torch.tensor(self.backbone.mean).view(3, 1, 1))
        self.register_buffer("scale", torch.tensor(self.backbone.std).view(3, 1, 1))

    @property
    def mean(self) -> Color:
        """The colour that becomes 0 after normalisation: what images are padded with."""
        return self.backbone.mean

    def features(self, images: Tensor) -> dict[str, Tensor]:  # [B, 3, H, W] RGB 0..255
        """The backbone's taps of the normalised images. Raises ValueError if they aren't [B, 3, H, W]."""
        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"images must be [B, 3, H, W], RGB in 0..255, not {list(images.shape)}")
        features: dict[str, Tensor] = self.backbone((images.to(self.shift.dtype) - self.shift) / self.scale)
        return features

    @abstractmethod
    def forward(self, images: Tensor) -> Outputs:  # [B, 3, H, W] RGB 0..255
        ...
