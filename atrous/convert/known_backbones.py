"""Backbones that several PyTorch programs share: how they are recognised, and how their weights are named."""

from collections.abc import Callable
from typing import Any

from atrous.backbones.mobilenet_v2 import ROWS
from atrous.convert.layouts import Rules
from atrous.convert.system import Evidence
from atrous.errors import ConversionError

RESNETS = {  # by whether units are bottlenecks, and their number in layer3
    (False, 2): "resnet18",
    (False, 6): "resnet34",
    (True, 6): "resnet50",
    (True, 23): "resnet101",
    (True, 36): "resnet152",
}
NUM_BLOCKS = sum(row.repeats for row in ROWS)  # of MobileNetV2
NUM_LOW = 4  # of MobileNetV2's features, the first ones, are called low by some


def resnet(evidence: Evidence[Any], prefix: str) -> str:
    """torchvision's name of the ResNet below `prefix`."""
    units = evidence.count_modules(f"{prefix}layer3.")
    has_bottlenecks = evidence.has(f"{prefix}layer1.0.conv3.weight")
    if (has_bottlenecks, units) not in RESNETS:
        kind = "bottlenecks" if has_bottlenecks else "units of two convolutions"
        known = ", ".join(RESNETS.values())
        raise ConversionError(f"{evidence.label}: no ResNet has {units} {kind} in layer3; known: {known}")
    return RESNETS[has_bottlenecks, units]


def resnet_stem(prefix: str = "") -> Rules:
    return (r"backbone\.stem\.0\.conv", f"{prefix}conv1"), (r"backbone\.stem\.0\.norm", f"{prefix}bn1")


def deep_stem(prefix: str = "") -> Rules:
    """Three convolutions, each with its own number."""
    return tuple(
        (rf"backbone\.stem\.{index}\.{ours}", f"{prefix}{theirs}{index + 1}")
        for index in range(3)
        for ours, theirs in (("conv", "conv"), ("norm", "bn"))
    )


def resnet_stages(prefix: str = "") -> Rules:
    """The stages of a ResNet under torchvision's names."""
    return tuple(
        (rf"backbone\.c{stage + 1}\.(\d+)\.{ours}", rf"{prefix}layer{stage}.\1.{theirs}")
        for stage in range(1, 5)
        for ours, theirs in (
            (r"conv(\d)\.conv", r"conv\2"),
            (r"conv(\d)\.norm", r"bn\2"),
            (r"shortcut\.conv", "downsample.0"),
            (r"shortcut\.norm", "downsample.1"),
        )
    )


def numbered(ours: str, theirs: str) -> Rules:
    """A convolution and its batch norm, which are 0 and 1 of a sequence."""
    return (rf"{ours}\.conv", f"{theirs}.0"), (rf"{ours}\.norm", f"{theirs}.1")


def pair(ours: str, conv: str, norm: str) -> Rules:
    """A convolution and its batch norm, each with a name of its own."""
    return (rf"{ours}\.conv", conv), (rf"{ours}\.norm", norm)


def leveled_mobilenet(first: Rules, block_rules: Callable[[str, str], Rules]) -> Rules:
    """MobileNetV2 in two sequences of features. `first` are the rules of the first block, which has no expansion."""
    blocks = [
        block_rules(rf"backbone\.blocks\.{index}", f"backbone.{level}_level_features.{index + 1}.conv")
        for index in range(1, NUM_BLOCKS)
        for level in ("low" if index + 1 < NUM_LOW else "high",)
    ]
    stem = numbered(r"backbone\.stem", "backbone.low_level_features.0")
    return (*stem, *first, *(rule for rules in blocks for rule in rules))
