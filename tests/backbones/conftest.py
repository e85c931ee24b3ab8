"""What the tests of backbones share."""

import torch
from torch import nn

from atrous.backbones import BACKBONES, Backbone, BackboneConfig, build_backbone


def backbone_config(name: str, **settings: object) -> BackboneConfig:
    return BACKBONES[name].Config.model_validate({"name": name, **settings})


def built(name: str, output_stride: int, **settings: object) -> Backbone:
    return build_backbone(backbone_config(name, **settings), output_stride)


def on_meta(name: str, output_stride: int, **settings: object) -> Backbone:
    with torch.device("meta"):
        return built(name, output_stride, **settings)


def num_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
