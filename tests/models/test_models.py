"""What holds for every row of MODELS on every row of BACKBONES."""

from functools import cache
from itertools import product

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from atrous.backbones import BACKBONES
from atrous.models import MODELS, AnyModelConfig, Model, ModelConfig, build
from atrous.types import Outputs

NETWORKS = list(product(MODELS, BACKBONES))
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


@pytest.fixture(scope="module", params=NETWORKS, ids="-".join)
def model(request: pytest.FixtureRequest) -> Model:
    torch.manual_seed(0)
    name, backbone = request.param
    return build(_config(name=name, backbone=backbone), 5)


def _images(batch: int, height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (batch, 3, height, width), dtype=torch.uint8, generator=generator)


def _grid(name: str, output_stride: int, size: tuple[int, int]) -> tuple[int, int]:
    stride = 4 if name == "deeplab_v3plus" else output_stride
    return -(-size[0] // stride), -(-size[1] // stride)


def test_bytes_and_floats_give_the_same_logits_again_and_again(model: Model) -> None:
    images = _images(2, 33, 47)
    with torch.no_grad():
        outputs = model.eval()(images)
        assert torch.equal(outputs.semantic, model(images.float()).semantic)
        assert torch.equal(outputs.semantic, model(images).semantic)
    assert isinstance(outputs, Outputs)
    assert outputs.semantic.dtype == torch.float32


def test_training_reaches_every_parameter_and_returns_the_same_type(model: Model) -> None:
    outputs = model.train()(_images(2, 33, 47))
    assert isinstance(outputs, Outputs)
    torch.autograd.backward(outputs.semantic.logsumexp(1).sum())
    unreached = [key for key, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    model.zero_grad()
    assert unreached == []


def test_the_mean_colour_becomes_zero(model: Model) -> None:
    seen: list[Tensor] = []
    hook = model.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        model.eval()(torch.tensor(model.mean).view(1, 3, 1, 1).expand(1, 3, 8, 8))
    hook.remove()
    assert not seen[0].any()


@pytest.mark.parametrize("output_stride", [8, 16, 32])
@pytest.mark.parametrize(("name", "backbone"), NETWORKS)
def test_logits_lie_on_the_models_own_grid(name: str, backbone: str, output_stride: int) -> None:
    with torch.device("meta"):
        model = build(_config(name=name, backbone=backbone, output_stride=output_stride), 5).eval()
        semantic = model(torch.zeros(2, 3, 33, 50)).semantic
    assert semantic.shape == (2, 5, *_grid(name, output_stride, (33, 50)))


@cache
def _small(name: str, backbone: str = "mobilenet_v2") -> Model:
    torch.manual_seed(0)
    width = 0.25 if backbone == "mobilenet_v2" else 1.0
    return build(_config(name=name, backbone=backbone, depth_multiplier=width, aspp_channels=8), 5).eval()


@settings(max_examples=10, deadline=None)
@given(
    st.sampled_from(sorted(MODELS)),
    st.sampled_from(["mobilenet_v2", "resnet_tiny"]),
    st.tuples(st.integers(1, 70), st.integers(1, 70)),
)
@example("deeplab_v3plus", "mobilenet_v2", (1, 1))
def test_any_image_size_works(name: str, backbone: str, size: tuple[int, int]) -> None:
    with torch.no_grad():
        semantic = _small(name, backbone)(_images(1, *size)).semantic
    assert semantic.shape == (1, 5, *_grid(name, 16, size))
    assert semantic.isfinite().all()


@pytest.mark.parametrize(("name", "settings", "num_classes", "count"), COUNTS)
def test_parameter_counts(name: str, settings: dict[str, object], num_classes: int, count: int) -> None:
    with torch.device("meta"):
        model = build(_config(name=name, **settings), num_classes)
    assert sum(parameter.numel() for parameter in model.parameters()) == count


@pytest.mark.parametrize("name", MODELS)
def test_the_same_weights_fit_every_output_stride_and_every_rate(name: str) -> None:
    with torch.device("meta"):
        shapes = [
            {
                key: tensor.shape
                for key, tensor in build(_config(name=name, output_stride=stride), 5).state_dict().items()
            }
            for stride in (8, 16, 32)
        ]
    assert shapes[0] == shapes[1] == shapes[2]


@pytest.mark.parametrize(("output_stride", "rates"), [(8, (12, 24, 36)), (16, (6, 12, 18)), (32, (3, 6, 9))])
@pytest.mark.parametrize("name", MODELS)
def test_rates_follow_the_output_stride(name: str, output_stride: int, rates: tuple[int, ...]) -> None:
    with torch.device("meta"):
        model = build(_config(name=name, output_stride=output_stride), 5)
    found = [model.get_submodule(f"aspp.branches.{i}.depthwise.conv").dilation[0] for i in (1, 2, 3)]  # type: ignore[index]
    assert tuple(found) == rates


@pytest.mark.parametrize("name", MODELS)
def test_a_model_in_double_precision_takes_bytes(name: str) -> None:
    model = _small(name).double()
    assert model(_images(1, 16, 16)).semantic.dtype == torch.float64
    model.float()


def test_channels_last_changes_nothing() -> None:
    model, images = _small("deeplab_v3plus"), _images(1, 40, 56)
    with torch.no_grad():
        expected = model(images).semantic
        found = model(images.contiguous(memory_format=torch.channels_last)).semantic
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 1, 8, 8), (1, 8, 8, 3)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"images must be \[B, 3, H, W\]"):
        _small("deeplab_v3")(torch.zeros(shape))


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
    ],
)
def test_bad_settings_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        _config(**({"name": "deeplab_v3"} | settings))


def test_settings_are_read_from_text() -> None:
    config = _config(name="deeplab_v3plus", backbone="resnet50", output_stride="8", rates="2,4", multi_grid="1,2,4")
    assert isinstance(config, MODELS["deeplab_v3plus"].Config)
    assert config.model_dump(include={"output_stride", "rates", "multi_grid"}) == {
        "output_stride": 8,
        "rates": (2, 4),
        "multi_grid": (1, 2, 4),
    }
