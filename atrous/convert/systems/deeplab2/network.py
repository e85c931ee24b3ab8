"""Which of our models deeplab2's options describe. What ours can't express is refused by its name."""

from collections.abc import Sequence
from typing import Any

from atrous.convert.system import ConfigFields, Deduction, Evidence
from atrous.convert.systems.deeplab2.messages import (
    DENSE,
    SEPARABLE,
    Backbone,
    Decoder,
    DeepLabV3,
    DeepLabV3Plus,
    Head,
    LowLevel,
    Model,
    PanopticDeepLab,
)
from atrous.convert.systems.deeplab2.options import Options
from atrous.convert.systems.deeplab2.original import of_weights, require_known
from atrous.errors import ConfigError, ConversionError
from atrous.layers.aspp import RATES
from atrous.types import Size

RESNETS = {"resnet50": "resnet50_d2", "resnet50_beta": "resnet50_beta_d2"}
MOBILENETS = {"mobilenet_v3_large": "mobilenet_v3_large_d2", "mobilenet_v3_small": "mobilenet_v3_small_d2"}
WIDE = {"wide_resnet41": "wide_resnet41", "swidernet": "swidernet"}
KNOWN = (*RESNETS, *MOBILENETS, *WIDE)
LOW_LEVELS = {"res2": 4, "res3": 8, "res4": 16}  # strides
EPSILON = 1e-3  # of batch norms, the original's default
MOBILE_EPSILON = 1e-5  # in its configs of MobileNetV3 at output stride 16
SWITCHABLE = 32  # use_sac_beyond_stride of the stage with output stride 32, the last one


def config(evidence: Evidence[Options]) -> Deduction:
    require_known(evidence)
    original = original_of(evidence)
    settings = {**_head_fields(original, evidence), "backbone": _backbone(original.backbone, evidence)}
    fields = {**settings, "output_stride": original.backbone.output_stride}
    return Deduction(fields, {"output_stride": original.backbone.output_stride})


def original_of(evidence: Evidence[Options]) -> Model:
    """The options that are known, or those that the weights show."""
    return evidence.options.model or of_weights(evidence)


def norm_eps(evidence: Evidence[Options]) -> float:
    return evidence.options.batchnorm_epsilon or assumed_eps(original_of(evidence).backbone)


def assumed_eps(backbone: Backbone) -> float:
    return MOBILE_EPSILON if backbone.name in MOBILENETS and backbone.output_stride == 16 else EPSILON


