"""mmsegmentation's PSPNet, on each of the three stems that its ResNets have."""

from typing import NamedTuple

from pydantic import PositiveInt

from atrous.convert.arrays import Shapes
from atrous.convert.known_backbones import resnet_stages
from atrous.convert.layouts import Rules
from atrous.convert.system import ConfigFields, Deduction, Evidence, System
from atrous.errors import ConfigError, ConversionError
from atrous.models import ModelConfig
from atrous.settings import Settings


class Stem(NamedTuple):
    """What is published with a stem and can't be read from the weights."""

    backbone: str  # a row of BACKBONES, with its depth left out
    contract_dilation: bool  # a stage's first unit keeps the rate of the stage before: our rule "unit"
    align_corners: bool
    origin: str


STEMS = {  # by the channels of the first 3x3 convolution; 0: a single 7x7
    64: Stem("resnet{}s", False, True, "as in semseg"),
    32: Stem("resnet{}c", True, False, "as in the configs of ResNetV1c"),
    0: Stem("resnet{}", True, False, "as in the configs of ResNet"),
}
DEPTHS = {6: 50, 23: 101, 36: 152}  # by the number of units in layer3
BINS = (1, 2, 3, 6)
PYRAMID = "decode_head.psp_modules."


class Options(Settings):
    """Keys of its configs; None: as the weights say, or else as published with their stem."""

    depth: PositiveInt | None = None
    num_classes: PositiveInt | None = None
    pool_scales: tuple[PositiveInt, ...] | None = None  # (1, 2, 3, 6)
    align_corners: bool | None = None
    contract_dilation: bool | None = None


def recognised(shapes: Shapes) -> bool:
    return "decode_head.conv_seg.weight" in shapes


# ---- names

RULES: Rules = (
    (r"backbone\.stem\.0\.conv", "backbone.conv1"),  # unless the stem is a deep one
    (r"backbone\.stem\.0\.norm", "backbone.bn1"),
    *resnet_stages("backbone."),
    (r"pyramid\.branches\.(\d+)\.conv", rf"{PYRAMID}\1.1.conv"),
    (r"pyramid\.branches\.(\d+)\.norm", rf"{PYRAMID}\1.1.bn"),
    (r"head\.conv\.conv", "decode_head.bottleneck.conv"),
    (r"head\.conv\.norm", "decode_head.bottleneck.bn"),
    (r"head\.classify", "decode_head.conv_seg"),
    (r"auxiliary\.conv\.conv", "auxiliary_head.convs.0.conv"),
    (r"auxiliary\.conv\.norm", "auxiliary_head.convs.0.bn"),
    (r"auxiliary\.classify", "auxiliary_head.conv_seg"),
)
DEEP_STEM: Rules = tuple(
    (rf"backbone\.stem\.{index}\.{part}", f"backbone.stem.{3 * index + place}")
    for index in range(3)
    for place, part in enumerate(("conv", "norm"))
)


def rules(config: ModelConfig) -> Rules:
    has_deep_stem = config.backbone.name.endswith(("s", "c"))
    return (*DEEP_STEM, *RULES) if has_deep_stem else RULES


# ---- the network


def config(evidence: Evidence[Options]) -> Deduction:
    stem = STEMS[_stem_channels(evidence)]
    depth, num_classes = _depth(evidence), evidence.shape("decode_head.conv_seg.weight")[0]
    align_corners = evidence.options.align_corners
    fields: ConfigFields = {
        "name": "pspnet",
        "backbone": stem.backbone.format(depth),
        "num_classes": num_classes,
        "bins": _bins(evidence),
        "head_channels": evidence.shape("decode_head.bottleneck.conv.weight")[0],
        "auxiliary_channels": evidence.shape("auxiliary_head.convs.0.conv.weight")[0],
        "align_corners": stem.align_corners if align_corners is None else align_corners,
    }
    decided = {"depth": depth, "num_classes": num_classes, "contract_dilation": stem.contract_dilation}
    return Deduction(fields, decided)


def _stem_channels(evidence: Evidence[Options]) -> int:
    if evidence.has("backbone.conv1.weight"):
        return 0
    channels = evidence.shape("backbone.stem.0.weight")[0]
    if channels not in STEMS:
        known = ", ".join(f"{2 * half} ({half}, {half}, {2 * half})" for half in STEMS if half)
        raise ConversionError(f"{evidence.label}: stem_channels={2 * channels}: known are {known} and a single 7x7")
    return channels


def _depth(evidence: Evidence[Options]) -> int:
    units = evidence.count_modules("backbone.layer3.")
    if not evidence.has("backbone.layer1.0.conv3.weight"):
        raise ConversionError(
            f"{evidence.label}: its units have two convolutions, and mmsegmentation dilates only the first; "
            "Atrous has no network like that"
        )
    if units not in DEPTHS:
        known = ", ".join(f"{count} ({depth} layers)" for count, depth in DEPTHS.items())
        raise ConversionError(f"{evidence.label}: {units} units in layer3, where ResNets have {known}")
    return DEPTHS[units]


def _bins(evidence: Evidence[Options]) -> tuple[int, ...]:
    count, label = evidence.count_modules(PYRAMID), evidence.label
    bins = evidence.options.pool_scales or (BINS if count == len(BINS) else ())
    if not count:
        raise ConversionError(f"{label}: {PYRAMID}* is missing: of mmsegmentation's networks only PSPNet is read")
    if len(bins) != count:
        raise ConfigError(f"{label}: its pyramid has {count} levels: name each in pool_scales=1,2,3,6; got {bins}")
    return bins


def assumptions(evidence: Evidence[Options], config: ModelConfig) -> dict[str, bool]:
    stem, options = STEMS[_stem_channels(evidence)], evidence.options
    return {
        "pool_scales=1,2,3,6 (the default)": options.pool_scales is None,
        f"align_corners={stem.align_corners} ({stem.origin})": options.align_corners is None,
        f"contract_dilation={stem.contract_dilation} ({stem.origin})": options.contract_dilation is None,
    }


SYSTEM = System(recognised, Options, config, rules, assumptions)
