"""deeplab2's names: which variables of a TensorFlow 2 object checkpoint are a module's, and the order of their axes."""

import re
from collections.abc import Iterator

import numpy as np
from torch import nn

from atrous.convert.arrays import Array
from atrous.convert.layouts import Layout, Rules, as_our_kernel, kernel_shape, leaves, nothing_folded, require_name

# What a training saves besides the model: counters, and the slots of its optimisers.
LEFTOVERS = re.compile(r"(save_counter|global_step|step|.*/\.OPTIMIZER_SLOT/.*|(optimizer|backbone_optimizer)/.*)")
PROJECTION = re.compile(r".*aspp/_proj_conv_bn_act/_conv/kernel")
NORM = "_batch_norm"
INNER = {"kernel": "_conv", "depthwise_kernel": "_depthwise_conv", "gamma": NORM}  # parts of a layer, by first weight
NUM_BRANCHES = 5  # of ASPP, whose image mean is the last in deeplab2 and the first here


# ---- scopes


def _aspp(ours: str, theirs: str) -> Rules:
    return (
        (rf"{ours}\.aspp\.image_pooling", f"{theirs}/_aspp_pool/_conv_bn_act"),
        (rf"{ours}\.aspp\.branches\.0", f"{theirs}/_conv_bn_act"),
        (rf"{ours}\.aspp\.branches\.(\d)", rf"{theirs}/_aspp_conv\1/_conv_bn_act"),
        (rf"{ours}\.aspp\.projection", f"{theirs}/_proj_conv_bn_act"),
    )


def _branch(ours: str, theirs: str) -> Rules:
    stages = tuple(
        rule
        for index in (0, 1)
        for rule in (
            (rf"{ours}\.low_level\.{index}", f"{theirs}/_low_level_conv{index + 1}"),
            (rf"{ours}\.fuse\.{index}", f"{theirs}/_fusion_conv{index + 1}/_conv1_bn_act"),
            (rf"{ours}\.fuse\.{index}\.(\w+)", rf"{theirs}/_fusion_conv{index + 1}/_conv1_bn_act/_\1"),
        )
    )
    return (*_aspp(ours, f"{theirs}/_aspp"), *stages)


def _head(ours: str, theirs: str) -> Rules:
    inner = theirs.replace("_last_layer", "_head_without_last_layer") if theirs == "semantic_last_layer" else ""
    inner = inner or theirs.replace("_last_layer", "_without_last_layer")
    return (
        (rf"{ours}\.conv", f"{inner}/_conv1_bn_act"),
        (rf"{ours}\.conv\.(\w+)", rf"{inner}/_conv1_bn_act/_\1"),
        (rf"{ours}\.classify", theirs),
    )


