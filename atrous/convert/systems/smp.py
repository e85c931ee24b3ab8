"""segmentation_models_pytorch: DeepLab v3, v3+ and PSPNet on ResNets, ResNeXts, MobileNetV2 and timm's networks."""

import re
from collections.abc import Mapping
from typing import Literal

import numpy as np
from pydantic import PositiveFloat, PositiveInt
from torch import nn

from atrous.backbones.contract import IMAGENET_MEAN, IMAGENET_STD, BackboneConfig
from atrous.backbones.mobilenet_v2 import MobileNetV2
from atrous.backbones.resnet import ResNet
from atrous.backbones.timm import PREFIX, Timm
from atrous.convert.arrays import BESIDE, Array, Arrays, Shapes
from atrous.convert.known_backbones import (
    aspp,
    mobilenet_v2,
    numbered,
    pair,
    resnet,
    resnet_stages,
    resnet_stem,
    separable,
)
from atrous.convert.layouts import (
    ONE_LOGIT,
    PYTORCH,
    Rules,
    beside,
    has_one_logit,
    identity_norm,
    pooled_image_first,
    with_two_classes,
)
from atrous.convert.system import ConfigFields, Deduction, Evidence, Normalization, System, off_grid
from atrous.errors import ConfigError, ConversionError
from atrous.models import ModelConfig
from atrous.settings import Rates, Settings

LOGITS = "segmentation_head.0"
POOL = "decoder.psp.blocks.0.pool.1.0.weight"
JOINED = re.compile(r"decoder\.(aspp\.)?(aspp\.0\.|0\.|)project\.0\.weight")
RATES = (12, 24, 36)  # at each output stride
EPS = 1e-5
STRIDES = {"deeplab_v3": 8, "deeplab_v3plus": 16}  # its defaults
OUTPUT_STRIDES = {"c3": 8, "c4": 16, "c5": 32}  # of a PSPNet that ends with the stage
SEEN = {  # the weight that sees the encoder's last map
    "pspnet": POOL,
    "deeplab_v3": "decoder.aspp.convs.0.0.weight",
    "deeplab_v3plus": "decoder.aspp.0.convs.0.0.weight",
}
LAST_UNITS = {  # a weight whose output channels are those of the stage
    "c3": ("encoder.layer2.0.downsample.1.weight", "encoder.features.6.conv.2.weight"),
    "c4": ("encoder.layer3.0.downsample.1.weight", "encoder.features.13.conv.2.weight"),
    "c5": ("encoder.layer4.0.downsample.1.weight", "encoder.features.18.0.weight"),
}
BIAS = re.compile(r"decoder\..*\.0\.bias")
MOBILENET: ConfigFields = {"name": "mobilenet_v2", "program": "torchvision"}
TIMM, TIMM_WEIGHTS = "tu-", "encoder.model."  # what names of timm's networks begin with, and those of their weights
OTHERS = {  # a weight of an encoder that is not read
    "encoder._conv_stem.weight": "an EfficientNet of efficientnet_pytorch (efficientnet-b0 to b7)",
    "encoder.conv_stem.weight": "a timm-efficientnet",
    "encoder.layer0.conv1.weight": "an SENet, or a ResNet or ResNeXt with squeeze-and-excitation",
    "encoder.features.conv1_1.conv.weight": "a DPN",
    "encoder.features.conv0.weight": "a DenseNet",
    "encoder.patch_embed1.proj.weight": "a Mix Transformer",
}
COLORS = tuple[PositiveFloat, PositiveFloat, PositiveFloat]


class Options(Settings):
    """Arguments of its networks; None: whatever the weights say, or else its default."""

    encoder_name: str | None = None  # tu-NAME must be said: weights of timm's networks don't tell which one it is
    encoder_output_stride: Literal[8, 16, 32] | None = None  # DeepLab v3: 8, v3+: 16
    decoder_atrous_rates: Rates = RATES
    classes: PositiveInt | None = None
    mean: tuple[float, float, float] | None = None  # of the images, in 0..255; None: ImageNet's
    std: COLORS | None = None


def recognised(shapes: Shapes) -> bool:
    return f"{LOGITS}.weight" in shapes and any(name.startswith("encoder.") for name in shapes)


# ---- names


