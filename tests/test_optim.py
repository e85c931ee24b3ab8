"""Learning rates against the originals' own figures; which parameters have which learning rate and decay."""

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from atrous import optim
from atrous.backbones import BACKBONES, build_backbone
from atrous.models.deeplab_v3plus import DeepLabV3Plus
from atrous.models.lraspp import LRASPP
from atrous.optim import OptimConfig, learning_rate, parameter_groups
from tests.reference.tensorflow_deeplab import FIGURES

TENSORFLOW = {
    "poly": OptimConfig(),
    "poly_slow100": OptimConfig(warmup="slow_start", warmup_steps=100),
    "step": OptimConfig(schedule="step"),
    "poly_decay60000_end1e-5": OptimConfig(decay_steps=60000, end_lr=1e-5),
    "cosine": OptimConfig(schedule="cosine"),
    "linear_burnin_slow100": OptimConfig(warmup_steps=100),
}


def test_schedules_equal_tensorflows() -> None:
    for name, config in TENSORFLOW.items():
        for step, expected in FIGURES["lr"][name]:
            assert learning_rate(config, step, 30_000) == pytest.approx(expected, rel=1e-5, abs=1e-9), (name, step)


def test_cosine_falls_from_lr_to_end_lr() -> None:
    config = OptimConfig(schedule="cosine", lr=1.0, end_lr=0.2)
    assert [learning_rate(config, step, 100) for step in (0, 50, 100)] == pytest.approx([1.0, 0.6, 0.2])


def test_linear_warmup_meets_the_schedule() -> None:
    config = OptimConfig(lr=1.0, warmup_steps=10, warmup_lr=0.0, schedule="constant")
    learning_rates = [learning_rate(config, step, 100) for step in range(12)]
    assert learning_rates == pytest.approx([step / 10 for step in range(10)] + [1.0, 1.0])


def test_multi_step_falls_at_each_milestone() -> None:
    config = OptimConfig(schedule="multi_step", lr=8.0, step_factor=0.5, milestones=(3, 5, 6))
    learning_rates = [learning_rate(config, step, 100) for step in range(8)]
    assert learning_rates == [8, 8, 8, 4, 4, 2, 1, 1]


def test_milestones_that_make_no_schedule_are_refused() -> None:
    for settings, words in (
        ({"schedule": "multi_step"}, "needs milestones"),
        ({"schedule": "multi_step", "milestones": (5, 3)}, r"milestones=\[5, 3\]: each must be later"),
        ({"milestones": (3, 3)}, "each must be later"),
        ({"milestones": (0,)}, "greater than 0"),
    ):
        with pytest.raises(ValidationError, match=words):
            OptimConfig.model_validate(settings)
    assert (
        OptimConfig(milestones=(3, 5)).schedule == "poly"
    )  # as a recipe's own settings stay when its schedule changes


def test_the_schedule_of_deeplab2_counts_the_warm_up() -> None:
    """lr (1 - t / T) ** 0.9 at the global step t, after a linear warm-up from 0: a small jump at its end."""
    settings = {"lr": 1.0, "warmup_steps": 20, "warmup_lr": 0.0}
    ours = OptimConfig(**settings)
    deeplab2 = OptimConfig(**settings, schedule_start="first_step")
    for step in (0, 10, 19):
        assert learning_rate(deeplab2, step, 100) == learning_rate(ours, step, 100) == pytest.approx(step / 20)
    for step in (20, 50, 99):
        assert learning_rate(deeplab2, step, 100) == pytest.approx((1 - step / 100) ** 0.9)
        assert learning_rate(ours, step, 100) == pytest.approx((1 - (step - 20) / 80) ** 0.9)


# ---- parameter groups


LOGITS = ("classify",)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(4, 4, 3, groups=4, bias=False), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))
        self.head = nn.Conv2d(2, 3, 1)
        self.classify = nn.Conv2d(3, 2, 1)


