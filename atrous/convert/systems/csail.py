"""CSAILVision/semantic-segmentation-pytorch: PSPNet (PPM-deepsup) on dilated ResNets, its two parts in two files."""

from pydantic import PositiveInt

from atrous.convert.arrays import Shapes
from atrous.convert.known_backbones import deep_stem, numbered, pair, resnet, resnet_stages
from atrous.convert.layouts import Rules
from atrous.convert.system import ConfigFields, Deduction, Evidence, System
from atrous.errors import ConversionError
from atrous.models import ModelConfig
from atrous.settings import Settings

LAST = "decoder.conv_last.4"
PYRAMID = "decoder.ppm."
DEEP_STEM = (64, 3, 3, 3)
BINS = (1, 2, 3, 6)
BACKBONES = ("resnet18", "resnet50", "resnet101")
PARTS = ("decoder.conv_last.0.weight", f"{PYRAMID}0.1.weight", "decoder.conv_last.weight", "decoder.fpn_in.0.0.weight")


class Options(Settings):
    """Keys of its YAML files; None: whatever the weights say."""

    arch_encoder: str | None = None  # resnet50dilated
    num_class: PositiveInt | None = None


def recognised(shapes: Shapes) -> bool:
    has_encoder = any(name.startswith("encoder.") for name in shapes)
    return (has_encoder and any(name in shapes for name in PARTS)) or _half(shapes) is not None


def _half(shapes: Shapes) -> str | None:
    """Which part of the network these weights are, if they are one alone."""
    if any(part.removeprefix("decoder.") in shapes for part in PARTS):
        return "decoder"
    is_encoder = shapes.get("conv1.weight") == DEEP_STEM and "layer1.0.conv1.weight" in shapes
    return "encoder" if is_encoder and "fc.weight" not in shapes else None


RULES: Rules = (
    *deep_stem("encoder."),
    *resnet_stages("encoder."),
    *pair(r"pyramid\.branches\.(\d+)", rf"{PYRAMID}\1.1", rf"{PYRAMID}\1.2"),
    *numbered(r"head\.conv", "decoder.conv_last"),
    (r"head\.classify", LAST),
    *numbered(r"auxiliary\.conv", "decoder.cbr_deepsup"),
    (r"auxiliary\.classify", "decoder.conv_last_deepsup"),
)


def rules(config: ModelConfig) -> Rules:
    return RULES


def config(evidence: Evidence[Options]) -> Deduction:
    label = evidence.label
    if half := _half(evidence.shapes):
        other = "decoder" if half == "encoder" else "encoder"
        raise ConversionError(
            f"{label}: it is the {half} of a network alone: put its {other} beside it, under the same name with "
            f"{other} for {half}, such as {half}_epoch_20.pth and {other}_epoch_20.pth"
        )
    if not (evidence.has(f"{PYRAMID}0.1.weight") and evidence.has("decoder.cbr_deepsup.0.weight")):
        raise ConversionError(f"{label}: of this program's decoders only ppm_deepsup is read, and it has another")
    if not evidence.has("encoder.layer3.0.conv1.weight"):
        known = ", ".join(f"{name}dilated" for name in BACKBONES)
        raise ConversionError(f"{label}: its encoder is none of {known}")
    backbone, count = resnet(evidence, "encoder."), evidence.count_modules(PYRAMID)
    if backbone not in BACKBONES or count != len(BINS):
        raise ConversionError(f"{label}: {backbone} with a pyramid of {count} levels is no network of this program")
    num_classes = evidence.shape(f"{LAST}.weight")[0]
    fields: ConfigFields = {
        "name": "pspnet",
        "backbone": {"name": f"{backbone}s", "atrous_rule": "unit"},
        "num_classes": num_classes,
        "bins": BINS,
        "bin_channels": evidence.shape(f"{PYRAMID}0.1.weight")[0],
        "head_channels": evidence.shape("decoder.conv_last.0.weight")[0],
        "auxiliary_channels": evidence.shape("decoder.cbr_deepsup.0.weight")[0],
        "align_corners": False,
    }
    return Deduction(fields, {"arch_encoder": f"{backbone}dilated", "num_class": num_classes})


SYSTEM = System(recognised, Options, config, rules)
