"""Parameter groups, optimisers and learning-rate schedules. A schedule is a pure function of the step."""

import bisect
import math
from collections.abc import Callable, Collection, Mapping
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, model_validator
from torch import Tensor, nn

from atrous.settings import MAX_COUNT, Count, Settings

OWN_SETTINGS = {"momentum", "betas"}  # one kind of optimiser has one of them


Milestones = Annotated[tuple[Count, ...], Field(max_length=1000)]

POSITIONS = ("pos_embed", "bias_table")  # how timm calls them


class OptimConfig(Settings):
    name: Literal["sgd", "adamw", "adam"] = "sgd"
    """The optimizer: sgd with momentum, adamw, or adam, whose decay is part of the gradient."""
    lr: PositiveFloat = 0.007
    """Learning rate at the start, after the warm-up; lower it if the loss isn't finite."""
    momentum: NonNegativeFloat = 0.9
    """sgd: share of the previous update that is kept."""
    nesterov: bool = False
    """sgd: look ahead by the momentum (Nesterov)."""
    betas: tuple[float, float] = (0.9, 0.999)
    """adamw, adam: decay of the running means of the gradient and of its square."""
    eps: PositiveFloat = 1e-8  # 1e-7 in deeplab2
    """adamw, adam: what is added to the root of the mean square, against division by 0."""
    weight_decay: NonNegativeFloat = 4e-5
    """Pull of the weights towards 0; more against overfitting."""
    decay_norms: bool = False  # semseg decays these and the next two
    """Also decay the scales and shifts of normalisations, and other scales of channels in a backbone."""
    decay_biases: bool = False
    """Also decay the biases of convolutions, by `weight_decay`."""
    decay_depthwise: bool = False  # TF DeepLab decays none of the three
    """Also decay the kernels of depthwise convolutions."""
    head_lr: PositiveFloat = 1.0  # 10 in PSPNet
    """Factor on `lr` outside the backbone; about 10 for a new head on pretrained weights."""
    last_layer_lr: PositiveFloat = 1.0
    """Further factor on `lr` for the layers that compute the logits."""
    bias_lr: PositiveFloat = 1.0  # 2 in TF DeepLab
    """Further factor on `lr` for biases, but not for the shifts of normalisations."""
    layer_decay: float = Field(1.0, gt=0, le=1)  # arXiv:2106.08254, appendix H
    """Factor on `lr` from each unit of the backbone to the one before it, such as 0.9; 1: all alike."""
    clip_norm: PositiveFloat | None = None
    """Largest norm of the gradient; longer ones are shortened to it; none: any."""

    schedule: Literal["poly", "step", "multi_step", "cosine", "constant"] = "poly"
    """How the learning rate changes from the warm-up to the last step."""
    power: PositiveFloat = 0.9
    """poly: exponent of the falling curve; 1 is a straight line."""
    step_size: Count = 2000
    """step: number of steps after which the learning rate falls each time."""
    step_factor: PositiveFloat = 0.1
    """step, multi_step: factor by which the learning rate falls each time."""
    milestones: Milestones = ()
    """multi_step: the steps at which the learning rate falls, in order."""
    end_lr: NonNegativeFloat = 0.0
    """poly, cosine: learning rate at the last step."""
    decay_steps: Count | None = None
    """poly, cosine: step at which `end_lr` is reached; none: the last one."""
    warmup: Literal["linear", "slow_start"] = "linear"  # slow_start: TF DeepLab
    """linear: rise from `warmup_lr` to `lr`; slow_start: stay at `warmup_lr`."""
    warmup_steps: int = Field(0, ge=0, le=MAX_COUNT)
    """Steps of the warm-up; 0: none."""
    warmup_lr: NonNegativeFloat = 1e-4
    """Learning rate at the start of the warm-up."""
    schedule_start: Literal["warmed_up", "first_step"] = "warmed_up"  # first_step: deeplab2
    """Where the schedule begins: at the end of the warm-up, or at the first step of all."""

    @model_validator(mode="after")
    def _milestones_are_in_order(self) -> "OptimConfig":
        if self.schedule == "multi_step" and not self.milestones:
            raise ValueError("schedule=multi_step needs milestones, such as milestones=[20000,25000]")
        if list(self.milestones) != sorted(set(self.milestones)):
            raise ValueError(f"milestones={list(self.milestones)}: each must be later than the one before it")
        return self


def poly(config: OptimConfig, step: int, span: int) -> float:
    remaining = 1 - min(step, span) / span
    return float(config.end_lr + (config.lr - config.end_lr) * remaining**config.power)


