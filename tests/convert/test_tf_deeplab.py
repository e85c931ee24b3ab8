"""Which model a set of TensorFlow DeepLab's variables is recognised as: the original's own lists, and our models."""

import json
from functools import cache, partial
from operator import ne
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn

from atrous.convert import convert
from atrous.convert.conversion import convert_weights
from atrous.convert.options import read_options
from atrous.convert.run import conversion
from atrous.convert.system import ForeignWeights, Hints
from atrous.convert.systems import SYSTEMS
from atrous.convert.systems.tf_deeplab.flags import CELL, NAS, Flags
from atrous.errors import AtrousError
from atrous.inference import InferenceConfig
from atrous.models import MODELS, Model, ModelConfig, build
from tests.convert.conftest import assert_close, assert_refused, config_of, empty_arrays, random_image
from tests.reference.tf_deeplab import (
    CASES,
    UNDECIDED,
    Shapes,
    checkpoint,
    flags_of,
    folded_checkpoint,
    load_seeded,
    seeded,
    variable_lists,
    variables_of,
    without,
)

Options = dict[str, Any]
Arrays = dict[str, NDArray[Any]]
BRANCHES = [
    {"op": "conv", "kernel": 1, "input": -1},
    {"op": "conv", "kernel": 3, "rate": [1, 6], "input": 0},
    {"op": "pyramid_pooling", "grid_size": [2, 1], "input": -1},
]
RELEASED: Options = CASES["x71_dpc_os16_65"]["options"]
SYSTEM = SYSTEMS["tf_deeplab"]


def _config(shapes: Shapes, **options: Any) -> ModelConfig:  # noqa: ANN401
    return config_of(SYSTEM, shapes, **options)


def _logits(model: Model, images: Tensor | None = None) -> Tensor:
    with torch.no_grad():
        outputs = model.eval()(random_image(33, 49) if images is None else images)
    logits: Tensor = outputs.semantic if outputs.classes is None else outputs.classes
    return logits


def _refused(arrays: Arrays, reason: str, **options: object) -> None:
    assert_refused(arrays, reason, options)


# ---- the original's own lists


def _mnv2(name: str, **fields: object) -> Options:
    return {"name": name, "backbone": {"name": "mobilenet_v2"}, **fields}


def _hnas(filters: int, backbone: Options, **fields: object) -> Options:
    shared = {"name": "deeplab_v3plus", "output_stride": 8, "num_classes": 19}
    return {**shared, "backbone": {"name": "auto_deeplab_s", "depth_multiplier": filters / 20, **backbone}, **fields}


def _plain(name: str, backbone: str, **fields: object) -> Options:
    return {"name": name, "backbone": {"name": backbone}, **fields}


DENSE: Options = {"aspp": {"separable": False}, "decoder": {"separable": False}}
LISTED: dict[str, Options] = {
    "edgetpu": _plain("deeplab_v3", "mobilenet_edgetpu", aspp={"rates": (), "channels": 256}),
    "edgetpu_slim": {
        "backbone": {"name": "mobilenet_edgetpu", "depth_multiplier": 0.75},
        "aspp": {"channels": 128},
    },
    "hnas": _hnas(20, {}, num_classes=21),
    **{
        f"hnas_F{filters}_{kind}": _hnas(filters, backbone, **fields)
        for filters in (20, 32, 48)
        for kind, backbone, fields in (
            ("head", {"classification_head": True}, {}),
            ("nohead", {"classification_head": False}, {}),
            ("nosep", {}, DENSE),
        )
    },
    "mnv2_ade": _mnv2("deeplab_v3plus", aspp={"rates": ()}, num_classes=151),
    "mnv2_dec_8_4": _mnv2("deeplab_v3plus", decoder={"strides": (8, 4)}),
    "mnv2_dec_nosep": _mnv2("deeplab_v3plus", **DENSE),
    "mnv2_dm05": {"name": "deeplab_v3", "backbone": {"name": "mobilenet_v2", "depth_multiplier": 0.5}},
    "mnv2_v3": _mnv2("deeplab_v3", aspp={"rates": (), "image_level": True, "projection": True}),
    "mnv2_v3_os8": _mnv2("deeplab_v3", aspp={"rates": ()}),
    "mnv2_v3plus": _mnv2("deeplab_v3plus", aspp={"rates": None}, decoder={"strides": (4,), "low_level_channels": 48}),
    "mnv3_large": _plain("lraspp", "mobilenet_v3_large_seg", head_channels=128, decoder_stride=8),
    "mnv3_small": _plain("lraspp", "mobilenet_v3_small_seg", num_classes=19, squeeze="sigmoid"),
    "pnas": {"name": "deeplab_v3plus", "backbone": {"name": "pnasnet", "depth_multiplier": 1.0}},
    "r101b_v3plus": _plain("deeplab_v3plus", "resnet_v1_101_beta", decoder={"strides": (4,)}),
    "r18": _plain("deeplab_v3", "resnet_v1_18"),
    "r18b": _plain("deeplab_v3", "resnet_v1_18_beta"),
    "r50_v2sum": _plain("deeplab_v2", "resnet_v1_50", rates=(6, 12, 18, 24), kernel=3),
    "r50_v3": _plain("deeplab_v3", "resnet_v1_50", aspp={"separable": True}),
    "r50b_v3plus": _plain("deeplab_v3plus", "resnet_v1_50_beta"),
    "x41_v3plus": _plain("deeplab_v3plus", "xception_41"),
    "x65_v3plus": {"name": "deeplab_v3plus", "backbone": {"name": "xception_65", "bounded": False}},
    "x71_dpc": _plain("dense_prediction_cell", "xception_71", cell_channels=256, num_classes=19),
}


