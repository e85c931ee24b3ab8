"""mmsegmentation's DeepLabs, PSPNet, PSANet, CCNet, DANet and EncNet, on three kinds of ResNets and MobileNetV2."""

import math
import re
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple, TypeAlias

from pydantic import PositiveFloat, PositiveInt
from torch import nn

from atrous.backbones.contract import IMAGENET_MEAN, IMAGENET_STD
from atrous.backbones.mobilenet_v2 import ROWS
from atrous.backbones.resnet import RESNETS
from atrous.convert.arrays import Shape, Shapes
from atrous.convert.known_backbones import pair, resnet_stages, resnet_stem
from atrous.convert.layouts import PYTORCH, Rules, beside
from atrous.convert.system import ConfigFields, Deduction, Evidence, Normalization, System
from atrous.errors import ConfigError, ConversionError
from atrous.models import ModelConfig
from atrous.models.psanet import PSANet
from atrous.settings import Rates, Settings


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
OF_MOBILENET = Stem("mobilenet_v2", False, False, "as in the configs of MobileNetV2")
SHALLOW_ROWS = {0: "resnet18b", 32: "resnet18c"}  # by the channels of the first 3x3, too
DEPTHS = {6: 50, 23: 101, 36: 152}  # by the number of units in layer3
SHALLOW = {2: 18}  # of those with units of two convolutions
NATIVE_STRIDES = (4, 8, 16, 16, 32, 32)  # of MobileNetV2's rows after the first
BINS = (1, 2, 3, 6)
HEAD = "decode_head."
PYRAMID = f"{HEAD}psp_modules."
RATES = {8: (12, 24, 36), 16: (6, 12, 18)}  # of ASPP, in its configs
EPS = 1e-5
PSA_TYPES = {"collect": "collect", "distribute": "distribute", "bi-direction": "bidirectional"}


Deviations: TypeAlias = tuple[PositiveFloat, PositiveFloat, PositiveFloat]


KNOWN = "DeepLabV3, DeepLabV3+, PSPNet, PSANet, CCNet, DANet and EncNet are read"
OTHERS = {  # by what names of weights begin with
    f"{HEAD}0.": "OCRNet or another cascade of heads",
    f"{HEAD}fpn_bottleneck.": "UPerNet",
    "neck.": "a network with a neck",
    "backbone.layer1.0.conv2.fc1.": "a network on ResNeSt",
    "backbone.layer1.0.downsample.2.": "a network on ResNetV1d",
    "backbone.stage4.": "a network on HRNet",
    "backbone.patch_embed": "a transformer",
}
OTHER_HEADS = {  # of networks without one of HEADS
    f"{HEAD}scale_heads.": "Semantic FPN",
    f"{HEAD}acm_modules.": "APCNet",
    f"{HEAD}dcm_modules.": "DMNet",
    f"{HEAD}gc_block.": "GCNet",
    f"{HEAD}nonlocal_block.": "the non-local network",
    f"{HEAD}dnl_block.": "DNLNet",
    f"{HEAD}isa.": "ISANet",
    f"{HEAD}ema_module.": "EMANet",
    f"{HEAD}fusion.": "ANN",
    f"{HEAD}conv_up_input.": "LR-ASPP",
    f"{HEAD}fusion_conv.": "SegFormer",
    f"{HEAD}pixel_decoder.": "Mask2Former or MaskFormer",
    f"{HEAD}conv_cat.": "FCN with its input joined to its output",
}


class Options(Settings):
    """Keys of its configs; None: as the weights say, or else as published with their stem."""

    depth: PositiveInt | None = None
    num_classes: PositiveInt | None = None
    pool_scales: tuple[PositiveInt, ...] | None = None  # (1, 2, 3, 6)
    align_corners: bool | None = None
    contract_dilation: bool | None = None
    output_stride: Literal[8, 16, 32] = 8  # the product of its backbone's strides
    dilations: tuple[PositiveInt, ...] | None = None  # of ASPP, with the 1 of its 1x1
    multi_grid: Rates | None = None  # the rates themselves
    style: Literal["pytorch"] = "pytorch"  # caffe: another convolution of a bottleneck has the stride
    avg_down: Literal[False] = False  # true in ResNetV1d: a mean before the shortcuts' 1x1
    bgr_to_rgb: Literal[True] = True
    mean: tuple[float, float, float] | None = None  # of the images, in 0..255; None: ImageNet's
    std: Deviations | None = None
    recurrence: PositiveInt = 2
    psa_type: Literal["collect", "distribute", "bi-direction"] | None = None
    mask_size: tuple[PositiveInt, PositiveInt] | None = None
    shrink_factor: PositiveInt = 2


