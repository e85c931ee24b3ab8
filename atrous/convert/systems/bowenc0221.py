"""bowenc0221/panoptic-deeplab, the program in PyTorch of the paper's first author: Panoptic-DeepLab."""

import re
from collections.abc import Iterator, Mapping
from typing import Literal

from pydantic import PositiveInt
from torch import nn

from atrous.backbones.mobilenet_v2 import MobileNetV2
from atrous.backbones.xception import Xception
from atrous.convert.arrays import Array, Arrays, Shapes
from atrous.convert.known_backbones import deep_stem, mobilenet_v2, numbered, pair, resnet, resnet_stages, resnet_stem
from atrous.convert.label_spaces import published_label_space
from atrous.convert.layouts import PYTORCH, Rules, identity_norm, pooled_image_first
from atrous.convert.system import ConfigFields, Deduction, Evidence, System
from atrous.data import cityscapes
from atrous.data.label_space import LabelSpace
from atrous.errors import ConversionError
from atrous.layers.aspp import RATES
from atrous.models import ModelConfig
from atrous.settings import Rates, Settings

EPS = 1e-5
BRANCHES = ("semantic", "instance")
KNOWN = {19: ("Cityscapes", cityscapes.CITYSCAPES)}
OTHERS = {  # a weight of what is not read
    "backbone.stage4.0.branches.0.0.conv1.weight": "its backbone is HRNet",
    "backbone.layers.0.weight": "its backbone is MNASNet",
    "decoder.aspp.convs.0.0.weight": "it is the program's DeepLab v3 or v3+",
}
DECODE = {"threshold": 0.1, "kernel": 7, "top_k": 200, "stuff_area": 2048, "at_limit": "kept", "without_center": "void"}
BACKBONES: dict[str, ConfigFields] = {  # by a weight that only it has
    "backbone.features.0.0.weight": {"name": "mobilenet_v2", "program": "mmsegmentation"},
    "backbone.block20.sep_conv1.block.depthwise.weight": {"name": "xception_65", "program": "bowenc0221"},
}


class Options(Settings):
    """Keys of its configs; None: whatever the weights say, or else what is published."""

    num_classes: PositiveInt | None = None
    output_stride: Literal[8, 16, 32] = 32
    atrous_rates: Rates | None = None  # None: 3, 6, 9 at output stride 32


def recognised(shapes: Shapes) -> bool:
    is_panoptic = "decoder.semantic_decoder.aspp.convs.0.0.weight" in shapes
    is_semantic = "decoder.aspp.convs.4.aspp_pooling.1.weight" in shapes  # this program's own name
    return is_panoptic or is_semantic


# ---- names


def _separable(ours: str, theirs: str) -> Rules:
    return (
        *numbered(rf"{ours}\.depthwise", f"{theirs}.0"),
        *pair(rf"{ours}\.pointwise", f"{theirs}.1", f"{theirs}.2"),
    )


def _branch(name: str) -> Iterator[tuple[str, str]]:
    theirs = f"decoder.{name}_decoder"
    pooling = f"{theirs}.aspp.convs.4.aspp_pooling"
    yield from numbered(rf"{name}\.aspp\.branches\.(\d)", rf"{theirs}.aspp.convs.\1")
    yield from pair(rf"{name}\.aspp\.image_pooling", f"{pooling}.1", f"{pooling}.norm")  # which it doesn't have
    yield from numbered(rf"{name}\.aspp\.projection", f"{theirs}.aspp.project")
    yield from numbered(rf"{name}\.low_level\.(\d)", rf"{theirs}.project.\1")
    yield from _separable(rf"{name}\.fuse\.(\d)", rf"{theirs}.fuse.\1.0")


def _head(name: str, theirs: str) -> Rules:
    return (*_separable(rf"{name}_head\.conv", f"{theirs}.0.0"), (rf"{name}_head\.classify", f"{theirs}.1"))


HEADS: Rules = (
    *(rule for name in BRANCHES for rule in _branch(name)),
    *_head("semantic", "decoder.semantic_head.classifier.semantic"),
    *_head("center", "decoder.instance_head.classifier.center"),
    *_head("offset", "decoder.instance_head.classifier.offset"),
)


def _unit(ours: str, number: int) -> Iterator[tuple[str, str]]:
    theirs = f"backbone.block{number}"
    for index in (1, 2, 3):
        for part, norm in (("depthwise", "bn_depth"), ("pointwise", "bn_point")):
            block = f"{theirs}.sep_conv{index}.block"
            yield from pair(rf"{ours}\.separable{index}\.{part}", f"{block}.{part}", f"{block}.{norm}")
    yield from pair(rf"{ours}\.shortcut", f"{theirs}.conv", f"{theirs}.bn")