def _assert_has(tree: Options, expected: Options) -> None:
    """The expected fields; others may have any value."""
    for name, value in expected.items():
        if isinstance(value, dict):
            _assert_has(tree[name], value)
        else:
            assert tree[name] == value, name


FEW = ("hnas", "hnas_F32_head", "hnas_F48_nosep")  # of the many that are alike


@pytest.mark.parametrize(
    "key",
    [
        pytest.param(key, marks=pytest.mark.slow) if key.startswith("hnas") and key not in FEW else key
        for key in variable_lists()
    ],
)
def test_variables_alone_decide_the_model(key: str) -> None:
    _assert_has(_config(variable_lists()[key]).model_dump(), LISTED[key])


@pytest.mark.parametrize("key", ["mnv2_ade", "mnv2_dec_8_4", "mnv3_small", "r18", "edgetpu_slim"])
def test_each_variable_of_a_list_is_used(key: str) -> None:
    shapes = variable_lists()[key]
    done = conversion(empty_arrays(shapes))
    assert (done.num_used, done.unused) == (len(shapes), [])
    held = done.segmenter.model.state_dict().items()
    counted = [tensor.numel() for name, tensor in held if not name.endswith(("shift", "scale", "num_batches_tracked"))]
    assert sum(counted) == sum(int(np.prod(shape)) for shape in shapes.values())


@pytest.mark.parametrize("case", CASES)
def test_flags_that_the_weights_decide_change_nothing(case: str) -> None:
    flags, shapes = flags_of(case), variables_of(case)
    undecided = {name: flags[name] for name in UNDECIDED & flags.keys()}
    assert _config(shapes, **flags) == _config(shapes, **undecided)


def test_the_released_cell_is_the_default() -> None:
    shapes = variable_lists()["x71_dpc"]
    assert _config(shapes) == _config(shapes, **RELEASED)


# ---- our own models, in the original's layout and back


THIN: dict[str, Options] = {
    "deeplab_v2": {},
    "deeplab_v3": {"aspp": {"channels": 16}},
    "deeplab_v3plus": {"aspp": {"channels": 16}, "decoder": {"channels": 12, "low_level_channels": 6}},
    "dense_prediction_cell": {"cell_channels": 16, "decoder": {"channels": 12, "low_level_channels": 6}},
    "lraspp": {"head_channels": 16},
}


def _model(num_classes: int, name: str, **fields: Any) -> Model:  # noqa: ANN401
    """A thin one; sections of `fields` are merged into its own."""
    tree = {"name": name, "backbone": {"name": "mobilenet_v2"}, **THIN[name]}
    for field, value in fields.items():
        tree[field] = {**tree.get(field, {}), **value} if isinstance(value, dict) else value
    model = build(MODELS[name].Config.model_validate(tree), num_classes)
    load_seeded(model)
    return model.eval()


def _undecided(config: ModelConfig) -> Options:
    """The flags that the weights of such a model don't decide."""
    tree = config.model_dump()
    backbone, aspp = tree["backbone"], tree.get("aspp", tree)
    flags = {
        "output_stride": tree["output_stride"],
        "image_pyramid": tree["image_pyramid"],
        "merge_method": {"mean": "avg"}.get(tree["merge"]),
        "multi_grid": backbone.get("multi_grid"),
        "use_bounded_activation": backbone["bounded"],
        "nas_remove_os32_stride": backbone.get("remove_stride_32"),
        "atrous_rates": aspp.get("rates"),
        "image_pooling_crop_size": aspp.get("pooling_window"),
        "image_pooling_stride": aspp.get("pooling_stride"),
        "image_se_uses_qsigmoid": aspp.get("squeeze") == "hard_sigmoid",
        CELL: tree.get("cell"),
    }
    return {name: value for name, value in flags.items() if value is not None}


def _thin_by(multiplier: float, **fields: object) -> Options:
    return {"backbone": {"depth_multiplier": multiplier, **fields}}


