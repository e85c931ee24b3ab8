"""Colours, blur and noise of one image."""

import math

import numpy as np
import PIL.Image
import PIL.ImageFilter

from atrous.data.augment_config import Kernel
from atrous.data.windows import Matrix
from atrous.types import Image

BINOMIAL = (1, 4, 6, 4, 1)  # / 16, in each direction: OpenCV's GaussianBlur of 5 x 5 without a sigma
LUMA = np.array([0.299, 0.587, 0.114])  # the perceived brightness of R, G and B (ITU-R BT.601)


def jitter_colors(
    image: Image, brightness: float = 1.0, contrast: float = 1.0, saturation: float = 1.0, hue: float = 0.0
) -> Image:
    """Three factors and a hue shift in turns, as one linear map of colours that is clipped once.

    Contrast scales the distance from the image's mean grey, saturation that from each pixel's own grey. Hue rotates
    colours about the grey axis: a third of a turn makes red green.
    """
    if (brightness, contrast, saturation, hue) == (1, 1, 1, 0):
        return image
    mean = brightness * float(image.reshape(-1, 3).mean(0) @ LUMA)
    matrix = brightness * contrast * _turn_hue(hue) @ _saturate(saturation)
    rows = np.column_stack([matrix, np.full(3, mean * (1 - contrast))])  # [3, 4]
    return np.array(PIL.Image.fromarray(image).convert("RGB", tuple(rows.ravel())))


def blur(image: Image, radius: float, kernel: Kernel = "gaussian") -> Image:
    """Blur with standard deviation `radius` in pixels; the binomial kernel has its own. 0: the image is unchanged."""
    if radius == 0:
        return image
    if kernel == "gaussian":
        return np.array(PIL.Image.fromarray(image).filter(PIL.ImageFilter.GaussianBlur(radius)))
    if kernel == "area":
        return blur_area(image, radius)
    reach = blur_reach(radius, kernel)
    wide = np.pad(image, ((reach, reach), (reach, reach), (0, 0)), "reflect")  # Pillow does not filter the border
    weights = PIL.ImageFilter.Kernel((5, 5), np.outer(BINOMIAL, BINOMIAL).ravel().tolist())
    return np.array(PIL.Image.fromarray(wide).filter(weights))[reach:-reach, reach:-reach]


def blur_area(image: Image, factor: float) -> Image:
    """Shrunk to 1 / `factor` by means of areas, and enlarged again."""
    height, width = image.shape[:2]
    small = (max(1, int(width / factor)), max(1, int(height / factor)))
    shrunk = PIL.Image.fromarray(image).resize(small, PIL.Image.Resampling.BOX)
    return np.array(shrunk.resize((width, height), PIL.Image.Resampling.BILINEAR))


def blur_reach(radius: float, kernel: Kernel) -> int:
    """The distance, in pixels, that a blur spreads; Pillow computes the Gaussian as three box blurs."""
    if radius == 0 or kernel == "area":
        return 0
    return len(BINOMIAL) // 2 if kernel == "binomial" else 3 * math.ceil(radius + 0.5)


def add_noise(image: Image, sigma: float, rng: np.random.Generator) -> Image:
    """Gaussian noise of standard deviation `sigma` in grey levels, for each pixel and colour, clipped to 0..255."""
    if sigma == 0:
        return image
    noisy = image + np.float32(sigma) * rng.standard_normal(image.shape, dtype=np.float32)
    return noisy.round().clip(0, 255).astype(np.uint8)


def _saturate(factor: float) -> Matrix:
    return np.asarray(factor * np.eye(3) + (1 - factor) * LUMA)


def _turn_hue(turns: float) -> Matrix:
    """Rodrigues' rotation about (1, 1, 1)."""
    angle = 2 * math.pi * turns
    cross = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
    return np.asarray(math.cos(angle) * np.eye(3) + math.sin(angle) * cross + (1 - math.cos(angle)) / 3)
