"""The fully connected CRF by its definition, over all pairs of pixels."""

import numpy as np
import torch
from torch import Tensor

from atrous.ops import gaussian_filter_reference
from atrous.postprocess import CRF
from atrous.types import Image


def mean_field(probabilities: Tensor, image: Image, crf: CRF) -> Tensor:
    """`refine` with exact kernels [H * W, H * W], in float64."""
    height, width = image.shape[:2]
    positions = torch.cartesian_prod(*(torch.arange(size, dtype=torch.float64) for size in (height, width)))
    colors = torch.from_numpy(image.astype(np.float64)).flatten(0, 1)
    appearance = _normalized(torch.cat([positions / crf.bilateral_xy, colors / crf.bilateral_rgb], 1))
    smoothness = _normalized(positions / crf.spatial_xy)
    kernel = crf.bilateral_weight * appearance + crf.spatial_weight * smoothness
    unary = probabilities.double().flatten(1).log()
    marginals = unary.softmax(0)
    for _ in range(crf.iterations):
        marginals = (unary + marginals @ kernel).softmax(0)
    return marginals.view_as(probabilities)


def _normalized(features: Tensor) -> Tensor:
    kernel = gaussian_filter_reference(features, torch.eye(len(features), dtype=torch.float64))
    norm = kernel.sum(1).rsqrt()
    return norm[:, None] * kernel * norm
