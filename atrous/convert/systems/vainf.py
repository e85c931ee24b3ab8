"""VainF/DeepLabV3Plus-Pytorch: DeepLab v3 and v3+ on ResNet-50, ResNet-101, MobileNetV2 and Keras's Xception."""

import re
from functools import partial
from typing import Literal

import numpy as np
from pydantic import PositiveInt

from atrous.convert.arrays import Array, Shapes
from atrous.convert.known_backbones import (
    aspp,
    deep_stem,
    low_or_high,
    mobilenet_v2,
    numbered,
    pair,
    resnet,
    resnet_stages,
    resnet_stem,
    separable,
    xception_units,
)
from atrous.convert.label_spaces import PUBLISHED, published_label_space
from atrous.convert.layouts import ONE_LOGIT, PYTORCH, Rules, has_one_logit, pooled_image_first, two_classes_of
from atrous.convert.system import ConfigFields, Deduction, Evidence, System
from atrous.errors import ConversionError
from atrous.layers.aspp import RATES
from atrous.models import ModelConfig
from atrous.settings import Settings

LOW_CHANNELS = 48  # of the decoder's projection
ASPP = {"deeplab_v3": "classifier.classifier.0", "deeplab_v3plus": "classifier.aspp"}
CLASSIFIERS = {"deeplab_v3": "classifier.classifier.4", "deeplab_v3plus": "classifier.classifier.3"}
PREFIXES = {"deeplab_v3": "deeplabv3_", "deeplab_v3plus": "deeplabv3plus_"}
FUSED = re.compile(r"classifier\.classifier\.0(\.body\.[01])?\.weight")
OTHERS = {
    "backbone.stage2.0.branches.0.0.conv1.weight": "HRNet",
}
BACKBONES: dict[str, ConfigFields] = {  # by its names
    "mobilenet": {"name": "mobilenet_v2", "program": "vainf"},
    "xception": {"name": "xception_41", "program": "vainf"},
}
MARKS = {"backbone.low_level_features.0.0.weight": "mobilenet", "backbone.block1.skip.weight": "xception"}


class Options(Settings):
    """Arguments of its main.py; None: whatever the weights say."""

    model: str | None = None  # deeplabv3plus_mobilenet
    num_classes: PositiveInt | None = None
    output_stride: Literal[8, 16] = 16
    separable_conv: bool | None = None


def recognised(shapes: Shapes) -> bool:
    return any(f"{name}.convs.0.0.weight" in shapes for name in ASPP.values())


# ---- names


HEADS: dict[str, Rules] = {
    "deeplab_v3": pair("refine", "classifier.classifier.1", "classifier.classifier.2"),
    "deeplab_v3plus": (
        *numbered(r"decoder\.0\.low_level", "classifier.project"),
        *numbered(r"decoder\.0\.refine\.0", "classifier.classifier"),
        *separable(r"decoder\.0\.refine\.0", "classifier.classifier.0.body", "classifier.classifier.1"),
    ),
}
MOBILENET_RULES = mobilenet_v2(low_or_high, nested=True)
RESNET: Rules = (*resnet_stem("backbone."), *resnet_stages("backbone."))


def _bare(ours: str, conv: str, norm: str) -> Rules:
    """A separable convolution with one batch norm, which lies beside it."""
    return (
        (rf"{ours}\.depthwise\.conv", f"{conv}.conv1"),
        (rf"{ours}\.pointwise\.conv", f"{conv}.pointwise"),
        (rf"{ours}\.pointwise\.norm", norm),
    )


XCEPTION: Rules = (
    *deep_stem("backbone."),
    *xception_units(8, _bare, (r"convs\.0", r"convs\.1", r"convs\.2"), bare=1),
    *_bare(r"backbone\.exit_2\.separable1", "backbone.conv3", "backbone.bn3"),
    *_bare(r"backbone\.exit_2\.separable2", "backbone.conv4", ""),
)
OF_BACKBONES = {"mobilenet_v2": MOBILENET_RULES, "xception_41": XCEPTION}


def rules(config: ModelConfig) -> Rules:
    backbone = OF_BACKBONES.get(config.backbone.name, RESNET)
    classify = ("classify", CLASSIFIERS[config.name])
    return (*backbone, *aspp(ASPP[config.name], ".body"), *HEADS[config.name], classify)


def _our_axes(name: str, array: Array) -> Array:
    """The decoder's low-level features come first there."""
    if name.endswith(".project.0.weight") and array.shape[1] == 5 * len(array):
        return pooled_image_first(array)
    if FUSED.fullmatch(name):
        return np.roll(array, -LOW_CHANNELS, axis=int(array.shape[1] > 1))
    return array


# ---- the network


def config(evidence: Evidence[Options]) -> Deduction:
    if other := next((name for weight, name in OTHERS.items() if evidence.has(weight)), None):
        raise ConversionError(f"{evidence.label}: its backbone is {other}, which Atrous does not have")
    name = "deeplab_v3plus" if evidence.has("classifier.project.0.weight") else "deeplab_v3"
    is_separable = evidence.has(f"{ASPP[name]}.convs.1.0.body.0.weight")
    if is_separable and name == "deeplab_v3":
        raise ConversionError(f"{evidence.label}: DeepLab v3 with --separable_conv, which Atrous does not have")
    num_classes = evidence.shape(f"{CLASSIFIERS[name]}.weight")[0]
    mark = next((name for weight, name in MARKS.items() if evidence.has(weight)), None)
    backbone = mark or resnet(evidence, "backbone.")
    fields: ConfigFields = {
        "name": name,
        "backbone": BACKBONES.get(backbone, backbone),
        "num_classes": max(2, num_classes),
        "output_stride": evidence.options.output_stride,
        "align_corners": False,
        **_head(name, evidence, is_separable=is_separable),
    }
    decided = {"model": f"{PREFIXES[name]}{backbone}", "num_classes": num_classes, "separable_conv": is_separable}
    return Deduction(fields, decided)


def _head(name: str, evidence: Evidence[Options], *, is_separable: bool) -> ConfigFields:
    kind = {"separable": is_separable, "bare_depthwise": is_separable, "norm_eps": 1e-5}
    aspp = {"rates": RATES[evidence.options.output_stride], **kind}
    if name == "deeplab_v3":
        return {"aspp": aspp, "head_channels": evidence.shape("classifier.classifier.1.weight")[0]}
    decoder = {"num_convolutions": 1, "align_corners": False, "low_level_channels": LOW_CHANNELS, **kind}
    return {"aspp": aspp, "decoder": decoder}


def assumptions(evidence: Evidence[Options], config: ModelConfig) -> dict[str, bool]:
    return {
        "output_stride=16 (the default)": "output_stride" not in evidence.options.model_fields_set,
        ONE_LOGIT: has_one_logit(evidence.shapes, CLASSIFIERS.values()),
    }


SYSTEM = System(
    recognised,
    Options,
    config,
    rules,
    assumptions,
    label_space=partial(published_label_space, known={count: PUBLISHED[count] for count in (19, 21)}),
    layout=PYTORCH._replace(our_axes=_our_axes, unfolded=two_classes_of(*CLASSIFIERS.values())),
)