UNITS = (*(f"entry_{index}" for index in (1, 2, 3)), *(f"middle_{index}" for index in range(1, 17)), "exit_1")
XCEPTION: Rules = (
    *deep_stem("backbone."),
    *(rule for number, name in enumerate(UNITS, 1) for rule in _unit(rf"backbone\.units\.{name}", number)),
    *_unit(r"backbone\.exit_2", len(UNITS) + 1),
)
MOBILENET = mobilenet_v2(lambda index: f"backbone.features.{index}", nested=True)
RESNET: Rules = (*resnet_stem("backbone."), *resnet_stages("backbone."))


def rules(config: ModelConfig) -> Rules:
    kinds = {MobileNetV2.Config: MOBILENET, Xception.Config: XCEPTION}
    return (*kinds.get(type(config.backbone), RESNET), *HEADS)


def _our_axes(name: str, array: Array) -> Array:
    return pooled_image_first(array) if name.endswith("aspp.project.0.weight") else array


POOLING = re.compile(r"(decoder\.\w+_decoder\.aspp\.convs\.4\.aspp_pooling)\.1\.weight")


def _with_norms(module: nn.Module, names: Mapping[str, str], arrays: Arrays) -> Arrays:
    """The mean of the whole map has no batch norm."""
    means = [(match.group(1), array) for name, array in arrays.items() if (match := POOLING.fullmatch(name))]
    norms = {
        f"{prefix}.norm.{leaf}": norm
        for prefix, array in means
        for leaf, norm in identity_norm(array[:, 0, 0, 0] * 0, EPS).items()
    }
    return {**arrays, **norms}


# ---- the network


def config(evidence: Evidence[Options]) -> Deduction:
    if other := next((text for weight, text in OTHERS.items() if evidence.has(weight)), None):
        raise ConversionError(f"{evidence.label}: {other}, which Atrous does not read from it")
    backbone = next((fields for name, fields in BACKBONES.items() if evidence.has(name)), None)
    options, num_classes = evidence.options, evidence.shape("decoder.semantic_head.classifier.semantic.1.weight")[0]
    is_panoptic = evidence.has_prefix("decoder.instance_decoder.")
    fields: ConfigFields = {
        "name": "panoptic_deeplab" if is_panoptic else "panoptic_deeplab_semantic",
        "backbone": backbone or resnet(evidence, "backbone."),
        "num_classes": num_classes,
        "output_stride": options.output_stride,
        "rates": options.atrous_rates or RATES[options.output_stride],
        "dropout": 0.5,
        "norm_eps": EPS,
        **{name: _branch_config(evidence, name) for name in BRANCHES[: 1 + is_panoptic]},
    }
    return Deduction(fields, {"num_classes": num_classes})


def _branch_config(evidence: Evidence[Options], name: str) -> ConfigFields:
    def width(weight: str) -> int:
        return evidence.shape(f"decoder.{name}_{weight}.weight")[0]

    stages = range(evidence.count_modules(f"decoder.{name}_decoder.project."))
    head = "semantic" if name == "semantic" else "center"
    return {
        "aspp_channels": width("decoder.aspp.project.0"),
        "low_level_channels": tuple(width(f"decoder.project.{stage}.0") for stage in stages),
        "decoder_channels": width("decoder.fuse.0.0.1"),
        "head_channels": width(f"head.classifier.{head}.0.0.1"),
    }


def assumptions(evidence: Evidence[Options], config: ModelConfig) -> dict[str, bool]:
    options, present = evidence.options, evidence.options.model_fields_set
    rates = ",".join(map(str, RATES[options.output_stride]))
    return {
        "output_stride=32 (as published)": "output_stride" not in present,
        f"atrous_rates={rates} (as published, or in proportion)": options.atrous_rates is None,
    }


def label_space(num_classes: int, options: Options) -> tuple[LabelSpace, list[str]]:
    space, assumed = published_label_space(num_classes, options, KNOWN)
    return space, assumed or [f"none of the {num_classes} classes is a thing"]


def decode(evidence: Evidence[Options], config: ModelConfig) -> ConfigFields:
    return DECODE if config.name == "panoptic_deeplab" else {}


SYSTEM = System(
    recognised,
    Options,
    config,
    rules,
    assumptions,
    label_space=label_space,
    layout=PYTORCH._replace(our_axes=_our_axes, unfolded=_with_norms),
    decode=decode,
)
