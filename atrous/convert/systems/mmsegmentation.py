"""mmsegmentation's PSPNet, on each of the three stems that ResNets have there."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from pydantic import PositiveInt

from atrous.convert.contract import Conversion, Source
from atrous.convert.filling import Shapes, blank_model, published_classes, require_known, validated
from atrous.convert.naming import Rules, count_modules, fill, require_agreement, require_shape, stages
from atrous.models import ModelConfig
from atrous.models.pspnet import PSPNet
from atrous.segmenter import Segmenter
from atrous.settings import Settings

PROGRAM = "mmsegmentation"


class Stem(NamedTuple):
    """What is published with a stem, as weights don't tell it."""

    rows: str  # of BACKBONES, by depth
    contract_dilation: bool  # a stage's first unit keeps the rate of the stage before: our rule "unit"
    align_corners: bool
    origin: str


STEMS = {  # by the channels of its first 3x3; 0: a single 7x7
    64: Stem("resnet{}s", False, True, "semseg's"),
    32: Stem("resnet{}c", True, False, "that of ResNetV1c's configs"),
    0: Stem("resnet{}", True, False, "that of ResNet's configs"),
}
DEPTHS = {6: 50, 23: 101, 36: 152}  # by the number of units in layer3
BINS = (1, 2, 3, 6)
PYRAMID = "decode_head.psp_modules."


class Options(Settings):
    """Keys of its configs; None: as the weights say, or else as published with the stem that they have."""

    depth: PositiveInt | None = None
    num_classes: PositiveInt | None = None
    pool_scales: tuple[PositiveInt, ...] | None = None  # (1, 2, 3, 6)
    align_corners: bool | None = None
    contract_dilation: bool | None = None


STEM_RULES: Rules = (
    *((rf"backbone\.stem\.{index}\.conv", f"backbone.stem.{3 * index}") for index in range(3)),
    *((rf"backbone\.stem\.{index}\.norm", f"backbone.stem.{3 * index + 1}") for index in range(3)),
)
PLAIN_STEM_RULES: Rules = (
    (r"backbone\.stem\.0\.conv", "backbone.conv1"),
    (r"backbone\.stem\.0\.norm", "backbone.bn1"),
)
HEADS: Rules = (
    (r"pyramid\.branches\.(\d+)\.conv", rf"{PYRAMID}\1.1.conv"),
    (r"pyramid\.branches\.(\d+)\.norm", rf"{PYRAMID}\1.1.bn"),
    (r"head\.conv\.conv", "decode_head.bottleneck.conv"),
    (r"head\.conv\.norm", "decode_head.bottleneck.bn"),
    (r"head\.classify", "decode_head.conv_seg"),
    (r"auxiliary\.conv\.conv", "auxiliary_head.convs.0.conv"),
    (r"auxiliary\.conv\.norm", "auxiliary_head.convs.0.bn"),
    (r"auxiliary\.classify", "auxiliary_head.conv_seg"),
)


def recognised(shapes: Shapes) -> bool:
    return "decode_head.conv_seg.weight" in shapes


def convert(source: Source, options: Mapping[str, Any]) -> Conversion:
    """The model of these weights; `options` are keys of its configs. Raises ValueError in one line."""
    require_known(options, Options.model_fields, source.label)
    read = validated(Options, options, source.label)
    shapes = {name: array.shape for name, array in source.variables.items()}
    stem = _stem(shapes, source.label)
    model = blank_model(model_config(shapes, stem, read, source.label))
    rules = (*(STEM_RULES if stem else PLAIN_STEM_RULES), *stages("backbone."), *HEADS)
    ignored = fill(model, rules, source.variables, source.label)
    label_space, notes = published_classes(model.num_classes)
    taken = [*_taken_on_trust(STEMS[stem], read), *notes]
    return Conversion(Segmenter(model.eval(), label_space), PROGRAM, len(shapes) - len(ignored), ignored, taken)


def model_config(shapes: Shapes, stem: int, options: Options, label: str) -> ModelConfig:
    """The config of the PSPNet that has these weights. Raises ValueError, in one line, if none has."""

    def outputs(name: str) -> int:
        return require_shape(shapes, name, f"PSPNet in {PROGRAM}", label)[0]

    found = {"depth": _depth(shapes, label), "num_classes": outputs("decode_head.conv_seg.weight")}
    settings = {
        "backbone": STEMS[stem].rows.format(found["depth"]),
        "num_classes": found["num_classes"],
        "bins": _bins(shapes, options, label),
        "head_channels": outputs("decode_head.bottleneck.conv.weight"),
        "auxiliary_channels": outputs("auxiliary_head.convs.0.conv.weight"),
        "align_corners": STEMS[stem].align_corners if options.align_corners is None else options.align_corners,
    }
    fixed = {"contract_dilation": STEMS[stem].contract_dilation}  # a row has one rule
    require_agreement(options.model_dump(), {**found, **fixed}, label)
    return validated(PSPNet.Config, settings, label)


def _stem(shapes: Shapes, label: str) -> int:
    if "backbone.conv1.weight" in shapes:
        return 0
    channels = require_shape(shapes, "backbone.stem.0.weight", PROGRAM, label)[0]
    if channels not in STEMS:
        known = ", ".join(f"{2 * half} ({half}, {half}, {2 * half})" for half in STEMS if half)
        raise ValueError(f"{label}: stem_channels={2 * channels}: known are stems of {known} and a single 7x7")
    return channels


def _depth(shapes: Shapes, label: str) -> int:
    units = count_modules(shapes, "backbone.layer3.")
    has_bottlenecks = "backbone.layer1.0.conv3.weight" in shapes
    if not has_bottlenecks:
        raise ValueError(f"{label}: its units have two convolutions, of which only the first is atrous there, not here")
    if units not in DEPTHS:
        known = ", ".join(f"{count} ({depth} layers)" for count, depth in DEPTHS.items())
        raise ValueError(f"{label}: {units} units in layer3, where ResNets have {known}")
    return DEPTHS[units]


def _bins(shapes: Shapes, options: Options, label: str) -> tuple[int, ...]:
    count = count_modules(shapes, PYRAMID)
    bins = options.pool_scales or (BINS if count == len(BINS) else ())
    if not count:
        raise ValueError(f"{label}: of {PROGRAM}'s networks PSPNet alone is read, and it has no {PYRAMID}*")
    if len(bins) != count:
        raise ValueError(f"{label}: a pyramid of {count} levels: pool_scales= tells which, as 1,2,3,6, not {bins}")
    return bins


def _taken_on_trust(stem: Stem, options: Options) -> list[str]:
    """What the weights don't tell and nobody has said."""
    untold = {
        "pool_scales=1,2,3,6 (the default)": options.pool_scales,
        f"align_corners={stem.align_corners} ({stem.origin})": options.align_corners,
        f"contract_dilation={stem.contract_dilation} ({stem.origin})": options.contract_dilation,
    }
    return [note for note, told in untold.items() if told is None]
