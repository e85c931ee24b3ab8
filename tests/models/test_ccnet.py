"""CCNet: one criss-cross attention, again and again, beside c5."""

import pytest
import torch
from torch import Tensor, nn

from tests.models.conftest import (
    IMAGES,
    config_of,
    conv_norm,
    head_parameters,
    learn,
    on_meta,
    small,
    unreached,
)


def test_parameter_counts_whatever_the_recurrences() -> None:
    attention = 2 * (512 + 1) * 64 + (512 + 1) * 512 + 1  # query and key, value, gamma
    main = conv_norm(2048, 512, 3) + attention + conv_norm(512, 512, 3) + conv_norm(2048 + 512, 512, 3) + (512 + 1) * 19
    auxiliary = conv_norm(1024, 512, 3) + (512 + 1) * 19
    assert main + auxiliary == 28_663_463
    for recurrences in (1, 2, 3):
        model = on_meta("ccnet", 19, backbone="resnet101", recurrences=recurrences)
        assert head_parameters(model) == main + auxiliary


def test_defaults_are_the_papers() -> None:
    config = config_of("ccnet").model_dump()
    assert (config["backbone"]["name"], config["output_stride"], config["recurrences"]) == ("resnet101s", 8, 2)
    assert config["head_channels"] == 8 * config["key_channels"] == 512


@torch.no_grad()
@pytest.mark.parametrize("recurrences", [1, 2, 3])
def test_the_attention_is_applied_once_for_each_recurrence(recurrences: int) -> None:
    model, fused = small("ccnet", recurrences=recurrences), list[Tensor]()
    nn.init.constant_(model.get_parameter("attention.gamma"), 0.5)
    model.get_submodule("fuse").register_forward_pre_hook(lambda _, inputs: fused.append(inputs[0]))
    model(IMAGES)
    c5 = model.features(IMAGES)["c5"]
    x = model.get_submodule("reduce")(c5)
    for _ in range(recurrences):
        x = model.get_submodule("attention")(x)
    torch.testing.assert_close(fused, [torch.cat([c5, model.get_submodule("refine")(x)], 1)])


def test_heads_have_leaky_relus_as_in_the_authors_program() -> None:
    model = small("ccnet")
    acts = [model.get_submodule(f"{part}.act") for part in ("reduce", "refine", "fuse")]
    assert [act.negative_slope for act in acts if isinstance(act, nn.LeakyReLU)] == [0.01] * 3


def test_training_reaches_every_parameter_once_gamma_has_left_0() -> None:
    model = small("ccnet")
    assert unreached(model) == [
        f"attention.{part}.{x}" for part in ("query", "key", "value") for x in ("weight", "bias")
    ]
    nn.init.constant_(model.get_parameter("attention.gamma"), 0.5)
    assert set(unreached(model)) <= {"attention.key.bias"}  # which adds as much to all energies: rounding reaches it


def test_gamma_is_learnt() -> None:
    model = small("ccnet", dropout=0.0)
    learn(model)
    assert model.get_parameter("attention.gamma").abs() > 1e-4
