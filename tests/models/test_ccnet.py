"""CCNet: one criss-cross attention, again and again, beside c5."""

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from atrous.models import Model, build
from atrous.models.ccnet import CCNet
from tests.two_images import IMAGES, learn, terms, unreached


def _small(**settings: object) -> Model:
    torch.manual_seed(0)
    narrow = {"backbone": "resnet_tiny", "head_channels": 16, "key_channels": 2, "auxiliary_channels": 8}
    return build(CCNet.Config.model_validate(narrow | settings), 4)


def _conv(inp: int, out: int, kernel: int = 1) -> int:
    return kernel**2 * inp * out + 2 * out  # with its norm


@pytest.mark.parametrize("recurrences", [1, 2, 3])
def test_parameter_counts(recurrences: int) -> None:
    with torch.device("meta"):
        model = build(CCNet.Config(backbone="resnet101", recurrences=recurrences), 19)
    attention = 2 * (512 + 1) * 64 + (512 + 1) * 512 + 1  # query and key, value, gamma
    main = _conv(2048, 512, 3) + attention + _conv(512, 512, 3) + _conv(2048 + 512, 512, 3) + (512 + 1) * 19
    auxiliary = _conv(1024, 512, 3) + (512 + 1) * 19
    head = main + auxiliary
    backbone = sum(parameter.numel() for parameter in model.backbone.parameters())
    assert sum(parameter.numel() for parameter in model.parameters()) - backbone == head == 28_663_463


def test_what_it_is_by_default() -> None:
    config = CCNet.Config()
    assert (config.backbone, config.output_stride, config.recurrences) == ("resnet101s", 8, 2)
    assert config.head_channels == 8 * config.key_channels == 512


@pytest.mark.parametrize("size", [(1, 1), (8, 8), (33, 50), (40, 7)])
def test_any_size(size: tuple[int, int]) -> None:
    outputs = _small().eval()(torch.zeros(1, 3, *size))
    grid = -(-size[0] // 8), -(-size[1] // 8)
    assert outputs.auxiliary is not None
    assert outputs.semantic.shape == outputs.auxiliary.shape == (1, 4, *grid)
    assert outputs.semantic.isfinite().all()


@torch.no_grad()
@pytest.mark.parametrize("recurrences", [1, 2, 3])
def test_the_attention_is_applied_so_often(recurrences: int) -> None:
    model, fused = _small(recurrences=recurrences).eval(), list[Tensor]()
    nn.init.constant_(model.get_parameter("attention.gamma"), 0.5)
    model.get_submodule("fuse").register_forward_pre_hook(lambda _, inputs: fused.append(inputs[0]))
    model(IMAGES)
    c5 = model.features(IMAGES)["c5"]
    x = model.get_submodule("reduce")(c5)
    for _ in range(recurrences):
        x = model.get_submodule("attention")(x)
    torch.testing.assert_close(fused, [torch.cat([c5, model.get_submodule("refine")(x)], 1)])


def test_heads_have_leaky_relus_as_the_authors_program() -> None:
    model = _small()
    acts = [model.get_submodule(f"{part}.act") for part in ("reduce", "refine", "fuse")]
    assert [act.negative_slope for act in acts if isinstance(act, nn.LeakyReLU)] == [0.01] * 3


def test_training_reaches_every_parameter_once_gamma_has_left_0() -> None:
    model = _small()
    assert unreached(model) == [
        f"attention.{part}.{x}" for part in ("query", "key", "value") for x in ("weight", "bias")
    ]
    model.zero_grad()
    nn.init.constant_(model.get_parameter("attention.gamma"), 0.5)
    assert set(unreached(model)) <= {"attention.key.bias"}  # which adds as much to all energies: rounding reaches it
    assert set(terms(model)) == {"semantic", "auxiliary"}


def test_two_images_are_learnt_by_heart() -> None:
    model = _small(dropout=0.0)
    losses = learn(model)
    assert losses[-1] < losses[0] / 2
    assert model.get_parameter("attention.gamma").abs() > 1e-4


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"recurrences": 0}, "greater than 0"),
        ({"key_channels": 0}, "greater than 0"),
        ({"dropout": 1.0}, "less than 1"),
        ({"output_stride": 4}, "8, 16 or 32"),
        ({"recurrence": 2}, "Extra inputs"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        _small(**settings)
