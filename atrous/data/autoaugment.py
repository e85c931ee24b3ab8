"""AutoAugment's photometric policy, as deeplab2 uses it: two operations of one of five pairs (arXiv:1805.09501).

The *exact* operations are deeplab2's. The corrected ones leave out three of its quirks: its contrast blends with
white, because the "mean" is the number of pixels; a smaller magnitude solarizes more; and it darkens by more than half.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from atrous.types import Image

Grey = NDArray[np.uint8]  # [H, W]
Operation = Callable[[Image, float], Image]

MAX_LEVEL = 10.0
GREY_WEIGHTS = np.array([0.2989, 0.5870, 0.1140], np.float32)  # tf.image.rgb_to_grayscale


class Step(NamedTuple):
    operation: str
    probability: float
    level: float


POLICY: tuple[tuple[Step, Step], ...] = (  # simple_classification_policy
    (Step("sharpness", 0.4, 7), Step("brightness", 0.2, 10)),
    (Step("equalize", 0.0, 9), Step("contrast", 0.2, 10)),
    (Step("sharpness", 0.2, 9), Step("color", 0.2, 9)),
    (Step("solarize", 0.2, 7), Step("equalize", 0.6, 9)),
    (Step("sharpness", 0.2, 1), Step("equalize", 0.2, 7)),
)


def distort(image: Image, magnitude: float, chances: tuple[float, float, float], *, exact: bool) -> Image:
    """The image after one pair of operations; `chances`, each in [0, 1), choose the pair and decide on each of it."""
    pair = POLICY[int(chances[0] * len(POLICY))]
    for step, chance in zip(pair, chances[1:], strict=True):
        if chance < step.probability:
            image = apply(image, step, magnitude, exact=exact)
    return image


def apply(image: Image, step: Step, magnitude: float, *, exact: bool) -> Image:
    """deeplab2 multiplies levels by the magnitude; corrected, a magnitude of 0 changes nothing."""
    operations = EXACT if exact else CORRECTED
    strength = strength_of(step, magnitude) if exact else corrected_strength(step, magnitude)
    return operations[step.operation](image, strength)


def strength_of(step: Step, magnitude: float) -> float:
    """A factor, 1 for no change, or solarize's threshold."""
    share = step.level * magnitude / MAX_LEVEL
    return int(share * 256) if step.operation == "solarize" else share * 1.8 + 0.1


def corrected_strength(step: Step, magnitude: float) -> float:
    neutral = 256.0 if step.operation == "solarize" else 1.0
    return neutral + magnitude * (strength_of(step, 1.0) - neutral)


def blend(degenerate: Image, image: Image, factor: float) -> Image:
    """From `degenerate` (factor 0) by way of the image (1) beyond it; cut off, not rounded, as in deeplab2."""
    if factor == 1:
        return image
    low = degenerate.astype(np.float32)
    mixed = low + np.float32(factor) * (image.astype(np.float32) - low)
    return mixed.clip(0, 255).astype(np.uint8)


def grey(image: Image) -> Grey:
    """tf.image.rgb_to_grayscale of bytes: by way of 0..1, and cut off at 255.5 levels."""
    level = (image.astype(np.float32) * np.float32(1 / 255)) @ GREY_WEIGHTS
    return (level * np.float32(255.5)).astype(np.uint8)


def color(image: Image, factor: float) -> Image:
    return blend(np.repeat(grey(image)[..., None], 3, -1), image, factor)


def contrast(image: Image, factor: float) -> Image:
    return blend(np.full_like(image, int(grey(image).mean() + 0.5)), image, factor)


def contrast_with_white(image: Image, factor: float) -> Image:
    """deeplab2's: a 256th of the number of pixels stands for the mean, so that it is 255 from 256 x 255 pixels on."""
    num_pixels = image.shape[0] * image.shape[1]
    return blend(np.full_like(image, int(min(num_pixels / 256, 255))), image, factor)


def brightness(image: Image, factor: float) -> Image:
    return blend(np.zeros_like(image), image, factor)


def sharpness(image: Image, factor: float) -> Image:
    """Away from the mean of 3 x 3 in which the centre weighs five times; the border stays."""
    smooth = image.copy()
    height, width = image.shape[:2]
    if height > 2 and width > 2:
        wide = image.astype(np.float32)
        parts = [wide[i : i + height - 2, j : j + width - 2] for i in range(3) for j in range(3)]
        mean = (np.sum(parts, axis=0) + 4 * parts[4]) / np.float32(13)
        smooth[1:-1, 1:-1] = mean.clip(0, 255).astype(np.uint8)
    return blend(smooth, image, factor)


def solarize(image: Image, threshold: float) -> Image:
    """Values from the threshold on are inverted."""
    return np.where(image < threshold, image, 255 - image)


def equalize(image: Image, _: float) -> Image:
    """A flat histogram in each channel."""
    return np.stack([_equalized(image[..., channel]) for channel in range(3)], -1)


def _equalized(channel: Grey) -> Grey:
    counts = np.bincount(channel.ravel(), minlength=256)
    step = (counts.sum() - counts[counts > 0][-1]) // 255
    if step == 0:
        return channel
    table = np.concatenate([[0], (np.cumsum(counts) + step // 2)[:-1] // step])
    return table.clip(0, 255).astype(np.uint8)[channel]


CORRECTED: Mapping[str, Operation] = {
    "sharpness": sharpness,
    "brightness": brightness,
    "equalize": equalize,
    "contrast": contrast,
    "color": color,
    "solarize": solarize,
}
EXACT: Mapping[str, Operation] = {**CORRECTED, "contrast": contrast_with_white}
