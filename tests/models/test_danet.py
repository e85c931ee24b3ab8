"""DANet: attention over positions beside attention over channels, and three logits."""

import torch
from torch import nn

from atrous.losses import LossConfig, semantic_loss
from tests.models.conftest import (
    IMAGES,
    LABELS,
    config_of,
    conv_norm,
    head_parameters,
    on_meta,
    small,
    terms,
    unreached,
)


def test_parameter_counts() -> None:
    position = 2 * (512 + 1) * 64 + (512 + 1) * 512 + 1  # query and key, value, gamma
    channel = 1  # gamma
    branches = 2 * (conv_norm(2048, 512, 3) + conv_norm(512, 512, 3)) + position + channel
    head = branches + 3 * (512 + 1) * 19
    model = on_meta("danet", 19, backbone={"name": "resnet101", "multi_grid": (1, 2, 4)})
    assert head_parameters(model) == head == 23_954_619


def test_defaults_are_the_papers() -> None:
    config = config_of("danet").model_dump()
    assert (config["backbone"]["name"], config["output_stride"], config["dropout"]) == ("resnet101s", 8, 0.1)
    assert config["head_channels"] == 8 * config["key_channels"] == 512


def test_the_rates_of_the_published_network_are_possible() -> None:
    backbone = {"name": "resnet101s", "multi_grid": (1, 2, 4)}
    units = on_meta("danet", 19, backbone=backbone).get_submodule("backbone.c5").children()
    convs = [unit.get_submodule("conv2.conv") for unit in units]
    assert [conv.dilation[0] for conv in convs if isinstance(conv, nn.Conv2d)] == [4, 8, 16]


@torch.no_grad()
def test_the_main_logits_are_of_the_sum_and_each_branch_has_its_own() -> None:
    model = small("danet")
    for name in ("position", "channel"):
        nn.init.constant_(model.get_parameter(f"{name}.1.gamma"), 0.5)
    c5 = model.features(IMAGES)["c5"]
    position, channel = (model.get_submodule(name)(c5) for name in ("position", "channel"))
    outputs = model(IMAGES)
    torch.testing.assert_close(outputs.semantic, model.get_submodule("classify")(position + channel))
    for name, x in (("position", position), ("channel", channel)):
        torch.testing.assert_close(outputs.heads[name], model.get_submodule(f"classify_{name}")(x))


def test_the_loss_is_the_papers_three_of_equal_weight() -> None:
    model = small("danet", dropout=0.0)
    outputs = model(IMAGES)
    weighted = terms(model)
    assert set(weighted) == {"semantic", "position", "channel"}
    for name, logits in {"semantic": outputs.semantic, **outputs.heads}.items():
        alone = semantic_loss(outputs._replace(semantic=logits, heads={}), LABELS, LossConfig(), ignore=255)
        assert weighted[name] == alone["semantic"]


def test_training_reaches_every_parameter_once_gamma_has_left_0() -> None:
    model = small("danet")
    assert unreached(model) == [
        f"position.1.{part}.{x}" for part in ("query", "key", "value") for x in ("weight", "bias")
    ]
    nn.init.constant_(model.get_parameter("position.1.gamma"), 0.5)
    assert set(unreached(model)) <= {"position.1.key.bias"}  # which adds as much to all energies: rounding reaches it
