"""What holds for every row of MODELS, each on one small backbone, and for every row of BACKBONES, under DeepLab v3."""

from functools import cache

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from atrous.backbones import BACKBONES
from atrous.models import MODELS, AnyModelConfig, Model, ModelConfig, build
from atrous.types import Outputs

NARROW: dict[str, object] = {"backbone": "mobilenet_v2", "depth_multiplier": 0.25}
SMALL: dict[str, dict[str, object]] = {  # a model without a row is built upon NARROW
    "deeplab_v1": {},
    "deeplab_v3": {**NARROW, "aspp_channels": 8},
    "deeplab_v3plus": {**NARROW, "aspp_channels": 8, "decoder_channels": 8},
    "dense_prediction_cell": {**NARROW, "cell_channels": 8, "decoder_channels": 8},
    "lraspp": {"backbone": "mobilenet_v3_small_seg", "depth_multiplier": 0.25, "aspp_channels": 8},
    "icnet": {**NARROW, "pyramid_channels": 8, "fusion_channels": 8},
    "encnet": {**NARROW, "head_channels": 8, "num_codewords": 4, "auxiliary_channels": 8},
    "ccnet": {**NARROW, "head_channels": 8, "key_channels": 2, "auxiliary_channels": 8},
    "danet": {**NARROW, "head_channels": 8, "key_channels": 2},
    "ocnet": {**NARROW, "head_channels": 8, "auxiliary_channels": 8},
    "image_classifier": {**NARROW, "head_channels": 8},
}
# of the logits, unless the output stride
STRIDES = {"deeplab_v3plus": 4, "dense_prediction_cell": 4, "lraspp": 8, "icnet": 8}
OUTPUT_STRIDES = {"deeplab_v1": (8,), "dense_prediction_cell": (8, 16), "icnet": (32,)}
NETWORKS = [(name, stride) for name in MODELS for stride in OUTPUT_STRIDES.get(name, (8, 16, 32))]
COUNTS = [  # measured on the originals
    ("deeplab_v3", {"rates": ()}, 21, 2_113_557),
    ("deeplab_v3", {"rates": (), "depth_multiplier": 0.5}, 21, 697_013),
    ("deeplab_v3plus", {"rates": (6, 12, 18)}, 21, 2_725_573),
    ("deeplab_v3plus", {"rates": ()}, 151, 2_304_519),
    ("deeplab_v3plus", {"rates": (6, 12, 18), "separable": False}, 21, 5_821_813),
]


def _config(**settings: object) -> ModelConfig:
    config: ModelConfig = TypeAdapter(AnyModelConfig).validate_python(settings)
    return config


def _small(name: str, **settings: object) -> ModelConfig:
    return _config(**({"name": name} | SMALL.get(name, NARROW) | settings))


@cache
def _built(name: str) -> Model:
    torch.manual_seed(0)
    model = build(_small(name), 5).eval()
    for key, parameter in model.named_parameters():
        if key.endswith((".gamma", ".output.weight")):  # attentions begin at 0: nothing behind them would be reached
            torch.nn.init.normal_(parameter)
    return model


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> Model:
    return _built(request.param).eval()


def _images(batch: int, height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (batch, 3, height, width), dtype=torch.uint8, generator=generator)


