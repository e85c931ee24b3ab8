"""The losses of semantic segmentation, on logits at the network's own grid and labels at the image's size."""

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Annotated, Any, Literal, NamedTuple, Self

import torch
from pydantic import Field, NonNegativeFloat, model_validator
from torch import Tensor
from torch.nn import functional as F

from atrous.errors import ConfigError
from atrous.ops import resize_nearest, upsample_cross_entropy, upsample_dice, upsample_lovasz
from atrous.settings import MAX_CLASSES, MAX_COUNT, Settings
from atrous.types import Outputs

HEAD_WEIGHTS = {  # of the papers; a head that is not listed has weight 1
    "auxiliary": 0.4,  # a second head on the stage before the last (arXiv:1612.01105, section 5.2)
    "cascade_0": 0.16,  # the coarser levels of a cascade (arXiv:1704.08545)
    "cascade_1": 0.4,
    "presence": 0.2,  # which classes an image contains: the SE-loss of EncNet (arXiv:1803.08904)
}

ClassWeights = Annotated[tuple[NonNegativeFloat, ...], Field(max_length=MAX_CLASSES)] | Literal["counts"]


class LossConfig(Settings):
    labels: Literal["image", "grid"] = "image"
    """Compare at the image's size, or on the network's own grid: faster and coarser."""
    class_weights: ClassWeights | None = None
    """Weight of each class; counts: more for rare classes, from the training labels."""
    hard_pixels: float = Field(1.0, gt=0, le=1)
    """Share of the pixels that count, those with the largest losses; 1: all."""
    hard_pixels_step: int = Field(0, ge=0, le=MAX_COUNT)  # TF DeepLab
    """Steps over which that share falls from 1 to `hard_pixels`."""
    weights: dict[str, NonNegativeFloat] = Field({}, max_length=64)  # of the others: HEAD_WEIGHTS
    """Weights of the heads that only training has, such as {auxiliary: 0.4}."""
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    """Share of each label that is spread over all classes."""
    focal: float = Field(0.0, ge=0, le=100)  # arXiv:1708.02002
    """Exponent of 1 - p, p the label's probability, a factor on a pixel's cross entropy; 0: no such factor."""
    cross_entropy: NonNegativeFloat = 1.0
    """Weight of the cross entropy of the main logits."""
    dice: NonNegativeFloat = 0.0
    """Weight of the Dice loss of the main logits."""
    lovasz: NonNegativeFloat = 0.0  # arXiv:1705.08790
    """Weight of the Lovasz-softmax loss of the main logits."""

    @model_validator(mode="after")
    def _require_a_term(self) -> Self:
        if not self.cross_entropy + self.dice + self.lovasz:
            raise ValueError("cross_entropy, dice and lovasz are all 0: nothing would be learnt; set one above 0")
        return self


def require_heads(config: LossConfig, heads: Sequence[str]) -> None:
    """Raise ConfigError, with the nearest name, for a name in `loss.weights` that is not one of the model's `heads`."""
    for name in config.weights:
        if name not in heads:
            raise ConfigError(f"loss.weights.{name}: the model has no such training head; {_suggestion(name, heads)}")


def _suggestion(name: str, heads: Sequence[str]) -> str:
    close = get_close_matches(name, heads, 1)
    if close:
        return f"did you mean {close[0]}?"
    return f"it has {', '.join(heads)}" if heads else "it has none"


class Truth(NamedTuple):
    """What logits are compared with."""

    labels: Tensor  # [B, H, W]
    pixel_weights: Tensor | None  # [B, H, W]
    normalizer: Tensor | None