V3, PLUS = {"name": "deeplab_v3"}, {"name": "deeplab_v3plus"}
LIGHT = {"name": "lraspp", "pooling_window": (33, 33), "output_stride": 32}
HALF: Options = {**PLUS, **_thin_by(0.5)}
HALF_V2: Options = {"name": "deeplab_v2", **_thin_by(0.5)}
NO_RATES: Options = {"aspp": {"rates": ()}}
LARGE, SMALL = ({"name": f"mobilenet_v3_{size}_seg"} for size in ("large", "small"))
VARIANTS: dict[str, tuple[int, Options]] = {  # classes, config
    "mobilenet_v2 x 0.35": (2, {**PLUS, **_thin_by(0.35)}),
    "mobilenet_v2 x 0.35, divisor 8": (7, {**PLUS, **_thin_by(0.35, divisible_by=8)}),
    "mobilenet_v2 x 0.75": (151, {**V3, **_thin_by(0.75), **NO_RATES}),
    "mobilenet_v2 x 0.75, divisor 8": (2, {**V3, **_thin_by(0.75, divisible_by=8)}),
    "mobilenet_v2 x 1.4": (7, {**PLUS, **_thin_by(1.4)}),
    "mobilenet_v2 x 1.4, divisor 8": (151, {**V3, **_thin_by(1.4, divisible_by=8)}),
    "edgetpu x 0.75": (2, {**V3, **_thin_by(0.75, name="mobilenet_edgetpu"), **NO_RATES}),
    "v3 large x 0.75": (7, {**LIGHT, **_thin_by(0.75, **LARGE)}),
    "v3 small x 0.75": (151, {**LIGHT, **_thin_by(0.75, **SMALL)}),
    "v3 large, decoder 4": (2, {**LIGHT, "backbone": LARGE, "decoder_stride": 4}),
    "v3 small, all pooled": (2, {**LIGHT, "backbone": SMALL, "pooling_window": None}),
    "decoder 8": (7, {**HALF, "decoder": {"strides": (8,)}}),
    "decoder 16, 4": (7, {**HALF, "decoder": {"strides": (16, 4)}}),
    "decoder 16, 8, 4": (7, {**HALF, "decoder": {"strides": (16, 8, 4)}}),
    "dense decoder 16, 8, 4": (7, {**HALF, "decoder": {"strides": (16, 8, 4), "separable": False}}),
    "sum": (7, {**HALF, "decoder": {"merge": "sum"}}),
    "sum 8, 4": (7, {**HALF, "decoder": {"merge": "sum", "strides": (8, 4)}}),
    "dense sum 8, 4": (7, {**HALF, "decoder": {"merge": "sum", "strides": (8, 4), "separable": False}}),
    "logits of a concat 8, 4": (7, {**HALF, "decoder": {"logits": True, "strides": (8, 4)}}),
    "logits of a sum 8, 4": (7, {**HALF, "decoder": {"logits": True, "merge": "sum", "strides": (8, 4)}}),
    "no image level": (7, {**HALF, "aspp": {"image_level": False}}),
    "no projection": (7, {**HALF, "aspp": {"projection": False}}),
    "neither": (7, {**V3, "aspp": {"image_level": False, "projection": False, "rates": ()}}),
    "gated, with rates": (7, {**HALF, "aspp": {"squeeze": "sigmoid"}}),
    "one rate": (7, {**HALF, "aspp": {"rates": (5,)}}),
    "five rates, dense": (7, {**V3, "aspp": {"rates": (1, 2, 3, 4, 5), "separable": False}}),
    "pooled in strides": (7, {**HALF, "aspp": {"pooling_window": (17, 33), "pooling_stride": (2, 1)}}),
    "bounded heads": (7, {**PLUS, **_thin_by(0.5, bounded=True)}),
    "pyramid": (7, {**HALF, "image_pyramid": (0.5, 1.0, 1.5), "merge": "mean"}),
    "output stride 8": (7, {**HALF, "output_stride": 8}),
    "output stride 32": (7, {**HALF, "output_stride": 32}),
    "v2": (7, {**HALF_V2, "output_stride": 8}),
    "v2, one 1x1": (7, {**HALF_V2, "kernel": 1, "rates": (1,)}),
    "v2, two rates": (7, {**HALF_V2, "rates": (2, 4)}),
    "cell": (7, {"name": "dense_prediction_cell", **_thin_by(0.5), "output_stride": 8}),
    "cell of our own": (7, {"name": "dense_prediction_cell", "cell": BRANCHES, "decoder": {"strides": ()}}),
    "resnet 18": (7, {**V3, "backbone": {"name": "resnet_v1_18", "multi_grid": (1, 2)}}),
    "auto_deeplab F = 24": (7, {**PLUS, **_thin_by(1.2, name="auto_deeplab_s"), "output_stride": 8}),
    "auto_deeplab F = 10, stride 16": (
        7,
        {
            **PLUS,
            **_thin_by(0.5, name="auto_deeplab_s", remove_stride_32=True, classification_head=True),
            "output_stride": 8,
        },
    ),
    "pnasnet, stride 8": (7, {**PLUS, **_thin_by(0.25, name="pnasnet"), "output_stride": 8}),
}


@cache
def _variant(key: str) -> Model:
    num_classes, fields = VARIANTS[key]
    return _model(num_classes, **fields)


SLOW = ("auto_deeplab F = 10, stride 16", "pnasnet, stride 8")


@pytest.mark.parametrize(
    "variant", [pytest.param(key, marks=pytest.mark.slow) if key in SLOW else key for key in VARIANTS]
)
def test_a_variant_without_a_golden_survives_the_round_trip(variant: str) -> None:
    model, num_classes = _variant(variant), VARIANTS[variant][0]
    back = convert(checkpoint(model), options=_undecided(model.config))
    assert back.model.num_classes == num_classes
    assert back.label_space.num_classes == num_classes
    assert torch.equal(_logits(back.model), _logits(model))
    assert (back.model.config.name, back.model.config.backbone.name) == (
        model.config.name,
        model.config.backbone.name,
    )


@pytest.mark.parametrize(
    ("variant", "filters"),
    [("nas_hnasnet", 20), ("auto_deeplab_s", 20), ("auto_deeplab_m", 32), ("auto_deeplab_l", 48)],
)
def test_the_papers_own_names_are_variants_too(variant: str, filters: int) -> None:
    shapes = variable_lists()[f"hnas_F{filters}_nohead"]
    config = _config(shapes, model_variant=variant, nas_stem_output_num_conv_filters=filters)
    _assert_has(config.model_dump(), {"backbone": {"depth_multiplier": 1}})


# ---- the converted model


@cache
def _plus() -> Arrays:
    return {name: seeded(name, shape) for name, shape in variable_lists()["mnv2_v3plus"].items()}


def test_a_batch_of_two_gives_the_logits_of_each_image() -> None:
    model, images = convert(_plus()).model, random_image(33, 49, batch=2)
    assert_close(_logits(model, images), torch.cat([_logits(model, images[:1]), _logits(model, images[1:])]), 1e-5)


