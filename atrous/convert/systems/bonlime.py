"""bonlime/keras-deeplab-v3-plus: DeepLab v3 on MobileNetV2 and DeepLab v3+ on Xception-65, in Keras."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from atrous.backbones.mobilenet_v2 import ROWS, STEM
from atrous.convert.arrays import Arrays, Shapes
from atrous.convert.label_spaces import PUBLISHED, published_label_space
from atrous.convert.layouts import KERAS, Rules
from atrous.convert.readers.keras import Layer
from atrous.convert.system import ConfigFields, Deduction, Evidence, System
from atrous.errors import ConversionError
from atrous.inference import InferenceConfig
from atrous.layers.aspp import RATES
from atrous.layers.inverted_residual import round_channels
from atrous.models import ModelConfig
from atrous.settings import Rates, Settings, Side

CLASSIFIER, CUSTOM = "logits_semantic", "custom_logits_semantic"  # the second for classes of one's own
FIRST = {"mobilenetv2": "Conv/kernel", "xception": "entry_flow_conv1_1/kernel"}
DIVISOR = 8  # of MobileNetV2's widths
BLOCKS = (0, 1, 3, 6, 10, 13, 16)  # of MobileNetV2, the first of each row of its table
STRIDED = (1, 3)  # those that keep their stride
ALPHAS = (1.0, 0.5, 0.75, 0.35, 1.3, 1.4, *(step / 100 for step in range(5, 401)))  # usual ones first
DILATED = "middle_flow_unit_1_separable_conv1_depthwise"  # at output stride 8
BRANCHES = tuple(f"aspp{number}_depthwise" for number in (1, 2, 3))
ALIGNED = {"Resizing": False, "Lambda": True, "BilinearUpsampling": True}  # corners, by the layer that resizes
KINDS = {  # of layers that the program has
    *("InputLayer", "Conv2D", "DepthwiseConv2D", "BatchNormalization", "Activation", "ReLU", "Softmax", "Add"),
    *("Concatenate", "Dropout", "ZeroPadding2D", "GlobalAveragePooling2D", "AveragePooling2D", "Reshape", *ALIGNED),
}


class Options(Settings):
    """Arguments of its Deeplabv3; None: whatever the file says."""

    backbone: Literal["mobilenetv2", "xception"] | None = None
    classes: PositiveInt | None = None
    OS: Literal[8, 16] | None = None  # of Xception, where None is 16; MobileNetV2 always has 8
    alpha: PositiveFloat | None = Field(None, le=8)
    input_shape: tuple[Side, Side] | tuple[Side, Side, Literal[3]] | None = None  # images lie on a canvas of this size
    align_corners: bool | None = None  # of all resizing, which its code decides; None: true
    atrous_rates: Rates | None = None  # which its code decides, too; None: those of OS


def recognised(shapes: Shapes) -> bool:
    has_logits = any(f"{name}/kernel" in shapes for name in (CLASSIFIER, CUSTOM))
    return has_logits and "concat_projection/kernel" in shapes and any(name in shapes for name in FIRST.values())


def renamed(arrays: Arrays) -> Arrays:
    return {name.replace(CUSTOM, CLASSIFIER): array for name, array in arrays.items()}


# ---- names


def _layer(ours: str, theirs: str) -> Rules:
    return (rf"{ours}\.conv", theirs), (rf"{ours}\.norm", f"{theirs}_BN")


PART = r"(depthwise|pointwise)"
MOBILENET: Rules = (
    *_layer(r"backbone\.stem", "Conv"),
    *_layer(r"backbone\.blocks\.0\.(\w+)", r"expanded_conv_\1"),
    *_layer(r"backbone\.blocks\.(\d+)\.(\w+)", r"expanded_conv_\1_\2"),
)
XCEPTION: Rules = (
    *_layer(r"backbone\.stem\.0", "entry_flow_conv1_1"),
    *_layer(r"backbone\.stem\.1", "entry_flow_conv1_2"),
    *_layer(rf"backbone\.units\.middle_(\d+)\.separable(\d)\.{PART}", r"middle_flow_unit_\1_separable_conv\2_\3"),
    *_layer(rf"backbone\.(?:units\.)?(entry|exit)_(\d)\.separable(\d)\.{PART}", r"\1_flow_block\2_separable_conv\3_\4"),
    *_layer(r"backbone\.units\.(entry|exit)_(\d)\.shortcut", r"\1_flow_block\2_shortcut"),
)
HEAD: Rules = (
    *_layer(r"aspp\.image_pooling", "image_pooling"),
    *_layer(r"aspp\.branches\.0", "aspp0"),
    *_layer(rf"aspp\.branches\.(\d)\.{PART}", r"aspp\1_\2"),
    *_layer(r"aspp\.projection", "concat_projection"),
    *_layer(r"decoder\.0\.low_level", "feature_projection0"),
    *_layer(rf"decoder\.0\.refine\.(\d)\.{PART}", r"decoder_conv\1_\2"),
    ("classify", CLASSIFIER),
)


def rules(config: ModelConfig) -> Rules:
    return (*(MOBILENET if config.backbone.name == "mobilenet_v2" else XCEPTION), *HEAD)


# ---- what a whole model says


def declared(layers: Mapping[str, Layer], label: str) -> dict[str, Any]:
    """The arguments with which the model was built. Raises ConversionError for a layer that it never has."""
    if other := next((name for name, layer in layers.items() if layer.kind not in KINDS), None):
        raise ConversionError(f"{label}: {other} is a {layers[other].kind}, which no network of this program has")
    return dict(_declared(layers))


def _declared(layers: Mapping[str, Layer]) -> Iterator[tuple[str, Any]]:
    aligned = {ALIGNED[layer.kind] for layer in layers.values() if layer.kind in ALIGNED}
    if len(aligned) == 1:
        yield "align_corners", aligned.pop()
    if DILATED in layers:
        yield "OS", 8 if _rate(layers[DILATED]) > 1 else 16
    if set(BRANCHES) <= layers.keys():
        yield "atrous_rates", tuple(_rate(layers[name]) for name in BRANCHES)
    for layer in layers.values():
        sides = layer.settings.get("batch_input_shape", layer.settings.get("batch_shape"))
        if layer.kind == "InputLayer" and isinstance(sides, list) and all(isinstance(side, int) for side in sides[1:3]):
            yield "input_shape", sides[1:3]


def _rate(layer: Layer) -> int:
    rate = layer.settings.get("dilation_rate", 1)
    first = rate[0] if isinstance(rate, list) and rate else rate
    return first if isinstance(first, int) else 1


# ---- the network


def config(evidence: Evidence[Options]) -> Deduction:
    label, shapes = evidence.label, evidence.shapes
    first = [name for name, weight in FIRST.items() if weight in shapes]
    if len(first) > 1:
        raise ConversionError(f"{label}: it has the first layers of both {' and '.join(first)}")
    backbone, num_classes = first[0], evidence.shape(f"{CLASSIFIER}/kernel")[-1]
    build = {"mobilenetv2": _mobile, "xception": _xception}[backbone]
    aligned = evidence.options.align_corners is not False
    fields: ConfigFields = {"num_classes": num_classes, "align_corners": aligned, **build(evidence, aligned)}
    own_stride = 8 if backbone == "mobilenetv2" else None
    return Deduction(fields, {"backbone": backbone, "classes": num_classes, "OS": own_stride})


def _mobile(evidence: Evidence[Options], aligned: bool) -> ConfigFields:
    backbone = {"name": "mobilenet_v2", "depth_multiplier": _alpha(evidence), "divisible_by": DIVISOR}
    return {"name": "deeplab_v3", "backbone": backbone, "output_stride": 8, "aspp": {"rates": ()}}


def _xception(evidence: Evidence[Options], aligned: bool) -> ConfigFields:
    stride = evidence.options.OS or 16
    return {
        "name": "deeplab_v3plus",
        "backbone": {"name": "xception_65", "program": "bonlime"},
        "output_stride": stride,
        "aspp": {"rates": evidence.options.atrous_rates or RATES[stride]},
        "decoder": {"align_corners": aligned},
    }


def _alpha(evidence: Evidence[Options]) -> float:
    """The first width that has the channels of the weights: all others that have them are the same network."""
    names = [f"expanded_conv_{block}_project/kernel".replace("_0_", "_") for block in BLOCKS]
    channels = [evidence.shape(name)[-1] for name in ("Conv/kernel", *names)]
    own = evidence.options.alpha
    alpha = next((one for one in ((own,) if own else ALPHAS) if _widths(one) == channels), None)
    if alpha is None:
        wanted = f"alpha={own}, which has {_widths(own)}" if own else "any alpha up to 4"
        raise ConversionError(f"{evidence.label}: its blocks have {channels} channels, not those of {wanted}")
    _require_no_shortcuts(channels, evidence.label)
    return alpha


def _require_no_shortcuts(channels: Sequence[int], label: str) -> None:
    """Between rows of the table, where the program has none: a narrow network of ours has them."""
    for block, (before, after) in zip(BLOCKS, pairwise(channels), strict=True):
        if before == after and block not in STRIDED:
            raise ConversionError(
                f"{label}: block {block} has as many channels as the one before it, {after}, and no shortcut, which "
                "MobileNetV2 has there: Atrous does not have this network"
            )


def _widths(alpha: float) -> list[int]:
    return [round_channels(channels * alpha, DIVISOR) for channels in (STEM, *(row.channels for row in ROWS))]


def assumptions(evidence: Evidence[Options], config: ModelConfig) -> dict[str, bool]:
    present = evidence.options.model_fields_set
    is_mobile = config.backbone.name == "mobilenet_v2"
    return {
        "OS=16 (the default)": not (is_mobile or "OS" in present),
        "align_corners=true (as in the program until 2021; false for what was trained later)": "align_corners"
        not in present,
    }


def inference(evidence: Evidence[Options], config: ModelConfig) -> InferenceConfig:
    """Images as they are, or on a canvas as in its README."""
    shape = evidence.options.input_shape
    canvas = {"mode": "canvas", "window": shape[:2]} if shape else {}
    return InferenceConfig(**canvas, pad_to_grid=False)


SYSTEM = System(
    recognised,
    Options,
    config,
    rules,
    assumptions,
    inference,
    label_space=partial(published_label_space, known={count: PUBLISHED[count] for count in (19, 21)}),
    layout=KERAS,
    renamed=renamed,
)