MOBILENET_RULES: Rules = (
    *mobilenet_v2(lambda index: f"encoder.features.{index}", nested=True),
    *numbered(r"backbone\.last", "encoder.features.18"),
)
HEADS: dict[str, Rules] = {
    "deeplab_v3": (*aspp("decoder.aspp"), *pair("refine", "decoder.conv", "decoder.bn"), ("classify", LOGITS)),
    "deeplab_v3plus": (
        *aspp("decoder.aspp.0"),
        *separable("refine", "decoder.aspp.1", "decoder.aspp.2"),
        *numbered(r"decoder\.0\.low_level", "decoder.block1"),
        *separable(r"decoder\.0\.refine\.0", "decoder.block2.0", "decoder.block2.1"),
        ("classify", LOGITS),
    ),
    "pspnet": (
        *numbered(r"pyramid\.branches\.(\d+)", r"decoder.psp.blocks.\1.pool.1"),
        *numbered(r"head\.conv", "decoder.conv"),
        (r"head\.classify", LOGITS),
    ),
}
RESNET: Rules = (*resnet_stem("encoder."), *resnet_stages("encoder."))
OF_TIMM: Rules = ((r"backbone\.network(.*)", r"encoder.model\1"),)
BACKBONES: dict[type[BackboneConfig], Rules] = {
    MobileNetV2.Config: MOBILENET_RULES,
    ResNet.Config: RESNET,
    Timm.Config: OF_TIMM,
}


def rules(config: ModelConfig) -> Rules:
    return (*BACKBONES[type(config.backbone)], *HEADS[config.name])


