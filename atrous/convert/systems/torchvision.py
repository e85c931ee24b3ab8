"""torchvision's DeepLab v3, LR-ASPP and FCN, and the ImageNet ResNets that some begin with, which are timm's too."""

from collections.abc import Iterator, Mapping
from functools import partial
from itertools import count

import numpy as np
from pydantic import PositiveInt
from torch import nn

from atrous.backbones.mobilenet_v3 import MOBILENETS, STEM, Row
from atrous.convert.arrays import Array, Arrays, Shapes
from atrous.convert.known_backbones import aspp, numbered, pair, resnet, resnet_stages, resnet_stem
from atrous.convert.label_spaces import PUBLISHED, published_label_space
from atrous.convert.layouts import ONE_LOGIT, PYTORCH, Rules, has_one_logit, pooled_image_first, with_two_classes
from atrous.convert.system import ConfigFields, Deduction, Evidence, System
from atrous.errors import ConversionError
from atrous.models import ModelConfig
from atrous.settings import Settings

PLAIN_STEM = (64, 3, 7, 7)
MOBILENET = "mobilenet_v3_large_tv"
BACKBONE_NAMES = {MOBILENET: "mobilenet_v3_large"}  # of torchvision, where ours differ
PROJECTION = "classifier.0.project.0.weight"
GATED = "classifier.scale.1.weight"  # of LR-ASPP
COMMON: ConfigFields = {"output_stride": 8, "align_corners": False}
GATED_HEAD: ConfigFields = {
    "name": "lraspp",
    "output_stride": 16,
    "align_corners": False,
    "decoder_align_corners": False,
    "pooling_window": None,
    "pooling_stride": (1, 1),
    "squeeze": "sigmoid",
    "norm_eps": 1e-5,
}
PYRAMID: ConfigFields = {"rates": (12, 24, 36), "separable": False, "dropout": 0.5, "norm_eps": 1e-5}
PREFIXES = {  # of torchvision's names, by ours
    "deeplab_v3": "deeplabv3_",
    "lraspp": "lraspp_",
    "fcn": "fcn_",
    "image_classifier": "",
}

SAME_IN_TIMM = "the same network without this difference is model.backbone=timm:"
OTHERS = {  # a weight that shows a classifier of torchvision or timm which is not one of ours: how they differ
    "features.0.0.weight": (
        "a MobileNet or EfficientNet of torchvision: paddings, epsilon and colours differ from those of TensorFlow, "
        f"which ours have; {SAME_IN_TIMM}mobilenetv2_100 or timm:mobilenetv3_large_100"
    ),
    "conv_stem.weight": (
        "a MobileNet or EfficientNet of timm: paddings, epsilon and colours differ from those of TensorFlow, which "
        f"ours have; {SAME_IN_TIMM}mobilenetv2_100 or timm:mobilenetv3_large_100"
    ),
    "block12.skip.weight": (
        "the Xception of Keras and Cadene: its units, depths and paddings differ from DeepLab's Xceptions; "
        "model.backbone=timm:xception65 is nearest to these"
    ),
    "features.28.weight": (
        f"a VGG: its pools and its classifier differ from those of DeepLab's vgg16; {SAME_IN_TIMM}vgg16"
    ),
}


CLASSIFIERS = ("classifier.4", "aux_classifier.4", "classifier.low_classifier", "classifier.high_classifier")


class Options(Settings):
    """Arguments of its reference scripts; None: whatever the weights say."""

    model: str | None = None  # deeplabv3_resnet50
    num_classes: PositiveInt | None = None


def recognised(shapes: Shapes) -> bool:
    has_head = "classifier.4.weight" in shapes or GATED in shapes
    is_segmenter = has_head and ("backbone.conv1.weight" in shapes or "backbone.0.0.weight" in shapes)
    is_resnet = shapes.get("conv1.weight") == PLAIN_STEM and "layer1.0.conv1.weight" in shapes
    return is_segmenter or is_resnet or any(name in shapes for name in OTHERS)


# ---- names


def _all_rules(prefix: str, heads: Rules) -> Rules:
    return (*resnet_stem(prefix), *resnet_stages(prefix), *heads)


def _fcn_head(ours: str, theirs: str) -> Rules:
    parts = ((r"conv\.conv", 0), (r"conv\.norm", 1), ("classify", 4))
    return tuple((rf"{ours}\.{part}", f"{theirs}.{place}") for part, place in parts)


RULES: dict[str, Rules] = {
    "image_classifier": _all_rules("", (("classify", "fc"),)),
    "fcn": _all_rules("backbone.", (*_fcn_head("head", "classifier"), *_fcn_head("auxiliary", "aux_classifier"))),
    "lraspp": (
        *numbered(r"aspp\.branches\.0", "classifier.cbr"),
        (r"aspp\.image_gate", "classifier.scale.1"),
        (r"decoder\.0\.low_level", "classifier.low_classifier"),
        (r"decoder\.0\.refine", "classifier.high_classifier"),
    ),
    "deeplab_v3": _all_rules(
        "backbone.",
        (
            *aspp("classifier.0"),
            *pair("refine", "classifier.1", "classifier.2"),
            ("classify", "classifier.4"),
            *_fcn_head("auxiliary", "aux_classifier"),
        ),
    ),
}