def _grid(name: str, output_stride: int, size: tuple[int, int]) -> tuple[int, int]:
    stride = STRIDES.get(name, output_stride)
    return (1, 1) if name == "image_classifier" else (-(-size[0] // stride), -(-size[1] // stride))


def _all_logits(outputs: Outputs) -> list[Tensor]:
    """All that a loss may ask of a model."""
    return [outputs.semantic, *outputs.heads.values()]


def _unreached(model: Model) -> list[str]:
    """The parameters that the logits do not depend on, after `backward`."""
    return [key for key, p in model.named_parameters() if p.grad is None or not (p.is_meta or p.grad.any())]


def test_bytes_and_floats_give_the_same_logits_again_and_again(model: Model) -> None:
    images = _images(2, 33, 47)
    with torch.no_grad():
        outputs = model(images)
        assert torch.equal(outputs.semantic, model(images.float()).semantic)
        assert torch.equal(outputs.semantic, model(images).semantic)
    assert isinstance(outputs, Outputs)
    assert outputs.semantic.dtype == torch.float32
    assert tuple(outputs.heads) == model.heads


def test_training_reaches_every_parameter_and_returns_the_same_type(model: Model) -> None:
    outputs = model.train()(_images(2, 33, 47))
    assert isinstance(outputs, Outputs)
    torch.autograd.backward([logits.logsumexp(1).sum() for logits in _all_logits(outputs)])
    unreached = [key for key in _unreached(model) if not key.endswith(".key.bias")]  # a softmax is blind to it
    model.zero_grad()
    assert unreached == []


def test_the_mean_colour_becomes_zero(model: Model) -> None:
    seen: list[Tensor] = []
    hook = model.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        model(torch.tensor(model.mean).view(1, 3, 1, 1).expand(1, 3, 8, 8))
    hook.remove()
    assert not seen[0].any()


@pytest.mark.parametrize(("name", "output_stride"), NETWORKS)
def test_logits_lie_on_the_models_own_grid(name: str, output_stride: int) -> None:
    with torch.device("meta"):
        model = build(_small(name, output_stride=output_stride), 5).eval()
        semantic = model(torch.zeros(2, 3, 33, 50)).semantic
    assert semantic.shape == (2, 5, *_grid(name, output_stride, (33, 50)))
    assert model.config.logits_stride == STRIDES.get(name, output_stride)


@pytest.mark.parametrize("backbone", sorted(BACKBONES.keys() - {"icnet_resnet50"}))  # c5 of one branch: test_icnet
def test_every_backbone_carries_a_head_that_reaches_all_of_it(backbone: str) -> None:
    output_stride = 16 if 16 in BACKBONES[backbone].output_strides else 8
    with torch.device("meta"):
        model = build(_config(name="deeplab_v3", backbone=backbone, output_stride=output_stride), 5)
        semantic = model(torch.zeros(2, 3, 33, 50)).semantic
    assert semantic.shape == (2, 5, *_grid("deeplab_v3", output_stride, (33, 50)))
    torch.autograd.backward(semantic.sum())
    assert _unreached(model) == []


@settings(max_examples=15, deadline=None)
@given(st.sampled_from(sorted(MODELS)), st.tuples(st.integers(1, 70), st.integers(1, 70)))
@example("deeplab_v1", (1, 1))
@example("deeplab_v2", (1, 1))
@example("deeplab_v3", (1, 1))
@example("deeplab_v3plus", (1, 1))
@example("dense_prediction_cell", (1, 1))
@example("lraspp", (1, 1))
@example("icnet", (1, 1))
@example("encnet", (1, 1))
@example("ccnet", (1, 1))
@example("danet", (1, 1))
@example("ocnet", (1, 1))
@example("image_classifier", (1, 1))
def test_any_image_size_works(name: str, size: tuple[int, int]) -> None:
    model = _built(name)
    with torch.no_grad():
        semantic = model.eval()(_images(1, *size)).semantic
    assert semantic.shape == (1, 5, *_grid(name, model.config.output_stride, size))
    assert semantic.isfinite().all()


@pytest.mark.parametrize(("name", "settings", "num_classes", "count"), COUNTS)
def test_parameter_counts(name: str, settings: dict[str, object], num_classes: int, count: int) -> None:
    with torch.device("meta"):
        model = build(_config(name=name, backbone="mobilenet_v2", **settings), num_classes)
    assert sum(parameter.numel() for parameter in model.parameters()) == count


@pytest.mark.parametrize("name", MODELS)
def test_the_same_weights_fit_every_output_stride_and_every_rate(name: str) -> None:
    with torch.device("meta"):
        networks = [build(_small(name, output_stride=stride), 5) for known, stride in NETWORKS if known == name]
    shapes = [{key: tensor.shape for key, tensor in network.state_dict().items()} for network in networks]
    assert all(found == shapes[0] for found in shapes)


@pytest.mark.parametrize(("output_stride", "rates"), [(8, (12, 24, 36)), (16, (6, 12, 18)), (32, (3, 6, 9))])
@pytest.mark.parametrize("name", ["deeplab_v3", "deeplab_v3plus"])
def test_rates_follow_the_output_stride(name: str, output_stride: int, rates: tuple[int, ...]) -> None:
    with torch.device("meta"):
        model = build(_small(name, output_stride=output_stride), 5)
    found = [model.get_submodule(f"aspp.branches.{i}.depthwise.conv").dilation[0] for i in (1, 2, 3)]  # type: ignore[index]
    assert tuple(found) == rates


def test_a_model_in_double_precision_takes_bytes(model: Model) -> None:
    assert model.double()(_images(1, 16, 16)).semantic.dtype == torch.float64
    model.float()


def test_channels_last_changes_nothing() -> None:
    model, images = _built("deeplab_v3plus").eval(), _images(1, 40, 56)
    with torch.no_grad():
        expected = model(images).semantic
        found = model(images.contiguous(memory_format=torch.channels_last)).semantic
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_what_makes_the_logits_is_named(model: Model) -> None:
    with torch.device("meta"):
        other = build(model.config, 7).state_dict()
    differ = {
        name.partition(".")[0] for name, weight in model.state_dict().items() if weight.shape != other[name].shape
    }
    assert differ == set(model.logit_modules)


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 1, 8, 8), (1, 8, 8, 3)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"images must be \[B, 3, H, W\]"):
        _built("deeplab_v3")(torch.zeros(shape))


