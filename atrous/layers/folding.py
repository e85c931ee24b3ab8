"""Batch norms folded into the convolutions before them: the same function with fewer passes over the maps."""

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from atrous.layers.conv import Conv, ConvNorm

BatchNorm = nn.modules.batchnorm._BatchNorm
LINEAR = (nn.Conv2d, nn.Linear, Conv)  # whose own `forward` applies `weight` and `bias` and nothing else
LINEAR_NAMES = ("Conv2dSame",)  # timm's, of which the same holds
LOOKS = ("__get__", "size", "dim", "numel", "stride", "is_contiguous")  # calls that do not use a tensor's values


def fold(module: nn.Module) -> None:
    """Fold every batch norm of a ConvNorm in evaluation mode, in float64, and put nothing in its place."""
    for part in module.modules():
        if isinstance(part, ConvNorm) and _can_be_folded(part.conv, part.norm):
            _fold(part.conv, part.norm)
            part.add_module("norm", nn.Identity())


def fold_traced(module: nn.Module, run: Callable[[nn.Module], object]) -> None:
    """Fold other batch norms, too: those that `run(module)` calls with what a convolution returns and nobody else uses.

    This is for networks of other packages, whose structure says nothing about the order of their parts.
    """
    for convolution, norm in _pairs(module, run):
        _fold(convolution, norm)
        replace(module, norm, _rest_of(norm))


def norms_in(module: nn.Module) -> list[nn.Module]:
    return [part for part in module.modules() if isinstance(part, BatchNorm)]


def _can_be_folded(convolution: nn.Module, norm: nn.Module) -> bool:
    is_linear = type(convolution) in LINEAR or type(convolution).__name__ in LINEAR_NAMES
    return is_linear and isinstance(norm, BatchNorm) and norm.running_var is not None


def _fold(convolution: nn.Module, norm: nn.Module) -> None:
    """New weights, since other modules may share the old ones."""
    weight, bias = (getattr(convolution, name) for name in ("weight", "bias"))
    mean, variance = (_exact(getattr(norm, name)) for name in ("running_mean", "running_var"))
    scale = (variance + norm.eps).rsqrt() * (1 if norm.weight is None else _exact(norm.weight))  # type: ignore[arg-type,operator]
    shift = (0 if bias is None else _exact(bias)) - mean
    shift = shift * scale + (0 if norm.bias is None else _exact(norm.bias))  # type: ignore[arg-type]
    scaled = _exact(weight) * scale.view(-1, *[1] * (weight.ndim - 1))
    convolution.weight = nn.Parameter(scaled.to(weight), requires_grad=False)
    convolution.bias = nn.Parameter(shift.to(weight), requires_grad=False)


def _exact(tensor: Tensor) -> Tensor:
    """On the CPU: some devices have no float64."""
    return tensor.detach().cpu().double()


# ---- networks of other packages


class _Uses(TorchFunctionMode):
    """Counts the calls that each tensor goes into."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[int] = Counter()
        self.tensors: list[Tensor] = []  # which must live, or another would get the same id

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        if getattr(func, "__name__", "") not in LOOKS:
            tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
            self.tensors += tensors
            self.counts.update(map(id, tensors))
        return func(*args, **(kwargs or {}))


def _pairs(module: nn.Module, run: Callable[[nn.Module], object]) -> list[tuple[nn.Module, nn.Module]]:
    """Convolutions and batch norms, each called only with the other."""
    makers: dict[int, nn.Module] = {}  # by the id of the tensor that each call returned
    takers: list[tuple[int, nn.Module]] = []  # the id of the tensor that each call was given
    made: list[Any] = []

    def after(part: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:  # noqa: ANN401
        makers[id(output)] = part
        made.append(output)

    def before(part: nn.Module, inputs: tuple[Any, ...]) -> None:
        takers.append((id(inputs[0]), part))

    handles = [part.register_forward_pre_hook(before) for part in norms_in(module)]
    handles += [
        part.register_forward_hook(after) for part in module.modules() if isinstance(part, nn.Conv2d | nn.Linear)
    ]
    try:
        with torch.no_grad(), _Uses() as uses:
            run(module)
    finally:
        for handle in handles:
            handle.remove()
    links = Counter((makers[tensor], norm) for tensor, norm in takers if tensor in makers and uses.counts[tensor] == 1)
    calls = Counter(makers.values()) + Counter(norm for _, norm in takers)
    return [
        pair for pair, number in links.items() if calls[pair[0]] == number == calls[pair[1]] and _can_be_folded(*pair)
    ]


def replace(module: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Put `new` in all places of `old`."""
    for part in list(module.modules()):
        for name, child in list(part.named_children()):
            if child is old:
                setattr(part, name, new)


def _rest_of(norm: nn.Module) -> nn.Module:
    """What else a batch norm does: timm's have an activation in them."""
    return nn.Sequential(*norm.children()) if list(norm.children()) else nn.Identity()