@pytest.mark.parametrize("size", [(64, 80), (65, 97), (50, 71)])
def test_images_of_any_size_get_labels_of_that_size(size: tuple[int, int]) -> None:
    image = random_image(*size)[0].permute(1, 2, 0).numpy()
    assert convert(_plus()).predict(image).semantic.shape == size


@pytest.mark.parametrize(
    ("variant", "first", "second", "rates"),
    [
        ("mobilenet_v2 x 0.35", 16, 8, None),
        ("mobilenet_v2 x 0.35", 8, 32, None),
        ("one rate", 16, 8, [(4,), (8,)]),
        ("v2", 16, 8, [(6, 12, 18, 24), (12, 24, 36, 48)]),
        ("cell", 16, 8, None),
        ("v3 large, decoder 4", 32, 16, None),
    ],
)
def test_the_output_stride_may_be_changed_afterwards(
    variant: str, first: int, second: int, rates: list[tuple[int, ...]] | None
) -> None:
    arrays = checkpoint(_variant(variant))
    before, after = (
        convert(arrays, options={"output_stride": stride, "atrous_rates": rates and rates[index]})
        for index, stride in enumerate((first, second))
    )
    changed = before.with_output_stride(second)
    assert changed.model.config == after.model.config
    assert torch.equal(_logits(changed.model), _logits(after.model))


# ---- ImageNet's networks


def _classifier(key: str, scope: str, head: Shapes) -> Arrays:
    trunk = {name: shape for name, shape in variable_lists()[key].items() if name.startswith(f"{scope}/")}
    return {name: seeded(name, shape) for name, shape in (trunk | head).items()}


def test_an_imagenet_network_is_a_classifier() -> None:
    head: Shapes = {"resnet_v1_50/logits/weights": (1, 1, 2048, 11), "resnet_v1_50/logits/biases": (11,)}
    arrays = _classifier("r50_v3", "resnet_v1_50", head)
    model = convert({**arrays, "global_step": np.array(1)}).model
    assert (model.config.name, model.config.backbone.name) == ("image_classifier", "resnet_v1_50")
    assert model.config.output_stride == 32
    with torch.no_grad():
        features = model.features(random_image(33, 49))["c5"].mean((0, 2, 3)).numpy()
    expected = features @ arrays["resnet_v1_50/logits/weights"][0, 0] + arrays["resnet_v1_50/logits/biases"]
    assert_close(_logits(model).flatten(), torch.from_numpy(expected), 1e-5)


def test_an_xception_classifier() -> None:
    head: Shapes = {"xception_65/logits/weights": (1, 1, 2048, 1001), "xception_65/logits/biases": (1001,)}
    trunk = {name: shape for name, shape in variable_lists()["x65_v3plus"].items() if name.startswith("xception")}
    config = _config(trunk | head, num_classes=1001)
    assert (config.name, config.backbone.name, config.num_classes) == ("image_classifier", "xception_65", 1001)
    with pytest.raises(ValueError, match="num_classes=1000, but"):
        _config(trunk | head, num_classes=1000)


def test_the_classifier_of_mobilenet_v2_follows_a_wider_map() -> None:
    head: Shapes = {"MobilenetV2/Conv_1/weights": (1, 1, 320, 1280), "MobilenetV2/Logits/Conv2d_1c_1x1/biases": (1001,)}
    head |= {f"MobilenetV2/Conv_1/BatchNorm/{leaf}": (1280,) for leaf in ("gamma", "beta", "moving_mean")}
    head |= {"MobilenetV2/Conv_1/BatchNorm/moving_variance": (1280,)}
    head |= {"MobilenetV2/Logits/Conv2d_1c_1x1/weights": (1, 1, 1280, 1001)}
    arrays = _classifier("mnv2_v3", "MobilenetV2", head)
    averages = {f"{name}/ExponentialMovingAverage": array for name, array in arrays.items() if "weights" in name}
    done = conversion({**arrays, **averages})
    assert done.unused == sorted(averages)
    assert done.segmenter.label_space.num_classes == 1001
    assert done.segmenter.model.config.model_dump()["head_channels"] == 1280
    assert _logits(done.segmenter.model).shape == (1, 1001)


def test_a_backbone_with_a_wide_last_layer_needs_no_wider_map() -> None:
    head: Shapes = {"MobilenetEdgeTPU/Logits/Conv2d_1c_1x1/weights": (1, 1, 1280, 9)}
    head |= {"MobilenetEdgeTPU/Logits/Conv2d_1c_1x1/biases": (9,)}
    trunk = {name: shape for name, shape in variable_lists()["edgetpu"].items() if name.startswith("Mobilenet")}
    model = convert(empty_arrays(trunk | head)).model
    assert model.config.model_dump()["head_channels"] is None


# ---- batch norms that were folded


@pytest.mark.parametrize(
    "variant", ["mobilenet_v2 x 0.35", "v3 large x 0.75", "resnet 18", "sum", "edgetpu x 0.75", "cell of our own"]
)
def test_folded_batch_norms_become_ones_that_only_shift(variant: str) -> None:
    model = _variant(variant)
    arrays = folded_checkpoint(model)
    done = conversion(arrays, options=_undecided(model.config))
    assert (done.num_used, done.unused) == (len(arrays), [])
    assert_close(_logits(done.segmenter.model), _logits(model), 1e-5)
    for norm in done.segmenter.model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            assert norm.running_mean is not None and norm.running_var is not None
            assert not norm.running_mean.any()
            assert (norm.running_var == 1).all()
            assert torch.allclose(norm.weight, torch.tensor(1 + norm.eps).sqrt(), rtol=1e-7)


