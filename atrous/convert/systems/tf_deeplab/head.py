"""Which head a set of variables has: ASPP, dense prediction cell, decoder, LR-ASPP, summed branches, classifier."""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from atrous.convert.filling import Shapes
from atrous.convert.systems.tf_deeplab.flags import Flags
from atrous.layers.aspp import RATES
from atrous.layers.decoder import TAPS
from atrous.layers.dense_prediction_cell import BEST

Settings = dict[str, Any]
V2_RATES = (6, 12, 18, 24)
NUM_DEFAULT_RATES = 3


class Facts(NamedTuple):
    shapes: Shapes
    flags: Flags
    hints: Mapping[str, Any]
    scope: str  # of the backbone
    channels: Mapping[str, int]  # of the backbone
    output_stride: int
    label: str

    def has(self, *names: str) -> bool:
        return any(name in self.shapes for name in names)

    def outputs(self, name: str) -> int:
        return self.shapes[name][-1]


def settings(facts: Facts) -> Settings:
    """`name` and the fields of that model's config beside the backbone's. Raises ValueError where there is no head."""
    if classifier_scope(facts.shapes, facts.scope):
        return _classifier(facts)
    if facts.has("meta_architecture/concat_projection/weights"):
        return _cell(facts)
    if facts.has("aspp0/weights"):
        return _aspp(facts)
    if facts.has("logits/semantic/weights"):
        return _summed(facts)
    raise ValueError(
        f"{facts.label}: a backbone without a head: neither aspp0, meta_architecture nor logits are among its "
        f"{len(facts.shapes)} variables"
    )


def classifier_scope(shapes: Shapes, scope: str) -> str | None:
    """Where an ImageNet network tells its classes, if it does and there is nothing behind it."""
    if "aspp0/weights" in shapes or "logits/semantic/weights" in shapes:
        return None
    found = (f"{scope}/Logits/Conv2d_1c_1x1", f"{scope}/logits")
    return next((name for name in found if f"{name}/weights" in shapes), None)


def _classifier(facts: Facts) -> Settings:
    classify = classifier_scope(facts.shapes, facts.scope)
    widen = f"{facts.scope}/Conv_1/weights"
    is_slim = facts.has(f"{facts.scope}/Logits/Conv2d_1c_1x1/weights")
    is_behind = is_slim and facts.has(widen) and facts.shapes[widen][2] == facts.channels["c5"]  # else it makes c5
    found = {
        "name": "image_classifier",
        "num_classes": facts.outputs(f"{classify}/weights"),
        "head_channels": facts.outputs(widen) if is_behind else None,
    }
    return _uncontradicted(found, facts)


def _uncontradicted(found: Settings, facts: Facts) -> Settings:
    """`found` as it is. Raises ValueError where a flag says otherwise."""
    for flag, told in _told(found).items():
        given = getattr(facts.flags, flag)
        if None not in (given, told) and given != told:
            raise ValueError(f"{facts.label}: {flag}={given}, but its variables are those of {flag}={told}")
    return found


def _told(found: Settings) -> Settings:
    """The flags that variables tell; None: they don't, or it is no matter."""
    return {
        "num_classes": found["num_classes"],
        "aspp_with_batch_norm": {"deeplab_v2": False, "image_classifier": None}.get(found.get("name", ""), True),
        "logits_kernel_size": found.get("kernel"),
        "aspp_convs_filters": found.get("aspp_channels"),
        "add_image_level_feature": found.get("image_level"),
        "aspp_with_separable_conv": found.get("separable") if found.get("rates") != () else None,
        "aspp_with_concat_projection": found.get("projection"),
        "aspp_with_squeeze_and_excitation": found["squeeze"] != "none" if "squeeze" in found else None,
        "decoder_filters": found.get("decoder_channels"),
        "decoder_use_separable_conv": None if found.get("decoder_logits") else found.get("decoder_separable"),
        "decoder_use_sum_merge": found["decoder_merge"] == "sum" if "decoder_merge" in found else None,
        "decoder_output_is_logits": found.get("decoder_logits"),
    }


def _summed(facts: Facts) -> Settings:
    """DeepLab v2: logits by convolutions of several rates."""
    if facts.has("decoder/feature_projection0/weights"):
        raise ValueError(f"{facts.label}: a decoder without ASPP is not supported: no such network was ever published")
    count = sum(bool(re.fullmatch(r"logits/semantic(_\d)?/weights", name)) for name in facts.shapes)
    kernel = facts.shapes["logits/semantic/weights"][0]
    default = (1,) if kernel == count == 1 else V2_RATES
    rates = facts.flags.atrous_rates or facts.hints.get("atrous_rates") or default
    if len(rates) != count:
        raise ValueError(f"{facts.label}: {count} branches of logits: atrous_rates wants as many rates, not {rates}")
    found = {"name": "deeplab_v2", "rates": rates, "kernel": kernel, "num_classes": _num_classes(facts)}
    return _uncontradicted(found, facts)


def _cell(facts: Facts) -> Settings:
    cell = facts.flags.dense_prediction_cell_config or BEST
    branches = {match[1] for name in facts.shapes if (match := re.match(r"meta_architecture/branch(\d+)[_/]", name))}
    if len(cell) != len(branches):
        raise ValueError(
            f"{facts.label}: a cell of {len(branches)} branches, but the one that is described has {len(cell)}; "
            "dense_prediction_cell_json= tells it"
        )
    found = {
        "name": "dense_prediction_cell",
        "cell": cell,
        "cell_channels": facts.outputs("meta_architecture/concat_projection/weights"),
        "pooling_window": facts.flags.image_pooling_crop_size,
        "num_classes": _num_classes(facts),
        **_decoder(facts),
    }
    return _uncontradicted(found, facts)


