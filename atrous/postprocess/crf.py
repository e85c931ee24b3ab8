"""The fully connected CRF of DeepLab v1 (arXiv:1412.7062, section 4.1) and v2 (arXiv:1606.00915, section 3.3).

Mean field inference of Kraehenbuehl and Koltun (arXiv:1210.5644): unary energy -log p, Potts compatibility, and two
kernels, w1 exp(-dp^2 / 2 sa^2 - dI^2 / 2 sb^2) of position p and colour I, and w2 exp(-dp^2 / 2 sg^2) of position
alone. As in their published code (version 2, whose default is NORMALIZE_SYMMETRIC), each kernel K becomes
D^-1/2 K D^-1/2, where D holds its row sums, and a pixel also sends a message to itself. The first kernel is
approximated on the permutohedral lattice, as in that code. The second, for which that code uses another lattice, is
computed exactly as a product of two small matrices.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat
from torch import Tensor
from torch.nn import functional as F

from atrous.errors import DataError
from atrous.ops import Lattice, permutohedral_filter, permutohedral_lattice
from atrous.settings import Settings
from atrous.types import Image

SMALLEST_PROBABILITY = 1e-20  # replaces zero; so low that the kernels cannot outweigh it
REACH = 5  # standard deviations; less than a millionth of a Gaussian lies beyond
VECTOR = 8  # the number of classes is padded to a multiple of it: whole vectors are faster
GROUP_BYTES = 30 << 20  # larger blocks are requested from the system each time, which costs more than filling them

CRFName = Literal[
    "v1",
    "v1_msc",
    "v1_coco",
    "v1_large_fov",
    "v1_msc_large_fov",
    "v1_coco_large_fov",
    "v1_msc_coco_large_fov",
    "v2_vgg16",
    "v2_resnet101",
]
Kernel = Callable[[Tensor], Tensor]  # [H, W, C] -> [H, W, C]


class CRF(Settings):
    """The weights and standard deviations of the two kernels, in the order of the papers: w1, sa, sb, w2, sg."""

    bilateral_weight: NonNegativeFloat
    bilateral_xy: PositiveFloat  # pixels
    bilateral_rgb: PositiveFloat  # grey levels, 0..255
    spatial_weight: NonNegativeFloat
    spatial_xy: PositiveFloat  # pixels
    iterations: NonNegativeInt = 10


def _row(w1: float, sa: float, sb: float, w2: float, sg: float) -> CRF:
    return CRF(bilateral_weight=w1, bilateral_xy=sa, bilateral_rgb=sb, spatial_weight=w2, spatial_xy=sg)


CRFS: dict[CRFName, CRF] = {  # w1, sa, sb, w2, sg of the authors' release scripts, for PASCAL VOC
    "v1": _row(5, 50, 10, 3, 3),
    "v1_msc": _row(3, 95, 3, 3, 3),
    "v1_coco": _row(5, 67, 3, 3, 3),
    "v1_large_fov": _row(4, 121, 5, 3, 3),
    "v1_msc_large_fov": _row(4, 83, 5, 3, 3),
    "v1_coco_large_fov": _row(5, 69, 5, 3, 3),
    "v1_msc_coco_large_fov": _row(4, 59, 5, 3, 3),
    "v2_vgg16": _row(4, 65, 3, 2, 2),
    "v2_resnet101": _row(4, 67, 3, 3, 1),
}


def refine(probabilities: Tensor, image: Image, crf: CRF) -> Tensor:
    """The marginal probabilities after `crf.iterations` rounds of mean field: [C, H, W], float32, on the CPU.

    `probabilities` [C, H, W] are the network's, at the size of the RGB image. Zeros are clipped; there is no gradient.
    Raises DataError if the sizes differ or a probability is negative, infinite or NaN, and ConfigError if the standard
    deviations are too small for the lattice.
    """
    _require_fit(probabilities, image)
    with torch.no_grad():
        unary = _log(probabilities)  # [H, W, C]
        lattice = permutohedral_lattice(_features(image, crf))
        appearance, smoothness = _appearance(lattice, crf), _smoothness(image.shape[:2], crf)
        marginals, logits = unary.softmax(-1), torch.empty_like(unary)
        for _ in range(crf.iterations):
            for group in _groups(unary, lattice):
                own = marginals[..., group].contiguous()
                logits[..., group] = unary[..., group] + appearance(own) + smoothness(own)
            torch.softmax(logits, -1, out=marginals)
        return marginals[..., : len(probabilities)].movedim(-1, 0).contiguous()


def _groups(unary: Tensor, lattice: Lattice) -> list[slice]:
    """The slices of classes that are filtered together."""
    rows = max(len(lattice.splat.starts), len(lattice.slice.starts))  # vertices, pixels
    size = max(GROUP_BYTES // (rows * unary.itemsize * VECTOR), 1) * VECTOR
    return [slice(start, start + size) for start in range(0, unary.shape[-1], size)]


def _log(probabilities: Tensor) -> Tensor:
    """Logarithms [H, W, C], padded with classes of probability 0."""
    logits = probabilities.to("cpu", torch.float32).clamp(min=SMALLEST_PROBABILITY).log().movedim(0, -1)
    return F.pad(logits, (0, -len(probabilities) % VECTOR), value=-math.inf)


def _appearance(lattice: Lattice, crf: CRF) -> Kernel:
    mass = permutohedral_filter(lattice, torch.ones(len(lattice.slice.starts), 1))
    return partial(_bilateral, lattice, mass.rsqrt(), crf.bilateral_weight)


def _bilateral(lattice: Lattice, norm: Tensor, weight: float, marginals: Tensor) -> Tensor:
    values = marginals.flatten(0, 1) * norm  # [H * W, C]
    return permutohedral_filter(lattice, values).mul_(norm * weight).view_as(marginals)


def _features(image: Image, crf: CRF) -> Tensor:
    """x, y, red, green, blue: [H * W, 5], in the order of the published code, on which the lattice depends slightly."""
    rows, columns = (torch.arange(size, dtype=torch.float32) for size in image.shape[:2])
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    colors = torch.from_numpy(image.astype("float32")) / crf.bilateral_rgb  # [H, W, 3]
    return torch.cat([torch.stack([x, y], 2) / crf.bilateral_xy, colors], 2).flatten(0, 1)


def _smoothness(size: tuple[int, ...], crf: CRF) -> Kernel:
    rows, columns = (_gaussian(length, crf.spatial_xy) for length in size)
    return partial(_spatial, rows * crf.spatial_weight, columns, math.ceil(REACH * crf.spatial_xy))


def _spatial(rows: Tensor, columns: Tensor, reach: int, marginals: Tensor) -> Tensor:
    across = _band_product(columns, marginals, reach)
    return _band_product(rows, across.flatten(1), reach).view_as(marginals)


def _gaussian(length: int, deviation: float) -> Tensor:
    """One axis of the normalised kernel, [length, length]: the plane's kernel is a product, and so are its row sums."""
    place = torch.arange(length, dtype=torch.float64)
    kernel = torch.exp(-(((place[:, None] - place) / deviation) ** 2) / 2)
    norm = kernel.sum(1).rsqrt()
    return (norm[:, None] * kernel * norm).float()


def _band_product(matrix: Tensor, values: Tensor, reach: int) -> Tensor:
    """`matrix` [n, n] times `values` [..., n, K]. Entries further than `reach` from the diagonal's blocks are 0."""
    length = len(matrix)
    pieces = []
    for start in range(0, length, reach):
        rows = slice(start, start + reach)
        near = slice(max(start - reach, 0), start + 2 * reach)
        pieces.append(matrix[rows, near] @ values[..., near, :])
    return torch.cat(pieces, -2)


def _require_fit(probabilities: Tensor, image: Image) -> None:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != "uint8":
        raise DataError(f"the image must be uint8 [H, W, 3], got {image.dtype} {list(image.shape)}")
    if probabilities.ndim != 3 or probabilities.shape[1:] != image.shape[:2] or not probabilities.numel():
        shape, size = list(probabilities.shape), list(image.shape[:2])
        raise DataError(f"probabilities must be [C, H, W] at the size of the image, {size}, got {shape}")
    lowest, highest = (float(extreme) for extreme in torch.aminmax(probabilities.detach()))
    if not (lowest >= 0 and highest < math.inf):
        raise DataError(f"probabilities must be finite and not negative, got {lowest:g}..{highest:g}; are they logits?")