def _mobilenet_rules() -> Rules:
    rows = MOBILENETS[MOBILENET].rows
    inps = (STEM, *(row.channels for row in rows))
    blocks = [rule for index, row in enumerate(rows) for rule in _block_rules(index, row, inps[index])]
    last = numbered(r"backbone\.last", f"backbone.{len(rows) + 1}")
    return (*numbered(r"backbone\.stem", "backbone.0"), *blocks, *last)


def _block_rules(index: int, row: Row, inp: int) -> Iterator[tuple[str, str]]:
    """The parts of a block are numbered as they are there."""
    ours, theirs, place = rf"backbone\.blocks\.{index}", f"backbone.{index + 1}.block", count()
    if row.wide > inp:
        yield from numbered(rf"{ours}\.expand", f"{theirs}.{next(place)}")
    yield from numbered(rf"{ours}\.depthwise", f"{theirs}.{next(place)}")
    if row.squeeze:
        squeeze = f"{theirs}.{next(place)}"
        yield from ((rf"{ours}\.squeeze\.reduce", f"{squeeze}.fc1"), (rf"{ours}\.squeeze\.restore", f"{squeeze}.fc2"))
    yield from numbered(rf"{ours}\.project", f"{theirs}.{next(place)}")


def rules(config: ModelConfig) -> Rules:
    backbone = _mobilenet_rules() if config.backbone.name == MOBILENET else ()
    return (*backbone, *RULES[config.name])


def _our_axes(name: str, array: Array) -> Array:
    return pooled_image_first(array) if name == PROJECTION else array


def _unfolded(module: nn.Module, names: Mapping[str, str], arrays: Arrays) -> Arrays:
    return with_two_classes(_with_bias(names, arrays), CLASSIFIERS)


def _with_bias(names: Mapping[str, str], arrays: Arrays) -> Arrays:
    """LR-ASPP's gate has no bias there."""
    bias = GATED.replace("weight", "bias")
    is_missing = bias in names.values() and bias not in arrays and GATED in arrays
    return {**arrays, bias: np.zeros(len(arrays[GATED]), np.float32)} if is_missing else arrays


# ---- the network


def config(evidence: Evidence[Options]) -> Deduction:
    if other := next((text for name, text in OTHERS.items() if evidence.has(name)), None):
        raise ConversionError(f"{evidence.label}: {other}")
    head = _head(evidence)
    backbone = MOBILENET if evidence.has("backbone.0.0.weight") else resnet(evidence, _prefix(head))
    name = f"{PREFIXES[head['name']]}{BACKBONE_NAMES.get(backbone, backbone)}"
    decided = {"model": name, "num_classes": head["num_classes"]}
    return Deduction({"backbone": backbone, **head, "num_classes": max(2, head["num_classes"])}, decided)


def assumptions(evidence: Evidence[Options], config: ModelConfig) -> dict[str, bool]:
    return {ONE_LOGIT: has_one_logit(evidence.shapes, CLASSIFIERS)}


def _prefix(head: ConfigFields) -> str:
    return "" if head["name"] == "image_classifier" else "backbone."


def _head(evidence: Evidence[Options]) -> ConfigFields:
    def width(name: str) -> int:
        return evidence.shape(f"{name}.weight")[0]

    if evidence.has("conv1.weight"):
        return {"name": "image_classifier", "output_stride": 32, "num_classes": width("fc")}
    if evidence.has(GATED):
        return {
            **GATED_HEAD,
            "num_classes": width("classifier.low_classifier"),
            "head_channels": width("classifier.cbr.0"),
        }
    auxiliary = width("aux_classifier.0") if evidence.has("aux_classifier.0.weight") else None
    fields = {**COMMON, "num_classes": width("classifier.4"), "auxiliary_channels": auxiliary}
    if evidence.has("backbone.0.0.weight"):
        fields |= {"output_stride": 16} | ({"auxiliary_stage": "low_level_8"} if auxiliary else {})
    if not evidence.has(PROJECTION):
        return {"name": "fcn", "head_channels": width("classifier.0"), **fields}
    aspp = {**PYRAMID, "channels": evidence.shape(PROJECTION)[0]}
    return {"name": "deeplab_v3", "aspp": aspp, "head_channels": width("classifier.1"), **fields}


SYSTEM = System(
    recognised,
    Options,
    config,
    rules,
    assumptions,
    label_space=partial(published_label_space, known={21: PUBLISHED[21]}),
    layout=PYTORCH._replace(our_axes=_our_axes, unfolded=_unfolded),
)
