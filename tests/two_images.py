"""Two small images with labels, for tests that a network learns them by heart and that all of it learns."""

import torch

from atrous.losses import LossConfig, semantic_loss
from atrous.models import Model

LABELS = torch.zeros(2, 33, 41, dtype=torch.uint8)  # of three of four classes
LABELS[0, :, 20:], LABELS[1, 16:] = 1, 2
NOISE = torch.randint(0, 64, (2, 3, 33, 41), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
IMAGES = 60 * LABELS[:, None].expand(2, 3, 33, 41) + NOISE


def terms(model: Model, zoom: int = 1) -> dict[str, torch.Tensor]:
    images, labels = (x.repeat_interleave(zoom, -2).repeat_interleave(zoom, -1) for x in (IMAGES, LABELS))
    return semantic_loss(model(images), labels, LossConfig(), ignore=255)


def unreached(model: Model, zoom: int = 1) -> list[str]:
    """The parameters that the loss does not depend on."""
    torch.autograd.backward(list(terms(model.train(), zoom).values()))
    return [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]


def learn(model: Model, steps: int = 40) -> list[float]:
    """The loss before each step."""
    optimizer = torch.optim.AdamW(model.train().parameters(), 3e-3)
    losses = []
    for _ in range(steps):
        loss = torch.stack(list(terms(model).values())).sum()
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses
