"""jfzhang95/pytorch-deeplab-xception: DeepLab v3+ on ResNet-101, Xception-65, DRN-D-54 and MobileNetV2."""

from typing import Literal

from pydantic import PositiveInt

from atrous.convert.arrays import Array, Shapes
from atrous.convert.known_backbones import (
    deep_stem,
    low_or_high,
    mobilenet_v2,
    numbered,
    pair,
    resnet,
    resnet_stages,
    resnet_stem,
    xception_units,
)
from atrous.convert.layouts import ONE_LOGIT, PYTORCH, Rules, beside, has_one_logit, pooled_image_first, two_classes_of
from atrous.convert.system import ConfigFields, Deduction, Evidence, System, off_grid
from atrous.errors import ConversionError
from atrous.layers.aspp import RATES
from atrous.models import ModelConfig
from atrous.settings import Settings

CLASSIFIER = "decoder.last_conv.8"
MULTI_GRID = (1, 2, 4)
BACKBONES: dict[str, ConfigFields] = {  # by its names
    "resnet": {"name": "resnet101", "multi_grid": MULTI_GRID, "atrous_rule": "stage"},
    "mobilenet": {"name": "mobilenet_v2", "program": "jfzhang95"},
    "xception": {"name": "xception_65", "program": "jfzhang95"},
    "drn": {"name": "drn_d_54"},
}
MARKS = {  # a weight that only one of them has
    "backbone.low_level_features.0.0.weight": "mobilenet",
    "backbone.block1.skip.weight": "xception",
    "backbone.layer0.0.weight": "drn",
}
DECODER: ConfigFields = {"low_level_channels": 48, "separable": False, "norm_eps": 1e-5, "dropout": (0.5, 0.1)}


class Options(Settings):
    """Arguments of its train.py; None: whatever the weights say."""

    backbone: Literal["resnet", "mobilenet", "xception", "drn"] | None = None
    num_classes: PositiveInt | None = None
    out_stride: Literal[8, 16] = 16


def recognised(shapes: Shapes) -> bool:
    return "aspp.aspp1.atrous_conv.weight" in shapes and "decoder.last_conv.0.weight" in shapes


# ---- names


HEAD: Rules = (
    *(
        rule
        for index in range(4)
        for rule in pair(rf"aspp\.branches\.{index}", f"aspp.aspp{index + 1}.atrous_conv", f"aspp.aspp{index + 1}.bn")
    ),
    *pair(r"aspp\.image_pooling", "aspp.global_avg_pool.1", "aspp.global_avg_pool.2"),
    *pair(r"aspp\.projection", "aspp.conv1", "aspp.bn1"),
    *pair(r"decoder\.0\.low_level", "decoder.conv1", "decoder.bn1"),
    *numbered(r"decoder\.0\.refine\.0", "decoder.last_conv"),
    *pair(r"decoder\.0\.refine\.1", "decoder.last_conv.4", "decoder.last_conv.5"),
    ("classify", "decoder.last_conv.8"),
)


def _separable(ours: str, conv: str, norm: str) -> Rules:
    """A depthwise convolution with a batch norm of its own, and a 1x1 whose batch norm lies beside both."""
    return (
        *pair(rf"{ours}\.depthwise", f"{conv}.conv1", f"{conv}.bn"),
        *pair(rf"{ours}\.pointwise", f"{conv}.pointwise", norm),
    )


XCEPTION: Rules = (
    *deep_stem("backbone."),
    *xception_units(16, _separable, ("separable1", "separable2", "separable3"), bare=2),
    *(
        rule
        for index in (1, 2, 3)
        for rule in _separable(
            rf"backbone\.exit_2\.separable{index}", f"backbone.conv{index + 2}", f"backbone.bn{index + 2}"
        )
    ),
)
DRN: Rules = (
    *numbered(r"backbone\.stem\.(\d)", r"backbone.layer\1"),
    *resnet_stages("backbone.", first=3),
    *numbered(r"backbone\.last\.0", "backbone.layer7"),
    *numbered(r"backbone\.last\.1", "backbone.layer8"),
)
RULES = {
    "mobilenet_v2": mobilenet_v2(low_or_high, nested=False),
    "xception_65": XCEPTION,
    "drn_d_54": DRN,
    "resnet101": (*resnet_stem("backbone."), *resnet_stages("backbone.")),
}


def rules(config: ModelConfig) -> Rules:
    return (*RULES[config.backbone.name], *HEAD)


def _our_axes(name: str, array: Array) -> Array:
    return pooled_image_first(array) if name == "aspp.conv1.weight" else array


# ---- the network


def config(evidence: Evidence[Options]) -> Deduction:
    num_classes = evidence.shape(f"{CLASSIFIER}.weight")[0]
    backbone = next((name for weight, name in MARKS.items() if evidence.has(weight)), "resnet")
    if backbone == "resnet" and (name := resnet(evidence, "backbone.")) != "resnet101":
        raise ConversionError(f"{evidence.label}: its backbone is {name}, where this program has resnet101 alone")
    stride = _output_stride(evidence, backbone)
    fields: ConfigFields = {
        "name": "deeplab_v3plus",
        "backbone": BACKBONES[backbone],
        "num_classes": max(2, num_classes),
        "output_stride": stride,
        "aspp": {"rates": RATES[stride], "separable": False, "norm_eps": 1e-5, "dropout": 0.5},
        "decoder": DECODER,
    }
    return Deduction(fields, {"backbone": backbone, "num_classes": num_classes})


def _output_stride(evidence: Evidence[Options], backbone: str) -> int:
    """The program builds a DRN at 8, whatever its argument says."""
    return 8 if backbone == "drn" else evidence.options.out_stride


def assumptions(evidence: Evidence[Options], config: ModelConfig) -> dict[str, bool]:
    has_choice = len(config.backbone.output_strides) > 1
    return {
        "out_stride=16 (the default)": has_choice and "out_stride" not in evidence.options.model_fields_set,
        ONE_LOGIT: has_one_logit(evidence.shapes, [CLASSIFIER]),
    }


SYSTEM = System(
    recognised,
    Options,
    config,
    rules,
    assumptions,
    off_grid,
    layout=PYTORCH._replace(
        our_axes=_our_axes,
        leftovers=beside(r"backbone\.features\..*"),  # the same weights again
        unfolded=two_classes_of(CLASSIFIER),
    ),
)