def recognised(shapes: Shapes) -> bool:
    return any(name.startswith(HEAD) for name in shapes) and any(name.startswith("backbone.") for name in shapes)


# ---- names

DANET = (("position", "pam"), ("channel", "cam"))
PSA_SUFFIXES = (("", "collect"), ("_p", "distribute"))
LEAVES = {  # names of parameters that are ours alone
    re.compile(r"(.*\.)gamma"): r"\1gamma.scale",
    re.compile(r"(.*encoding\.0\.)scales"): r"\1scale",
}


def _module(ours: str, theirs: str) -> Rules:
    return pair(ours, f"{theirs}.conv", f"{theirs}.bn")


def _branch(ours: str, theirs: str) -> Rules:
    """One of DANet's two."""
    return (
        *_module(rf"{ours}\.0", f"{HEAD}{theirs}_in_conv"),
        (rf"{ours}\.1\.(query|key|value)", rf"{HEAD}{theirs}.\1_project"),
        (rf"{ours}\.1", f"{HEAD}{theirs}"),
        *_module(rf"{ours}\.2", f"{HEAD}{theirs}_out_conv"),
        (rf"classify_{ours}\.1", f"{HEAD}{theirs}_conv_seg"),
    )


def _direction(suffix: str, ours: str) -> Rules:
    """One of PSANet's two."""
    return (
        *_module(rf"attention\.{ours}\.reduce", f"{HEAD}reduce{suffix}"),
        *_module(rf"attention\.{ours}\.adapt", f"{HEAD}attention{suffix}.0"),
        (rf"attention\.{ours}\.mask", f"{HEAD}attention{suffix}.1"),
    )


def _names(module: nn.Module, rules: Rules) -> dict[str, str]:
    return {key: _leaf(name) for key, name in PYTORCH.names(module, rules).items()}


def _leaf(name: str) -> str:
    return next((pattern.sub(new, name) for pattern, new in LEAVES.items() if pattern.fullmatch(name)), name)


def _shape(name: str, shape: Shape) -> Shape:
    """Its factors have no axis."""
    return () if name.endswith("gamma.scale") else PYTORCH.shape(name, shape)


RULES: Rules = (
    *resnet_stem("backbone."),  # unless it is a deep one
    *resnet_stages("backbone."),
    *_module(r"aspp\.image_pooling", f"{HEAD}image_pool.1"),
    *_module(r"aspp\.branches\.(\d)", rf"{HEAD}aspp_modules.\1"),
    *_module(r"aspp\.branches\.(\d)\.depthwise", rf"{HEAD}aspp_modules.\1.depthwise_conv"),
    *_module(r"aspp\.branches\.(\d)\.pointwise", rf"{HEAD}aspp_modules.\1.pointwise_conv"),
    *_module(r"aspp\.projection", f"{HEAD}bottleneck"),
    *_module(r"decoder\.0\.low_level", f"{HEAD}c1_bottleneck"),
    *_module(r"decoder\.0\.refine\.(\d)\.depthwise", rf"{HEAD}sep_bottleneck.\1.depthwise_conv"),
    *_module(r"decoder\.0\.refine\.(\d)\.pointwise", rf"{HEAD}sep_bottleneck.\1.pointwise_conv"),
    *(rule for name, theirs in DANET for rule in _branch(name, theirs)),
    *_module("reduce", f"{HEAD}convs.0"),
    *_module("refine", f"{HEAD}convs.1"),
    *_module("fuse", f"{HEAD}conv_cat"),
    (r"attention\.(query|key|value)", rf"{HEAD}cca.\1_conv"),
    ("attention", f"{HEAD}cca"),
    *_module("head", f"{HEAD}bottleneck"),
    *_module(r"lateral\.c3", f"{HEAD}lateral_convs.0"),
    *_module(r"lateral\.c4", f"{HEAD}lateral_convs.1"),
    *_module("fusion", f"{HEAD}fusion"),
    *_module(r"context\.project", f"{HEAD}enc_module.encoding_project"),
    (r"context\.encoding", f"{HEAD}enc_module.encoding.0"),
    (r"context\.norm", f"{HEAD}enc_module.encoding.1"),
    (r"context\.gate", f"{HEAD}enc_module.fc.0"),
    ("presence", f"{HEAD}se_layer"),
    *(rule for suffix, direction in PSA_SUFFIXES for rule in _direction(suffix, direction)),
    *_module("projection", f"{HEAD}proj"),
    (r"classify(\.1)?", f"{HEAD}conv_seg"),
    *_module(r"pyramid\.branches\.(\d+)", rf"{PYRAMID}\1.1"),
    *_module(r"head\.conv", f"{HEAD}bottleneck"),
    (r"head\.classify", "decode_head.conv_seg"),
    *_module(r"auxiliary\.conv", "auxiliary_head.convs.0"),
    (r"auxiliary\.classify", "auxiliary_head.conv_seg"),
)
DEEP_STEM: Rules = tuple(
    (rf"backbone\.stem\.{index}\.{part}", f"backbone.stem.{3 * index + place}")
    for index in range(3)
    for place, part in enumerate(("conv", "norm"))
)


