"""Batch norms that were folded, measured anew, so that a converted model can be trained on."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from atrous.inference import as_batch, predict_labels
from atrous.segmenter import Segmenter, read_image


class Moments:
    """Mean and variance of each channel over all that was seen."""

    def __init__(self, channels: int) -> None:
        self.count = 0
        self.total = torch.zeros(channels, dtype=torch.float64)
        self.squares = torch.zeros(channels, dtype=torch.float64)

    def see(self, x: Tensor) -> None:  # [B, K, h, w]
        values = x.detach().double().cpu()
        self.count += values.numel() // values.shape[1]
        self.total += values.sum((0, 2, 3))
        self.squares += values.square().sum((0, 2, 3))

    @property
    def mean(self) -> Tensor:
        return self.total / self.count

    @property
    def variance(self) -> Tensor:
        return (self.squares / self.count - self.mean.square()).clamp_min(0)


def is_folded(model: nn.Module) -> bool:
    """Whether it has batch norms that are what folding leaves: they shift, and have no statistics."""
    return bool(_folded(model))


def _folded(model: nn.Module) -> list[nn.BatchNorm2d]:
    return [norm for norm in model.modules() if isinstance(norm, nn.BatchNorm2d) and _is_plain(norm)]


def _is_plain(norm: nn.BatchNorm2d) -> bool:
    mean, variance = norm.running_mean, norm.running_var
    return mean is not None and variance is not None and not mean.any() and bool((variance == 1).all())


def recalibrate(segmenter: Segmenter, images: Sequence[Path]) -> None:
    """Give folded batch norms the statistics of their input over `images`; what the model computes stays the same.

    A batch norm that was folded into its convolution comes with mean 0 and variance 1, whatever it is fed: in training
    it would normalise by the batch's own statistics and change everything. Raises ValueError for unreadable images, and
    where nothing is folded.
    """
    norms = _folded(segmenter.model)
    if not norms:
        raise ValueError("no batch norm is folded in this model: each has statistics of its training, which are better")
    moments = [Moments(norm.num_features) for norm in norms]
    hooks = [norm.register_forward_pre_hook(_seeing(moment)) for norm, moment in zip(norms, moments, strict=True)]
    device = segmenter.model.shift.device
    try:
        for path in images:
            predict_labels(segmenter.model.eval(), as_batch(read_image(path), device), segmenter.inference)
    finally:
        for hook in hooks:
            hook.remove()
    for norm, moment in zip(norms, moments, strict=True):
        set_statistics(norm, moment.mean, moment.variance)


def _seeing(moments: Moments) -> Callable[[nn.Module, Any], None]:
    def hook(module: nn.Module, inputs: Any) -> None:  # noqa: ANN401 - PyTorch's own signature
        moments.see(inputs[0])

    return hook


@torch.no_grad()
def set_statistics(norm: nn.BatchNorm2d, mean: Tensor, variance: Tensor) -> None:
    """New running statistics, and the scale and shift with which the layer still computes the same."""
    assert norm.running_mean is not None and norm.running_var is not None
    slope = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    mean, variance = mean.to(slope.device), variance.to(slope.device)
    shift = norm.bias.double() + slope * (mean - norm.running_mean.double())
    norm.weight.copy_(slope * (variance + norm.eps).sqrt())
    norm.bias.copy_(shift)
    norm.running_mean.copy_(mean)
    norm.running_var.copy_(variance)
