"""The losses of semantic segmentation, on logits at the network's own grid and labels at the image's."""

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt
from torch import Tensor
from torch.nn import functional as F

from atrous.ops import resize_nearest, upsample_cross_entropy
from atrous.types import Outputs, Settings


class LossConfig(Settings):
    labels: Literal["image", "grid"] = "image"  # logits are compared at the image's size, or at their own grid
    class_weights: tuple[NonNegativeFloat, ...] | Literal["counts"] | None = None  # counts: from the training labels
    hard_pixels: float = Field(1.0, gt=0, le=1)  # the share of pixels, the worst ones, that counts; 1: all
    hard_pixels_step: NonNegativeInt = 0  # the share falls from 1 to `hard_pixels` over so many steps (TF DeepLab)
    auxiliary: NonNegativeFloat = 0.4  # weight of the second head, where the model has one (arXiv:1612.01105, 5.2)
    cascade: tuple[NonNegativeFloat, ...] = (0.16, 0.4)  # of a cascade's levels, coarsest first (arXiv:1704.08545)
    presence: NonNegativeFloat = 0.2  # of which classes an image has at all: the SE-loss of EncNet (arXiv:1803.08904)


def semantic_loss(
    outputs: Outputs,
    labels: Tensor,  # [B, H, W]
    config: LossConfig,
    *,
    ignore: int,
    weights: Tensor | None = None,  # [C]
    top_k: float = 1.0,
    normalizer: Tensor | None = None,
    align_corners: bool = True,
) -> dict[str, Tensor]:
    """The terms whose sum is to be minimised. `normalizer` replaces the number of pixels that the sum is divided by."""
    heads = {"semantic": (outputs.semantic, 1.0)}
    for number, logits in enumerate(outputs.pyramid or ()):
        heads[f"pyramid_{number}"] = (logits, 1.0)  # a loss at each scale, and one where they are merged
    if outputs.auxiliary is not None and config.auxiliary > 0:
        heads["auxiliary"] = (outputs.auxiliary, config.auxiliary)
    heads |= _cascade(outputs.cascade or (), config.cascade)
    terms: dict[str, Tensor] = {}
    for name, (logits, factor) in heads.items():
        is_grid = config.labels == "grid"
        seen, divisor = _at_grid(labels, logits, ignore, normalizer) if is_grid else (labels, normalizer)
        terms[name] = factor * upsample_cross_entropy(
            logits,
            seen,
            ignore=ignore,
            weights=weights,
            top_k=top_k,
            align_corners=align_corners,
            normalizer=divisor,
        )
    if outputs.presence is not None and config.presence > 0:
        found = presence_loss(outputs.presence, labels, ignore=ignore, normalizer=normalizer)
        terms["presence"] = config.presence * found
    return terms


def _at_grid(labels: Tensor, logits: Tensor, ignore: int, normalizer: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """The labels under each cell of the logits' grid (semseg's zoom 1, TF DeepLab's `upsample_logits=False`).

    `normalizer` is a number of pixels, of all passes of an update: it shrinks as this pass's labels do, so that the
    pass counts by its share of labelled pixels, as at the image's size.
    """
    seen = resize_nearest(labels, logits.shape[-2:])
    if normalizer is None:
        return seen, None
    pixels, cells = (labels != ignore).sum(), (seen != ignore).sum()
    return seen, normalizer * cells / pixels.clamp_min(1)


def _cascade(levels: Sequence[Tensor], weights: Sequence[float]) -> dict[str, tuple[Tensor, float]]:
    """The coarser levels that count, each with its weight."""
    if levels and len(levels) != len(weights):
        raise ValueError(
            f"loss.cascade {tuple(weights)} has {len(weights)} weights: the model has {len(levels)} coarser levels, "
            "each needs one (0: it does not count)"
        )
    numbered = enumerate(zip(levels, weights, strict=False))  # other models have no levels
    return {f"cascade_{number}": (logits, weight) for number, (logits, weight) in numbered if weight > 0}


def presence_loss(
    logits: Tensor,  # [B, C]
    labels: Tensor,  # [B, H, W]
    *,
    ignore: int,
    normalizer: Tensor | None = None,
) -> Tensor:
    """The binary cross entropies of which classes each image has, their mean over classes (SE-loss, arXiv:1803.08904).

    An image counts by its labelled pixels, so that `normalizer`, in place of their number, does here what it does to a
    loss of pixels: an update is the same in one pass or several, on one process or many.
    """
    num_classes = logits.shape[1]
    classes = labels.flatten(1).long()  # [B, H * W]
    counted = (classes != ignore) & (classes >= 0) & (classes < num_classes)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    there = logits.new_zeros(len(logits), num_classes + 1)
    there = there.scatter_(1, classes.where(counted, num_classes), 1.0)[:, :num_classes]
    losses = F.binary_cross_entropy_with_logits(logits, there, reduction="none").mean(1)  # [B]
    pixels = counted.sum(1)
    total = pixels.sum() if normalizer is None else normalizer
    return (losses * pixels).sum() / total.clamp(min=1)


def hard_pixel_share(config: LossConfig, step: int) -> float:
    """How much of the pixels counts at `step`: a straight way down from all of them to `hard_pixels`."""
    if config.hard_pixels_step == 0:
        return config.hard_pixels
    progress = min(1.0, step / config.hard_pixels_step)
    return progress * config.hard_pixels + (1 - progress)


def median_frequency_weights(counts: Tensor) -> Tensor:
    """Weight of a class: the median of all frequencies over its own (as arXiv:1411.4734, 6.3.1); without pixels, 0."""
    frequency = counts.double() / counts.sum()
    present = frequency > 0
    return torch.where(present, frequency[present].median() / frequency.clamp_min(1e-12), 0.0).float()
