"""What a new training begins with: `model.pretrained=imagenet|FILE`, `train.init=FILE`, or random weights."""

from collections.abc import Callable, Iterable, Sequence

import torch
from rich.console import Console
from torch import Tensor

from atrous.backbones import BACKBONES, BackboneConfig
from atrous.backbones.contract import ImageNet
from atrous.config import Config
from atrous.errors import ConfigError, listing
from atrous.models import Model
from atrous.reuse import Donor, Reused, copied, reuse
from atrous.types import RGB, Image, Sample

IMAGENET = "imagenet"
NUM_MEASURED = 32  # training images on which folded batch norms are measured


def begin(model: Model, config: Config, samples: Sequence[Sample], console: Console) -> Reused:
    """Give a new model the weights that its training begins with; `samples` are those that it learns from.

    Raises as `reuse` does, ConfigError where no weights for ImageNet are published, and OSError if they can't be
    fetched.
    """
    source, images = config.model.pretrained, _images(samples)
    if config.train.init is not None:
        return reuse(model, config.train.init, config.train.reuse, images, console=console)
    if source == IMAGENET:
        return _from_imagenet(model, config.model.backbone, images, console)
    if source is not None:
        return reuse(model, source, "backbone", images, setting="model.pretrained", console=console)
    return Reused("", [], list(model.state_dict()), [])


def _from_imagenet(
    model: Model, config: BackboneConfig, images: Callable[[], Iterable[Image]], console: Console
) -> Reused:
    origin = imagenet(config)
    if origin.source is not None:
        return reuse(model, origin.source, "backbone", images, setting="model.pretrained=imagenet", console=console)
    assert origin.load is not None
    weights, mean, std = origin.load()
    state = {f"backbone.{name}": tensor for name, tensor in weights.items()}
    state |= {"shift": _channels(mean), "scale": _channels(std)}
    return copied(model, Donor(origin.name, "model.pretrained=imagenet", state), "backbone")


def imagenet(config: BackboneConfig) -> ImageNet:
    """Where its weights for ImageNet come from. Raises ConfigError, with what there is, if from nowhere."""
    origin = config.imagenet
    if origin.source is None and origin.load is None:
        others = [name for name in BACKBONES if has_imagenet(name)]
        advice = origin.advice or f"there are some for {listing(others, 20)}"
        raise ConfigError(
            f"model.pretrained=imagenet: no weights for {config.name} are known; {advice}; "
            "or set model.pretrained=FILE, or model.pretrained=none for random weights"
        )
    return origin


def has_imagenet(name: str) -> bool:
    """Whether a network with its default settings has weights for ImageNet."""
    origin = BACKBONES[name].Config.model_validate({"name": name}).imagenet
    return origin.source is not None or origin.load is not None


def _channels(color: RGB) -> Tensor:
    return torch.tensor(color).view(3, 1, 1)


def _images(samples: Sequence[Sample]) -> Callable[[], Iterable[Image]]:
    """Some images from all over the split, read when they are needed."""
    count = min(NUM_MEASURED, len(samples))
    return lambda: (samples[index * len(samples) // count].image for index in range(count))
