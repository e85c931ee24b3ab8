"""The losses of semantic segmentation, on logits at the network's own grid and labels at the image's."""

from typing import Literal

import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt
from torch import Tensor

from atrous.ops import upsample_cross_entropy
from atrous.types import Outputs, Settings


class LossConfig(Settings):
    class_weights: tuple[NonNegativeFloat, ...] | Literal["counts"] | None = None  # counts: from the training labels
    hard_pixels: float = Field(1.0, gt=0, le=1)  # the share of pixels, the worst ones, that counts; 1: all
    hard_pixels_step: NonNegativeInt = 0  # the share falls from 1 to `hard_pixels` over so many steps (TF DeepLab)
    auxiliary: NonNegativeFloat = 0.4  # weight of the second head, where the model has one (arXiv:1612.01105, 5.2)


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
    return {
        name: factor
        * upsample_cross_entropy(
            logits,
            labels,
            ignore=ignore,
            weights=weights,
            top_k=top_k,
            align_corners=align_corners,
            normalizer=normalizer,
        )
        for name, (logits, factor) in heads.items()
    }


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
