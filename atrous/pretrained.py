"""What a new training begins with: `model.pretrained=imagenet|FILE`, `train.init=FILE`, or random weights."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor

from atrous.backbones import BACKBONES, BackboneConfig
from atrous.backbones.contract import ImageNet, Pretrained
from atrous.config import Config
from atrous.convert import sources, zoo
from atrous.convert.readers.safetensors import is_foreign
from atrous.convert.sources import PYTORCH, ZOO
from atrous.errors import ConfigError, DataError, listing, text_of
from atrous.files import user_path
from atrous.models import Model
from atrous.progress import say
from atrous.reuse import Donor, Reused, copied, reuse
from atrous.types import RGB, Image, Sample

IMAGENET = "imagenet"
SETTING = "model.pretrained=imagenet"
OTHERWISE = "model.pretrained=FILE or model.pretrained=none (random weights)"
NUM_MEASURED = 32  # training images on which folded batch norms are measured
FEW = 1000  # training images; with more, random weights catch up in time
PRICE = (
    "of 20 photos of people, for equal steps, person was learnt to IoU 0.000 from random weights, 0.431 from ImageNet's"
)


def begin(model: Model, config: Config, samples: Sequence[Sample], console: Console) -> Reused:
    """Give a new model the weights that its training begins with; `samples` are those that it learns from.

    Raises as `reuse` does, ConfigError where no weights for ImageNet are known, and OSError if they can't be fetched.
    """
    source, images = config.model.pretrained, _images(config, samples)
    if config.train.init is not None:
        return reuse(model, config.train.init, config.train.reuse, images, console=console)
    if source == IMAGENET:
        return _from_imagenet(model, config.model.backbone, images, console)
    if source is not None:
        return _from_file(model, config.model.backbone, source, images, console)
    return Reused("", [], list(model.state_dict()), [])


def say_beginning(reused: Reused, config: Config, samples: Sequence[Sample], console: Console) -> None:
    """Print what a training begins with, and the price of random weights where there are few images of the world."""
    advice = ""
    if not reused.source and len(samples) < FEW and config.data.format != "synthetic":
        has_some = has_imagenet(config.model.backbone)
        way = (
            SETTING if has_some else f"train.init=FILE, a model with {config.model.backbone.name}, train.reuse=backbone"
        )
        advice = f"; {len(samples)} images are few for them ({PRICE}): {way} begins with better ones"
    say(f"{reused.describe()}{advice}", console)


def _from_file(
    model: Model, config: BackboneConfig, source: str, images: Callable[[], Iterable[Image]], console: Console
) -> Reused:
    path = user_path(source)
    is_other = (path.is_file() and path.name.endswith(PYTORCH)) or is_foreign(path)
    if is_other and (weights := _read(config, path)):
        return copied(model, Donor(source, f"model.pretrained={source}", _state(weights)), "backbone")
    try:
        return reuse(model, source, "backbone", images, setting="model.pretrained", console=console)
    except FileNotFoundError as error:
        what = "expected imagenet, none, or a file as in train.init"
        raise FileNotFoundError(f"model.pretrained={source}: {text_of(error)}; {what}") from error


def _read(config: BackboneConfig, path: Path) -> Pretrained | None:
    """As the backbone's own program reads it. What is wrong with a damaged or unsafe file, our own reader says."""
    try:
        return config.read(path)
    except OSError:
        sources.read(path)
        raise


# ---- ImageNet


def imagenet(config: BackboneConfig) -> ImageNet:
    """Where its weights for ImageNet come from. Raises ConfigError, with what there is, if from nowhere."""
    if has_imagenet(config):
        return config.imagenet
    others = (name for name, row in BACKBONES.items() if has_imagenet(row.Config.model_validate({"name": name})))
    advice = config.imagenet.advice or f"there are some for {listing(others, 20)}"
    raise ConfigError(f"{SETTING}: no weights for this {config.name} are known; {advice}; otherwise set {OTHERWISE}")


def has_imagenet(config: BackboneConfig) -> bool:
    return config.imagenet.source is not None or config.imagenet.load is not None


def _from_imagenet(
    model: Model, config: BackboneConfig, images: Callable[[], Iterable[Image]], console: Console
) -> Reused:
    origin = imagenet(config)
    try:
        if origin.source is not None:
            return reuse(model, origin.source, "backbone", images, setting=SETTING, console=console)
        assert origin.load is not None
        weights = origin.load()
    except OSError as error:
        raise OSError(f"{SETTING}: {text_of(error)}; {_choices(origin)}") from error
    return copied(model, Donor(origin.name, SETTING, _state(weights)), "backbone")


def _choices(origin: ImageNet) -> str:
    """What can be done where weights can't be fetched."""
    if origin.source is None or not origin.source.startswith(ZOO):
        return f"fetch it on another machine, or set {OTHERWISE}"
    file = zoo.find(origin.source.removeprefix(ZOO)).file
    return f"fetch {file} on another machine and put it into {zoo.cache_folder()} (ATROUS_CACHE), or set {OTHERWISE}"


def _state(pretrained: Pretrained) -> dict[str, Tensor]:
    """By the names in a model."""
    state = {f"backbone.{name}": tensor for name, tensor in pretrained.weights.items()}
    return state | {"shift": _channels(pretrained.mean), "scale": _channels(pretrained.std)}


def _channels(color: RGB) -> Tensor:
    return torch.tensor(color).view(3, 1, 1)


# ---- images to measure on


def _images(config: Config, samples: Sequence[Sample]) -> Callable[[], Iterable[Image]]:
    """Some images from all over the split, read when they are needed."""
    count = min(NUM_MEASURED, len(samples))
    places = [index * len(samples) // count for index in range(count)]

    def read() -> Iterable[Image]:
        for place in places:
            try:
                yield samples[place].image
            except (DataError, OSError):
                if config.data.on_error == "stop":
                    raise

    return read
