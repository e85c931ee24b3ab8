"""What losses on upsampled logits share: their arguments, which labels count, a loss whose gradient is known."""

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.autograd.function import Function, once_differentiable
from torch.nn import functional as F

SMALLEST_DIVISOR = 1e-5  # as in the original: the loss of no pixels is 0
UNCOUNTED = -100  # PyTorch's default for ignored targets


class Problem(NamedTuple):
    """The arguments of a loss."""

    logits: Tensor  # [B, C, h, w], in the precision of the computation
    labels: Tensor  # [B, H, W]
    ignore: int
    weights: Tensor | None  # [C]
    pixel_weights: Tensor | None  # [B, H, W]
    align_corners: bool
    label_smoothing: float = 0.0
    focal: float = 0.0

    @property
    def size(self) -> tuple[int, int]:
        return self.labels.shape[1], self.labels.shape[2]


class Sum(NamedTuple):
    """A sum over pixels and its gradient."""

    total: Tensor  # []
    divisor: Tensor  # [] unless another is set
    slope: Tensor | None  # [B, C, h, w]; None: not needed


class PixelLosses(NamedTuple):
    """Of a tile, or of all: each pixel's weighted loss, and the gradient of their sum."""

    pixels: Tensor  # [rows, columns], or [B, H, W]
    num_counted: Tensor  # [] pixels that count
    slope: Tensor | None  # [C, h', w'], or [B, C, h, w]; None: not needed


class _KnownGradient(Function):
    """A scalar whose gradient was computed along with its value."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, loss: Tensor, slope: Tensor, divisor: Tensor) -> Tensor:  # noqa: ANN401
        ctx.save_for_backward(slope, divisor)
        return loss.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None, None]:  # noqa: ANN401
        slope, divisor = ctx.saved_tensors
        return slope * (upstream / divisor), None, None, None  # autograd casts to the type of the logits


def mean_of(sum_of: Callable[[Problem, bool], Sum], problem: Problem, normalizer: Tensor | float | None) -> Tensor:
    """The sum that `sum_of` computes from (problem, is a gradient needed), divided; differentiable once."""
    logits = problem.logits
    is_needed = torch.is_grad_enabled() and logits.requires_grad
    with torch.no_grad(), torch.autocast(logits.device.type, enabled=False):
        total, own, slope = sum_of(_precise(problem), is_needed)
        divisor = divisor_of(own if normalizer is None else normalizer, total)
        loss = total / divisor
    return loss if slope is None else cast(Tensor, _KnownGradient.apply(logits, loss, slope, divisor))  # type: ignore[no-untyped-call]


def _precise(problem: Problem) -> Problem:
    small = problem.logits.detach().to(full_precision(problem.logits))
    weights, pixel_weights = (
        None if one is None else one.to(small) for one in (problem.weights, problem.pixel_weights)
    )
    return problem._replace(logits=small, weights=weights, pixel_weights=pixel_weights)


def targets_of(labels: Tensor, num_classes: int, ignore: int) -> Tensor:
    """The labels as int64, UNCOUNTED where they don't count; compared as int64, since uint8 wraps at 256."""
    target = labels.long()
    return target.where((target != ignore) & (target >= 0) & (target < num_classes), UNCOUNTED)


def divisor_of(count: Tensor | float, like: Tensor) -> Tensor:
    return torch.as_tensor(count).to(like).clamp(min=SMALLEST_DIVISOR)


def full_precision(logits: Tensor) -> torch.dtype:
    return torch.float64 if logits.dtype == torch.float64 else torch.float32


def resize(logits: Tensor, size: tuple[int, int], align_corners: bool) -> Tensor:
    return F.interpolate(logits, size, mode="bilinear", align_corners=align_corners)


def require_fit(logits: Tensor, labels: Tensor, class_weights: Tensor | None, pixel_weights: Tensor | None) -> None:
    """Raise ValueError for shapes that don't fit."""
    if labels.dim() != 3 or logits.dim() != 4 or len(labels) != len(logits):
        raise ValueError(
            f"logits and labels must be [B, C, h, w] and [B, H, W], got {tuple(logits.shape)} and {tuple(labels.shape)}"
        )
    if class_weights is not None and class_weights.shape != (logits.shape[1],):
        raise ValueError(
            f"class_weights must have one value for each of {logits.shape[1]} classes, got {tuple(class_weights.shape)}"
        )
    if pixel_weights is not None and pixel_weights.shape != labels.shape:
        raise ValueError(
            f"pixel_weights must have the shape of the labels, {tuple(labels.shape)}, got {tuple(pixel_weights.shape)}"
        )
