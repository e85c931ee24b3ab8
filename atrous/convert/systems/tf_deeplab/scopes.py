"""What TensorFlow DeepLab calls our modules: a table of scopes for each family of backbones, and one for the heads."""

from typing import NamedTuple

from atrous.convert.layouts import Rules
from atrous.models import ModelConfig

# Rules are pairs of (pattern of a module's whole path, its scope); {root} is the backbone's own scope.

# ---- backbones, as TF-slim and DeepLab name them

MOBILENET: Rules = (  # only the first block has no number; a fused block of EdgeTPU has `expand`, but no `depthwise`
    (r"backbone\.stem", r"{root}/Conv"),
    (r"backbone\.blocks\.0\.squeeze\.reduce", r"{root}/expanded_conv/squeeze_excite/Conv"),
    (r"backbone\.blocks\.0\.squeeze\.restore", r"{root}/expanded_conv/squeeze_excite/Conv_1"),
    (r"backbone\.blocks\.(\d+)\.squeeze\.reduce", r"{root}/expanded_conv_\1/squeeze_excite/Conv"),
    (r"backbone\.blocks\.(\d+)\.squeeze\.restore", r"{root}/expanded_conv_\1/squeeze_excite/Conv_1"),
    (r"backbone\.blocks\.0\.(\w+)", r"{root}/expanded_conv/\1"),
    (r"backbone\.blocks\.(\d+)\.(\w+)", r"{root}/expanded_conv_\1/\2"),
    (r"backbone\.last", r"{root}/Conv_1"),
)


def _resnet_units(kind: str, most: int) -> Rules:
    return tuple(
        (rf"backbone\.c{block + 1}\.{unit - 1}\.(\w+)", rf"{{root}}/block{block}/unit_{unit}/{kind}/\1")
        for block in range(1, 5)
        for unit in range(1, most + 1)
    )


RESNET_STEM: Rules = ((r"backbone\.stem\.0", r"{root}/conv1"),)
RESNET_DEEP_STEM: Rules = tuple((rf"backbone\.stem\.{index}", rf"{{root}}/conv1_{index + 1}") for index in range(3))
RESNET_LITE = _resnet_units("lite_bottleneck_v1", most=2)
RESNET_BOTTLENECK = _resnet_units("bottleneck_v1", most=23)

XCEPTION: Rules = (
    (r"backbone\.stem\.0", r"{root}/entry_flow/conv1_1"),
    (r"backbone\.stem\.1", r"{root}/entry_flow/conv1_2"),
    (
        r"backbone\.units\.middle_(\d+)\.separable(\d)\.(\w+)",
        r"{root}/middle_flow/block1/unit_\1/xception_module/separable_conv\2_\3",
    ),
    (
        r"backbone\.(?:units\.)?(entry|exit)_(\d)\.separable(\d)\.(\w+)",
        r"{root}/\1_flow/block\2/unit_1/xception_module/separable_conv\3_\4",
    ),
    (
        r"backbone\.units\.(entry|exit)_(\d)\.shortcut",
        r"{root}/\1_flow/block\2/unit_1/xception_module/shortcut",
    ),
)

CELL = r"backbone\.cells\.(\d+)"
PATH = CELL + r"\.(left|right)\.(\d)"
IN_CELL = r"{root}/cell_\1"
IN_PATH = r"{root}/cell_\1/comb_iter_\3/\2"
NAS: Rules = (  # layers share a scope, and their batch norms have various names
    (r"backbone\.stem\.(\d)\.conv", r"{root}/conv\1"),
    (r"backbone\.stem\.(\d)\.norm", r"{root}/conv\1_bn"),
    (CELL + r"\.input\.1\.conv", IN_CELL + "/1x1"),
    (CELL + r"\.input\.1\.norm", IN_CELL + "/beginning_bn"),
    (CELL + r"\.previous\.1\.conv", IN_CELL + "/prev_1x1"),
    (CELL + r"\.previous\.1\.norm", IN_CELL + "/prev_bn"),
    (PATH + r"\.sep(\dx\d)\.(depthwise)_(\d)", IN_PATH + r"/separable_\4_\6/\5_weights"),
    (PATH + r"\.sep(\dx\d)\.(pointwise)_(\d)\.conv", IN_PATH + r"/separable_\4_\6/\5_weights"),
    (PATH + r"\.sep(\dx\d)\.pointwise_(\d)\.norm", IN_PATH + r"/bn_sep_\4_\5"),
    (PATH + r"\.atr(\dx\d)\.filter\.conv", IN_PATH + r"/atrous_\4"),
    (PATH + r"\.atr(\dx\d)\.filter\.norm", IN_PATH + r"/bn_atr_\4"),
    (PATH + r"\.none\.1\.conv", IN_PATH + "/1x1"),
    (PATH + r"\.none\.1\.norm", IN_PATH + "/bn_1"),
    (r"backbone\.head\.stride_(\d+)\.conv", r"{root}/downsample_os\1_conv"),
    (r"backbone\.head\.stride_(\d+)\.norm", r"{root}/downsample_os\1_bn"),
    (r"backbone\.head\.expand\.conv", r"{root}/classification_head_conv"),
    (r"backbone\.head\.expand\.norm", r"{root}/classification_head_bn"),
)

