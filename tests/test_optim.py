"""Schedules against the original's own numbers; which parameters are decayed."""

import json
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from atrous import optim
from atrous.models.lraspp import LRASPP
from atrous.optim import OptimConfig, learning_rate, parameter_groups

GOLDEN = json.loads((Path(__file__).parent / "goldens" / "tf_deeplab" / "ops.json").read_text())["lr"]
TF = {
    "poly": OptimConfig(),
    "poly_slow100": OptimConfig(warmup="slow_start", warmup_steps=100),
    "step": OptimConfig(schedule="step"),
    "poly_decay60000_end1e-5": OptimConfig(decay_steps=60000, end_lr=1e-5),
    "cosine": OptimConfig(schedule="cosine"),
    "linear_burnin_slow100": OptimConfig(warmup_steps=100),
}


@pytest.mark.parametrize("name", TF)
def test_schedules_equal_the_original(name: str) -> None:
    for step, expected in GOLDEN[name]:
        assert learning_rate(TF[name], step, 30_000) == pytest.approx(expected, rel=1e-5, abs=1e-9), step


def test_cosine_goes_from_the_rate_to_the_end() -> None:
    config = OptimConfig(schedule="cosine", lr=1.0, end_lr=0.2)
    assert [learning_rate(config, step, 100) for step in (0, 50, 100)] == pytest.approx([1.0, 0.6, 0.2])


def test_linear_warmup_meets_the_schedule() -> None:
    config = OptimConfig(lr=1.0, warmup_steps=10, warmup_lr=0.0, schedule="constant")
    rates = [learning_rate(config, step, 100) for step in range(12)]
    assert rates == pytest.approx([step / 10 for step in range(10)] + [1.0, 1.0])


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(4, 4, 3, groups=4, bias=False), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))
        self.head = nn.Conv2d(2, 3, 1)
        self.classify = nn.Conv2d(3, 2, 1)


def decays(config: OptimConfig) -> dict[str, tuple[float, float]]:
    """Each parameter's (rate factor, decay), by its name."""
    net = Net()
    names = {id(parameter): name for name, parameter in net.named_parameters()}
    found = {}
    for group in parameter_groups(net, config):
        for parameter in group["params"]:  # type: ignore[attr-defined]
            found[names[id(parameter)]] = (group["lr_factor"], group["weight_decay"])
    assert found.keys() == set(names.values())
    return found  # type: ignore[return-value]


def test_as_tensorflow_only_full_kernels_are_decayed() -> None:
    found = decays(OptimConfig(weight_decay=0.5, head_lr=10))
    assert {name for name, (_, decay) in found.items() if decay} == {
        "backbone.2.weight",
        "head.weight",
        "classify.weight",
    }
    assert {name.split(".")[0] for name, (factor, _) in found.items() if factor == 10} == {"head", "classify"}
    assert {name.split(".")[0] for name, (factor, _) in found.items() if factor == 1} == {"backbone"}


def test_factors_of_parts_and_biases_multiply() -> None:
    found = decays(OptimConfig(head_lr=10, last_layer_lr=3, bias_lr=2))
    assert {name: factor for name, (factor, _) in found.items()} == {
        "backbone.0.weight": 1,
        "backbone.1.weight": 1,
        "backbone.1.bias": 1,  # the shift of a normalisation
        "backbone.2.weight": 1,
        "backbone.2.bias": 2,
        "head.weight": 10,
        "head.bias": 20,
        "classify.weight": 30,
        "classify.bias": 60,
    }


def test_a_model_says_what_makes_its_logits() -> None:
    """Where the decoder does, `classify` has no weights."""
    with torch.device("meta"):
        model = LRASPP(LRASPP.Config(), 19)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    fast = [group for group in parameter_groups(model, OptimConfig(last_layer_lr=10)) if group["lr_factor"] == 10]
    found = {names[id(parameter)].split(".")[0] for group in fast for parameter in group["params"]}  # type: ignore[attr-defined]
    assert found == set(model.logit_modules)


def test_a_factor_on_the_rate_is_one_on_the_gradient() -> None:
    """As TensorFlow DeepLab does it: the gradient of the loss with its decay, times the factor, into the momentum."""
    weight, decay, factor, momentum = 3.0, 0.5, 10.0, 0.9
    net = nn.Module()
    net.classify = nn.Linear(1, 1, bias=False)
    nn.init.constant_(net.classify.weight, weight)
    config = OptimConfig(weight_decay=decay, last_layer_lr=factor, momentum=momentum)
    optimizer = optim.build(net, config)
    speed = 0.0
    for rate in (0.1, 0.05, 0.01):
        optim.set_learning_rate(optimizer, rate)
        net.classify.weight.grad = 2 * net.classify.weight.detach()
        optimizer.step()
        speed = momentum * speed + factor * (2 * weight + decay * weight)
        weight -= rate * speed
        assert net.classify.weight.item() == pytest.approx(weight)


def test_by_default_all_have_one_rate() -> None:
    assert {factor for factor, _ in decays(OptimConfig()).values()} == {1.0}


def test_as_semseg_all_are_decayed() -> None:
    config = OptimConfig(weight_decay=0.5, decay_norms=True, decay_biases=True, decay_depthwise=True)
    assert {decay for _, decay in decays(config).values()} == {0.5}


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_the_rate_reaches_each_group_by_its_factor(name: str) -> None:
    optimizer = optim.build(Net(), OptimConfig.model_validate({"name": name, "head_lr": 10}))
    optim.set_learning_rate(optimizer, 0.5)
    assert {group["lr"] for group in optimizer.param_groups} == {0.5, 5.0}


def test_sgd_is_the_original_momentum() -> None:
    """v <- m v + g; w <- w - lr v, without dampening."""
    weight = nn.Parameter(torch.zeros(1))
    module = nn.Module()
    module.weight = weight
    optimizer = optim.build(module, OptimConfig(lr=0.1, weight_decay=0))
    for _ in range(3):
        weight.grad = torch.ones(1)
        optimizer.step()
    assert weight.item() == pytest.approx(-0.1 * (1 + 1.9 + 2.71))
    assert math.isfinite(weight.item())