def test_a_half_folded_batch_norm_is_refused() -> None:
    arrays = {**_plus(), "aspp0/biases": np.zeros(256, np.float32)}
    _refused(arrays, "1 weight without a place in the model.*: aspp0/biases$")
    del arrays["aspp0/BatchNorm/moving_mean"]
    _refused(arrays, "missing 1 weight of the model: aspp0/BatchNorm/moving_mean$")


# ---- flags


FLAG_VALUES = [  # flag, value, value of our field
    ("atrous_rates", "2,4,6", (2, 4, 6)),
    ("atrous_rates", "[2, 4, 6]", (2, 4, 6)),
    ("atrous_rates", "(2, 4, 6)", (2, 4, 6)),
    ("atrous_rates", [2, 4, 6], (2, 4, 6)),
    ("atrous_rates", (2, 4, 6), (2, 4, 6)),
    ("atrous_rates", None, None),
    ("atrous_rates", "", None),
    ("atrous_rates", "6,12,18", None),  # the default of this output stride
    ("output_stride", "8", 8),
    ("image_pooling_crop_size", "33,49", (33, 49)),
    ("image_pooling_stride", "4, 5", (4, 5)),
    ("image_pyramid", "0.5,1", (0.5, 1.0)),
    ("image_pyramid", 0.5, (0.5,)),
    ("image_pyramid", "", (1.0,)),
    ("merge_method", "avg", "mean"),
    ("use_bounded_activation", "true", True),
    ("use_bounded_activation", "False", False),
    ("decoder_output_stride", 4, (4,)),
    ("decoder_output_stride", "4", (4,)),
    ("atrous_rates", np.array([4, 8, 12]), (4, 8, 12)),
    ("image_pooling_crop_size", np.array([33, 49]), (33, 49)),
    ("num_classes", "21", 21),
]
OURS = {  # flag: section and field of our config
    "atrous_rates": ("aspp", "rates"),
    "image_pooling_crop_size": ("aspp", "pooling_window"),
    "image_pooling_stride": ("aspp", "pooling_stride"),
    "merge_method": ("merge",),
    "use_bounded_activation": ("backbone", "bounded"),
    "decoder_output_stride": ("decoder", "strides"),
}


def test_flags_are_texts_lists_and_numbers() -> None:
    for flag, value, expected in FLAG_VALUES:
        tree: Any = _config(variable_lists()["mnv2_v3plus"], **{flag: value}).model_dump()
        for name in OURS.get(flag, (flag,)):
            tree = tree[name]
        assert tree == expected, (flag, value)


PROTOCOLS: list[tuple[Options, InferenceConfig]] = [
    ({}, InferenceConfig()),
    ({"crop_size": "513,769"}, InferenceConfig(mode="canvas", window=(513, 769))),
    ({"crop_size": "513"}, InferenceConfig(mode="canvas", window=(513, 513))),
    ({"crop_size": [513]}, InferenceConfig(mode="canvas", window=(513, 513))),
    ({"crop_size": [513, 769]}, InferenceConfig(mode="canvas", window=(513, 769))),
    ({"train_crop_size": "321,321"}, InferenceConfig()),
    ({"train_crop_size": "321,321", "vis_crop_size": [65, 97]}, InferenceConfig(mode="canvas", window=(65, 97))),
    ({"eval_scales": "0.5,1.0", "add_flipped_images": "true"}, InferenceConfig(scales=(0.5, 1.0), flip=True)),
    ({"inference_scales": 1.75}, InferenceConfig(scales=(1.75,))),
    ({"crop_size": None, "eval_scales": ""}, InferenceConfig()),
]


def test_flags_of_evaluation_become_the_inference_settings() -> None:
    for options, expected in PROTOCOLS:
        assert convert(empty_arrays(variable_lists()["mnv3_small"]), options=options).inference == expected, options


def test_nas_flags_may_be_in_the_programs_own_mapping() -> None:
    inner = {"nas_remove_os32_stride": True, "nas_stem_output_num_conv_filters": 20}
    flags = read_options(SYSTEM, {NAS: inner}, "")
    assert flags == read_options(SYSTEM, inner, "") != read_options(SYSTEM, {}, "")


def test_a_cell_may_be_a_file_or_json(tmp_path: Path) -> None:
    shapes = variable_lists()["x71_dpc"]
    cell = [{"op": "conv", "kernel": [3, 3], "rate": [1, index + 1], "input": -1} for index in range(5)]
    expected = _config(shapes, dense_prediction_cell_config=cell)
    (tmp_path / "cell.json").write_text(json.dumps(cell))
    assert _config(shapes, dense_prediction_cell_json=str(tmp_path / "cell.json")) == expected
    assert _config(shapes, dense_prediction_cell_json=json.dumps(cell)) == expected
    assert expected != _config(shapes)
    with pytest.raises(ValueError, match=r"dense_prediction_cell_json=.*none\.json: cannot be read: No such file"):
        _config(shapes, dense_prediction_cell_json=str(tmp_path / "none.json"))


