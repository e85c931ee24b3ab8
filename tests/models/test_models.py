"""What holds for every row of MODELS and each of its variants, and for every row of BACKBONES under DeepLab v3."""

import copy
from collections.abc import Iterator
from functools import cache
from typing import Any, Literal, get_args, get_origin

import annotated_types
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError
from torch import Tensor

from atrous.backbones import BACKBONES, FAMILIES
from atrous.errors import ConfigError
from atrous.layers.aspp import ASPPConfig
from atrous.layers.decoder import DecoderConfig
from atrous.layers.dense_prediction_cell import Branch
from atrous.layers.resize import image_size
from atrous.models import MODELS, Model, build
from atrous.ops import upsample_argmax
from atrous.types import Facts, Outputs
from tests.models.conftest import (
    IMAGES,
    LABELS,
    SMALL,
    VARIANTS,
    all_logits,
    config_of,
    learn,
    main_logits,
    num_parameters,
    on_meta,
    random_images,
    small,
    terms,
    without_gradient,
)

# of the logits, unless it is the output stride
STRIDES = {
    "deeplab_v3plus": 4,
    "dense_prediction_cell": 4,
    "lraspp": 8,
    "icnet": 8,
    "panoptic_deeplab": 4,
    "panoptic_deeplab_semantic": 4,
}
TASKS = {"image_classifier": "classification", "panoptic_deeplab": "panoptic"}  # of all others: semantic
OUTPUT_STRIDES = {"deeplab_v1": (8,), "dense_prediction_cell": (8, 16), "icnet": (32,)}
NETWORKS = [(name, stride) for name in MODELS for stride in OUTPUT_STRIDES.get(name, (8, 16, 32))]
# Variants for which training on 33 x 47 pixels or 16 steps is no trial: large, or one cell for an image.
LARGE = ("deeplab_v1", "deeplab_v1, side branches", "icnet, its own backbone")
SEMSEG = ("fcn", "pspnet", "psanet")
LEARNING = [
    variant
    for variant, (name, _) in VARIANTS.items()
    if SMALL[name].get("backbone") == "resnet_tiny" and variant not in (*LARGE, "icnet, mobilenet", "fcn, one head")
]


@cache
def _built(variant: str) -> Model:
    name, chosen = VARIANTS[variant]
    model = small(name, 5, **chosen)
    for key, parameter in model.named_parameters():
        if key.endswith((".gamma", ".output.weight")):  # attentions begin at 0: nothing behind them would be reached
            torch.nn.init.normal_(parameter)
    return model


@pytest.fixture(params=VARIANTS)
def model(request: pytest.FixtureRequest) -> Model:
    return _built(request.param).eval()