def _our_axes(name: str, array: Array) -> Array:
    """The pyramid's own map comes last there, and first here."""
    if JOINED.fullmatch(name) and array.ndim == 4:
        return pooled_image_first(array)
    if name == "decoder.conv.0.weight" and array.ndim == 4:
        return np.roll(array, array.shape[1] // 2, axis=1)
    return array


OLD_NAMES = (  # of DeepLab v3, until version 0.4
    (re.compile(r"decoder\.0\.(convs|project)\."), r"decoder.aspp.\1."),
    (re.compile(r"decoder\.1\.weight"), "decoder.conv.weight"),
    (re.compile(r"decoder\.2\."), "decoder.bn."),
)


def renamed(arrays: Arrays) -> Arrays:
    return {_new_name(name): array for name, array in arrays.items()}


def _new_name(name: str) -> str:
    return next((pattern.sub(new, name) for pattern, new in OLD_NAMES if pattern.match(name)), name)


def _unfolded(module: nn.Module, names: Mapping[str, str], arrays: Arrays) -> Arrays:
    return with_two_classes(_with_norms(set(names.values()), _without_unused_stages(names, arrays)), (LOGITS,))


def _without_unused_stages(names: Mapping[str, str], arrays: Arrays) -> Arrays:
    """The encoder of a PSPNet holds all its stages, but computes only the first ones."""
    used = {_part(name) for name in names.values()}
    return {name if _part(name) in used else f"{BESIDE}{name}": array for name, array in arrays.items()}


def _part(name: str) -> str:
    """`encoder.layer3.` and `encoder.features.7.`; of other names nothing."""
    match = re.match(r"encoder\.(layer\d|features\.\d+)\.", name)
    return match.group() if match else ""


def _with_norms(expected: set[str], arrays: Arrays) -> Arrays:
    """The pyramid's mean of the whole map has no batch norm, but a bias: a batch norm that does nothing else."""
    biases = {name: array for name, array in arrays.items() if BIAS.fullmatch(name) and name not in expected}
    norms = {
        f"{name.removesuffix('0.bias')}1.{leaf}": array
        for name, bias in biases.items()
        for leaf, array in identity_norm(bias, EPS).items()
    }
    return {name: array for name, array in arrays.items() if name not in biases} | norms


# ---- the network


def config(evidence: Evidence[Options]) -> Deduction:
    name, options = _name(evidence), evidence.options
    encoder, backbone = _encoder(evidence)
    stage = _last_stage(evidence, SEEN[name])
    classes = evidence.shape(f"{LOGITS}.weight")[0]
    is_whole = stage == "c5"
    if name != "pspnet" and not is_whole:
        raise ConversionError(
            f"{evidence.label}: encoder_depth={int(stage[1])}: a DeepLab is read with encoder_depth=5"
        )
    stride = options.encoder_output_stride or STRIDES[name] if name in STRIDES else OUTPUT_STRIDES[stage]
    fields: ConfigFields = {
        "name": name,
        "backbone": backbone if is_whole else {**backbone, "last_stage": stage},
        "num_classes": max(2, classes),
        "output_stride": stride,
        **_head(name, evidence),
    }
    return Deduction(fields, {"encoder_name": encoder, "classes": classes})


def _encoder(evidence: Evidence[Options]) -> tuple[str, ConfigFields]:
    """Its name there, and what it is here."""
    if other := next((text for weight, text in OTHERS.items() if evidence.has(weight)), None):
        raise ConversionError(f"{evidence.label}: its encoder is {other}, which Atrous does not read")
    if evidence.has_prefix(TIMM_WEIGHTS):
        name = evidence.options.encoder_name or ""
        if not name.startswith(TIMM):
            problem = f"its encoder is one of timm's: say which with encoder_name={TIMM}NAME, such as tu-resnet18"
            raise ConfigError(f"{evidence.label}: {problem}; got {name or None}")
        return name, {"name": f"{PREFIX}{name.removeprefix(TIMM)}"}
    if evidence.has("encoder.features.0.0.weight"):
        return "mobilenet_v2", MOBILENET
    if not evidence.has("encoder.layer1.0.conv1.weight"):
        known = f"ResNets, ResNeXts, mobilenet_v2 and {TIMM}NAME"
        raise ConversionError(f"{evidence.label}: of its encoders {known} are read, and it has another")
    name = resnet(evidence, "encoder.")
    return name, {"name": name, "atrous_rule": "stage"}


def _name(evidence: Evidence[Options]) -> str:
    name = next((name for name, weight in SEEN.items() if evidence.has(weight)), None)
    if name is None:
        kinds = "DeepLabV3, DeepLabV3Plus and PSPNet"
        raise ConversionError(
            f"{evidence.label}: of segmentation_models_pytorch only {kinds} are read, and it is another"
        )
    return name


def _head(name: str, evidence: Evidence[Options]) -> ConfigFields:
    def width(weight: str) -> int:
        return evidence.shape(weight)[0]

    if name == "pspnet":
        channels = {"head_channels": width("decoder.conv.0.weight"), "auxiliary_channels": None}
        return {**channels, "head_kernel": 1, "logits_kernel": 3, "dropout": 0.2}
    prefix = "decoder.aspp." if name == "deeplab_v3" else "decoder.aspp.0."
    bare = {"bare_depthwise": True, "norm_eps": EPS}
    aspp = {
        "rates": evidence.options.decoder_atrous_rates,
        "channels": width(f"{prefix}project.0.weight"),
        "separable": evidence.has(f"{prefix}convs.1.0.0.weight"),
        "dropout": 0.5,
        **bare,
    }
    if name == "deeplab_v3":
        return {"aspp": aspp, "head_channels": width("decoder.conv.weight")}
    decoder = {
        "num_convolutions": 1,
        "low_level_channels": width("decoder.block1.0.weight"),
        "channels": width("decoder.block2.0.1.weight"),
        "separable": True,
        **bare,
    }
    return {"aspp": aspp, "head_channels": width("decoder.aspp.1.1.weight"), "decoder": decoder}


def _last_stage(evidence: Evidence[Options], weight: str) -> str:
    """The stage whose channels the first of the decoder's weights has."""
    if evidence.has_prefix(TIMM_WEIGHTS):  # which are read whole alone
        return "c5"
    inp = evidence.shape(weight)[1]
    stages = (
        stage for stage, names in LAST_UNITS.items() for name in names if evidence.shapes.get(name, ())[:1] == (inp,)
    )
    stage = next(stages, None)
    if stage is None:
        raise ConversionError(f"{evidence.label}: its decoder sees {inp} channels, which no stage of its encoder has")
    return stage


def assumptions(evidence: Evidence[Options], config: ModelConfig) -> dict[str, bool]:
    options, present = evidence.options, evidence.options.model_fields_set
    has_rates = config.name != "pspnet"
    colors = "the encoder's own" if config.backbone.name.startswith(PREFIX) else "ImageNet's"
    return {
        f"encoder_output_stride={config.output_stride} (the default)": has_rates
        and options.encoder_output_stride is None,
        "decoder_atrous_rates=12,24,36 (the default)": has_rates and "decoder_atrous_rates" not in present,
        f"images have {colors} mean and std (mean=, std= in 0..255 say otherwise)": not {"mean", "std"} & present,
        ONE_LOGIT: has_one_logit(evidence.shapes, [LOGITS]),
    }


def normalization(options: Options) -> Normalization | None:
    if options.mean is None and options.std is None:
        return None
    return options.mean or IMAGENET_MEAN, options.std or IMAGENET_STD


SYSTEM = System(
    recognised,
    Options,
    config,
    rules,
    assumptions,
    off_grid,
    layout=PYTORCH._replace(our_axes=_our_axes, leftovers=beside(r"classification_head\..*"), unfolded=_unfolded),
    normalization=normalization,
    renamed=renamed,
)
