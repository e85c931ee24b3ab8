"""The options of the network that has these weights, as far as names and shapes tell; the rest are defaults."""

from atrous.convert.arrays import Shape, Shapes
from atrous.convert.system import Evidence, listed
from atrous.convert.systems.deeplab2.messages import (
    DENSE,
    SEPARABLE,
    Backbone,
    Decoder,
    DeepLabV3,
    DeepLabV3Plus,
    Head,
    Instance,
    LowLevel,
    Model,
    PanopticDeepLab,
)
from atrous.convert.systems.deeplab2.options import Options
from atrous.errors import ConversionError
from atrous.layers.aspp import RATES

OTHERS = {  # beginnings of names, and the network that they show
    "moat/": "MOAT",
    "motion_regression_head": "Motion-DeepLab",
    "next_instance_": "ViP-DeepLab",
    "depth_head": "ViP-DeepLab",
    "transformer_": "MaX-DeepLab or kMaX-DeepLab",
    "pixel_space_": "MaX-DeepLab or kMaX-DeepLab",
}
AXIAL = "_attention"
LARGE, SMALL = "encoder/_blocks/16/_conv/kernel", "encoder/_blocks/12/_conv/kernel"
LAST = {"mobilenet_v3_large": 960, "mobilenet_v3_small": 576}  # channels of c5
STEM = "encoder/_stem/_conv/kernel"
BETA_STEM = "encoder/_stem/_conv1_bn_act/_conv/kernel"
STRIDE = 32


def recognised(shapes: Shapes) -> bool:
    return any(name.startswith(("encoder/_stem/", "encoder/_blocks/", "encoder/_stage")) for name in shapes)


def require_known(evidence: Evidence[Options]) -> None:
    """Raises ConversionError with the name of the network if Atrous doesn't have it."""
    for prefix, network in OTHERS.items():
        if evidence.has_prefix(prefix):
            raise ConversionError(f"{evidence.label}: weights of {network} ({prefix}*), which Atrous doesn't have")
    axial = [name for name in evidence.shapes if name.startswith("encoder/") and AXIAL in name]
    if axial:
        raise ConversionError(
            f"{evidence.label}: its backbone has axial attention, which Atrous doesn't have: {listed(axial)}"
        )


def of_weights(evidence: Evidence[Options]) -> Model:
    stride = evidence.options.output_stride or STRIDE
    backbone = _backbone(evidence).model_copy(update={"output_stride": stride})
    if evidence.has_prefix("deeplab_v3plus_"):
        return Model(backbone=backbone, **_v3plus(evidence, stride))
    if evidence.has_prefix("deeplab_v3_"):
        return Model(backbone=backbone, **_v3(evidence, stride))
    if evidence.has_prefix("semantic_decoder/"):
        return Model(backbone=backbone, **_panoptic(evidence, stride))
    raise ConversionError(
        f"{evidence.label}: a backbone without the decoder of a DeepLab: Atrous converts whole networks"
    )


def _out(evidence: Evidence[Options], name: str) -> int:
    """The channels of a convolution."""
    return _kernel(evidence, name)[-1]


def _kernel(evidence: Evidence[Options], name: str) -> Shape:
    shape = evidence.shape(name)
    if len(shape) != 4:
        raise ConversionError(f"{evidence.label}: {name} must have four dimensions, got {list(shape)}")
    return shape


# ---- backbones


def _backbone(evidence: Evidence[Options]) -> Backbone:
    if evidence.has_prefix("encoder/_blocks/"):
        name = "mobilenet_v3_large" if evidence.has(LARGE) else "mobilenet_v3_small"
        width = _out(evidence, LARGE if evidence.has(LARGE) else SMALL) / LAST[name]
        return Backbone(name=name, use_squeeze_and_excite=True, backbone_width_multiplier=width)
    if evidence.has(BETA_STEM):
        return Backbone(name="resnet50_beta", use_squeeze_and_excite=_has_squeeze(evidence))
    if _kernel(evidence, STEM)[0] == 7:
        return Backbone(name="resnet50", use_squeeze_and_excite=_has_squeeze(evidence))
    return Backbone(
        name="swidernet",
        stem_width_multiplier=_out(evidence, STEM) / 64,
        backbone_width_multiplier=_out(evidence, "encoder/_stage2/_block1/_conv1_bn_act/_conv/kernel") / 256,
        backbone_layer_multiplier=_num_blocks(evidence, "encoder/_stage3/") / 6,
        use_squeeze_and_excite=_has_squeeze(evidence),
        use_sac_beyond_stride=32 if any("_pre_global_context" in name for name in evidence.shapes) else -1,
    )