def _grid(model: Model, size: tuple[int, int]) -> tuple[int, ...]:
    """Height and width of the map of classes; a classifier of whole images has none."""
    stride = model.config.logits_stride
    return () if model.task == "classification" else (-(-size[0] // stride), -(-size[1] // stride))


def test_every_model_is_tried() -> None:
    assert {name for name, _ in VARIANTS.values()} == SMALL.keys() == MODELS.keys()


# ---- the networks


def test_bytes_and_floats_give_the_same_logits_each_time(model: Model) -> None:
    images = random_images(2, 33, 47)
    with torch.no_grad():
        outputs = model(images)
        assert torch.equal(main_logits(outputs), main_logits(model(images.float())))
        assert torch.equal(main_logits(outputs), main_logits(model(images)))
    assert isinstance(outputs, Outputs)
    assert main_logits(outputs).dtype == torch.float32
    assert tuple(outputs.heads) == model.heads


def test_training_reaches_every_parameter_and_returns_the_same_type(model: Model) -> None:
    outputs = model.train()(random_images(2, 65, 97))
    assert isinstance(outputs, Outputs)
    torch.autograd.backward([logits.logsumexp(1).sum() for logits in all_logits(outputs)])
    unreached = [key for key in without_gradient(model) if not key.endswith(".key.bias")]  # a softmax is blind to it
    model.zero_grad()
    assert unreached == []


@pytest.mark.parametrize("variant", LEARNING)
def test_two_pictures_are_learnt_by_heart(variant: str) -> None:
    name, chosen = VARIANTS[variant]
    model = small(name, **{**chosen, "dropout": 0.0} if name != "icnet" else chosen)
    assert set(terms(model)) == {"semantic", *model.heads}
    losses = learn(model)
    assert losses[-1] < losses[0] / 2


@pytest.mark.parametrize("variant", [variant for variant in LEARNING if VARIANTS[variant][0] in SEMSEG])
def test_the_networks_of_semseg_predict_two_pictures_after_learning_them(variant: str) -> None:
    name, chosen = VARIANTS[variant]
    model = small(name, **{**chosen, "dropout": 0.0})
    learn(model, 40)
    with torch.no_grad():
        labels = upsample_argmax(model.eval()(IMAGES).semantic, image_size(LABELS), align_corners=True)
    assert (labels == LABELS).float().mean() > 0.95


@settings(max_examples=3, deadline=None)
@given(size=st.tuples(st.integers(1, 70), st.integers(1, 70)))
@example(size=(1, 1))
@example(size=(40, 7))
@pytest.mark.parametrize("variant", VARIANTS)
def test_any_image_size_works(variant: str, size: tuple[int, int]) -> None:
    model = _built(variant)
    with torch.no_grad():
        outputs = model.eval()(random_images(1, *size))
    assert main_logits(outputs).shape == (1, 5, *_grid(model, size))
    assert all(logits.isfinite().all() for logits in all_logits(outputs))


@pytest.mark.parametrize(("name", "output_stride"), NETWORKS)
def test_logits_lie_on_the_models_own_grid(name: str, output_stride: int) -> None:
    with torch.device("meta"):
        model = build(config_of(name, **{**SMALL[name], "output_stride": output_stride}), 5).eval()
        outputs = model(torch.zeros(2, 3, 33, 50))
    assert main_logits(outputs).shape == (2, 5, *_grid(model, (33, 50)))
    assert model.config.logits_stride == STRIDES.get(name, output_stride)
    if "auxiliary" in outputs.heads:
        c4 = min(16, output_stride)
        assert outputs.heads["auxiliary"].shape == (2, 5, -(-33 // c4), -(-50 // c4))


@pytest.mark.parametrize("backbone", sorted(BACKBONES.keys() - {"icnet_resnet50"}))  # c5 of one branch: test_icnet
def test_every_backbone_carries_a_head_that_reaches_all_of_it(backbone: str) -> None:
    strides = BACKBONES[backbone].Config(name=backbone).output_strides
    model = on_meta("deeplab_v3", 5, backbone=backbone, output_stride=16 if 16 in strides else 8)
    semantic = model(torch.zeros(2, 3, 33, 50, device="meta")).semantic
    assert semantic.shape == (2, 5, *_grid(model, (33, 50)))
    torch.autograd.backward(semantic.sum())
    assert without_gradient(model) == []


@pytest.mark.parametrize("name", MODELS)
def test_the_same_weights_fit_every_output_stride_and_every_rate(name: str) -> None:
    with torch.device("meta"):
        networks = [
            build(config_of(name, **{**SMALL[name], "output_stride": stride}), 5)
            for known, stride in NETWORKS
            if known == name
        ]
    shapes = [{key: tensor.shape for key, tensor in network.state_dict().items()} for network in networks]
    assert all(other == shapes[0] for other in shapes)


@pytest.mark.parametrize(("output_stride", "rates"), [(8, (12, 24, 36)), (16, (6, 12, 18)), (32, (3, 6, 9))])
@pytest.mark.parametrize("name", ["deeplab_v3", "deeplab_v3plus"])
def test_rates_follow_the_output_stride(name: str, output_stride: int, rates: tuple[int, ...]) -> None:
    model = on_meta(name, 5, **{**SMALL[name], "output_stride": output_stride})
    dilations = [model.get_submodule(f"aspp.branches.{i}.depthwise.conv").dilation[0] for i in (1, 2, 3)]  # type: ignore[index]
    assert tuple(dilations) == rates


def test_a_model_in_double_precision_takes_bytes(model: Model) -> None:
    assert main_logits(model.double()(random_images(1, 16, 16))).dtype == torch.float64
    model.float()


def test_channels_last_changes_nothing() -> None:
    model, images = _built("deeplab_v3plus").eval(), random_images(1, 40, 56)
    with torch.no_grad():
        expected = model(images).semantic
        semantic = model(images.contiguous(memory_format=torch.channels_last)).semantic
    torch.testing.assert_close(semantic, expected, rtol=1e-4, atol=1e-6)


def test_the_parts_that_make_the_logits_are_named(model: Model) -> None:
    with torch.device("meta"):
        other = build(model.config, 7).state_dict()
    differ = {
        name.partition(".")[0] for name, weight in model.state_dict().items() if weight.shape != other[name].shape
    }
    assert differ == set(model.logit_modules)


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 1, 8, 8), (1, 8, 8, 3)])
@pytest.mark.parametrize("scales", [(1.0,), (0.5, 1.0)])
def test_other_shapes_of_images_are_refused(shape: tuple[int, ...], scales: tuple[float, ...]) -> None:
    with pytest.raises(ConfigError, match=r"images must be \[B, 3, H, W\], RGB in 0\.\.255, got \["):
        small("deeplab_v3", image_pyramid=scales)(torch.zeros(shape))


def test_one_class_is_refused() -> None:
    with pytest.raises(ConfigError, match="num_classes must be at least 2, got 1"):
        build(config_of("deeplab_v3"), 1)


def test_parameter_counts() -> None:
    """Of the originals and the papers: model, its settings, classes, parameters."""
    large, little, edgetpu = "mobilenet_v3_large_seg", "mobilenet_v3_small_seg", "mobilenet_edgetpu"
    half, slim = {"name": "mobilenet_v2", "depth_multiplier": 0.5}, {"name": edgetpu, "depth_multiplier": 0.75}
    dense: dict[str, object] = {"output_stride": 8, "aspp": {"separable": False}}
    no_rates: dict[str, object] = {"aspp": {"rates": ()}}
    counts: list[tuple[str, dict[str, object], int, int]] = [
        ("deeplab_v3", {"backbone": "mobilenet_v2", **no_rates}, 21, 2_113_557),
        ("deeplab_v3", {"backbone": half, **no_rates}, 21, 697_013),
        ("deeplab_v3plus", {"backbone": "mobilenet_v2", "aspp": {"rates": (6, 12, 18)}}, 21, 2_725_573),
        ("deeplab_v3plus", {"backbone": "mobilenet_v2", **no_rates}, 151, 2_304_519),
        ("deeplab_v3plus", {"backbone": "mobilenet_v2", "aspp": {"separable": False}}, 21, 5_821_813),
        ("lraspp", {"backbone": large}, 19, 1_507_198),
        ("lraspp", {"backbone": little}, 19, 468_830),
        ("deeplab_v3", {"backbone": edgetpu, **no_rates}, 19, 3_603_283),
        ("deeplab_v3", {"backbone": slim, "aspp": {"rates": (), "channels": 128}}, 19, 1_942_187),
        ("deeplab_v3plus", {"backbone": "auto_deeplab_s", **dense}, 19, 10_147_427),  # the paper: 10.15 M
        ("deeplab_v3plus", {"backbone": "auto_deeplab_m", **dense}, 19, 21_622_451),  # 21.62 M
        ("deeplab_v3plus", {"backbone": "auto_deeplab_l", **dense}, 19, 44_424_691),  # 44.42 M
        ("deeplab_v3plus", {"backbone": "auto_deeplab_s", "output_stride": 8}, 21, 7_785_021),
        ("deeplab_v3plus", {"backbone": "pnasnet"}, 21, 2_571_205),
    ]
    for name, chosen, num_classes, count in counts:
        assert num_parameters(on_meta(name, num_classes, **chosen)) == count, (name, chosen)


def test_parameter_counts_with_running_statistics() -> None:
    """Of TensorFlow's networks (specs/tf-deeplab.md, section 2.3): classes, with statistics, learnt."""
    counts = {
        ("deeplab_v3", "resnet_v1_18"): (21, 12_200_661, 12_184_917),
        ("deeplab_v3", "resnet_v1_18_beta"): (21, 12_182_469, 12_166_597),
        ("deeplab_v3", "resnet_v1_50"): (21, 26_601_685, 26_533_205),
        ("deeplab_v3plus", "resnet_v1_50_beta"): (21, 26_891_013, 26_819_909),
        ("deeplab_v3plus", "resnet_v1_101_beta"): (21, 45_935_365, 45_812_037),
        ("deeplab_v3plus", "xception_41"): (21, 28_241_573, 28_108_661),
        ("deeplab_v3plus", "xception_65"): (21, 41_258_213, 41_055_413),
        ("dense_prediction_cell", "xception_71"): (19, 41_818_955, 41_608_523),
    }
    for (name, backbone), (num_classes, total, learnt) in counts.items():
        model = on_meta(name, num_classes, backbone=backbone)
        norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
        assert num_parameters(model) == learnt, backbone
        assert num_parameters(model) + 2 * sum(norm.num_features for norm in norms) == total, backbone


# ---- what inference may know


def test_the_mean_colour_becomes_zero(model: Model) -> None:
    inputs: list[Tensor] = []
    hook = model.backbone.register_forward_pre_hook(lambda _, arguments: inputs.append(arguments[0]))
    with torch.no_grad():
        model(torch.tensor(model.facts.mean).view(1, 3, 1, 1).expand(1, 3, 8, 8))
    hook.remove()
    assert not inputs[0].any()


def test_facts_are_those_of_the_config(model: Model) -> None:
    config = model.config
    mean = tuple(torch.tensor(model.backbone.mean).tolist())
    assert model.facts == Facts(model.task, 5, mean, config.output_stride, config.logits_stride, "aligned_corners")


def test_each_model_has_its_task() -> None:
    assert {name: model.task for name, model in MODELS.items()} == {
        name: TASKS.get(name, "semantic") for name in MODELS
    }


@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_the_mean_follows_the_weights_that_are_loaded(assign: bool, device: str) -> None:
    if device == "meta" and not assign:
        pytest.skip("nothing can be copied to memory that is not there")
    with torch.device(device):
        model = build(config_of("fcn", **SMALL["fcn"]), 5)
    state = small("fcn", 5).state_dict()
    before = model.facts.mean
    model.load_state_dict({**state, "shift": torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1)}, assign=assign)
    assert before != model.facts.mean == (1.0, 2.0, 3.0)
    assert copy.deepcopy(model).facts == model.facts
    inside = torch.nn.ModuleDict({"network": copy.deepcopy(model)})
    inside.load_state_dict({f"network.{name}": value for name, value in state.items()})
    assert inside["network"].facts.mean == before
    assert model.facts.mean == (1.0, 2.0, 3.0)


