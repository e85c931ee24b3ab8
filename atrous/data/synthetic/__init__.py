"""Little street scenes painted by code: a dataset without files, learnt in minutes by shape and context, not by colour.

Everything stands on a ground plane in metres before a pinhole camera and is painted from far to near. What is painted
is a map of surfaces; colours, classes and things are looked up from that one map, so that labels are exact. Objects
share colours on purpose: asphalt, paving, walls and metal have the same greys, cars and coats any colour.
"""

from collections.abc import Sequence
from typing import Literal, overload

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

from atrous.data.contract import DataConfig, Layout
from atrous.data.label_space import LabelSpace
from atrous.data.naming import named_space, with_things
from atrous.data.synthetic.classes import CLASSES
from atrous.data.synthetic.labels import number_things
from atrous.data.synthetic.photo import develop
from atrous.data.synthetic.scene import SCALE, Scene
from atrous.data.synthetic.street import draw_street
from atrous.errors import ConfigError
from atrous.settings import MAX_COUNT, Seed, Side
from atrous.types import NO_IMAGE, Sample

SPLITS = {"train": 0, "val": 1}
SMALLEST = 32  # pixels: people and poles dissolve below it
IGNORE = 255


class Config(DataConfig):
    """A scene depends only on seed, split, index and size, on every machine; `root` is not used."""

    format: Literal["synthetic"] = "synthetic"
    size: tuple[Side, Side] = (128, 192)
    """Height and width of a scene in pixels."""
    num_train: int = Field(default=2000, ge=1, le=MAX_COUNT)
    """Scenes in the training split."""
    num_val: int = Field(default=100, ge=1, le=MAX_COUNT)
    """Scenes in the validation split."""
    seed: Seed = 0
    """Starting point of the scenes: another seed paints others."""

    @field_validator("size")
    @classmethod
    def _is_large_enough(cls, size: tuple[Side, Side]) -> tuple[int, int]:
        if min(size) < SMALLEST:
            raise ValueError(f"a street needs at least {SMALLEST}x{SMALLEST} pixels, got {size[0]}x{size[1]}")
        return size

    @field_validator("ignore")
    @classmethod
    def _fits_a_byte(cls, ignore: int | None) -> int | None:
        if ignore is not None and not 0 <= ignore <= 255:
            raise ValueError(f"a label must be in 0..255, got {ignore}")
        return ignore


def label_space(config: Config) -> LabelSpace:
    """The eight classes; `config.names` renames all of them (a tuple) or some (class -> name)."""
    names = {index: row.name for index, row in enumerate(CLASSES)}
    new = dict(enumerate(config.names)) if isinstance(config.names, tuple) else config.names or {}
    if set(new) - set(names) or (isinstance(config.names, tuple) and len(new) < len(names)):
        raise ConfigError(f"data.names: the synthetic street has classes 0..{len(names) - 1}, got {sorted(new)}")
    names |= new
    colors = dict(zip(names.values(), (row.color for row in CLASSES), strict=True))
    space = named_space(names, IGNORE if config.ignore is None else config.ignore, None, colors)
    things = tuple(index for index, row in enumerate(CLASSES) if row.is_thing)
    return with_things(space.model_copy(update={"things": things}), config.things)


def samples(config: Config, split: str) -> Sequence[Sample]:
    """The scenes of `split` (train or val), each painted when it is requested; no scene is in both."""
    counts = {"train": config.num_train, "val": config.num_val}
    if split not in counts:
        raise ConfigError(f"no split {split!r}: the synthetic street has {' and '.join(counts)}")
    return Scenes(config, split, range(counts[split]))


class Scenes(Sequence[Sample]):
    """Paints on each access and caches nothing; a slice is lazy too."""

    def __init__(self, config: Config, split: str, indices: range) -> None:
        self.config, self.split, self.indices = config, split, indices

    def __len__(self) -> int:
        return len(self.indices)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> "Scenes": ...
    def __getitem__(self, index: int | slice) -> "Sample | Scenes":
        if isinstance(index, slice):
            return Scenes(self.config, self.split, self.indices[index])
        return paint(self.config, self.split, self.indices[index])

    def labels(self, index: int) -> Sample:
        """The sample with an empty image: developing it takes half the time."""
        return _labelled(self.config, self.split, self.indices[index])[0]


def paint(config: Config, split: str, index: int) -> Sample:
    sample, scene, kinds = _labelled(config, split, index)
    return sample._replace(image=develop(scene, kinds))


def _labelled(config: Config, split: str, index: int) -> tuple[Sample, Scene, NDArray[np.uint8]]:
    """The sample without its image, the scene, and the class of each pixel, [H, W], things hardly visible included."""
    rng = np.random.default_rng([config.seed, SPLITS[split], index])
    scene = draw_street(rng, config.size)
    inks = np.ascontiguousarray(np.asarray(scene.paper)[::SCALE, ::SCALE])
    kinds = np.array([surface.kind for surface in scene.surfaces], np.uint8)[inks]
    semantic = kinds.copy()
    instance = number_things(scene, semantic, inks, label_space(config).ignore)
    return Sample(f"{split}_{index:05d}", NO_IMAGE, semantic, instance), scene, kinds


LAYOUT = Layout(Config, samples, label_space)