# ---- heads, which lie at the root of a checkpoint

HEADS: Rules = (
    (r"aspp\.image_(?:pooling|gate)", r"image_pooling"),
    (r"aspp\.branches\.(\d+)", r"aspp\1"),
    (r"aspp\.branches\.(\d+)\.(depthwise|pointwise)", r"aspp\1_\2"),
    (r"aspp\.projection", r"concat_projection"),
    (r"cell\.branches\.(\d+)(?:\.project)?", r"meta_architecture/branch\1"),
    (r"cell\.branches\.(\d+)\.(depthwise|pointwise)", r"meta_architecture/branch\1_\2"),
    (r"cell\.projection", r"meta_architecture/concat_projection"),
    # The decoder's first stage has no suffix, the next ones have _1, _2.
    (r"decoder\.0\.low_level", r"decoder/feature_projection0"),
    (r"decoder\.(\d)\.low_level", r"decoder/feature_projection0_\1"),
    (r"decoder\.0\.refine\.(\d)\.(depthwise|pointwise)", r"decoder/decoder_conv\1_\2"),
    (r"decoder\.(\d)\.refine\.(\d)\.(depthwise|pointwise)", r"decoder/decoder_conv\2_\1_\3"),
    (r"decoder\.0\.refine\.0", r"decoder/decoder_conv0/decoder_conv0_1"),
    (r"decoder\.0\.refine\.1", r"decoder/decoder_conv0/decoder_conv0_2"),
    (r"decoder\.(\d)\.refine\.0", r"decoder/decoder_conv0_\1/decoder_conv0_\1_1"),
    (r"decoder\.(\d)\.refine\.1", r"decoder/decoder_conv0_\1/decoder_conv0_\1_2"),
    (r"decoder\.0\.refine\.(depthwise|pointwise)", r"decoder/decoder_split_sep_conv0_\1"),
    (r"decoder\.(\d)\.refine\.(depthwise|pointwise)", r"decoder/decoder_split_sep_conv0_\1_\2"),
    (r"decoder\.0\.refine", r"decoder/decoder_conv0"),
    (r"decoder\.(\d)\.refine", r"decoder/decoder_conv0_\1"),
    (r"classify(?:\.0)?", r"logits/semantic"),
    (r"classify\.(\d)", r"logits/semantic_\1"),
)
CLASSIFIER: Rules = ((r"classify", r"{root}/logits"),)  # of an ImageNet checkpoint, instead of HEADS
SLIM_CLASSIFIER: Rules = ((r"widen", r"{root}/Conv_1"), (r"classify", r"{root}/Logits/Conv2d_1c_1x1"))

# ---- by backbone


class Root(NamedTuple):
    scope: str
    rules: Rules
    classifier: Rules = CLASSIFIER


ROOTS: dict[str, Root] = {  # by row of BACKBONES
    "mobilenet_v2": Root("MobilenetV2", MOBILENET, SLIM_CLASSIFIER),
    "mobilenet_v3_large_seg": Root("MobilenetV3", MOBILENET, SLIM_CLASSIFIER),
    "mobilenet_v3_small_seg": Root("MobilenetV3", MOBILENET, SLIM_CLASSIFIER),
    "mobilenet_edgetpu": Root("MobilenetEdgeTPU", MOBILENET, SLIM_CLASSIFIER),
    "resnet_v1_18": Root("resnet_v1_18", (*RESNET_STEM, *RESNET_LITE)),
    "resnet_v1_50": Root("resnet_v1_50", (*RESNET_STEM, *RESNET_BOTTLENECK)),
    "resnet_v1_101": Root("resnet_v1_101", (*RESNET_STEM, *RESNET_BOTTLENECK)),
    "resnet_v1_18_beta": Root("resnet_v1_18", (*RESNET_DEEP_STEM, *RESNET_LITE)),
    "resnet_v1_50_beta": Root("resnet_v1_50", (*RESNET_DEEP_STEM, *RESNET_BOTTLENECK)),
    "resnet_v1_101_beta": Root("resnet_v1_101", (*RESNET_DEEP_STEM, *RESNET_BOTTLENECK)),
    "pnasnet": Root("pnasnet", NAS),
    "auto_deeplab_s": Root("hnasnet", NAS),
    "auto_deeplab_m": Root("hnasnet", NAS),
    "auto_deeplab_l": Root("hnasnet", NAS),
    "xception_41": Root("xception_41", XCEPTION),
    "xception_65": Root("xception_65", XCEPTION),
    "xception_71": Root("xception_71", XCEPTION),
}


def rules(config: ModelConfig) -> Rules:
    """The scopes of a whole model."""
    root = ROOTS[config.backbone.name]
    return _rooted((*root.rules, *(root.classifier if config.name == "image_classifier" else HEADS)), root.scope)


def backbone_rules(backbone: str) -> Rules:
    """The scopes of a backbone outside a model, by its row of BACKBONES."""
    rules = _rooted(ROOTS[backbone].rules, ROOTS[backbone].scope)
    return tuple((pattern.removeprefix(r"backbone\."), scope) for pattern, scope in rules)


def _rooted(rules: Rules, root: str) -> Rules:
    return tuple((pattern, scope.replace("{root}", root)) for pattern, scope in rules)
