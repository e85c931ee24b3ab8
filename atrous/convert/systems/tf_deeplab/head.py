"""Which head a set of variables has: ASPP, dense prediction cell, decoder, LR-ASPP, summed branches, classifier."""

import re
from collections.abc import Mapping
from typing import NamedTuple, TypeAlias

from atrous.convert.arrays import Shapes
from atrous.convert.system import ConfigFields, Deduction, Evidence, Pooling
from atrous.convert.systems.tf_deeplab.flags import Flags
from atrous.errors import ConfigError, ConversionError
from atrous.layers.aspp import RATES
from atrous.layers.decoder import TAPS
from atrous.layers.dense_prediction_cell import BEST

FlagEvidence: TypeAlias = Evidence[Flags]
Decided: TypeAlias = dict[str, object]  # flags that the variables alone decide

V2_RATES = (6, 12, 18, 24)
NUM_DEFAULT_RATES = 3
LOGITS = "logits/semantic/weights"
CELL_PROJECTION = "meta_architecture/concat_projection/weights"


class Trunk(NamedTuple):
    """The backbone that the head stands on."""

    scope: str
    channels: Mapping[str, int]
    output_stride: int


def deduced_head(evidence: FlagEvidence, trunk: Trunk) -> Deduction:
    """`name` and those fields of that model's config that are not the backbone's. Raises ConversionError if there is
    no head.
    """
    if classifier_scope(evidence.shapes, trunk.scope):
        return _classifier(evidence, trunk)
    if evidence.has(CELL_PROJECTION):
        return _cell(evidence, trunk)
    if evidence.has("aspp0/weights"):
        return _aspp(evidence, trunk)
    if evidence.has(LOGITS):
        return _summed(evidence)
    raise ConversionError(
        f"{evidence.label}: a backbone without a head: none of its {len(evidence.shapes)} variables is in aspp0, "
        "meta_architecture or logits"
    )


def _outputs(evidence: FlagEvidence, name: str) -> int:
    return evidence.shapes[name][-1]


def _num_classes(evidence: FlagEvidence) -> int:
    return _outputs(evidence, LOGITS if evidence.has(LOGITS) else _last_conv(evidence))


# ---- ImageNet's classes


def classifier_scope(shapes: Shapes, scope: str) -> str | None:
    """The layer that classifies a whole image, if there is one and no head for segmentation next to it."""
    if "aspp0/weights" in shapes or LOGITS in shapes:
        return None
    candidates = (f"{scope}/Logits/Conv2d_1c_1x1", f"{scope}/logits")
    return next((name for name in candidates if f"{name}/weights" in shapes), None)


def _classifier(evidence: FlagEvidence, trunk: Trunk) -> Deduction:
    shapes, widen = evidence.shapes, f"{trunk.scope}/Conv_1/weights"
    num_classes = _outputs(evidence, f"{classifier_scope(shapes, trunk.scope)}/weights")
    is_slim = evidence.has(f"{trunk.scope}/Logits/Conv2d_1c_1x1/weights")
    is_behind_c5 = is_slim and evidence.has(widen) and shapes[widen][2] == trunk.channels["c5"]  # else it makes c5
    head_channels = _outputs(evidence, widen) if is_behind_c5 else None
    fields = {"name": "image_classifier", "num_classes": num_classes, "head_channels": head_channels}
    return Deduction(fields, {"num_classes": num_classes, "image_pyramid": (1.0,)})


# ---- DeepLab v2: logits by convolutions of several rates, summed


def _summed(evidence: FlagEvidence) -> Deduction:
    if evidence.has("decoder/feature_projection0/weights"):
        raise ConversionError(
            f"{evidence.label}: a decoder without ASPP, which is not supported: none was ever published"
        )
    count = sum(bool(re.fullmatch(r"logits/semantic(_\d)?/weights", name)) for name in evidence.shapes)
    kernel = evidence.shapes[LOGITS][0]
    default = (1,) if kernel == count == 1 else V2_RATES
    rates = evidence.options.atrous_rates or evidence.hints.atrous_rates or default
    if len(rates) != count:
        raise ConfigError(
            f"{evidence.label}: {count} branches of logits: atrous_rates needs as many rates, not {rates}"
        )
    num_classes = _num_classes(evidence)
    fields = {"name": "deeplab_v2", "rates": rates, "kernel": kernel, "num_classes": num_classes}
    return Deduction(fields, {"num_classes": num_classes, "aspp_with_batch_norm": False, "logits_kernel_size": kernel})