RESNET: Rules = (
    (r"backbone\.c(\d)\.#(\d+)\.conv1", r"encoder/_stage\1/_block\2/_conv1_bn_act"),
    (r"backbone\.c5\.#(\d+)\.conv2", r"encoder/_stage5/_block\1/_conv2_bn_act"),
    (
        r"backbone\.c5\.#(\d+)\.conv2\.conv\.before",
        r"encoder/_stage5/_block\1/_conv2_bn_act/_pre_global_context/convolution",
    ),
    (
        r"backbone\.c5\.#(\d+)\.conv2\.conv\.after",
        r"encoder/_stage5/_block\1/_conv2_bn_act/_post_global_context/convolution",
    ),
    (r"backbone\.c5\.#(\d+)\.conv2\.conv\.switch", r"encoder/_stage5/_block\1/_conv2_bn_act/_conv/_switch"),
    (r"backbone\.c(\d)\.#(\d+)\.conv3", r"encoder/_stage\1/_block\2/_conv3_bn"),
    (r"backbone\.c(\d)\.#(\d+)\.shortcut", r"encoder/_stage\1/_block\2/_shortcut"),
    (r"backbone\.c(\d)\.#(\d+)\.squeeze", r"encoder/_stage\1/_block\2/_squeeze_and_excite/_se_conv"),
)
BACKBONES: dict[str, Rules] = {
    "resnet50_d2": (
        (r"backbone\.stem\.#1", "encoder/_stem"),
        (r"backbone\.c(\d)\.#(\d+)\.conv2", r"encoder/_stage\1/_block\2/_conv2_bn_act"),
        *RESNET,
    ),
    "resnet50_beta_d2": (
        (r"backbone\.stem\.#3", "encoder/_stem/_conv3_bn"),
        (r"backbone\.stem\.#(\d)", r"encoder/_stem/_conv\1_bn_act"),
        (r"backbone\.c(\d)\.#(\d+)\.conv2", r"encoder/_stage\1/_block\2/_conv2_bn_act"),
        *RESNET,
    ),
    "swidernet": (
        (r"backbone\.stem", "encoder/_stem"),
        (r"backbone\.c([1-4])\.#(\d+)\.conv2", r"encoder/_stage\1/_block\2/_conv2_bn"),
        *RESNET,
    ),
    "mobilenet": (
        (r"backbone\.stem", "encoder/_blocks/0"),
        (r"backbone\.blocks\.#(\d+)\.expand", r"encoder/_blocks/\1/_conv1_bn_act"),
        (r"backbone\.blocks\.#(\d+)\.depthwise", r"encoder/_blocks/\1/_conv2_bn_act"),
        (r"backbone\.blocks\.#(\d+)\.squeeze\.reduce", r"encoder/_blocks/\1/_squeeze_excitation/_se_reduce"),
        (r"backbone\.blocks\.#(\d+)\.squeeze\.restore", r"encoder/_blocks/\1/_squeeze_excitation/_se_expand"),
        (r"backbone\.blocks\.#(\d+)\.project", r"encoder/_blocks/\1/_conv3_bn"),
    ),
}
BACKBONES["wide_resnet41"] = BACKBONES["swidernet"]
LAST_BLOCK = {"mobilenet_v3_large_d2": 16, "mobilenet_v3_small_d2": 12}
HEADS: Rules = (
    *_branch("semantic", "semantic_decoder"),
    *_branch("instance", "instance_decoder"),
    *_head("semantic_head", "semantic_last_layer"),
    *_head("center_head", "instance_center_head_last_layer"),
    *_head("offset_head", "instance_regression_head_last_layer"),
)
MODELS: dict[str, Rules] = {
    "panoptic_deeplab": HEADS,
    "panoptic_deeplab_semantic": HEADS,
    "deeplab_v3": (
        *((ours.removeprefix(r"\."), theirs) for ours, theirs in _aspp("", "deeplab_v3_aspp")),
        ("refine", "classifier_conv_bn_act"),
        ("classify", "semantic_last_layer/_conv"),
    ),
    "deeplab_v3plus": (
        *((ours.removeprefix(r"\."), theirs) for ours, theirs in _aspp("", "deeplab_v3plus_aspp")),
        (r"decoder\.0\.low_level", "deeplab_v3plus_project_conv_bn_act"),
        (r"decoder\.0\.refine\.#(\d)\.(\w+)", r"deeplab_v3plus_fuse/_conv\1_bn_act/_\2"),
        ("classify", "semantic_last_layer/_conv"),
    ),
}


def rules_of(model: str, backbone: str) -> Rules:
    own = BACKBONES["mobilenet" if backbone in LAST_BLOCK else backbone]
    last = ((r"backbone\.last", f"encoder/_blocks/{LAST_BLOCK[backbone]}"),) if backbone in LAST_BLOCK else ()
    return (*last, *own, *MODELS[model])


# ---- variables


def variables(module: nn.Module, rules: Rules) -> dict[str, str]:
    """The variable for each entry of the state dict that a training changes (not for `shift` and `scale`)."""
    return {
        f"{path}.{leaf}": variable
        for path, part in module.named_modules()
        for leaf, variable in _variables_of(path, part, rules)
    }


def _variables_of(path: str, module: nn.Module, rules: Rules) -> Iterator[tuple[str, str]]:
    layer, _, own = path.rpartition(".")
    names = leaves(module)
    if names:
        inner = INNER[next(iter(names.values()))]
        scope = f"{_scope(layer, rules)}/{inner}" if own == "conv" or inner == NORM else _scope(path, rules)
        yield from ((ours, f"{scope}/{theirs}") for ours, theirs in names.items())


def _scope(path: str, rules: Rules) -> str:
    """Numbered modules count from 1 in the rules, as deeplab2's names do: `#1` is our 0."""
    counted = re.sub(r"\b(c\d|stem|blocks|refine)\.(\d+)", lambda found: f"{found[1]}.#{int(found[2]) + 1}", path)
    return require_name(counted, rules)


# ---- axes


def our_axes(variable: str, array: Array) -> Array:
    """The projection of ASPP takes the image mean's channels last; ours takes them first."""
    ours = as_our_kernel(variable, array)
    return np.roll(ours, ours.shape[1] // NUM_BRANCHES, 1) if PROJECTION.fullmatch(variable) else ours


DEEPLAB2 = Layout(variables, kernel_shape, our_axes, LEFTOVERS, nothing_folded)