def step_down(config: OptimConfig, step: int, span: int) -> float:
    return float(config.lr * config.step_factor ** (step // config.step_size))


def multi_step(config: OptimConfig, step: int, span: int) -> float:
    return float(config.lr * config.step_factor ** bisect.bisect_right(config.milestones, step))


def cosine(config: OptimConfig, step: int, span: int) -> float:
    swing = (1 + math.cos(math.pi * min(step, span) / span)) / 2
    return config.end_lr + (config.lr - config.end_lr) * swing


def constant(config: OptimConfig, step: int, span: int) -> float:
    return config.lr


SCHEDULES: dict[str, Callable[[OptimConfig, int, int], float]] = {
    "poly": poly,
    "step": step_down,
    "multi_step": multi_step,
    "cosine": cosine,
    "constant": constant,
}


def learning_rate(config: OptimConfig, step: int, steps: int) -> float:
    """The learning rate of step 0..steps-1."""
    if step < config.warmup_steps:
        progress = 0.0 if config.warmup == "slow_start" else step / config.warmup_steps
        return config.warmup_lr + (config.lr - config.warmup_lr) * progress
    start = config.warmup_steps if config.schedule_start == "warmed_up" else 0
    span = config.decay_steps or max(steps - start, 1)
    return SCHEDULES[config.schedule](config, step - start, span)


def parameter_groups(model: nn.Module, config: OptimConfig, logit_modules: Collection[str]) -> list[dict[str, object]]:
    """The trainable parameters by (learning-rate factor, weight decay); each group stores its factor as `lr_factor`.

    `logit_modules` are the parts of the model that compute the logits. With SGD, a factor on the learning rate equals
    TensorFlow DeepLab's factor on the gradient, momentum and decay included: there the decay is part of the loss, and
    so of the gradient. AdamW ignores factors on gradients, but not these.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    depths = unit_factors(model, config.layer_decay)
    for module_name, module in model.named_modules():
        part = module_name.split(".")[0]
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad:
                factor = _factor(config, part == "backbone", part in logit_modules, _is_bias(module, name))
                factor *= depths.get(parameter, 1.0)
                is_decayed = _is_decayed(module, name, config, in_backbone=part == "backbone")
                decay = config.weight_decay if is_decayed else 0.0
                groups.setdefault((factor, decay), []).append(parameter)
    return [
        {"params": params, "lr": config.lr * factor, "lr_factor": factor, "weight_decay": decay}
        for (factor, decay), params in groups.items()
    ]


def unit_factors(model: nn.Module, decay: float) -> dict[nn.Parameter, float]:
    """The factor of each parameter of the backbone: `decay` for its last unit, its square for the one before, ..."""
    backbone = getattr(model, "backbone", None)
    units = units_of(backbone) if isinstance(backbone, nn.Module) else []
    powers = range(len(units), 0, -1)
    return {one: decay**power for unit, power in zip(units, powers, strict=True) for one in unit.parameters()}


def units_of(backbone: nn.Module) -> list[nn.Module]:
    """The parts of a backbone in their order: the stem, then one residual unit, block or cell after the other."""
    parts = list(backbone.children())
    if len(parts) == 1 and next(parts[0].children(), None) is not None:  # a wrapper
        return units_of(parts[0])
    units = [unit for part in parts for unit in (part.children() if isinstance(part, nn.ModuleList) else (part,))]
    return [unit for unit in units if next(unit.parameters(), None) is not None]


def _factor(config: OptimConfig, is_backbone: bool, is_last_layer: bool, is_bias: bool) -> float:
    head = 1.0 if is_backbone else config.head_lr
    last_layer = config.last_layer_lr if is_last_layer else 1.0
    return head * last_layer * (config.bias_lr if is_bias else 1.0)


def _is_norm(module: nn.Module) -> bool:
    return isinstance(module, nn.modules.batchnorm._NormBase | nn.GroupNorm | nn.LayerNorm)


def _is_bias(module: nn.Module, name: str) -> bool:
    return name == "bias" and not _is_norm(module)


def _is_scale(module: nn.Module, name: str) -> bool:
    """What timm's networks have beside norms: factors of channels, and tables of positions, which follow the norms."""
    return name != "bias" and (module.get_parameter(name).ndim <= 1 or name.endswith(POSITIONS))


def _is_decayed(module: nn.Module, name: str, config: OptimConfig, *, in_backbone: bool) -> bool:
    if _is_norm(module) or (in_backbone and _is_scale(module, name)):
        return config.decay_norms
    if name == "bias":
        return config.decay_biases
    is_depthwise = isinstance(module, nn.Conv2d) and module.groups == module.in_channels > 1
    return config.decay_depthwise if is_depthwise else True


def build(model: nn.Module, config: OptimConfig, logit_modules: Collection[str]) -> torch.optim.Optimizer:
    groups = parameter_groups(model, config, logit_modules)
    if config.name != "sgd":
        kind: type[torch.optim.Adam] = torch.optim.AdamW if config.name == "adamw" else torch.optim.Adam
        return kind(groups, lr=config.lr, betas=config.betas, eps=config.eps)
    return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=config.nesterov)


def set_learning_rate(optimizer: torch.optim.Optimizer, value: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = value * group["lr_factor"]


def is_state_of(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> bool:
    """Whether the state dict can be this optimizer's: the same groups, the same algorithm, the same shapes."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    try:
        own, other = (
            [(group["params"], OWN_SETTINGS & group.keys()) for group in tree["param_groups"]]
            for tree in (optimizer.state_dict(), state)
        )
        return own == other and all(_fits(parameters[index], values) for index, values in state["state"].items())
    except (AttributeError, IndexError, KeyError, TypeError):  # no state dict at all
        return False


def _fits(parameter: Tensor, values: Mapping[str, Any]) -> bool:
    tensors = [value for value in values.values() if isinstance(value, Tensor)]
    return all(tensor.dim() == 0 or tensor.shape == parameter.shape for tensor in tensors)
