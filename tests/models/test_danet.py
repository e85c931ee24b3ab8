"""DANet: positions and channels attended to beside one another, and three logits."""

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from atrous.losses import LossConfig, semantic_loss
from atrous.models import Model, build
from atrous.models.danet import DANet
from tests.two_images import IMAGES, LABELS, learn, terms, unreached


def _small(**settings: object) -> Model:
    torch.manual_seed(0)
    narrow = {"backbone": "resnet_tiny", "head_channels": 16, "key_channels": 2}
    return build(DANet.Config.model_validate(narrow | settings), 4)


def _conv(inp: int, out: int, kernel: int = 1) -> int:
    return kernel**2 * inp * out + 2 * out  # with its norm


def test_parameter_counts() -> None:
    with torch.device("meta"):
        model = build(DANet.Config(backbone="resnet101", multi_grid=(1, 2, 4)), 19)
    position = 2 * (512 + 1) * 64 + (512 + 1) * 512 + 1  # query and key, value, gamma
    channel = 1  # gamma
    branches = 2 * (_conv(2048, 512, 3) + _conv(512, 512, 3)) + position + channel
    head = branches + 3 * (512 + 1) * 19
    backbone = sum(parameter.numel() for parameter in model.backbone.parameters())
    assert sum(parameter.numel() for parameter in model.parameters()) - backbone == head == 23_954_619


def test_what_it_is_by_default() -> None:
    config = DANet.Config()
    assert (config.backbone, config.output_stride, config.dropout) == ("resnet101s", 8, 0.1)
    assert config.head_channels == 8 * config.key_channels == 512


def test_the_rates_of_the_published_network_can_be_had() -> None:
    with torch.device("meta"):
        units = build(DANet.Config(multi_grid=(1, 2, 4)), 19).get_submodule("backbone.c5").children()
    convs = [unit.get_submodule("conv2.conv") for unit in units]
    assert [conv.dilation[0] for conv in convs if isinstance(conv, nn.Conv2d)] == [4, 8, 16]


@pytest.mark.parametrize("size", [(1, 1), (8, 8), (33, 50), (40, 7)])
def test_any_size(size: tuple[int, int]) -> None:
    outputs = _small().eval()(torch.zeros(1, 3, *size))
    assert outputs.auxiliary is None
    assert outputs.pyramid is not None
    assert len(outputs.pyramid) == 2
    for logits in (outputs.semantic, *outputs.pyramid):
        assert logits.shape == (1, 4, -(-size[0] // 8), -(-size[1] // 8))
        assert logits.isfinite().all()


@torch.no_grad()
def test_the_main_logits_are_of_the_sum_and_each_branch_has_its_own() -> None:
    model = _small().eval()
    for name in ("position", "channel"):
        nn.init.constant_(model.get_parameter(f"{name}.1.gamma"), 0.5)
    c5 = model.features(IMAGES)["c5"]
    position, channel = (model.get_submodule(name)(c5) for name in ("position", "channel"))
    found = model(IMAGES)
    torch.testing.assert_close(found.semantic, model.get_submodule("classify")(position + channel))
    expected = (model.get_submodule("classify_position")(position), model.get_submodule("classify_channel")(channel))
    torch.testing.assert_close(found.pyramid, expected)


def test_the_loss_is_the_papers_three_of_equal_weight() -> None:
    model = _small(dropout=0.0).eval()
    outputs = model(IMAGES)
    found = terms(model)
    assert set(found) == {"semantic", "pyramid_0", "pyramid_1"}
    for name, logits in zip(found, (outputs.semantic, *outputs.pyramid), strict=True):
        alone = semantic_loss(outputs._replace(semantic=logits, pyramid=None), LABELS, LossConfig(), ignore=255)
        assert found[name] == alone["semantic"]


def test_training_reaches_every_parameter_once_gamma_has_left_0() -> None:
    model = _small()
    assert unreached(model) == [
        f"position.1.{part}.{x}" for part in ("query", "key", "value") for x in ("weight", "bias")
    ]
    model.zero_grad()
    nn.init.constant_(model.get_parameter("position.1.gamma"), 0.5)
    assert set(unreached(model)) <= {"position.1.key.bias"}  # which adds as much to all energies: rounding reaches it


def test_two_images_are_learnt_by_heart() -> None:
    losses = learn(_small(dropout=0.0))
    assert losses[-1] < losses[0] / 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"head_channels": 0}, "greater than 0"),
        ({"key_channels": 0}, "greater than 0"),
        ({"dropout": 1.0}, "less than 1"),
        ({"multi_grid": (4, 8, 16)}, "the last stage of resnet_tiny has 1 units"),
        ({"auxiliary_channels": 8}, "Extra inputs"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        _small(**settings)