def pooling_window(evidence: Evidence[Options], output_stride: int) -> Size | None:
    """The training's crop as the original counts it in cells, crop // output stride + 1, in pixels."""
    crop = evidence.options.crop_size
    if crop is None:
        return None
    height, width = (side // output_stride * output_stride + 1 for side in crop)
    return height, width


def refused(evidence: Evidence[Options], what: str) -> ConversionError:
    return ConversionError(f"{evidence.label}: {what}: Atrous has no such network")


# ---- backbones


def _backbone(options: Backbone, evidence: Evidence[Options]) -> ConfigFields:
    if options.name not in KNOWN:
        raise refused(evidence, f"backbone {options.name!r} (known: {', '.join(KNOWN)})")
    if options.output_stride not in RATES:
        raise refused(evidence, f"output_stride {options.output_stride}")
    if options.name in RESNETS:
        return _resnet(options, evidence)
    return _mobilenet(options, evidence) if options.name in MOBILENETS else _wide(options, evidence)


def _require(evidence: Evidence[Options], options: Backbone, **expected: object) -> None:
    """Raises ConversionError for a field with another value than the one that our network has."""
    for name, value in expected.items():
        if getattr(options, name) != value:
            raise refused(evidence, f"{name} {getattr(options, name)} with backbone {options.name!r}")


def _require_default_eps(evidence: Evidence[Options], options: Backbone) -> None:
    if norm_eps(evidence) != EPSILON:
        raise refused(evidence, f"batchnorm_epsilon {norm_eps(evidence)} with backbone {options.name!r}")


def _resnet(options: Backbone, evidence: Evidence[Options]) -> ConfigFields:
    plain = {"stem_width_multiplier": 1, "backbone_width_multiplier": 1, "backbone_layer_multiplier": 1}
    _require(evidence, options, use_squeeze_and_excite=False, **plain)
    _require_no_switch(options, evidence)
    _require_default_eps(evidence, options)
    return {"name": RESNETS[options.name]}


def _require_no_switch(options: Backbone, evidence: Evidence[Options]) -> None:
    if 0 < options.use_sac_beyond_stride <= SWITCHABLE:
        raise refused(evidence, f"use_sac_beyond_stride {options.use_sac_beyond_stride} with {options.name!r}")


def _mobilenet(options: Backbone, evidence: Evidence[Options]) -> ConfigFields:
    _require(evidence, options, use_squeeze_and_excite=True)
    eps = norm_eps(evidence)
    return {
        "name": MOBILENETS[options.name],
        "depth_multiplier": options.backbone_width_multiplier,
        "norm_eps": None if eps == EPSILON else eps,
    }


def _wide(options: Backbone, evidence: Evidence[Options]) -> ConfigFields:
    _require_default_eps(evidence, options)
    switch = options.use_sac_beyond_stride
    if 0 < switch <= SWITCHABLE // 2:
        raise refused(evidence, f"use_sac_beyond_stride {switch}: switchable convolutions before the last stage")
    return {
        "name": WIDE[options.name],
        "stem_width": options.stem_width_multiplier,
        "width": options.backbone_width_multiplier,
        "layers": options.backbone_layer_multiplier,
        "squeeze": options.use_squeeze_and_excite,
        "switchable": SWITCHABLE // 2 < switch <= SWITCHABLE,
        "drop_path": round(1 - options.drop_path_keep_prob, 9),
    }


# ---- heads


def _head_fields(original: Model, evidence: Evidence[Options]) -> ConfigFields:
    heads = (original.deeplab_v3, original.deeplab_v3_plus, original.panoptic_deeplab)
    present = [head for head in heads if head is not None]
    if len(present) != 1:
        raise ConfigError(
            f"{evidence.label}: its config must have one of deeplab_v3, deeplab_v3_plus and panoptic_deeplab, "
            f"got {len(present)}"
        )
    if original.decoder.feature_key != "res5":
        raise refused(evidence, f"a decoder on {original.decoder.feature_key!r}")
    (head,) = present
    if isinstance(head, DeepLabV3):
        return _v3(head, original, evidence)
    return _v3plus(head, original, evidence) if isinstance(head, DeepLabV3Plus) else _panoptic(head, original, evidence)


def _rates(decoder: Decoder, output_stride: int, evidence: Evidence[Options]) -> tuple[int, ...] | None:
    """None where they are those of the output stride, and follow it."""
    if len(decoder.atrous_rates) != 3:
        raise refused(evidence, f"atrous_rates {list(decoder.atrous_rates)} (three are needed)")
    return None if decoder.atrous_rates == RATES.get(output_stride) else decoder.atrous_rates


def _aspp(original: Model, evidence: Evidence[Options]) -> dict[str, Any]:
    stride = original.backbone.output_stride
    return {
        "rates": _rates(original.decoder, stride, evidence),
        "channels": original.decoder.aspp_channels,
        "separable": False,
        "pooling_window": pooling_window(evidence, stride),
        "norm_eps": norm_eps(evidence),
    }


def _v3(head: DeepLabV3, original: Model, evidence: Evidence[Options]) -> ConfigFields:
    return {
        "name": "deeplab_v3",
        "num_classes": head.num_classes,
        "aspp": _aspp(original, evidence),
        "head_channels": original.decoder.decoder_channels,
    }


def _v3plus(head: DeepLabV3Plus, original: Model, evidence: Evidence[Options]) -> ConfigFields:
    if head.low_level.feature_key not in LOW_LEVELS:
        raise refused(evidence, f"low_level {head.low_level.feature_key!r}")
    decoder = {
        "strides": (LOW_LEVELS[head.low_level.feature_key],),
        "low_level_channels": head.low_level.channels_project,
        "channels": original.decoder.decoder_channels,
        "separable": True,
        "norm_eps": norm_eps(evidence),
    }
    return {
        "name": "deeplab_v3plus",
        "num_classes": head.num_classes,
        "aspp": _aspp(original, evidence),
        "decoder": decoder,
    }


def _require_plain(decoder: Decoder, evidence: Evidence[Options]) -> None:
    if decoder.aspp_use_only_1x1_proj_conv:
        raise refused(evidence, "aspp_use_only_1x1_proj_conv")
    if decoder.feature_key != "res5":
        raise refused(evidence, f"a decoder on {decoder.feature_key!r}")


def _panoptic(head: PanopticDeepLab, original: Model, evidence: Evidence[Options]) -> ConfigFields:
    stride, instance, semantic = original.backbone.output_stride, head.instance, original.decoder
    _require_plain(semantic, evidence)
    fields = {
        "name": "panoptic_deeplab_semantic",
        "num_classes": head.semantic_head.output_channels,
        "rates": _rates(semantic, stride, evidence),
        "pooling_window": pooling_window(evidence, stride),
        "norm_eps": norm_eps(evidence),
        "semantic": _branch(semantic, head.low_level, [head.semantic_head], evidence),
        "separable": _is_separable([semantic], [head.semantic_head], evidence),
    }
    if not instance.enable:
        return fields
    heads, own = _instance_heads(head, evidence), instance.instance_decoder_override or semantic
    _require_plain(own, evidence)
    if _rates(own, stride, evidence) != fields["rates"]:
        raise refused(evidence, f"atrous_rates {own.atrous_rates} of the instances, others {semantic.atrous_rates}")
    return fields | {
        "name": "panoptic_deeplab",
        "instance": _branch(own, instance.low_level_override or head.low_level, heads, evidence),
        "separable": _is_separable([semantic, own], [head.semantic_head, *heads], evidence),
    }


def _instance_heads(head: PanopticDeepLab, evidence: Evidence[Options]) -> list[Head]:
    """The heads of centres and offsets."""
    center, offset = head.instance.center_head, head.instance.regression_head
    if center is None or offset is None:
        raise ConfigError(f"{evidence.label}: its config needs a center_head and a regression_head")
    if (center.output_channels, offset.output_channels) != (1, 2):
        raise refused(evidence, f"heads of {center.output_channels} and {offset.output_channels} channels, not 1 and 2")
    if center.head_channels != offset.head_channels:
        raise refused(evidence, f"head_channels {center.head_channels} and {offset.head_channels} of the instances")
    return [center, offset]


def _branch(
    decoder: Decoder, low_level: Sequence[LowLevel], heads: Sequence[Head], evidence: Evidence[Options]
) -> ConfigFields:
    keys = [low.feature_key for low in low_level]
    if keys != ["res3", "res2"]:
        raise refused(evidence, f"low_level {', '.join(keys) or 'none'}, not res3, res2")
    return {
        "aspp_channels": decoder.aspp_channels,
        "low_level_channels": tuple(low.channels_project for low in low_level),
        "decoder_channels": decoder.decoder_channels,
        "head_channels": heads[0].head_channels,
    }


def _is_separable(decoders: Sequence[Decoder], heads: Sequence[Head], evidence: Evidence[Options]) -> bool:
    """Ours has convolutions of one kind in all decoders and heads."""
    kinds = {decoder.decoder_conv_type for decoder in decoders} | {head.head_conv_type for head in heads}
    if len(kinds) > 1 or not kinds <= {SEPARABLE, DENSE}:
        raise refused(evidence, f"decoder_conv_type and head_conv_type {', '.join(sorted(kinds))}")
    return kinds == {SEPARABLE}
