"""Hugging Face's MobileNetV2ForSemanticSegmentation, such as google/deeplabv3_mobilenet_v2_1.0_513."""

from typing import Literal

from pydantic import Field, PositiveFloat, PositiveInt

from atrous.convert.arrays import Shapes
from atrous.convert.known_backbones import NUM_BLOCKS, pair
from atrous.convert.layouts import PYTORCH, Rules, beside
from atrous.convert.system import ConfigFields, Deduction, Evidence, System
from atrous.errors import ConversionError
from atrous.models import ModelConfig
from atrous.settings import Settings

MODEL_TYPE = "mobilenet_v2"
STEM = "mobilenet_v2.conv_stem."
CLASSIFIER = "segmentation_head.classifier.convolution"
MULTIPLIERS = (0.35, 0.5, 0.75, 1.0, 1.3, 1.4)  # of the published networks
HEAD = {
    r"aspp\.image_pooling": "segmentation_head.conv_pool",
    r"aspp\.branches\.0": "segmentation_head.conv_aspp",
    r"aspp\.projection": "segmentation_head.conv_projection",
}


class Options(Settings):
    """Keys of config.json; what it says is taken from there."""

    depth_multiplier: PositiveFloat | None = None  # None: that of a published network with the width of the weights
    depth_divisible_by: PositiveInt = 8
    min_depth: PositiveInt = 8
    expand_ratio: Literal[6] = 6
    output_stride: Literal[8, 16, 32] = 32
    layer_norm_eps: PositiveFloat = Field(0.001, lt=1)
    first_layer_is_expansion: Literal[True] = True
    tf_padding: Literal[True] = True
    hidden_act: Literal["relu6"] = "relu6"
    num_labels: PositiveInt | None = None


def recognised(shapes: Shapes) -> bool:
    return f"{STEM}first_conv.convolution.weight" in shapes and f"{CLASSIFIER}.weight" in shapes


# ---- names


def _layer(ours: str, theirs: str) -> Rules:
    return pair(ours, f"{theirs}.convolution", f"{theirs}.normalization")


def _block_rules(index: int) -> Rules:
    """The first block is a part of the stem."""
    ours, theirs = rf"backbone\.blocks\.{index}", f"mobilenet_v2.layer.{index - 1}." if index else STEM
    parts = (("expand", "expand_1x1"), ("depthwise", "conv_3x3"), ("project", "reduce_1x1"))
    return tuple(rule for one, other in parts for rule in _layer(rf"{ours}\.{one}", f"{theirs}{other}"))


RULES: Rules = (
    *_layer(r"backbone\.stem", f"{STEM}first_conv"),
    *(rule for index in range(NUM_BLOCKS) for rule in _block_rules(index)),
    *(rule for ours, theirs in HEAD.items() for rule in _layer(ours, theirs)),
    ("classify", CLASSIFIER),
)


def rules(config: ModelConfig) -> Rules:
    return RULES


# ---- the network


def config(evidence: Evidence[Options]) -> Deduction:
    options, num_classes = evidence.options, evidence.shape(f"{CLASSIFIER}.weight")[0]
    multiplier = options.depth_multiplier or _multiplier(evidence)
    if options.min_depth != options.depth_divisible_by:
        raise ConversionError(f"{evidence.label}: min_depth={options.min_depth}, where it must be depth_divisible_by")
    backbone = {"name": "mobilenet_v2", "depth_multiplier": multiplier, "divisible_by": options.depth_divisible_by}
    fields: ConfigFields = {
        "name": "deeplab_v3",
        "backbone": {**backbone, "norm_eps": options.layer_norm_eps},
        "num_classes": num_classes,
        "output_stride": options.output_stride,
        "aspp": {"rates": (), "channels": 256, "dropout": 0.8, "norm_eps": 1e-5},
    }
    return Deduction(fields, {"num_labels": num_classes})


def _multiplier(evidence: Evidence[Options]) -> float:
    """The widths of the last block are the most distinct."""
    name = f"mobilenet_v2.layer.{NUM_BLOCKS - 2}.reduce_1x1.convolution.weight"
    width = evidence.shape(name)[0]
    known = {round(320 * one): one for one in MULTIPLIERS}
    if width not in known:
        raise ConversionError(f"{evidence.label}: its last block has {width} channels: set depth_multiplier=")
    return known[width]


def assumptions(evidence: Evidence[Options], config: ModelConfig) -> dict[str, bool]:
    return {
        "output_stride=32 (the default; without its config.json)": "output_stride"
        not in evidence.options.model_fields_set
    }


SYSTEM = System(
    recognised,
    Options,
    config,
    rules,
    assumptions,
    layout=PYTORCH._replace(leftovers=beside(r"mobilenet_v2\.conv_1x1\..*")),  # which only its classifier uses
)
