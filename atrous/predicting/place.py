"""Where the images are worked on, and in which precision."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from rich.console import Console

from atrous import artefact, big_images, distributed, segmenter
from atrous.big_images import NEVER, Choice
from atrous.data.finding import NamedImage
from atrous.engines import ENGINES, Engine
from atrous.errors import ConfigError, DataError, nearest
from atrous.files import user_path
from atrous.predicting.one_image import read_pixels
from atrous.progress import say as say_line
from atrous.runtimes.contract import ARITHMETIC, Speed
from atrous.segmenter import NUM_TRIED, Segmenter
from atrous.types import Image


class Place(NamedTuple):
    """Where the images are worked on."""

    engine: Engine
    device: str | None
    address: str | None

    def folder(self, path: Path) -> Path:
        """The output folder, for any process."""
        return user_path(path) if self.engine.is_here else user_path(path).absolute()

    def file(self, path: Path, runtime: str | None) -> Path:
        """What the runtime opens."""
        if runtime is None:
            return path
        if not self.engine.is_here:
            raise ConfigError(f"--runtime {runtime}: other machines open the file itself; name an exported one")
        return artefact.file_for(segmenter.model_in(path), runtime, distributed.choose_device(self.device))

    def opener(self, path: Path, runtime: str | None) -> str | None:
        """The runtime that opens this file; None: its own."""
        if runtime is None:
            return None
        return artefact.opener_of(segmenter.model_in(path), runtime, distributed.choose_device(self.device))

    def of(self, model: Segmenter, speed: Speed) -> Segmenter:
        """The model, on the device if that is this machine's. Other machines don't choose a precision."""
        if self.engine.is_here:
            return on_device(model, self.device, speed)
        return model if speed.precision == "bf16" else model.with_speed("fp32")


def on_device(model: Segmenter, device: str | None, speed: Speed) -> Segmenter:
    """Raises ConfigError for a device that there isn't, and for what it can't do."""
    return model.to(distributed.choose_device(device)).with_speed(speed.precision, compile=speed.compile)


def place_of(name: str, device: str | None, address: str | None) -> Place:
    """Raises ConfigError for an engine that there isn't, and for an address that it has no use for."""
    if name not in ENGINES:
        raise ConfigError(f"--engine {name}: no such engine{nearest(name, ENGINES)}")
    if address is not None and ENGINES[name].is_here:
        raise ConfigError(f"--address {address} is that of a cluster; it needs --engine ray")
    return Place(ENGINES[name], device, address)


def settled(model: Segmenter, images: Sequence[NamedImage], console: Console, big: Choice = NEVER) -> Segmenter:
    """The model in the precision that `auto` stands for, which is said; measured only where that is worth its time."""
    model, share = model.settled(first_images(model, images, big) if len(images) >= NUM_TRIED else ())
    if share is not None:
        reason = f"{share:.2%} of the labels of a first image are the same in bfloat16 as in float32"
        say_line(f"computing in {ARITHMETIC[model.precision]}: {reason}", console)
    return model


def first_images(model: Segmenter, images: Sequence[NamedImage], big: Choice) -> Iterator[Image]:
    """Some that can be read, and are not predicted a few rows at a time."""
    for image in images[:NUM_TRIED]:
        with contextlib.suppress(DataError):
            if image.entry is not None or not big_images.is_big(model, image.path, big, probabilities=False):
                yield read_pixels(image)
