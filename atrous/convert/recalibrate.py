"""Folded batch norms get statistics, measured on images, so that a converted model can be trained."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from atrous import distributed
from atrous.distributed import World
from atrous.errors import ConfigError
from atrous.inference import InferenceConfig
from atrous.inference.frames import as_batch
from atrous.inference.look import look
from atrous.models import Model
from atrous.types import Image

T = TypeVar("T")
ALONE = World(0, 1, torch.device("cpu"))


class Moments:
    """Mean and variance of each channel over all maps of all images.

    What one image adds is summed first, and the images are added in their order, so that the sums have the same bits
    however many processes share the images.
    """

    def __init__(self, channels: int) -> None:
        self.image = torch.zeros(2 * channels + 1, dtype=torch.float64)  # sums, sums of squares, number of values
        self.total = torch.zeros_like(self.image)

    def add(self, x: Tensor) -> None:  # [B, K, h, w]
        values = x.detach().double().cpu()
        count = torch.tensor([values.numel() // values.shape[1]], dtype=torch.float64)
        self.image += torch.cat([values.sum((0, 2, 3)), values.square().sum((0, 2, 3)), count])

    @property
    def mean(self) -> Tensor:
        return self._parts()[0]

    @property
    def variance(self) -> Tensor:
        mean, square = self._parts()
        return (square - mean.square()).clamp_min(0)

    def _parts(self) -> tuple[Tensor, Tensor]:
        mean, square = (self.total[:-1] / self.total[-1]).chunk(2)
        return mean, square


def end_round(moments: Sequence[Moments]) -> None:
    """Add the image that each process has just seen, in the order of the processes, which is that of the images."""
    own = torch.cat([one.image for one in moments])
    for images in distributed.gather([own]):
        for one, image in zip(moments, torch.split(images, [len(one.image) for one in moments]), strict=True):
            one.total += image
    for one in moments:
        one.image.zero_()


def has_folded_norms(model: nn.Module) -> bool:
    """Whether some of its batch norms only shift and have no statistics, as folding leaves them."""
    return bool(_folded(model))


def misleads_training(model: nn.Module) -> bool:
    """Whether weights expect batch norms without statistics; those of a new network don't expect anything yet."""
    return any(bool(norm.bias.any()) for norm in _folded(model))


def _folded(model: nn.Module) -> list[nn.BatchNorm2d]:
    return [norm for norm in model.modules() if isinstance(norm, nn.BatchNorm2d) and _is_plain(norm)]


def _is_plain(norm: nn.BatchNorm2d) -> bool:
    mean, variance = norm.running_mean, norm.running_var
    return mean is not None and variance is not None and not mean.any() and bool((variance == 1).all())


def recalibrate(
    model: Model, inference: InferenceConfig, images: Sequence[T], read: Callable[[T], Image], world: World = ALONE
) -> None:
    """Give folded batch norms the statistics of their inputs over `images`; what the model computes stays the same.

    The processes share the images, and all get the same statistics.

    A batch norm that was folded into its convolution has mean 0 and variance 1, whatever its input: in training it
    would normalise by the batch's own statistics and change everything. Raises ConfigError if nothing is folded. If an
    image can't be read, the model is not changed.
    """
    norms = _folded(model)
    if not norms:
        raise ConfigError(
            "--recalibrate: no batch norm is folded in this model: all have the statistics of its training"
        )
    moments = [Moments(norm.num_features) for norm in norms]
    hooks = [norm.register_forward_pre_hook(_adding_to(moment)) for norm, moment in zip(norms, moments, strict=True)]
    try:
        for start in range(0, len(images), world.size):
            for image in images[start : start + world.size][world.rank : world.rank + 1]:  # the last round may lack one
                look(model.eval(), as_batch(read(image), model.shift.device), inference)
            end_round(moments)
    finally:
        for hook in hooks:
            hook.remove()
    for norm, moment in zip(norms, moments, strict=True):
        set_statistics(norm, moment.mean, moment.variance)


def _adding_to(moments: Moments) -> Callable[[nn.Module, Any], None]:
    def hook(module: nn.Module, inputs: Any) -> None:  # noqa: ANN401 - PyTorch's signature
        moments.add(inputs[0])

    return hook


@torch.no_grad()
def set_statistics(norm: nn.BatchNorm2d, mean: Tensor, variance: Tensor) -> None:
    """New running statistics, and the scale and shift with which the layer still computes the same."""
    assert norm.running_mean is not None and norm.running_var is not None
    slope = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    mean, variance = mean.to(slope.device), variance.to(slope.device)
    shift = norm.bias.double() + slope * (mean - norm.running_mean.double())
    norm.weight.copy_(slope * (variance + norm.eps).sqrt())
    norm.bias.copy_(shift)
    norm.running_mean.copy_(mean)
    norm.running_var.copy_(variance)