def _mobilenet() -> Iterator[tuple[str, str]]:
    """Blocks are numbered within the rows of the table; the first one has no expansion."""
    numbers = [(layer, index) for layer, row in enumerate(ROWS, 1) for index in range(row.repeats)]
    yield from _module(r"backbone\.stem", "backbone.conv1")
    for block, (layer, index) in enumerate(numbers):
        for place, part in enumerate(("expand", "depthwise", "project")[block == 0 :]):
            yield from _module(rf"backbone\.blocks\.{block}\.{part}", f"backbone.layer{layer}.{index}.conv.{place}")


MOBILENET: Rules = tuple(_mobilenet())


def rules(config: ModelConfig) -> Rules:
    has_deep_stem = config.backbone.name.endswith(("s", "c"))
    alone = _direction("", config.psa_type) if isinstance(config, PSANet.Config) else ()  # it has the first's names
    backbone = MOBILENET if config.backbone.name == "mobilenet_v2" else DEEP_STEM if has_deep_stem else ()
    return (*alone, *backbone, *RULES)


# ---- the network


def config(evidence: Evidence[Options]) -> Deduction:
    head = next((read for name, read in HEADS.items() if evidence.has_prefix(f"{HEAD}{name}")), None)
    others = OTHERS if head else {**OTHERS, **OTHER_HEADS}
    if other := next((text for name, text in others.items() if evidence.has_prefix(name)), None):
        raise ConversionError(f"{evidence.label}: {other} (mmsegmentation), which Atrous does not read; {KNOWN}")
    if head is None:
        raise ConversionError(
            f"{evidence.label}: it is another network of mmsegmentation than those that are read; {KNOWN}"
        )
    num_classes, align_corners = evidence.shape(f"{HEAD}conv_seg.weight")[0], evidence.options.align_corners
    fields: ConfigFields = {
        "backbone": _mobilenet_config(evidence) if _is_mobile(evidence) else _resnet_config(evidence),
        "num_classes": num_classes,
        "output_stride": evidence.options.output_stride,
        "align_corners": _stem(evidence).align_corners if align_corners is None else align_corners,
    }
    fields |= head(evidence, fields)
    return Deduction(fields, {"depth": None if _is_mobile(evidence) else _depth(evidence), "num_classes": num_classes})


def _is_mobile(evidence: Evidence[Options]) -> bool:
    return evidence.has("backbone.conv1.conv.weight") and evidence.has("backbone.layer7.0.conv.0.conv.weight")