def _num_blocks(evidence: Evidence[Options], stage: str) -> int:
    return len({name.removeprefix(stage).split("/")[0] for name in evidence.shapes if name.startswith(stage)})


def _has_squeeze(evidence: Evidence[Options]) -> bool:
    return any("/_squeeze_and_excite/" in name for name in evidence.shapes)


# ---- heads


def _v3(evidence: Evidence[Options], stride: int) -> dict[str, object]:
    decoder = Decoder(
        aspp_channels=_out(evidence, "deeplab_v3_aspp/_conv_bn_act/_conv/kernel"),
        decoder_channels=_out(evidence, "classifier_conv_bn_act/_conv/kernel"),
        atrous_rates=RATES[stride],
    )
    return {
        "decoder": decoder,
        "deeplab_v3": DeepLabV3(num_classes=_out(evidence, "semantic_last_layer/_conv/kernel")),
    }


def _v3plus(evidence: Evidence[Options], stride: int) -> dict[str, object]:
    decoder = Decoder(
        aspp_channels=_out(evidence, "deeplab_v3plus_aspp/_conv_bn_act/_conv/kernel"),
        decoder_channels=_out(evidence, "deeplab_v3plus_fuse/_conv1_bn_act/_pointwise/_conv/kernel"),
        atrous_rates=RATES[stride],
    )
    low = LowLevel(
        feature_key="res2", channels_project=_out(evidence, "deeplab_v3plus_project_conv_bn_act/_conv/kernel")
    )
    num_classes = _out(evidence, "semantic_last_layer/_conv/kernel")
    return {"decoder": decoder, "deeplab_v3_plus": DeepLabV3Plus(low_level=low, num_classes=num_classes)}


def _panoptic(evidence: Evidence[Options], stride: int) -> dict[str, object]:
    low_level, decoder = _branch(evidence, "semantic_decoder", stride)
    instance = Instance(enable=False)
    if evidence.has_prefix("instance_decoder/"):
        override, own = _branch(evidence, "instance_decoder", stride)
        instance = Instance(
            low_level_override=override,
            instance_decoder_override=own,
            center_head=_head(evidence, "instance_center_head_without_last_layer", "instance_center_head_last_layer"),
            regression_head=_head(
                evidence, "instance_regression_head_without_last_layer", "instance_regression_head_last_layer"
            ),
        )
    head = _head(evidence, "semantic_head_without_last_layer", "semantic_last_layer")
    panoptic = PanopticDeepLab(low_level=low_level, instance=instance, semantic_head=head)
    return {"decoder": decoder, "panoptic_deeplab": panoptic}


def _branch(evidence: Evidence[Options], scope: str, stride: int) -> tuple[tuple[LowLevel, ...], Decoder]:
    keys = {1: "res3", 2: "res2"}
    low_level = tuple(
        LowLevel(feature_key=key, channels_project=_out(evidence, f"{scope}/_low_level_conv{index}/_conv/kernel"))
        for index, key in keys.items()
    )
    conv = f"{scope}/_fusion_conv1/_conv1_bn_act"
    decoder = Decoder(
        aspp_channels=_out(evidence, f"{scope}/_aspp/_conv_bn_act/_conv/kernel"),
        decoder_channels=_out(evidence, _last_kernel(evidence, conv)),
        decoder_conv_type=_conv_type(evidence, conv),
        atrous_rates=RATES[stride],
    )
    return low_level, decoder


def _head(evidence: Evidence[Options], scope: str, last: str) -> Head:
    conv = f"{scope}/_conv1_bn_act"
    return Head(
        output_channels=_out(evidence, f"{last}/kernel"),
        head_channels=_out(evidence, _last_kernel(evidence, conv)),
        head_conv_type=_conv_type(evidence, conv),
    )


def _conv_type(evidence: Evidence[Options], scope: str) -> str:
    return SEPARABLE if evidence.has_prefix(f"{scope}/_pointwise/") else DENSE


def _last_kernel(evidence: Evidence[Options], scope: str) -> str:
    inner = "_pointwise/_conv" if _conv_type(evidence, scope) == SEPARABLE else "_conv"
    return f"{scope}/{inner}/kernel"
