"""torchvision's DeepLab v3 and FCN, and the ImageNet ResNets that they are initialised from, which are timm's too."""

from functools import partial

import numpy as np
from pydantic import PositiveInt

from atrous.convert.arrays import Array, Shapes
from atrous.convert.label_spaces import PUBLISHED, published_label_space
from atrous.convert.layouts import PYTORCH, Rules, resnet_stages
from atrous.convert.system import ConfigFields, Deduction, Evidence, System
from atrous.errors import ConversionError
from atrous.models import ModelConfig
from atrous.settings import Settings

PLAIN_STEM = (64, 3, 7, 7)
BACKBONES = {  # by whether units are bottlenecks, and their number in layer3
    (False, 2): "resnet18",
    (False, 6): "resnet34",
    (True, 6): "resnet50",
    (True, 23): "resnet101",
    (True, 36): "resnet152",
}
PROJECTION = "classifier.0.project.0.weight"
COMMON: ConfigFields = {"output_stride": 8, "align_corners": False}
PYRAMID: ConfigFields = {"rates": (12, 24, 36), "separable": False, "dropout": 0.5, "norm_eps": 1e-5}
PREFIXES = {"deeplab_v3": "deeplabv3_", "fcn": "fcn_", "image_classifier": ""}  # of torchvision's names, by ours

SAME_IN_TIMM = "the same network without this difference is model.backbone=timm:"
OTHERS = {  # a weight that shows a classifier of torchvision or timm which is not one of ours: how they differ
    "features.0.0.weight": (
        "a MobileNet or EfficientNet of torchvision: paddings, epsilon and colours differ from those of TensorFlow, "
        f"which ours have; {SAME_IN_TIMM}mobilenetv2_100 or timm:mobilenetv3_large_100"
    ),
    "conv_stem.weight": (
        "a MobileNet or EfficientNet of timm: paddings, epsilon and colours differ from those of TensorFlow, which ours "
        f"have; {SAME_IN_TIMM}mobilenetv2_100 or timm:mobilenetv3_large_100"
    ),
    "block12.skip.weight": (
        "the Xception of Keras and Cadene: its units, depths and paddings differ from DeepLab's Xceptions; "
        "model.backbone=timm:xception65 is nearest to these"
    ),
    "features.28.weight": (
        f"a VGG: its pools and its classifier differ from those of DeepLab's vgg16; {SAME_IN_TIMM}vgg16"
    ),
}


class Options(Settings):
    """Arguments of its reference scripts; None: whatever the weights say."""

    model: str | None = None  # deeplabv3_resnet50
    num_classes: PositiveInt | None = None


def recognised(shapes: Shapes) -> bool:
    is_segmenter = "backbone.conv1.weight" in shapes and "classifier.4.weight" in shapes
    is_resnet = shapes.get("conv1.weight") == PLAIN_STEM and "layer1.0.conv1.weight" in shapes
    return is_segmenter or is_resnet or any(name in shapes for name in OTHERS)


# ---- names


def _all_rules(prefix: str, heads: Rules) -> Rules:
    stem = ((r"backbone\.stem\.0\.conv", f"{prefix}conv1"), (r"backbone\.stem\.0\.norm", f"{prefix}bn1"))
    return (*stem, *resnet_stages(prefix), *heads)


def _fcn_head(ours: str, theirs: str) -> Rules:
    parts = ((r"conv\.conv", 0), (r"conv\.norm", 1), ("classify", 4))
    return tuple((rf"{ours}\.{part}", f"{theirs}.{place}") for part, place in parts)


RULES: dict[str, Rules] = {
    "image_classifier": _all_rules("", (("classify", "fc"),)),
    "fcn": _all_rules("backbone.", (*_fcn_head("head", "classifier"), *_fcn_head("auxiliary", "aux_classifier"))),
    "deeplab_v3": _all_rules(
        "backbone.",
        (
            (r"aspp\.branches\.(\d)\.conv", r"classifier.0.convs.\1.0"),
            (r"aspp\.branches\.(\d)\.norm", r"classifier.0.convs.\1.1"),
            (r"aspp\.image_pooling\.conv", "classifier.0.convs.4.1"),
            (r"aspp\.image_pooling\.norm", "classifier.0.convs.4.2"),
            (r"aspp\.projection\.conv", "classifier.0.project.0"),
            (r"aspp\.projection\.norm", "classifier.0.project.1"),
            (r"refine\.conv", "classifier.1"),
            (r"refine\.norm", "classifier.2"),
            ("classify", "classifier.4"),
            *_fcn_head("auxiliary", "aux_classifier"),
        ),
    ),
}


def rules(config: ModelConfig) -> Rules:
    return RULES[config.name]


def _our_axes(name: str, array: Array) -> Array:
    """The pooled image is the last of the branches that torchvision concatenates, and the first of ours."""
    is_projection = name == PROJECTION and array.ndim == 4
    return np.roll(array, len(array), axis=1) if is_projection else array


# ---- the network


def config(evidence: Evidence[Options]) -> Deduction:
    if other := next((text for name, text in OTHERS.items() if evidence.has(name)), None):
        raise ConversionError(f"{evidence.label}: {other}")
    head = _head(evidence)
    backbone = _backbone(evidence, "" if head["name"] == "image_classifier" else "backbone.")
    decided = {"model": f"{PREFIXES[head['name']]}{backbone}", "num_classes": head["num_classes"]}
    return Deduction({"backbone": backbone, **head}, decided)


def _backbone(evidence: Evidence[Options], prefix: str) -> str:
    units = evidence.count_modules(f"{prefix}layer3.")
    has_bottlenecks = evidence.has(f"{prefix}layer1.0.conv3.weight")
    if (has_bottlenecks, units) not in BACKBONES:
        kind = "bottlenecks" if has_bottlenecks else "units of two convolutions"
        known = ", ".join(BACKBONES.values())
        raise ConversionError(f"{evidence.label}: no ResNet has {units} {kind} in layer3; known: {known}")
    return BACKBONES[has_bottlenecks, units]


def _head(evidence: Evidence[Options]) -> ConfigFields:
    def width(name: str) -> int:
        return evidence.shape(f"{name}.weight")[0]

    if evidence.has("conv1.weight"):
        return {"name": "image_classifier", "output_stride": 32, "num_classes": width("fc")}
    auxiliary = width("aux_classifier.0") if evidence.has("aux_classifier.0.weight") else None
    fields = {**COMMON, "num_classes": width("classifier.4"), "auxiliary_channels": auxiliary}
    if not evidence.has(PROJECTION):
        return {"name": "fcn", "head_channels": width("classifier.0"), **fields}
    aspp = {**PYRAMID, "channels": evidence.shape(PROJECTION)[0]}
    return {"name": "deeplab_v3", "aspp": aspp, "head_channels": width("classifier.1"), **fields}


SYSTEM = System(
    recognised,
    Options,
    config,
    rules,
    label_space=partial(published_label_space, known={21: PUBLISHED[21]}),
    layout=PYTORCH._replace(our_axes=_our_axes),
)