WRONG_FLAGS: list[tuple[Options, str]] = [
    ({"output_strid": 8}, r"no model depends on an option 'output_strid'; did you mean output_stride\?"),
    ({"atrous_rate": "6,12,18"}, "did you mean atrous_rates"),
    ({"dataset_dir": "/data"}, "no model depends on an option 'dataset_dir'"),
    ({"nas_architecture_options": {"nas_stem": 20}}, "nas_stem"),
    ({"nas_architecture_options": "20"}, "must be a mapping of the flags nas_"),
    ({"output_stride": 7}, "output_stride=7: Input should be 8, 16 or 32"),
    ({"output_stride": "much"}, "output_stride='much'"),
    ({"atrous_rates": "6,twelve,18"}, r"atrous_rates\.1='twelve'"),
    ({"atrous_rates": "6,0,18"}, r"atrous_rates\.1"),
    ({"crop_size": "513,513,513"}, "crop_size"),
    ({"crop_size": "513,513,3"}, "crop_size"),
    ({"dataset": "coco"}, "dataset='coco'"),
    ({"merge_method": "min"}, "merge_method='min'"),
    ({"prediction_with_upsampled_logits": "false"}, "prediction_with_upsampled_logits"),
    ({"dense_prediction_cell_json": "[1]"}, "a dense prediction cell must be a list of branches"),
    ({"dense_prediction_cell_json": "[{"}, "not the JSON of a dense prediction cell"),
    ({"dense_prediction_cell_config": 5}, "dense_prediction_cell_config"),
    ({"dense_prediction_cell_config": [{"kernel": [1, 3]}]}, r"dense_prediction_cell_config\.0\.kernel"),
    (
        {"model_variant": "mobilenet"},
        "model_variant=mobilenet: unknown; known: .*mobilenet_v2.*nas_hnasnet.*xception_71",
    ),
    ({"image_pyramid": "0.5,-1"}, r"image_pyramid\.1"),
]


def test_wrong_flags_are_refused_in_one_line() -> None:
    for options, reason in WRONG_FLAGS:
        _refused(_light(), reason, **options)


# ---- contradictions


@cache
def _light() -> Arrays:
    """The smallest of the listed networks."""
    return {name: seeded(name, shape) for name, shape in variable_lists()["mnv3_small"].items()}


CONTRADICTED: list[tuple[str, Options, str]] = [
    ("mnv2_v3plus", {"atrous_rates": "6,12"}, r"3 atrous branches of ASPP, but atrous_rates is \(6, 12\)"),
    ("mnv2_v3", {"atrous_rates": "6,12,18"}, "0 atrous branches of ASPP"),
    ("r50_v2sum", {"atrous_rates": "6,12,18"}, "4 branches of logits: atrous_rates needs as many"),
    (
        "mnv2_v3plus",
        {"model_variant": "mobilenet_v3_large_seg"},
        "begin with MobilenetV3/, but there are Mobilenet",
    ),
    ("r50_v3", {"model_variant": "resnet_v1_50_beta"}, r"block1/unit_1/\S+ is \[1, 1, 64, 64\], not \[1, 1, 128, 64\]"),
    ("mnv3_small", {"model_variant": "mobilenet_v3_large_seg", "depth_multiplier": 1}, "weights"),
    ("mnv2_v3plus", {"num_classes": 20}, "num_classes=20, but its weights are those of num_classes=21"),
    ("mnv3_small", {"num_classes": 21}, "num_classes=21, but its weights are those of num_classes=19"),
    ("mnv2_v3plus", {"dataset": "cityscapes"}, "dataset=cityscapes has 19 classes, but the model has 21"),
    ("mnv2_v3plus", {"depth_multiplier": 0.5}, "another shape"),
    ("mnv2_dm05", {"depth_multiplier": 1}, "another shape"),
    ("mnv2_v3plus", {"decoder_output_stride": "8"}, "another shape"),
    ("mnv2_v3plus", {"decoder_output_stride": "8,4"}, "1 decoder stages, but decoder_output_stride is"),
    ("mnv2_dec_8_4", {"decoder_output_stride": "4,8"}, "must be in descending order"),
    ("mnv2_v3", {"decoder_output_stride": "4"}, "the network has no decoder"),
    (
        "mnv2_v3plus",
        {"decoder_filters": 128},
        "decoder_filters=128, but its weights are those of decoder_filters=256",
    ),
    ("mnv2_v3plus", {"decoder_use_separable_conv": "false"}, "decoder_use_separable_conv=True$"),
    ("mnv2_v3plus", {"decoder_use_sum_merge": "true"}, "decoder_use_sum_merge=False$"),
    ("mnv2_v3plus", {"decoder_output_is_logits": True}, "decoder_output_is_logits=False$"),
    ("mnv2_v3plus", {"aspp_convs_filters": 128}, "aspp_convs_filters=256$"),
    ("mnv2_v3plus", {"aspp_with_separable_conv": False}, "aspp_with_separable_conv=True$"),
    ("mnv2_v3plus", {"aspp_with_batch_norm": False}, "aspp_with_batch_norm=True$"),
    ("mnv2_v3plus", {"aspp_with_concat_projection": False}, "aspp_with_concat_projection=True$"),
    ("mnv2_v3plus", {"aspp_with_squeeze_and_excitation": True}, "aspp_with_squeeze_and_excitation=False$"),
    ("mnv2_v3plus", {"add_image_level_feature": False}, "add_image_level_feature=True$"),
    ("r50_v2sum", {"aspp_with_batch_norm": True}, "aspp_with_batch_norm=False$"),
    ("r50_v2sum", {"logits_kernel_size": 1}, "logits_kernel_size=3$"),
    ("hnas_F32_head", {"nas_use_classification_head": False}, "weights"),
    ("hnas", {"output_stride": 16}, "output_stride=16: auto_deeplab_s has 8"),
    ("hnas", {"nas_stem_output_num_conv_filters": 32}, "another shape"),
    ("pnas", {"output_stride": 8}, "another shape"),
    ("r50b_v3plus", {"multi_grid": "1,2"}, "has 3 units"),
    ("x71_dpc", {"output_stride": 32}, "output_stride=32"),
    ("x71_dpc", {"dense_prediction_cell_config": BRANCHES}, "a cell of 5 branches, but the one described has 3"),
    ("edgetpu", {"decoder_output_stride": 4}, "the network has no decoder"),
]