# ---- dense prediction cell


def _cell(evidence: FlagEvidence, trunk: Trunk) -> Deduction:
    flags = evidence.options
    cell, num_classes = flags.dense_prediction_cell_config or BEST, _num_classes(evidence)
    matches = (re.match(r"meta_architecture/branch(\d+)[_/]", name) for name in evidence.shapes)
    branches = {match[1] for match in matches if match}
    if len(cell) != len(branches):
        raise ConfigError(
            f"{evidence.label}: a cell of {len(branches)} branches, but the one described has {len(cell)}; describe it "
            "with dense_prediction_cell_json="
        )
    decoder = _decoder(evidence, trunk)
    fields = {
        "name": "dense_prediction_cell",
        "cell": cell,
        "cell_channels": _outputs(evidence, CELL_PROJECTION),
        "pooling_window": flags.image_pooling_crop_size,
        "num_classes": num_classes,
        "decoder": decoder,
    }
    return Deduction(fields, {"num_classes": num_classes, "aspp_with_batch_norm": True, **_decided_by_decoder(decoder)})


# ---- ASPP


def _aspp(evidence: FlagEvidence, trunk: Trunk) -> Deduction:
    """DeepLab v3, v3+ or LR-ASPP."""
    aspp, decoder, num_classes = _pyramid(evidence, trunk), _decoder(evidence, trunk), _num_classes(evidence)
    decided = {"num_classes": num_classes, **_decided_by_pyramid(aspp), **_decided_by_decoder(decoder)}
    if not decoder["strides"]:
        fields = {"name": "deeplab_v3", "aspp": aspp}
    elif _is_light(aspp, decoder):
        pooling = {name: aspp[name] for name in ("pooling_window", "pooling_stride", "squeeze")}
        stride = decoder["strides"][0]
        fields = {"name": "lraspp", "head_channels": aspp["channels"], "decoder_stride": stride, **pooling}
    else:
        fields = {"name": "deeplab_v3plus", "aspp": aspp, "decoder": decoder}
    return Deduction({"num_classes": num_classes, **fields}, decided)


def _is_light(aspp: ConfigFields, decoder: ConfigFields) -> bool:
    """LR-ASPP (arXiv:1905.02244): a gate instead of the projection, logits added at one finer stride."""
    adds_logits = decoder["logits"] and decoder["merge"] == "sum" and len(decoder["strides"]) == 1
    return bool(aspp["squeeze"] != "none" and not aspp["projection"] and adds_logits)


def _pyramid(evidence: FlagEvidence, trunk: Trunk) -> ConfigFields:
    flags = evidence.options
    count = sum(evidence.has(f"aspp{i}/weights", f"aspp{i}_depthwise/depthwise_weights") for i in range(1, 10))
    pooling = _pooling(evidence)
    gate = "hard_sigmoid" if flags.image_se_uses_qsigmoid else "sigmoid"
    return {
        "rates": _rates(evidence, count, trunk.output_stride),
        "channels": _outputs(evidence, "aspp0/weights"),
        "separable": evidence.has("aspp1_depthwise/depthwise_weights") or not evidence.has("aspp1/weights"),
        "image_level": evidence.has("image_pooling/weights"),
        "pooling_window": pooling.window,
        "pooling_stride": pooling.stride,
        "projection": evidence.has("concat_projection/weights"),
        "squeeze": gate if _is_gated(evidence, count) else "none",
    }


def _pooling(evidence: FlagEvidence) -> Pooling:
    flags, seen = evidence.options, evidence.hints.pooling
    if flags.image_pooling_crop_size is None and seen is not None:
        return seen
    return Pooling(flags.image_pooling_crop_size, flags.image_pooling_stride)


def _decided_by_pyramid(aspp: ConfigFields) -> Decided:
    return {
        "aspp_with_batch_norm": True,
        "aspp_convs_filters": aspp["channels"],
        "add_image_level_feature": aspp["image_level"],
        "aspp_with_separable_conv": aspp["separable"] if aspp["rates"] != () else None,
        "aspp_with_concat_projection": aspp["projection"],
        "aspp_with_squeeze_and_excitation": aspp["squeeze"] != "none",
    }


