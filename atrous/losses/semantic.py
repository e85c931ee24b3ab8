"""The losses of semantic segmentation, on logits at the network's own grid and labels at the image's."""

from typing import Literal

import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt
from torch import Tensor
from torch.nn import functional as F

from atrous.ops import resize_nearest, upsample_cross_entropy
from atrous.settings import Settings
from atrous.types import Outputs

HEAD_WEIGHTS = {  # as the papers have them; a head that is not listed counts in full
    "auxiliary": 0.4,  # a second head on the stage before the last (arXiv:1612.01105, section 5.2)
    "cascade_0": 0.16,  # the coarser levels of a cascade (arXiv:1704.08545)
    "cascade_1": 0.4,
    "presence": 0.2,  # which classes an image has at all: the SE-loss of EncNet (arXiv:1803.08904)
}


class LossConfig(Settings):
    labels: Literal["image", "grid"] = "image"  # logits are compared at the image's size, or at their own grid
    class_weights: tuple[NonNegativeFloat, ...] | Literal["counts"] | None = None  # counts: from the training labels
    hard_pixels: float = Field(1.0, gt=0, le=1)  # the share of pixels, the worst ones, that counts; 1: all
    hard_pixels_step: NonNegativeInt = 0  # the share falls from 1 to `hard_pixels` over so many steps (TF DeepLab)
    weights: dict[str, NonNegativeFloat] = Field(
        {}
    )  # of the model's training heads by name; those left out: HEAD_WEIGHTS


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
    terms: dict[str, Tensor] = {}
    for name, logits in {"semantic": outputs.semantic, **outputs.heads}.items():
        factor = 1.0 if name == "semantic" else head_weight(config, name)
        if factor == 0:
            continue
        if name == "presence":
            terms[name] = factor * presence_loss(logits, labels, ignore=ignore, normalizer=normalizer)
            continue
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
    return terms


def head_weight(config: LossConfig, name: str) -> float:
    return config.weights.get(name, HEAD_WEIGHTS.get(name, 1.0))


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
