"""What TensorFlow DeepLab calls each of our weights: tables of scopes, and one rule for what is in a scope."""

import re
from collections.abc import Iterator
from typing import NamedTuple

from torch import nn

from atrous.backbones import Backbone
from atrous.convert.systems.tf_deeplab.scopes import (
    heads,
    mobilenet,
    mobilenet_edgetpu,
    mobilenet_v3,
    nas,
    resnet,
    xception,
)
from atrous.models import Model

Scopes = tuple[tuple[str, str], ...]  # (pattern of a module's whole path, its scope; {root} is the backbone's)


class Root(NamedTuple):
    scope: str
    scopes: Scopes
    classifier: Scopes = heads.CLASSIFIER  # of an ImageNet checkpoint


ROOTS: dict[str, Root] = {  # by row of BACKBONES
    "mobilenet_v2": Root("MobilenetV2", mobilenet.SCOPES, heads.SLIM_CLASSIFIER),
    "mobilenet_v3_large_seg": Root("MobilenetV3", mobilenet_v3.SCOPES, heads.SLIM_CLASSIFIER),
    "mobilenet_v3_small_seg": Root("MobilenetV3", mobilenet_v3.SCOPES, heads.SLIM_CLASSIFIER),
    "mobilenet_edgetpu": Root("MobilenetEdgeTPU", mobilenet_edgetpu.SCOPES, heads.SLIM_CLASSIFIER),
    "resnet_v1_18": Root("resnet_v1_18", (*resnet.STEM, *resnet.LITE)),
    "resnet_v1_50": Root("resnet_v1_50", (*resnet.STEM, *resnet.BOTTLENECK)),
    "resnet_v1_101": Root("resnet_v1_101", (*resnet.STEM, *resnet.BOTTLENECK)),
    "resnet_v1_18_beta": Root("resnet_v1_18", (*resnet.DEEP_STEM, *resnet.LITE)),
    "resnet_v1_50_beta": Root("resnet_v1_50", (*resnet.DEEP_STEM, *resnet.BOTTLENECK)),
    "resnet_v1_101_beta": Root("resnet_v1_101", (*resnet.DEEP_STEM, *resnet.BOTTLENECK)),
    "pnasnet": Root("pnasnet", nas.SCOPES),
    "auto_deeplab_s": Root("hnasnet", nas.SCOPES),
    "auto_deeplab_m": Root("hnasnet", nas.SCOPES),
    "auto_deeplab_l": Root("hnasnet", nas.SCOPES),
    "xception_41": Root("xception_41", xception.SCOPES),
    "xception_65": Root("xception_65", xception.SCOPES),
    "xception_71": Root("xception_71", xception.SCOPES),
}
NORM_LEAVES = {
    "weight": "gamma",
    "bias": "beta",
    "running_mean": "moving_mean",
    "running_var": "moving_variance",
}


def variables(model: Model) -> dict[str, str]:
    """The checkpoint's variable for each entry of the state dict that is learnt or counted (not `shift`, `scale`)."""
    root = ROOTS[model.config.backbone.name]
    head = root.classifier if model.config.name == "image_classifier" else heads.SCOPES
    return _variables(model, "", _rules((*root.scopes, *head), root.scope))


def backbone_variables(backbone: Backbone, row: str) -> dict[str, str]:
    """Likewise, for a backbone by itself, a row of BACKBONES."""
    return _variables(backbone, "backbone.", _rules(ROOTS[row].scopes, ROOTS[row].scope))


def _rules(scopes: Scopes, root: str) -> list[tuple[str, str]]:
    return [(pattern, scope.replace("{root}", root)) for pattern, scope in scopes]


def _variables(module: nn.Module, prefix: str, rules: list[tuple[str, str]]) -> dict[str, str]:
    return {
        f"{path}.{leaf}": variable
        for path, part in module.named_modules()
        for leaf, variable in _variables_of(prefix + path, part, rules)
    }


def _variables_of(path: str, module: nn.Module, rules: list[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        scope = _scope(path, rules) or f"{_layer_scope(path, rules)}/BatchNorm"
        yield from ((leaf, f"{scope}/{name}") for leaf, name in NORM_LEAVES.items())
    elif isinstance(module, nn.Conv2d):
        scope = _scope(path, rules) or _layer_scope(path, rules)
        yield "weight", scope if scope.endswith("weights") else f"{scope}/{weights_name(module)}"
        if module.bias is not None:
            yield "bias", f"{scope}/biases"


def weights_name(conv: nn.Conv2d) -> str:
    return "depthwise_weights" if conv.groups == conv.in_channels > 1 else "weights"


def _layer_scope(path: str, rules: list[tuple[str, str]]) -> str:
    """The scope of the layer that a convolution (`.conv`) or a batch norm (`.norm`) is a part of."""
    layer = path.rpartition(".")[0]
    scope = _scope(layer, rules)
    assert scope is not None, f"no rule names {path}"
    return scope


def _scope(path: str, rules: list[tuple[str, str]]) -> str | None:
    """By the first rule that matches the whole path."""
    return next((re.sub(pattern, scope, path) for pattern, scope in rules if re.fullmatch(pattern, path)), None)