def groups_by_name(model: nn.Module, config: OptimConfig, logit_modules: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """The group of each parameter."""
    groups: list[dict[str, Any]] = parameter_groups(model, config, logit_modules)
    group_of = {id(parameter): group for group in groups for parameter in group["params"]}
    assert len(group_of) == sum(len(group["params"]) for group in groups)
    return {name: group_of[id(parameter)] for name, parameter in model.named_parameters()}


def factors(config: OptimConfig) -> dict[str, float]:
    return {name: group["lr_factor"] for name, group in groups_by_name(Net(), config, LOGITS).items()}


def decays(config: OptimConfig) -> dict[str, float]:
    return {name: group["weight_decay"] for name, group in groups_by_name(Net(), config, LOGITS).items()}


def test_only_full_kernels_are_decayed_unless_configured() -> None:
    """The first as TensorFlow DeepLab, the last as semseg."""
    kernels = {"backbone.2.weight", "head.weight", "classify.weight"}
    biases = {"backbone.2.bias", "head.bias", "classify.bias"}
    norms, depthwise = {"backbone.1.weight", "backbone.1.bias"}, {"backbone.0.weight"}
    for options, expected in (
        ({}, kernels),
        ({"decay_norms": True}, kernels | norms),
        ({"decay_biases": True}, kernels | biases),
        ({"decay_depthwise": True}, kernels | depthwise),
        (dict.fromkeys(("decay_norms", "decay_biases", "decay_depthwise"), True), kernels | biases | norms | depthwise),
    ):
        config = OptimConfig(weight_decay=0.5, head_lr=10, **options)
        assert {name for name, decay in decays(config).items() if decay == 0.5} == expected
        assert set(decays(config).values()) <= {0.0, 0.5}


def test_factors_of_parts_and_biases_multiply() -> None:
    assert set(factors(OptimConfig()).values()) == {1.0}
    assert factors(OptimConfig(head_lr=10, last_layer_lr=3, bias_lr=2)) == {
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


def test_the_last_layer_is_what_computes_a_models_logits() -> None:
    """In LR-ASPP that is the decoder; `classify` has no weights."""
    with torch.device("meta"):
        model = LRASPP(LRASPP.Config(), 19)
    groups = groups_by_name(model, OptimConfig(last_layer_lr=10), model.logit_modules)
    fast = {name.partition(".")[0] for name, group in groups.items() if group["lr_factor"] == 10}
    slow = {name.partition(".")[0] for name, group in groups.items() if group["lr_factor"] == 1}
    assert fast == set(model.logit_modules)
    assert not fast & slow


def test_earlier_units_of_the_backbone_learn_more_slowly() -> None:
    """A stem and 16 bottlenecks: the last one has the factor 0.9, the stem 0.9 ** 17, and the heads have none."""
    with torch.device("meta"):
        model = DeepLabV3Plus(DeepLabV3Plus.Config.model_validate({"backbone": "resnet50"}), 3)
    groups = groups_by_name(model, OptimConfig(layer_decay=0.9, head_lr=2, bias_lr=3), model.logit_modules)
    for name, factor in {
        "backbone.c5.2.conv3.conv.weight": 0.9,
        "backbone.c5.1.conv1.conv.weight": 0.9**2,
        "backbone.c5.0.conv1.conv.weight": 0.9**3,
        "backbone.c4.5.conv1.conv.weight": 0.9**4,
        "backbone.c2.0.conv1.conv.weight": 0.9**16,
        "backbone.stem.0.conv.weight": 0.9**17,
        "aspp.projection.conv.weight": 2.0,
        "classify.bias": 6.0,
    }.items():
        assert groups[name]["lr_factor"] == pytest.approx(factor), name


@pytest.mark.parametrize("name", BACKBONES)
def test_every_backbone_has_units_and_all_its_parameters_are_in_one(name: str) -> None:
    config = BACKBONES[name].Config.model_validate({"name": name})
    with torch.device("meta"):
        backbone = build_backbone(config, config.output_strides[-1])
    units = optim.units_of(backbone)
    assert len(units) > 2
    parameters = [parameter for unit in units for parameter in unit.parameters()]
    assert len(parameters) == len(list(backbone.parameters()))
    assert [len(one.shape) for one in parameters[:1]] == [4]  # a convolution of the stem comes first


# ---- updates


def test_a_factor_on_the_learning_rate_is_one_on_the_gradient() -> None:
    """As in TensorFlow DeepLab: the gradient of the loss with its decay, times the factor, goes into the momentum."""
    weight, decay, factor, momentum = 3.0, 0.5, 10.0, 0.9
    net = nn.Module()
    net.classify = nn.Linear(1, 1, bias=False)
    nn.init.constant_(net.classify.weight, weight)
    config = OptimConfig(weight_decay=decay, last_layer_lr=factor, momentum=momentum)
    optimizer = optim.build(net, config, LOGITS)
    speed = 0.0
    for value in (0.1, 0.05, 0.01):
        optim.set_learning_rate(optimizer, value)
        net.classify.weight.grad = 2 * net.classify.weight.detach()
        optimizer.step()
        speed = momentum * speed + factor * (2 * weight + decay * weight)
        weight -= value * speed
        assert net.classify.weight.item() == pytest.approx(weight)


def test_the_learning_rate_reaches_each_group_by_its_factor() -> None:
    for name, kind in (("sgd", torch.optim.SGD), ("adamw", torch.optim.AdamW), ("adam", torch.optim.Adam)):
        optimizer = optim.build(Net(), OptimConfig.model_validate({"name": name, "head_lr": 10}), LOGITS)
        assert isinstance(optimizer, kind)
        optim.set_learning_rate(optimizer, 0.5)
        assert {group["lr"] for group in optimizer.param_groups} == {0.5, 5.0}


def test_sgd_is_the_originals_momentum() -> None:
    """v <- m v + g; w <- w - lr v, without dampening."""
    weight = nn.Parameter(torch.zeros(1))
    module = nn.Module()
    module.weight = weight
    optimizer = optim.build(module, OptimConfig(lr=0.1, weight_decay=0), LOGITS)
    for _ in range(3):
        weight.grad = torch.ones(1)
        optimizer.step()
    assert weight.item() == pytest.approx(-0.1 * (1 + 1.9 + 2.71))


def test_adam_is_the_originals() -> None:
    """The decay is part of the gradient, so that the first step has the length lr, whatever the decay; eps counts."""
    for eps, expected in ((1e-8, -0.1), (1.0, -0.1 * 2 / 3)):
        module = nn.Module()
        module.weight = nn.Parameter(torch.full((1, 1, 1, 1), 2.0))
        config = OptimConfig(name="adam", lr=0.1, weight_decay=0.5, eps=eps)
        optimizer = optim.build(module, config, LOGITS)
        module.weight.grad = torch.full_like(module.weight, 1.0)  # 2 with its decay
        optimizer.step()
        assert module.weight.item() - 2.0 == pytest.approx(expected, abs=1e-5)


def optimizer_of(name: str, width: int = 2) -> torch.optim.Optimizer:
    """One that has done a step."""
    model = nn.Linear(width, 3)
    optimizer = optim.build(model, OptimConfig(name=name), ())
    model(torch.ones(1, width)).sum().backward()
    optimizer.step()
    return optimizer


def test_the_state_of_another_optimizer_is_known() -> None:
    for name, other in (("sgd", "adamw"), ("adamw", "sgd")):
        optimizer = optimizer_of(name)
        assert optim.is_state_of(optimizer, optimizer_of(name).state_dict())
        assert not optim.is_state_of(optimizer, optimizer_of(other).state_dict())
        assert not optim.is_state_of(optimizer, optimizer_of(name, width=5).state_dict())
        state = optimizer.state_dict()
        wrong: tuple[dict[str, Any], ...] = (
            {},
            {"param_groups": 3},
            {**state, "state": {9: {}}},
            {**state, "state": 3},
        )
        assert not any(optim.is_state_of(optimizer, one) for one in wrong)