def test_flags_that_contradict_the_weights_are_refused() -> None:
    for key, options, reason in CONTRADICTED:
        _refused(empty_arrays(variable_lists()[key]), reason, **options)


def _with(**arrays: Any) -> Arrays:  # noqa: ANN401
    return {**_light(), **{name.replace("__", "/"): np.asarray(array) for name, array in arrays.items()}}


def test_a_missing_variable_is_named() -> None:
    for name in ("MobilenetV3/Conv/BatchNorm/gamma", "decoder/decoder_conv0/biases", "aspp0/BatchNorm/moving_mean"):
        arrays = {key: array for key, array in _light().items() if key != name}
        _refused(arrays, f"the arrays: missing 1 weight of the model: {name}$")


def test_of_many_missing_variables_five_are_named() -> None:
    arrays = {key: array for key, array in _light().items() if "expanded_conv_3/" not in key}
    _refused(arrays, r"missing 19 weights of the model: (MobilenetV3/expanded_conv_3/\S+, ){4}\S+ and 14 more$")


def test_a_variable_of_another_shape_is_named() -> None:
    _refused(_with(aspp0__BatchNorm__gamma=np.ones(127)), r"aspp0/BatchNorm/gamma is \[127\], not \[128\]$")
    _refused(_with(aspp0__BatchNorm__gamma=np.float32(1)), r"aspp0/BatchNorm/gamma is \[\], not \[128\]$")
    _refused(_with(aspp0__weights=np.float32(1)), r"aspp0/weights is \[\]: a convolution's weights must have four")
    _refused(_with(aspp0__weights=np.ones((288, 128))), r"aspp0/weights is \[288, 128\]: a convolution")
    _refused(_with(aspp0__weights=np.ones((1, 1, 128, 288))), "another shape")
    _refused(_with(aspp0__weights=np.ones((1, 1, 288, 0))), "head_channels=0")


def test_weights_that_look_like_a_part_of_a_model_are_not_ignored() -> None:
    _refused(_with(decoder__decoder_conv1__weights=np.ones((1, 1, 2, 2))), "1 weight without a place .*decoder_conv1")
    _refused(_with(MobilenetV3__expanded_conv_11__bn=np.ones(3)), "place .*expanded_conv_11/bn$")
    many = {f"decoder__stage{index}": np.ones(1) for index in range(9)}
    _refused(_with(**many), r"9 weights without a place .*: decoder/stage0, .*, decoder/stage4 and 4 more$")


def test_two_networks_at_once_are_refused() -> None:
    other = {name: shape for name, shape in variable_lists()["r18"].items() if name.startswith("resnet_v1_18/")}
    both = empty_arrays(variable_lists()["mnv2_v3"] | other)
    _refused(both, "several networks at once; model_variant= picks one of mobilenet_v2, resnet_v1_18$")
    _refused(both, "place in the model", model_variant="mobilenet_v2")


def test_half_a_network_is_refused() -> None:
    shapes = variable_lists()["mnv2_v3plus"]
    _refused(empty_arrays(without(shapes, "aspp", "logits", "concat", "image", "decoder")), "a backbone without a head")
    _refused(empty_arrays(without(shapes, "MobilenetV2/")), "weights of no known system")
    _refused(empty_arrays(without(shapes, "decoder/decoder_conv")), "a decoder without convolutions")
    _refused(empty_arrays(without(shapes, "decoder/feature")), "place in the model .*decoder_conv0")
    _refused(empty_arrays(without(shapes, "logits/")), "weights")
    _refused(empty_arrays(without(shapes, "aspp2_")), "ASPP with 2 rates, which the weights don't show: atrous_rates=")
    _refused(empty_arrays(without(shapes, "aspp2_")), "weights", atrous_rates="6,18")


def test_logits_of_one_3x3_need_their_rate() -> None:
    model = _model(7, **HALF_V2, rates=(4,))
    _refused(dict(checkpoint(model)), "1 branches of logits: atrous_rates needs as many rates")
    assert torch.equal(
        _logits(convert(checkpoint(model), options={"atrous_rates": 4, "output_stride": 8}).model), _logits(model)
    )


def test_a_single_class_is_refused() -> None:
    shapes = variable_lists()["mnv2_v3"] | {"logits/semantic/weights": (1, 1, 256, 1), "logits/semantic/biases": (1,)}
    _refused(empty_arrays(shapes), "it has a single class, which is not read from this program")


def test_weights_that_are_not_finite_are_named() -> None:
    for value in (np.nan, np.inf, -np.inf, 1e39):
        variance = np.full(128, 1.0)
        variance[7] = value
        _refused(
            _with(aspp0__BatchNorm__moving_variance=variance),
            "1 weight not finite in float32: aspp0/BatchNorm/moving_variance$",
        )


def test_broken_slots_of_an_optimiser_do_no_harm() -> None:
    assert conversion(_with(aspp0__weights__Momentum=np.full((1, 1, 288, 128), np.nan))).num_used == len(_light())