def _mobilenet_config(evidence: Evidence[Options]) -> ConfigFields:
    """Only the first block of a row is dilated."""
    stride = evidence.options.output_stride
    natives = (2, *NATIVE_STRIDES)
    rates = (
        rate
        for native, row in zip(natives, ROWS, strict=True)
        for rate in (max(1, native // stride), *[1] * (row.repeats - 1))
    )
    return {"name": "mobilenet_v2", "program": "mmsegmentation", "rates": tuple(rates)}


def _resnet_config(evidence: Evidence[Options]) -> ConfigFields:
    depth, channels = _depth(evidence), _stem_channels(evidence)
    name = SHALLOW_ROWS.get(channels) if depth in SHALLOW.values() else STEMS[channels].backbone.format(depth)
    if name not in RESNETS:
        raise ConversionError(f"{evidence.label}: Atrous has no ResNet-{depth} with a first 3x3 of {channels} channels")
    rule = "unit" if _contracts(evidence) else "stage"
    other = {} if rule == RESNETS[name].program.rule else {"atrous_rule": rule}
    return {"name": name, "multi_grid": _multi_grid(evidence), **other}


def _contracts(evidence: Evidence[Options]) -> bool:
    option = evidence.options.contract_dilation
    return _stem(evidence).contract_dilation if option is None else option


def _stem(evidence: Evidence[Options]) -> Stem:
    return OF_MOBILENET if _is_mobile(evidence) else STEMS[_stem_channels(evidence)]


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
    has_bottlenecks = evidence.has("backbone.layer1.0.conv3.weight")
    depths = DEPTHS if has_bottlenecks else SHALLOW
    if units not in depths:
        kind = "bottlenecks" if has_bottlenecks else "units of two convolutions"
        known = ", ".join(f"{count} ({depth} layers)" for count, depth in depths.items())
        raise ConversionError(f"{evidence.label}: {units} {kind} in layer3, where ResNets that are read have {known}")
    return depths[units]


def _bins(evidence: Evidence[Options]) -> tuple[int, ...]:
    count, label = evidence.count_modules(PYRAMID), evidence.label
    bins = evidence.options.pool_scales or (BINS if count == len(BINS) else ())
    if len(bins) != count:
        raise ConfigError(f"{label}: its pyramid has {count} levels: name each in pool_scales=1,2,3,6; got {bins}")
    return bins


def _multi_grid(evidence: Evidence[Options]) -> tuple[int, ...] | None:
    """Our factors on the rates of the last stage: mmsegmentation's are the rates themselves."""
    rates, stride = evidence.options.multi_grid, evidence.options.output_stride
    if rates is None:
        return None
    whole = 32 // stride
    first = max(1, whole // 2) if _contracts(evidence) else whole
    base = (first, *[whole] * (len(rates) - 1))
    if any(rate % one for rate, one in zip(rates, base, strict=True)):
        raise ConfigError(
            f"{evidence.label}: multi_grid={rates}: Atrous has only multiples of {base} at output stride {stride}"
        )
    return tuple(rate // one for rate, one in zip(rates, base, strict=True))


# ---- heads


def _width(evidence: Evidence[Options], name: str) -> int:
    return evidence.shape(f"{name}.weight")[0]


def _auxiliary(evidence: Evidence[Options]) -> ConfigFields:
    """Of networks that need none."""
    return {"auxiliary_channels": _auxiliary_width(evidence) if evidence.has_prefix("auxiliary_head.") else None}


def _auxiliary_width(evidence: Evidence[Options]) -> int:
    return _width(evidence, "auxiliary_head.convs.0.conv")


def _pspnet(evidence: Evidence[Options], fields: ConfigFields) -> ConfigFields:
    head = {"head_channels": _width(evidence, f"{HEAD}bottleneck.conv"), "bins": _bins(evidence)}
    return {"name": "pspnet", **head, **_auxiliary(evidence)}


def _deeplab(evidence: Evidence[Options], fields: ConfigFields) -> ConfigFields:
    options, is_separable = evidence.options, evidence.has(f"{HEAD}aspp_modules.1.depthwise_conv.conv.weight")
    dilations = options.dilations or (1, *RATES.get(options.output_stride, RATES[16]))
    if dilations[0] != 1 or len(dilations) != (count := evidence.count_modules(f"{HEAD}aspp_modules.")):
        raise ConfigError(
            f"{evidence.label}: it has {count} branches, 1x1 first: dilations=1,12,24,36; got {dilations}"
        )
    aspp = {"rates": dilations[1:], "channels": _width(evidence, f"{HEAD}bottleneck.conv"), "separable": is_separable}
    aspp |= {"projection_kernel": 3, "norm_eps": EPS}
    common = {"aspp": aspp, **_auxiliary(evidence)}
    if not evidence.has(f"{HEAD}c1_bottleneck.conv.weight"):
        return {"name": "deeplab_v3", **common}
    decoder = {
        "low_level_channels": _width(evidence, f"{HEAD}c1_bottleneck.conv"),
        "channels": _width(evidence, f"{HEAD}sep_bottleneck.0.pointwise_conv.conv"),
        "align_corners": fields["align_corners"],
        "norm_eps": EPS,
    }
    return {"name": "deeplab_v3plus", "decoder": decoder, **common}


def _danet(evidence: Evidence[Options], fields: ConfigFields) -> ConfigFields:
    widths = {"head_channels": f"{HEAD}pam_in_conv.conv", "key_channels": f"{HEAD}pam.key_project"}
    return {"name": "danet", **{field: _width(evidence, name) for field, name in widths.items()}}


def _encnet(evidence: Evidence[Options], fields: ConfigFields) -> ConfigFields:
    head = {
        "head_channels": _width(evidence, f"{HEAD}bottleneck.conv"),
        "num_codewords": evidence.shape(f"{HEAD}enc_module.encoding.0.codewords")[0],
        "lateral": evidence.has_prefix(f"{HEAD}lateral_convs."),
    }
    return {"name": "encnet", **head, "auxiliary_channels": _auxiliary_width(evidence)}


def _ccnet(evidence: Evidence[Options], fields: ConfigFields) -> ConfigFields:
    head = {
        "head_channels": _width(evidence, f"{HEAD}convs.0.conv"),
        "key_channels": _width(evidence, f"{HEAD}cca.key_conv"),
        "recurrences": evidence.options.recurrence,
        "activation": "relu",
    }
    return {"name": "ccnet", **head, "auxiliary_channels": _auxiliary_width(evidence)}


def _psanet(evidence: Evidence[Options], fields: ConfigFields) -> ConfigFields:
    options, count = evidence.options, _width(evidence, f"{HEAD}attention.1")
    has_both = evidence.has(f"{HEAD}reduce_p.conv.weight")
    psa_type = options.psa_type or ("bi-direction" if has_both else None)
    if psa_type is None or has_both != (psa_type == "bi-direction"):
        advice = "psa_type=bi-direction" if has_both else "psa_type=collect or psa_type=distribute"
        raise ConfigError(f"{evidence.label}: its weights are those of {advice}, got {options.psa_type}")
    mask = options.mask_size or (math.isqrt(count), math.isqrt(count))
    if math.prod(mask) != count:
        raise ConfigError(f"{evidence.label}: its masks have {count} weights: give their sides with mask_size=97,97")
    return {
        "name": "psanet",
        "psa_type": PSA_TYPES[psa_type],
        "mask_size": mask,
        "shrink_factor": options.shrink_factor,
        "psa_channels": _width(evidence, f"{HEAD}reduce.conv"),
        "head_channels": _width(evidence, f"{HEAD}bottleneck.conv"),
        "projection_padding": 1,
        "auxiliary_channels": _auxiliary_width(evidence),
    }


HEADS: dict[str, Callable[[Evidence[Options], ConfigFields], ConfigFields]] = {  # by what their names begin with
    "psp_modules.": _pspnet,
    "aspp_modules.": _deeplab,
    "pam_in_conv.": _danet,
    "enc_module.": _encnet,
    "cca.": _ccnet,
    "attention.1.": _psanet,
}


def assumptions(evidence: Evidence[Options], config: ModelConfig) -> dict[str, bool]:
    stem, options, present = _stem(evidence), evidence.options, evidence.options.model_fields_set
    rates = ",".join(map(str, (1, *RATES.get(options.output_stride, RATES[16]))))
    return {
        "pool_scales=1,2,3,6 (the default)": config.name == "pspnet" and options.pool_scales is None,
        "output_stride=8 (its configs named d8)": "output_stride" not in present,
        f"dilations={rates} (as in its configs)": config.name.startswith("deeplab") and options.dilations is None,
        "recurrence=2 (the default)": config.name == "ccnet" and "recurrence" not in present,
        "mask_size: a square": config.name == "psanet" and options.mask_size is None,
        "shrink_factor=2 (the default)": config.name == "psanet" and "shrink_factor" not in present,
        f"align_corners={stem.align_corners} ({stem.origin})": options.align_corners is None,
        f"contract_dilation={stem.contract_dilation} ({stem.origin})": options.contract_dilation is None
        and not _is_mobile(evidence),
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
    layout=PYTORCH._replace(
        names=_names,
        shape=_shape,
        leftovers=beside(r"auxiliary_head\..*"),  # of DANet, which has no such head here
    ),
    normalization=normalization,
)
