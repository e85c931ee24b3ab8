"""Colours, blur and noise of a whole batch in one pass on its device: `augment.colors_on=device`.

Each image has its own random numbers (`Sample.variation`), drawn where it was read, so that they depend on the seed,
the epoch and the image alone. Every operation is elementwise, or a sum of integers: an image looks the same
bit for bit, whatever else is in its batch. Nothing waits for the device.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from atrous.data.augment_config import AugmentConfig
from atrous.data.colors import BINOMIAL, LUMA
from atrous.types import Batch, Sample

REACH = 3  # standard deviations that a gaussian kernel extends to
POSITIVE = 0x7FFFFFFF
GREY: list[float] = LUMA.tolist()


def vary(batch: Batch, config: AugmentConfig) -> Batch:
    """The batch with what its samples' variations ask for; as it is if they have none."""
    if batch.variation is None:
        return batch
    return batch._replace(images=varied(batch.images, batch.variation, config), variation=None)


def vary_sample(sample: Sample, config: AugmentConfig) -> Sample:
    """The same for one sample, so that people see what the network sees."""
    if sample.variation is None:
        return sample
    images = torch.from_numpy(sample.image).permute(2, 0, 1)[None]
    image = varied(images, torch.from_numpy(sample.variation)[None], config)[0].permute(1, 2, 0)
    return sample._replace(image=image.contiguous().numpy(), variation=None)


def varied(images: Tensor, variation: Tensor, config: AugmentConfig) -> Tensor:
    """[B, 3, H, W] uint8, blurred, then with other colours, then with noise; [B, 6] as `transforms.variation_of`."""
    brightness, contrast, saturation, hue, blur, seed = variation.unbind(1)
    pixels = images.float()
    pixels = blurred(pixels, blur, config) if config.blur else pixels
    pixels = recolored(pixels, mean_grey(images), brightness, contrast, saturation, hue)
    pixels = pixels + config.noise * noise(pixels, seed) if config.noise else pixels
    return pixels.round().clamp(0, 255).to(torch.uint8)


def blurred(pixels: Tensor, sigma: Tensor, config: AugmentConfig) -> Tensor:
    """By the kernel of each image; a standard deviation of 0 leaves it as it is."""
    weights = kernels(sigma, config)  # [B, K]
    reach = weights.shape[1] // 2
    for axis in (2, 3):
        padding = (reach, reach, 0, 0) if axis == 3 else (0, 0, reach, reach)
        wide, side = F.pad(pixels, padding, "replicate"), pixels.shape[axis]
        pixels = torch.zeros_like(pixels)
        for place in range(weights.shape[1]):
            pixels += weights[:, place, None, None, None] * wide.narrow(axis, place, side)
    return pixels


def kernels(sigma: Tensor, config: AugmentConfig) -> Tensor:
    """[B, K], each of sum 1: as many places as the largest blur of the settings needs."""
    is_binomial = config.blur_kernel == "binomial"
    reach = len(BINOMIAL) // 2 if is_binomial else max(1, math.ceil(REACH * config.blur_radius[1]))
    places = torch.arange(-reach, reach + 1, device=sigma.device)
    weights = torch.exp(-(places**2) / (2 * sigma.clamp_min(1e-3)[:, None] ** 2))
    if is_binomial:
        weights = repeated(BINOMIAL, sigma)
    weights = torch.where(sigma[:, None] > 0, weights, places == 0)
    total = sum(weights.unbind(1), start=torch.zeros_like(sigma))  # in this order, whatever else is in the batch
    return (weights / total[:, None]).float()


def repeated(values: Sequence[float], like: Tensor) -> Tensor:
    """[B, K] of [B], made on the device: a copy from the CPU would be waited for."""
    return torch.stack([torch.full_like(like, value) for value in values], 1)


def mean_grey(images: Tensor) -> Tensor:
    """[B] of [B, 3, H, W] uint8: sums of whole numbers, which don't depend on their order."""
    totals = images.sum((2, 3), dtype=torch.int64)
    red, green, blue = (totals.double() / (images.shape[2] * images.shape[3])).unbind(1)
    return GREY[0] * red + GREY[1] * green + GREY[2] * blue


def recolored(
    pixels: Tensor, mean: Tensor, brightness: Tensor, contrast: Tensor, saturation: Tensor, hue: Tensor
) -> Tensor:
    """`transforms.jitter_colors` with a matrix for each image."""
    left, right = hue_matrices(hue), saturation_matrices(saturation)
    parts = (left[:, :, k, None] * right[:, None, k] for k in range(3))
    matrix = sum(parts, start=torch.zeros_like(left)) * (brightness * contrast)[:, None, None]
    matrix = matrix.float()[..., None, None]  # [B, 3, 3, 1, 1]
    shift = (mean * brightness * (1 - contrast)).float()[:, None, None]
    rows = [sum((matrix[:, row, k] * pixels[:, k] for k in range(3)), start=shift) for row in range(3)]
    return torch.stack(rows, 1)


def saturation_matrices(factor: Tensor) -> Tensor:
    """[B, 3, 3]: each colour between its grey (factor 0) and itself (1), or beyond."""
    factor, grey = factor[:, None, None], repeated(GREY, factor)[:, None]
    return factor * torch.eye(3, dtype=factor.dtype, device=factor.device) + (1 - factor) * grey


def hue_matrices(turns: Tensor) -> Tensor:
    """[B, 3, 3]: Rodrigues' rotations about the grey axis."""
    angle = 2 * math.pi * turns
    same, next_one = (1 + 2 * angle.cos()) / 3, angle.sin() / math.sqrt(3)
    rest = (1 - angle.cos()) / 3
    right, left = rest - next_one, rest + next_one
    return torch.stack([same, right, left, left, same, right, right, left, same], 1).reshape(-1, 3, 3)


def noise(pixels: Tensor, seed: Tensor) -> Tensor:
    """Normal numbers for each value of [B, 3, H, W], from its place and the image's seed [B] alone (Box and Muller)."""
    number = 2 * torch.arange(pixels[0].numel(), dtype=torch.int32, device=pixels.device).reshape(pixels.shape[1:])
    start = mixed((seed.long() - 2**31).int())[:, None, None, None]
    radius = (-2 * uniform(mixed(start + number)).log()).sqrt()
    return radius * (2 * math.pi * uniform(mixed(start + number + 1))).cos()


def uniform(bits: Tensor) -> Tensor:
    """Numbers above 0, up to 1, of 31 bits of each int32."""
    return ((bits & POSITIVE).float() + 1) / 2**31


def mixed(bits: Tensor) -> Tensor:
    """int32 that look random: the finaliser of MurmurHash3 (Appleby, 2011); products keep their lowest 32 bits."""
    for shift, factor in ((16, 0x85EBCA6B - 2**32), (13, 0xC2B2AE35 - 2**32)):
        bits = bits ^ (bits >> shift & 2 ** (32 - shift) - 1)
        bits = bits * factor
    return bits ^ (bits >> 16 & 0xFFFF)