def test_facts_do_not_read_the_weights() -> None:
    model = small("fcn")
    facts = model.facts
    assert model.to("meta").facts == facts


# ---- settings


def _wrong_values(annotation: Any, metadata: Any) -> Iterator[Any]:  # noqa: ANN401 - as pydantic has them
    """Values just outside what a field's type allows."""
    for limit in metadata:
        match limit:
            case annotated_types.Gt(bound) | annotated_types.Lt(bound):
                yield bound
            case annotated_types.Ge(int() | float() as bound):
                yield bound - 1
            case annotated_types.MinLen(length) if length:
                yield ()
            case _ if getattr(limit, "metadata", None):  # a Field within
                yield from _wrong_values(annotation, limit.metadata)
    if get_origin(annotation) is Literal:
        yield "nonsense"
    elif annotation is bool:
        yield "sometimes"
    elif annotation in (int, float) or (get_origin(annotation) is None and annotation is str):
        yield object()
    elif get_origin(annotation) is tuple:
        item = get_args(annotation)[0]
        count = 1 if Ellipsis in get_args(annotation) else len(get_args(annotation))
        yield from ((value,) * count for value in _wrong_values(*_split(item)))
    elif get_origin(annotation) is not None:  # a union
        options = [option for option in get_args(annotation) if option is not type(None)]
        if len(options) == 1:
            yield from _wrong_values(*_split(options[0]))