def semantic_loss(
    outputs: Outputs,
    labels: Tensor,  # [B, H, W]
    config: LossConfig,
    *,
    ignore: int,
    class_weights: Tensor | None = None,  # [C]
    pixel_weights: Tensor | None = None,  # [B, H, W]
    hard_pixels: float = 1.0,  # the share of pixels that counts
    normalizer: Tensor | None = None,
    align_corners: bool = True,
) -> dict[str, Tensor]:
    """The terms whose sum is minimised: of each head, and "dice" and "lovasz" of the main logits.

    `normalizer` replaces the number of pixels that divides each sum.
    """
    options: dict[str, Any] = {"ignore": ignore, "class_weights": class_weights, "align_corners": align_corners}
    truth = Truth(labels, pixel_weights, normalizer)
    terms: dict[str, Tensor] = {}
    for name, logits in {"semantic": outputs.semantic, **outputs.heads}.items():
        factor = config.cross_entropy if name == "semantic" else head_weight(config, name)
        if factor == 0:
            continue
        if name == "presence":
            terms[name] = factor * presence_loss(logits, labels, ignore=ignore, normalizer=normalizer)
            continue
        terms[name] = factor * upsample_cross_entropy(
            logits,
            **_compared(truth, logits, config, ignore)._asdict(),
            label_smoothing=config.label_smoothing,
            focal=config.focal,
            hard_pixels=hard_pixels,
            **options,
        )
    for name, (factor, loss) in {
        "dice": (config.dice, upsample_dice),
        "lovasz": (config.lovasz, upsample_lovasz),
    }.items():
        if factor > 0:
            compared = _compared(truth, outputs.semantic, config, ignore)._asdict()
            terms[name] = factor * loss(outputs.semantic, **compared, **options)
    return terms


def _compared(truth: Truth, logits: Tensor, config: LossConfig, ignore: int) -> Truth:
    """At the image's size, or on the logits' own grid."""
    if config.labels == "image":
        return truth
    labels, normalizer = _at_grid(truth.labels, logits, ignore, truth.normalizer)
    weights = truth.pixel_weights
    return Truth(labels, None if weights is None else resize_nearest(weights, logits.shape[-2:]), normalizer)


def head_weight(config: LossConfig, name: str) -> float:
    return config.weights.get(name, HEAD_WEIGHTS.get(name, 1.0))


def _at_grid(labels: Tensor, logits: Tensor, ignore: int, normalizer: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """The labels under each cell of the logits' grid (semseg's zoom 1, TF DeepLab's `upsample_logits=False`).

    `normalizer` counts the pixels of all passes of an update. It shrinks in proportion to the labels of this pass, so
    that the pass counts by its share of labelled pixels, as at the image's size.
    """
    grid_labels = resize_nearest(labels, logits.shape[-2:])
    if normalizer is None:
        return grid_labels, None
    pixels, cells = (labels != ignore).sum(), (grid_labels != ignore).sum()
    return grid_labels, normalizer * cells / pixels.clamp_min(1)


def presence_loss(
    logits: Tensor,  # [B, C]
    labels: Tensor,  # [B, H, W]
    *,
    ignore: int,
    normalizer: Tensor | None = None,
) -> Tensor:
    """The binary cross entropy of each class's presence in an image, averaged over classes (SE-loss, arXiv:1803.08904).

    An image counts in proportion to its labelled pixels. `normalizer` replaces their number, as in a loss over pixels,
    so that an update is the same in one pass or several, on one process or many.
    """
    num_classes = logits.shape[1]
    classes = labels.flatten(1).long()  # [B, H * W]
    is_class = (classes != ignore) & (classes >= 0) & (classes < num_classes)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    presence = logits.new_zeros(len(logits), num_classes + 1)  # the last column is for pixels without a class
    presence = presence.scatter_(1, classes.where(is_class, num_classes), 1.0)[:, :num_classes]
    losses = F.binary_cross_entropy_with_logits(logits, presence, reduction="none").mean(1)  # [B]
    pixels = is_class.sum(1)
    total = pixels.sum() if normalizer is None else normalizer
    return (losses * pixels).sum() / total.clamp(min=1)


def hard_pixel_share(config: LossConfig, step: int) -> float:
    """The share of pixels that counts at `step`: it falls linearly from 1 to `hard_pixels`."""
    if config.hard_pixels_step == 0:
        return config.hard_pixels
    progress = min(1.0, step / config.hard_pixels_step)
    return progress * config.hard_pixels + (1 - progress)


def median_frequency_weights(pixels: Sequence[int], pixels_of_images: Sequence[int]) -> Tensor:  # [C]
    """Class weights: the median frequency divided by the class's own (arXiv:1411.4734, section 6.3.1).

    The frequency of a class is its `pixels` among `pixels_of_images`: all pixels, labelled or not, of the images that
    hold it. A class without pixels has no part in the median, and weight 1.
    """
    present = torch.tensor(pixels) > 0
    frequency = torch.tensor(pixels, dtype=torch.float64) / torch.tensor(pixels_of_images).clamp_min(1)
    if not present.any():
        return torch.ones(len(pixels))
    median = frequency[present].quantile(0.5)  # of an even number: between the two in the middle, unlike `median`
    return torch.where(present, median / frequency, 1.0).float()
