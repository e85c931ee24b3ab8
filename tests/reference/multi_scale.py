"""TensorFlow DeepLab's evaluation at several scales in the slow, obvious way."""

import numpy as np
import torch

from atrous.models import Model
from tests.reference.sliding import Floats, bilinear, softmax


def scaled(size: tuple[int, int], scale: float) -> tuple[int, int]:
    return int((size[0] - 1) * scale + 1), int((size[1] - 1) * scale + 1)


def predict_probabilities(model: Model, image: Floats, scales: tuple[float, ...], *, flip: bool) -> Floats:
    """[3, H, W], padded to the grid -> [C, H, W], in the original's order.

    Logits to the grid of the larger of this scale and 1, then to the image, softmax, mean.
    """
    size, views = (image.shape[-2], image.shape[-1]), []
    for scale in scales:
        view = bilinear(image, scaled(size, scale), aligned=True)
        for step in (1, -1)[: 2 if flip else 1]:
            batch = torch.from_numpy(view[..., ::step].copy()).float()[None]
            logits = model(batch).semantic[0].double().numpy()[..., ::step]
            grid = scaled(size, max(1.0, scale) / 4)  # the decoder is at stride 4
            views.append(softmax(bilinear(bilinear(logits, grid, aligned=True), size, aligned=True)))
    return np.asarray(np.mean(views, 0))
