"""data.map: classes of a dataset as fewer ones, such as {person: [person, rider]}.

A class that isn't listed stays as it is, after those that are; `"*"` stands for all that aren't listed. The classes
that `ignore` lists are ignored. A number stands for the class of that value in the label files.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias, overload

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from atrous.data.dividing import Divisible
from atrous.data.image_files import Drawing, ImageFiles, Reader
from atrous.data.inventory import Inventory, inventory
from atrous.data.label_space import NOT_COUNTED, LabelSpace
from atrous.data.late import renumbered
from atrous.data.loader import Late, order_of
from atrous.data.naming import class_of_value, nearest_name, one_line
from atrous.data.pairing import Pair
from atrous.data.survey import labels_of
from atrous.errors import ConfigError, listing
from atrous.types import Sample

IGNORE, REST = "ignore", "*"
Parts: TypeAlias = tuple[str | int, ...] | str | int


class Merger(NamedTuple):
    space: LabelSpace
    table: NDArray[np.uint8]  # [256] the new label of each old one


def merger(space: LabelSpace, classes: Mapping[str, Parts]) -> Merger:
    """Raises ConfigError for classes that don't exist, or are listed twice."""
    new_names = _new_names(space, classes)
    order = [name for name in dict.fromkeys((*classes, *new_names.values())) if name != IGNORE]
    members = {name: [index for index, new in new_names.items() if new == name] for name in order}
    if empty := [name for name in order if not members[name]]:
        raise ConfigError(f"data.map: {listing(empty)} has no class of the dataset")
    table = np.full(256, NOT_COUNTED, np.uint8)
    for label, name in enumerate(order):
        table[members[name]] = label
    colors = tuple(space.colors[members[name][0]] for name in order) if space.colors else ()
    things = tuple(label for label, name in enumerate(order) if set(members[name]) <= set(space.things))
    raw_ids = tuple((value, int(table[index])) for value, index in class_of_value(space).items())
    tree = {"names": tuple(order), "colors": colors, "things": things, "raw_ids": raw_ids}
    try:
        return Merger(LabelSpace(**tree, panoptic_divisor=space.panoptic_divisor), table)
    except ValidationError as error:
        raise ConfigError(f"data.map: {one_line(error)}") from None


def _new_names(space: LabelSpace, classes: Mapping[str, Parts]) -> dict[int, str]:
    """The new name of each class that counts."""
    counted = [index for index in range(space.num_classes) if index != space.ignore]
    listed: dict[int, str] = {}
    rest = ""
    for name, parts in classes.items():
        for part in parts if isinstance(parts, tuple | list) else (parts,):
            if part == REST:
                rest = name
                continue
            index = _index(part, space)
            if index in listed:
                raise ConfigError(f"data.map: {space.names[index]} is listed twice: for {listed[index]} and for {name}")
            listed[index] = name
    return {index: listed.get(index, rest or space.names[index]) for index in counted}


def _index(part: str | int, space: LabelSpace) -> int:
    index = class_of_value(space).get(part, -1) if isinstance(part, int) else _place(part, space)
    if index == -1:
        values = sorted(value for value, label in class_of_value(space).items() if label < space.num_classes)
        raise ConfigError(f"data.map: no label value {part}; values are {listing(values, 40)}")
    if index in (space.ignore, NOT_COUNTED):
        raise ConfigError(f"data.map: {part} is ignored in this dataset; data.names can make it a class")
    return index


def _place(name: str, space: LabelSpace) -> int:
    if name not in space.names:
        raise ConfigError(f"data.map: no class {name!r}; {nearest_name(name, space.names)}")
    return space.names.index(name)


# ---- samples


def merged(samples: Sequence[Sample], one: Merger) -> "ImageFiles | Merged":
    if isinstance(samples, ImageFiles):
        return samples.drawn_by(Redrawn(samples.read, one), one.space, Redrawn(samples.read_late, one))
    return Merged(samples, one)


def without_instances(samples: Sequence[Sample]) -> Sequence[Sample]:
    """The same samples for a task that doesn't tell things apart, if they can tell."""
    without: Any = getattr(samples, "without_instances", None)
    return samples if without is None else without()


class Redrawn(NamedTuple):
    """A reader of labels with new numbers."""

    read: Reader
    one: Merger

    def __call__(self, pair: Pair, /) -> Drawing:
        semantic, instance = self.read(pair)
        semantic = semantic._replace(values=renumbered(semantic.values, self.one.table))
        if instance is not None and instance.values.shape == semantic.values.shape:
            instance = instance._replace(values=instance.values * _is_thing(semantic.values, self.one.space))
        return Drawing(semantic, instance)


def _is_thing(semantic: NDArray[np.uint8], space: LabelSpace) -> NDArray[np.int32]:  # [H, W] 0 or 1
    """Things that were merged with stuff have no number any more."""
    return np.isin(np.arange(256), space.things).astype(np.int32)[semantic]


class Merged(Sequence[Sample]):
    """Samples that aren't files of their own, with new numbers."""

    def __init__(self, samples: Sequence[Sample], one: Merger) -> None:
        self.samples, self.one = samples, one

    def __len__(self) -> int:
        return len(self.samples)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> "Merged": ...
    def __getitem__(self, index: int | slice) -> "Sample | Merged":
        if isinstance(index, slice):
            return Merged(self.samples[index], self.one)
        return self._changed(self.samples[index])

    def late(self, index: int) -> Sample:
        """The sample whose pixels are read only where they are sliced, if these samples can do that."""
        return self._changed(self.samples.late(index) if isinstance(self.samples, Late) else self.samples[index])

    def labels(self, index: int) -> Sample:
        return self._changed(labels_of(self.samples, index))

    def without_instances(self) -> "Merged":
        return Merged(without_instances(self.samples), self.one)

    def order(self, seed: int, epoch: int) -> NDArray[np.int64]:
        return order_of(self.samples, seed, epoch)

    def inventory(self) -> Inventory:
        return inventory(self.samples)

    @property
    def names(self) -> Sequence[str]:
        return self.samples.names if isinstance(self.samples, Divisible) else []

    def chosen(self, places: Sequence[int]) -> "Merged":
        assert isinstance(self.samples, Divisible)
        return Merged(self.samples.chosen(places), self.one)

    def _changed(self, sample: Sample) -> Sample:
        if sample.semantic is None:
            return sample
        if sample.instance is None:
            return sample._replace(semantic=renumbered(sample.semantic, self.one.table))
        semantic = self.one.table[sample.semantic[:, :]]
        numbers = sample.instance[:, :] * _is_thing(semantic, self.one.space)
        return sample._replace(semantic=semantic, instance=numbers)