def test_another_network_under_the_same_names_is_told() -> None:
    """Such as MOSAIC, whose layers are called as MobileNetV3's."""
    wider = {name: np.zeros((*array.shape[:-1], array.shape[-1] + 8), np.float32) for name, array in _light().items()}
    assert_refused(wider, r"another network under the names of mobilenet_v3_small_seg: \d+ of \d+ weights have another")


# ---- weights that are no part of the model


def test_every_variable_is_used_or_listed_as_left_by_a_training() -> None:
    counters = ("global_step", "beta1_power", "beta2_power", "fake_quantization_step", "good_steps", "save_counter")
    left: Arrays = {name: np.array(7) for name in counters}
    for name, array in _light().items():
        left |= {f"{name}/{slot}": array for slot in ("Momentum", "Adam", "Adam_1", "ExponentialMovingAverage")}
    left |= {
        "MobilenetV3/Conv/weights_quant/min": np.array(0.0),
        "MobilenetV3/Conv/act_quant/max/biased": np.array(0.0),
    }
    done = conversion({**_light(), **left})
    assert done.unused == sorted(left)
    assert done.num_used == len(_light())
    plain = conversion(_light()).segmenter.model
    assert torch.equal(_logits(done.segmenter.model), _logits(plain))


def test_flags_replace_assumptions() -> None:
    assumptions = conversion(_light()).assumptions
    assert [text.partition("=")[0].partition(",")[0] for text in assumptions] == [
        "output_stride",
        "image_pooling_crop_size",
        "the 19 classes are those of cityscapes (set dataset",
    ]
    flags = {"output_stride": 32, "image_pooling_crop_size": "769,769", "dataset": "cityscapes"}
    assert conversion(_light(), options=flags).assumptions == []


@pytest.mark.parametrize(
    ("variant", "assumption", "options"),
    [
        ("decoder 8", "atrous_rates: those of the output stride", {"atrous_rates": "6,12,18"}),
        ("v2", "atrous_rates: (6, 12, 18, 24)", {"atrous_rates": "6,12,18,24"}),
        ("resnet 18", "multi_grid=1,1,1 (the original's default)", {"multi_grid": "1,2"}),
        ("cell", "dense_prediction_cell_json: the released cell", RELEASED),
    ],
)
def test_an_assumption_is_reported_unless_a_flag_decides(variant: str, assumption: str, options: Options) -> None:
    arrays = checkpoint(_variant(variant))
    without_flag, with_flag = (conversion(arrays, options=chosen).assumptions for chosen in ({}, options))
    assert set(without_flag) - set(with_flag) == {assumption}


# ---- graphs, which show more


def test_what_a_graph_shows_is_used_unless_a_flag_outranks_it() -> None:
    hints = Hints(output_stride=8, atrous_rates=(2, 4, 6))
    weights = ForeignWeights("a graph", _plus(), hints, input_size=(65, 97), normalization=((100.0,), (50.0,)))
    done = convert_weights(weights, None, {})
    model, inference = done.segmenter.model, done.segmenter.inference
    assert model.config.output_stride == 8
    assert model.config.model_dump()["aspp"]["rates"] == (2, 4, 6)
    assert (inference.mode, inference.window) == ("canvas", (65, 97))
    assert model.mean == (100, 100, 100)
    assert (
        not _logits(model, torch.full((1, 3, 33, 33), 100)).sub(_logits(model, torch.full((1, 3, 33, 33), 100.0))).any()
    )
    assert model.scale.flatten().tolist() == [50, 50, 50]
    assert not any("stride" in text or "rates" in text for text in done.assumptions)
    other = convert_weights(weights, None, {"output_stride": 16, "atrous_rates": "1,2,3", "crop_size": "33,33"})
    assert other.segmenter.model.config.output_stride == 16
    assert other.segmenter.model.config.model_dump()["aspp"]["rates"] == (1, 2, 3)
    assert other.segmenter.inference.window == (33, 33)


# ---- anything else gives an error of the user's, or a model


NAMES = sorted(variable_lists()["r18b"])
SIZES = st.lists(st.integers(0, 40), max_size=5).map(tuple)


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_random_damage_gives_an_error_in_one_line(data: st.DataObject) -> None:
    shapes = dict(variable_lists()["r18b"])
    for _ in range(data.draw(st.integers(1, 3))):
        name = data.draw(st.sampled_from(sorted(shapes)))
        shape = shapes.pop(name)
        kind = data.draw(st.sampled_from(["removed", "renamed", "reshaped", "extended"]))
        if kind == "renamed":
            shapes[data.draw(st.sampled_from(NAMES) | st.text(max_size=12)) + "_"] = shape
        elif kind == "reshaped":
            shapes[name] = data.draw(SIZES.filter(partial(ne, shape)))
        elif kind == "extended":
            shapes[name] = (*shape, 1)
    with pytest.raises(AtrousError) as error:
        convert(empty_arrays(shapes))
    assert "\n" not in str(error.value)


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 40),
    st.floats(-2, 4),
    st.sampled_from(
        ["", "true", "6,12,18", "8,4", "[", "a", "513,513", "cityscapes", "mobilenet_v2", "resnet_v1_18_beta"]
    ),
    st.lists(st.integers(-1, 20), max_size=4),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)
FLAGS = sorted({*Flags.model_fields, NAS})


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(st.sampled_from(FLAGS), VALUES, min_size=1, max_size=3))
def test_random_flags_give_a_model_or_an_error_in_one_line(options: Options) -> None:
    try:
        segmenter = convert(empty_arrays(variable_lists()["r18b"]), options=options)
    except AtrousError as error:
        assert "\n" not in str(error)
    else:
        assert segmenter.model.num_classes == 21