def _is_gated(evidence: FlagEvidence, count: int) -> bool:
    """Whether the pooled image is a factor on the result (squeeze and excitation), not a branch next to the others."""
    if not evidence.has("image_pooling/weights") or evidence.options.aspp_with_squeeze_and_excitation is False:
        return False
    if evidence.has("concat_projection/weights"):
        joined = evidence.shapes["concat_projection/weights"][2]
        return joined == _outputs(evidence, "aspp0/weights") * (1 + count)
    return not evidence.has("image_pooling/BatchNorm/gamma")


def _rates(evidence: FlagEvidence, count: int, output_stride: int) -> tuple[int, ...] | None:
    """None if they are the ones that follow from the output stride."""
    rates = evidence.options.atrous_rates or evidence.hints.atrous_rates
    if rates is None:
        if count not in (0, NUM_DEFAULT_RATES):
            raise ConfigError(
                f"{evidence.label}: ASPP with {count} rates, which the weights don't show: atrous_rates= is needed"
            )
        return None if count else ()
    if len(rates) != count:
        raise ConfigError(f"{evidence.label}: {count} atrous branches of ASPP, but atrous_rates is {tuple(rates)}")
    return None if tuple(rates) == RATES[output_stride] else tuple(rates)


# ---- decoder


def _decoder(evidence: FlagEvidence, trunk: Trunk) -> ConfigFields:
    """The decoder's fields; without a decoder only `strides=()`."""
    projections = [name for name in map(_projection, range(len(TAPS))) if evidence.has(name)]
    strides = evidence.options.decoder_output_stride
    if not projections:
        if strides:
            raise ConfigError(f"{evidence.label}: decoder_output_stride={strides}, but the network has no decoder")
        return {"strides": ()}
    split, conv = "decoder/decoder_split_sep_conv0_depthwise/depthwise_weights", "decoder/decoder_conv0/weights"
    return {
        "strides": _decoder_strides(evidence, trunk, projections),
        "low_level_channels": _outputs(evidence, projections[0]),
        "channels": _outputs(evidence, _last_conv(evidence)),
        "separable": evidence.has(split, "decoder/decoder_conv0_depthwise/depthwise_weights"),
        "merge": "sum" if evidence.has(split, conv) else "concat",
        "align_corners": evidence.hints.decoder_convention == "aligned_corners",
        "half_pixel_centers": evidence.hints.decoder_convention != "legacy",
        "logits": not evidence.has(LOGITS),
    }


def _decided_by_decoder(decoder: ConfigFields) -> Decided:
    if not decoder["strides"]:
        return {}
    return {
        "decoder_filters": decoder["channels"],
        "decoder_use_separable_conv": None if decoder["logits"] else decoder["separable"],
        "decoder_use_sum_merge": decoder["merge"] == "sum",
        "decoder_output_is_logits": decoder["logits"],
    }


def _projection(stage: int) -> str:
    return "decoder/feature_projection0" + (f"_{stage}" if stage else "") + "/weights"


def _last_conv(evidence: FlagEvidence) -> str:
    """The first stage's last convolution."""
    names = (
        "decoder/decoder_conv1_pointwise/weights",
        "decoder/decoder_conv0/decoder_conv0_2/weights",
        "decoder/decoder_split_sep_conv0_pointwise/weights",
        "decoder/decoder_conv0/weights",
    )
    last = next((name for name in names if evidence.has(name)), None)
    if last is None:
        raise ConversionError(f"{evidence.label}: a decoder without convolutions: {', '.join(names)} are all missing")
    return last


def _decoder_strides(evidence: FlagEvidence, trunk: Trunk, projections: list[str]) -> tuple[int, ...]:
    """From the flag, or the strides of the backbone's features with the channels that the projections take."""
    flag = evidence.options.decoder_output_stride
    if flag is None:
        return _strides_by_channels(evidence, trunk, projections)
    if len(flag) != len(projections):
        raise ConfigError(f"{evidence.label}: {len(projections)} decoder stages, but decoder_output_stride is {flag}")
    return flag


def _strides_by_channels(evidence: FlagEvidence, trunk: Trunk, projections: list[str]) -> tuple[int, ...]:
    strides: list[int] = []
    for name in reversed(projections):  # the finest is the last
        inputs, finest = evidence.shapes[name][2], max(strides, default=0)
        fitting = [stride for stride, tap in TAPS.items() if trunk.channels.get(tap) == inputs and stride > finest]
        if not fitting:
            raise ConversionError(
                f"{evidence.label}: {name} takes {inputs} channels, which the backbone has at no stride"
            )
        strides.append(fitting[0])
    return tuple(reversed(strides))