def _aspp(facts: Facts) -> Settings:
    found = _pyramid(facts)
    decoder = _decoder(facts)
    found = _uncontradicted({**found, "num_classes": _num_classes(facts), **decoder}, facts)
    if not decoder["decoder_strides"]:
        del found["decoder_strides"]
        return {"name": "deeplab_v3", **found}
    is_light = found["squeeze"] != "none" and decoder.get("decoder_logits") and decoder["decoder_merge"] == "sum"
    if is_light and not found["projection"] and len(decoder["decoder_strides"]) == 1:
        kept = ("aspp_channels", "pooling_window", "pooling_stride", "squeeze", "num_classes")
        strides = decoder["decoder_strides"]
        return {"name": "lraspp", "decoder_stride": strides[0], **{name: found[name] for name in kept}}
    return {"name": "deeplab_v3plus", **found}


def _pyramid(facts: Facts) -> Settings:
    flags = facts.flags
    count = sum(facts.has(f"aspp{i}/weights", f"aspp{i}_depthwise/depthwise_weights") for i in range(1, 10))
    is_gated = _is_gated(facts, count)
    return {
        "rates": _rates(facts, count),
        "aspp_channels": facts.outputs("aspp0/weights"),
        "separable": facts.has("aspp1_depthwise/depthwise_weights") or not facts.has("aspp1/weights"),
        "image_level": facts.has("image_pooling/weights"),
        "pooling_window": flags.image_pooling_crop_size,
        "pooling_stride": flags.image_pooling_stride,
        "projection": facts.has("concat_projection/weights"),
        "squeeze": ("hard_sigmoid" if flags.image_se_uses_qsigmoid else "sigmoid") if is_gated else "none",
    }


def _is_gated(facts: Facts, count: int) -> bool:
    """Whether the pooled image is a factor on the result (squeeze and excitation), not a branch beside the others."""
    if not facts.has("image_pooling/weights") or facts.flags.aspp_with_squeeze_and_excitation is False:
        return False
    if facts.has("concat_projection/weights"):
        joined = facts.shapes["concat_projection/weights"][2]
        return joined == facts.outputs("aspp0/weights") * (1 + count)
    return not facts.has("image_pooling/BatchNorm/gamma")


def _rates(facts: Facts, count: int) -> tuple[int, ...] | None:
    """None where they are those that derive from the output stride."""
    given = facts.flags.atrous_rates or facts.hints.get("atrous_rates")
    if given is None:
        if count not in (0, NUM_DEFAULT_RATES):
            raise ValueError(f"{facts.label}: ASPP with {count} rates, which weights don't tell: atrous_rates= does")
        return None if count else ()
    if len(given) != count:
        raise ValueError(f"{facts.label}: {count} atrous branches of ASPP, but atrous_rates is {tuple(given)}")
    return None if tuple(given) == RATES[facts.output_stride] else tuple(given)


def _decoder(facts: Facts) -> Settings:
    """The decoder's fields, where there is one; else only `decoder_strides=()`."""
    lows = [name for name in map(_projection, range(len(TAPS))) if facts.has(name)]
    if not lows:
        if facts.flags.decoder_output_stride:
            raise ValueError(
                f"{facts.label}: decoder_output_stride={facts.flags.decoder_output_stride}, but no decoder is in it"
            )
        return {"decoder_strides": ()}
    split, conv = "decoder/decoder_split_sep_conv0_depthwise/depthwise_weights", "decoder/decoder_conv0/weights"
    has_logits = not facts.has("logits/semantic/weights")
    is_sum = facts.has(split, conv)
    is_separable = facts.has(split, "decoder/decoder_conv0_depthwise/depthwise_weights")
    return {
        "decoder_strides": _decoder_strides(facts, lows),
        "low_level_channels": facts.outputs(lows[0]),
        "decoder_channels": facts.outputs(_last_conv(facts)),
        "decoder_separable": is_separable,
        "decoder_merge": "sum" if is_sum else "concat",
        "decoder_logits": has_logits,
    }


def _projection(stage: int) -> str:
    return "decoder/feature_projection0" + (f"_{stage}" if stage else "") + "/weights"


def _last_conv(facts: Facts) -> str:
    """The first stage's last convolution."""
    names = (
        "decoder/decoder_conv1_pointwise/weights",
        "decoder/decoder_conv0/decoder_conv0_2/weights",
        "decoder/decoder_split_sep_conv0_pointwise/weights",
        "decoder/decoder_conv0/weights",
    )
    found = next((name for name in names if facts.has(name)), None)
    if found is None:
        raise ValueError(f"{facts.label}: a decoder without its convolutions: none of {', '.join(names)}")
    return found


def _decoder_strides(facts: Facts, lows: list[str]) -> tuple[int, ...]:
    """As given, or those of the backbone's features whose channels the projections take."""
    given = facts.flags.decoder_output_stride
    if given is not None:
        if len(given) != len(lows):
            raise ValueError(f"{facts.label}: {len(lows)} decoder stages, but decoder_output_stride is {given}")
        return given
    strides: list[int] = []
    for name in reversed(lows):  # the finest is the last
        inputs = facts.shapes[name][2]
        fitting = [
            stride
            for stride, tap in TAPS.items()
            if facts.channels.get(tap) == inputs and stride > max(strides, default=0)
        ]
        if not fitting:
            raise ValueError(f"{facts.label}: {name} takes {inputs} channels, which the backbone has at no stride")
        strides.append(fitting[0])
    return tuple(reversed(strides))


def _num_classes(facts: Facts) -> int:
    name = "logits/semantic/weights"
    return facts.outputs(name if facts.has(name) else _last_conv(facts))
