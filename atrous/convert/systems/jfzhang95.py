"""jfzhang95/pytorch-deeplab-xception: DeepLab v3+ on ResNet-101 and MobileNetV2."""

from typing import Literal

from pydantic import PositiveInt

from atrous.convert.arrays import Array, Shapes
from atrous.convert.known_backbones import low_or_high, mobilenet_v2, numbered, pair, resnet, resnet_stages, resnet_stem
from atrous.convert.layouts import PYTORCH, Rules, beside, pooled_image_first
from atrous.convert.system import ConfigFields, Deduction, Evidence, System, off_grid
from atrous.errors import ConversionError
from atrous.layers.aspp import RATES
from atrous.models import ModelConfig
from atrous.settings import Settings

MULTI_GRID = (1, 2, 4)
BACKBONES: dict[str, ConfigFields] = {  # by its names
    "resnet": {"name": "resnet101", "multi_grid": MULTI_GRID, "atrous_rule": "stage"},
    "mobilenet": {"name": "mobilenet_v2", "program": "jfzhang95"},
}
OTHERS = {
    "backbone.layer0.0.weight": "DRN (a dilated residual network of eight stages)",
    "backbone.block1.skip.weight": "an Xception whose shortcuts begin after the activation",
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
MOBILENET_RULES = mobilenet_v2(low_or_high, nested=False)
RESNET: Rules = (*resnet_stem("backbone."), *resnet_stages("backbone."))


def rules(config: ModelConfig) -> Rules:
    backbone = MOBILENET_RULES if config.backbone.name == "mobilenet_v2" else RESNET
    return (*backbone, *HEAD)


def _our_axes(name: str, array: Array) -> Array:
    return pooled_image_first(array) if name == "aspp.conv1.weight" and array.ndim == 4 else array


# ---- the network


def config(evidence: Evidence[Options]) -> Deduction:
    if other := next((text for weight, text in OTHERS.items() if evidence.has(weight)), None):
        raise ConversionError(f"{evidence.label}: its backbone is {other}, which Atrous does not have")
    num_classes = evidence.shape("decoder.last_conv.8.weight")[0]
    backbone = "mobilenet" if evidence.has("backbone.low_level_features.0.0.weight") else "resnet"
    if backbone == "resnet" and (name := resnet(evidence, "backbone.")) != "resnet101":
        raise ConversionError(f"{evidence.label}: its backbone is {name}, where this program has resnet101 alone")
    stride = evidence.options.out_stride
    fields: ConfigFields = {
        "name": "deeplab_v3plus",
        "backbone": BACKBONES[backbone],
        "num_classes": num_classes,
        "output_stride": stride,
        "aspp": {"rates": RATES[stride], "separable": False, "norm_eps": 1e-5, "dropout": 0.5},
        "decoder": DECODER,
    }
    return Deduction(fields, {"backbone": backbone, "num_classes": num_classes})


def assumptions(evidence: Evidence[Options], config: ModelConfig) -> dict[str, bool]:
    return {"out_stride=16 (the default)": "out_stride" not in evidence.options.model_fields_set}


SYSTEM = System(
    recognised,
    Options,
    config,
    rules,
    assumptions,
    off_grid,
    layout=PYTORCH._replace(our_axes=_our_axes, leftovers=beside(r"backbone\.features\..*")),  # the same weights again
)