def test_one_class_is_refused() -> None:
    with pytest.raises(ValueError, match="1 classes: a model must choose"):
        build(_config(name="deeplab_v3"), 1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"backbone": "resnet5O"}, "did you mean resnet50"),
        ({"backbone": "resnet50", "depth_multiplier": 0.5}, "depth_multiplier 0.5 is not for resnet50"),
        ({"multi_grid": (1, 2, 4)}, "multi_grid .* is not for mobilenet_v2"),
        ({"output_stride": 12}, "8, 16 or 32"),
        ({"num_classes": 1}, "greater than or equal to 2"),
        ({"depth_multiplier": 0.0}, "greater than 0"),
        ({"rates": (6, 0)}, "greater than 0"),
        ({"atrous_rates": (6,)}, "Extra inputs"),
        ({"name": "deeplab_v9"}, "deeplab_v3"),
        ({"squeeze": "relu"}, "'none', 'sigmoid' or 'hard_sigmoid'"),
        ({"image_pyramid": ()}, "at least 1 item"),
        ({"image_pyramid": (0.5, 0.0)}, "greater than 0"),
        ({"merge": "sum"}, "'max' or 'mean'"),
        ({"pooling_window": (0, 33)}, "greater than 0"),
        ({"name": "deeplab_v1", "output_stride": 16}, "should be 8"),
        ({"name": "deeplab_v1", "backbone": "resnet50"}, "'vgg16'"),
        ({"name": "deeplab_v1", "variant": "5x5"}, "'large_fov', '7x7' or '4x4'"),
        ({"name": "deeplab_v2", "kernel": 2}, "1, 3, 5 or 7"),
        ({"name": "deeplab_v2", "rates": ()}, "at least 1 item"),
        ({"name": "deeplab_v3plus", "decoder_strides": (4, 8)}, r"\(4, 8\): coarsest first, such as \(8, 4\)"),
        ({"name": "deeplab_v3plus", "decoder_strides": (4, 4)}, "coarsest first"),
        ({"name": "deeplab_v3plus", "decoder_strides": ()}, "at least 1 item"),
        ({"name": "deeplab_v3plus", "decoder_strides": (2,)}, "4, 8 or 16"),
        ({"name": "dense_prediction_cell", "output_stride": 32}, "8 or 16"),
        ({"name": "dense_prediction_cell", "cell": ()}, "at least 1 item"),
        ({"name": "dense_prediction_cell", "cell": ({"kernel": 5},)}, "1 or 3"),
        ({"name": "dense_prediction_cell", "cell": ({"rate": (0, 1)},)}, "greater than 0"),
        ({"name": "dense_prediction_cell", "cell": ({"op": "max_pooling"},)}, "'conv' or 'pyramid_pooling'"),
        ({"name": "dense_prediction_cell", "decoder_logits": True, "decoder_strides": ()}, "no decoder to make them"),
        ({"name": "lraspp", "squeeze": "none"}, "'sigmoid' or 'hard_sigmoid'"),
        ({"name": "lraspp", "decoder_stride": 32}, "4, 8 or 16"),
        ({"name": "image_classifier", "head_channels": 0}, "greater than 0"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        _config(**({"name": "deeplab_v3"} | settings))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "deeplab_v3plus", "backbone": "mobilenet_edgetpu"}, "no decoder at stride 4.* for one nowhere"),
        (
            {"name": "deeplab_v3plus", "backbone": "vgg16", "output_stride": 8, "decoder_strides": (8, 4)},
            r"no decoder at stride 8: this backbone has features for one only at \[4\]",
        ),
        ({"name": "lraspp", "backbone": "mobilenet_edgetpu"}, "no decoder at stride 8"),
        ({"name": "deeplab_v3", "squeeze": "sigmoid", "projection": False}, r"wants rates=\(\): 1024 channels"),
        ({"name": "deeplab_v3", "squeeze": "sigmoid", "image_level": False}, "squeeze=sigmoid without image_level"),
        ({"name": "dense_prediction_cell", "cell": ({}, {"input": 1})}, "branch 1 .* an earlier branch .* not 1"),
        ({"name": "dense_prediction_cell", "cell": ({"input": -2},)}, "branch 0 .* takes -1 or .* not -2"),
    ],
)
def test_parts_that_do_not_fit_are_refused(settings: dict[str, object], message: str) -> None:
    with torch.device("meta"), pytest.raises(ValueError, match=message) as error:
        build(_config(**settings), 5)
    assert "\n" not in str(error.value)


def test_settings_are_read_from_text() -> None:
    config = _config(name="deeplab_v3plus", backbone="resnet50", output_stride="8", rates="2,4", multi_grid="1,2,4")
    assert isinstance(config, MODELS["deeplab_v3plus"].Config)
    assert config.model_dump(include={"output_stride", "rates", "multi_grid"}) == {
        "output_stride": 8,
        "rates": (2, 4),
        "multi_grid": (1, 2, 4),
    }
