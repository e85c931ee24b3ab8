"""Backbones that several PyTorch programs share: how they are recognised, and how their weights are named."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from atrous.backbones.mobilenet_v2 import ROWS
from atrous.backbones.resnet import RESNETS
from atrous.convert.layouts import Rules
from atrous.convert.system import Evidence
from atrous.errors import ConversionError

V = TypeVar("V")
SHALLOW = {2: "resnet18", 6: "resnet34"}  # by the number of units in layer3
DEPTHS = {6: 50, 23: 101, 36: 152}
PLAIN = (64, 64)  # channels that the 3x3 of the first bottleneck makes, and sees
DEEP = {  # by these
    PLAIN: "resnet{}",
    (128, 4): "resnext{}_32x4d",
    (256, 8): "resnext{}_32x8d",
    (128, 128): "wide_resnet{}_2",
}
NUM_BLOCKS = sum(row.repeats for row in ROWS)  # of MobileNetV2
NUM_LOW = 4  # of MobileNetV2's features, the first ones, are called low by some


def resnet(evidence: Evidence[Any], prefix: str) -> str:
    """torchvision's name of the ResNet below `prefix`, which is a row of ours."""
    units = evidence.count_modules(f"{prefix}layer3.")
    if not evidence.has(f"{prefix}layer1.0.conv3.weight"):
        return _known(SHALLOW, units, f"{evidence.label}: no ResNet has {units} units of two convolutions in layer3")
    depth = _known(DEPTHS, units, f"{evidence.label}: no ResNet has {units} bottlenecks in layer3")
    first = evidence.shape(f"{prefix}layer1.0.conv2.weight")
    if first[:2] not in DEEP:
        problem = f"no ResNet of depth {depth} has a 3x3 of {list(first)} in its first bottleneck"
        raise ConversionError(f"{evidence.label}: {problem}")
    name = DEEP[first[0], first[1]].format(depth)
    if name not in RESNETS:
        raise ConversionError(f"{evidence.label}: its backbone is {name}, which Atrous does not have")
    return name


def _known(table: Mapping[int, V], key: int, problem: str) -> V:
    if key not in table:
        raise ConversionError(f"{problem}; known: {', '.join(map(str, table.values()))}")
    return table[key]


def resnet_stem(prefix: str = "") -> Rules:
    return pair(r"backbone\.stem\.0", f"{prefix}conv1", f"{prefix}bn1")


def deep_stem(prefix: str = "") -> Rules:
    """Three convolutions, each with its own number."""
    return tuple(
        (rf"backbone\.stem\.{index}\.{ours}", f"{prefix}{theirs}{index + 1}")
        for index in range(3)
        for ours, theirs in (("conv", "conv"), ("norm", "bn"))
    )


def xception_units(
    middle: int, separable: Callable[[str, str, str], Rules], parts: Sequence[str], *, bare: int
) -> Rules:
    """Xception's units up to the first of the exit flow, numbered; `separable` takes our name and theirs of convolution
    and batch norm. Activations count among a unit's parts, and the first `bare` units don't begin with one."""
    names = ("entry_1", "entry_2", "entry_3", *(f"middle_{index}" for index in range(1, middle + 1)), "exit_1")
    rules = list[tuple[str, str]]()
    for number, name in enumerate(names, 1):
        ours, theirs = rf"backbone\.units\.{name}", f"backbone.block{number}"
        for index, part in enumerate(parts):
            place = 3 * index + (number > bare)
            rules += separable(rf"{ours}\.{part}", f"{theirs}.rep.{place}", f"{theirs}.rep.{place + 1}")
        rules += pair(rf"{ours}\.shortcut", f"{theirs}.skip", f"{theirs}.skipbn")
    return tuple(rules)


def resnet_stages(prefix: str = "", first: int = 1) -> Rules:
    """The stages of a ResNet under torchvision's names, which count from the `first`."""
    return tuple(
        (rf"backbone\.c{stage + 1}\.(\d+)\.{ours}", rf"{prefix}layer{first + stage - 1}.\1.{theirs}")
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


def separable(ours: str, convs: str, norm: str) -> Rules:
    """A depthwise and a pointwise convolution with one batch norm, behind the second."""
    return (
        (rf"{ours}\.depthwise\.conv", f"{convs}.0"),
        (rf"{ours}\.pointwise\.conv", f"{convs}.1"),
        (rf"{ours}\.pointwise\.norm", norm),
    )


def aspp(theirs: str, body: str = "") -> Rules:
    """torchvision's names; separable branches, which others add, have their two convolutions in `body`."""
    return (
        *numbered(r"aspp\.branches\.(\d)", rf"{theirs}.convs.\1"),
        *separable(r"aspp\.branches\.(\d)", rf"{theirs}.convs.\1.0{body}", rf"{theirs}.convs.\1.1"),
        *pair(r"aspp\.image_pooling", f"{theirs}.convs.4.1", f"{theirs}.convs.4.2"),
        *numbered(r"aspp\.projection", f"{theirs}.project"),
    )


def mobilenet_v2(feature: Callable[[int], str], *, nested: bool) -> Rules:
    """torchvision's names. Convolution and batch norm are a sequence of their own in a block, but for the last, if they
    are `nested`; the first block has no expansion, so that its parts have other numbers.
    """
    blocks = (rule for index in range(NUM_BLOCKS) for rule in _block(index, f"{feature(index + 1)}.conv", nested))
    return (*numbered(r"backbone\.stem", feature(0)), *blocks)


def _block(index: int, theirs: str, nested: bool) -> Iterator[tuple[str, str]]:
    for place, part in enumerate(("expand", "depthwise", "project")[index == 0 :]):
        ours = rf"backbone\.blocks\.{index}\.{part}"
        if nested and part != "project":
            yield from numbered(ours, f"{theirs}.{place}")
        else:
            first = place if nested else 3 * place
            yield from pair(ours, f"{theirs}.{first}", f"{theirs}.{first + 1}")


def low_or_high(index: int) -> str:
    """A feature of MobileNetV2 in two sequences."""
    return f"backbone.{'low' if index < NUM_LOW else 'high'}_level_features.{index}"