def _split(annotation: Any) -> tuple[Any, tuple[Any, ...]]:  # noqa: ANN401 - as pydantic has them
    metadata = getattr(annotation, "__metadata__", ())
    return (get_args(annotation)[0], metadata) if metadata else (annotation, ())


CONFIGS: list[type[BaseModel]] = [
    *(model.Config for model in MODELS.values()),
    *(family.Config for family in FAMILIES.values() if family.Config.names()),
    ASPPConfig,
    DecoderConfig,
    Branch,
]


@pytest.mark.parametrize("config", CONFIGS)
def test_values_outside_a_fields_type_and_unknown_keys_are_refused(config: type[BaseModel]) -> None:
    has_name = "name" in config.model_fields
    names = get_args(config.model_fields["name"].annotation) if has_name else ()
    least: dict[str, Any] = {"name": names[0]} if names else {}
    assert config.model_validate(least)
    with pytest.raises(ValidationError, match="Extra inputs"):
        config.model_validate({**least, "atrous_rates": (6,)})
    for name, field in config.model_fields.items():
        for value in _wrong_values(field.annotation, field.metadata):
            with pytest.raises(ValidationError) as error:
                config.model_validate({**least, name: value})
            assert error.value.errors()[0]["loc"][0] == name, (name, value)


def test_most_fields_are_tried() -> None:
    tried = {
        (config.__qualname__, name)
        for config in CONFIGS
        for name, field in config.model_fields.items()
        if list(_wrong_values(field.annotation, field.metadata))
    }
    assert len(tried) >= 130
    for known in (("FCN.Config", "dropout"), ("PSANet.Config", "mask_size"), ("ASPPConfig", "pooling_window")):
        assert known in tried


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("deeplab_v9", {}, "deeplab_v3"),
        ("deeplab_v3", {"backbone": "resnet5O"}, "does not match any of the expected tags"),
        ("icnet", {"backbone": "vgg16"}, "vgg16 has output_stride 8, not 32"),
        ("deeplab_v3", {"backbone": "vgg16"}, "vgg16 has output_stride 8, not 16"),
        ("deeplab_v2", {"backbone": "icnet_resnet50"}, "icnet_resnet50 has output_stride 32, not 8"),
        ("danet", {"backbone": {"name": "resnet_tiny", "multi_grid": (4, 8, 16)}}, "resnet_tiny has 1 units"),
        ("deeplab_v1", {"backbone": "resnet50"}, "'vgg16'"),
        ("deeplab_v1", {"output_stride": 16}, "should be 8"),
        ("icnet", {"output_stride": 8}, "should be 32"),
        (
            "deeplab_v3plus",
            {"decoder": {"strides": (4, 8)}},
            r"must be in descending order, such as \(8, 4\), got \(4, 8\)",
        ),
        ("deeplab_v3plus", {"decoder": {"strides": (4, 4)}}, "descending order"),
        ("deeplab_v3plus", {"decoder": {"strides": ()}}, "must not be empty: without a decoder, use deeplab_v3"),
        (
            "dense_prediction_cell",
            {"decoder": {"logits": True, "strides": ()}},
            "there is no decoder to compute the logits",
        ),
        ("lraspp", {"squeeze": "none"}, "'sigmoid', 'hard_sigmoid' or 'hard_sigmoid_6'"),
        (
            "deeplab_v3",
            {"backbone": {"name": "resnet18", "last_stage": "c4"}},
            "deeplab_v3 needs a whole backbone: set backbone.last_stage=c5",
        ),
        (
            "pspnet",
            {"backbone": {"name": "mobilenet_v2", "last_stage": "c3"}, "output_stride": 8},
            "no stage for a second head: set auxiliary_channels=none",
        ),
        ("pspnet", {"backbone": {"name": "resnet18", "last_stage": "c3"}, "output_stride": 16}, "has output_stride 8"),
        (
            "deeplab_v3plus",
            {"image_pyramid": (1.0, 0.5), "auxiliary_channels": 8},
            "needs a single output: set auxiliary_channels=none",
        ),
        (
            "deeplab_v3",
            {"image_pyramid": (0.5, 1), "auxiliary_channels": 8},
            "needs a single output: set auxiliary_channels=none",
        ),
        ("fcn", {"image_pyramid": (0.5, 1.0)}, "Extra inputs"),
        ("psanet", {"mask_size": (58, 59)}, "mask_size 58,59: sides must be odd, such as 59,59"),
    ],
)
def test_settings_that_contradict_one_another_are_refused_in_one_line(
    name: str, settings: dict[str, object], message: str
) -> None:
    with pytest.raises(ValidationError, match=message) as error:
        config_of(name, **settings)
    assert "\n" not in error.value.errors()[0]["msg"]


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("deeplab_v3plus", {"backbone": "mobilenet_edgetpu"}, "a decoder at stride 4 needs .* this backbone has none"),
        (
            "deeplab_v3plus",
            {"backbone": "vgg16", "output_stride": 8, "decoder": {"strides": (8, 4)}},
            r"a decoder at stride 8 needs low-level features: this backbone has them only at \[4\]",
        ),
        ("lraspp", {"backbone": "mobilenet_edgetpu"}, "a decoder at stride 8 needs"),
        (
            "deeplab_v3",
            {"aspp": {"squeeze": "sigmoid", "projection": False}},
            r"needs rates=\(\): gate of 256 channels, got 1024",
        ),
        (
            "deeplab_v3",
            {"aspp": {"squeeze": "sigmoid", "image_level": False}},
            "squeeze=sigmoid needs image_level=true",
        ),
        ("dense_prediction_cell", {"cell": ({}, {"input": 1})}, "branch 1 .* an earlier branch, got 1"),
        ("dense_prediction_cell", {"cell": ({"input": -2},)}, "branch 0 .* must be -1 or .* got -2"),
    ],
)
def test_parts_that_do_not_fit_are_refused(name: str, settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        on_meta(name, 5, **settings)
    assert "\n" not in str(error.value)


def test_settings_are_read_from_text() -> None:
    backbone = {"name": "resnet50", "multi_grid": "1,2,4"}
    config = config_of("deeplab_v3plus", backbone=backbone, output_stride="8", aspp={"rates": "2,4"})
    assert isinstance(config, MODELS["deeplab_v3plus"].Config)
    tree = config.model_dump()
    assert (tree["output_stride"], tree["aspp"]["rates"], tree["backbone"]["multi_grid"]) == (8, (2, 4), (1, 2, 4))


def test_settings_of_a_backbone_without_its_name_are_the_default_backbones() -> None:
    backbone = config_of("lraspp", backbone={"depth_multiplier": 0.5}).backbone.model_dump()
    assert (backbone["name"], backbone["depth_multiplier"]) == ("mobilenet_v3_large_seg", 0.5)


def test_a_model_holds_the_settings_that_it_reads() -> None:
    merging = {"deeplab_v1", "deeplab_v2", "deeplab_v3", "deeplab_v3plus", "dense_prediction_cell", "lraspp"}
    having = {
        field: {name for name, model in MODELS.items() if field in model.Config.model_fields}
        for field in ("image_pyramid", "merge", "align_corners", "aspp", "decoder")
    }
    assert having == {
        "image_pyramid": merging,
        "merge": merging,
        "align_corners": MODELS.keys() - {"image_classifier"},
        "aspp": {"deeplab_v3", "deeplab_v3plus"},
        "decoder": {"deeplab_v3plus", "dense_prediction_cell"},
    }


@pytest.mark.parametrize(
    ("name", "settings", "output_stride", "rates"),
    [
        ("deeplab_v3", {"aspp": {"rates": (2, 4)}}, 8, (4, 8)),
        ("deeplab_v3plus", {"aspp": {"rates": (2, 4)}}, 32, (1, 2)),
        ("deeplab_v3plus", {}, 8, None),
        ("deeplab_v2", {}, 16, (3, 6, 9, 12)),
    ],
)
def test_rates_that_are_set_are_scaled_with_the_output_stride(
    name: str, settings: dict[str, object], output_stride: int, rates: tuple[int, ...] | None
) -> None:
    tree = config_of(name, **settings).at_output_stride(output_stride)
    assert (tree["output_stride"], tree.get("aspp", tree)["rates"]) == (output_stride, rates)
    assert config_of(**tree).output_stride == output_stride


def test_rates_that_would_not_be_whole_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"rates \(6, 9\) at output stride 16 have no whole counterpart at 32"):
        config_of("deeplab_v3", aspp={"rates": (6, 9)}).at_output_stride(32)
