"""The label space of a converted model: weights show the number of classes, not their names."""

import re
from collections.abc import Mapping, Sequence

from atrous.data import ade20k, cityscapes, voc
from atrous.data.label_space import LabelSpace, numbered_names
from atrous.errors import ConversionError
from atrous.settings import Settings

PUBLISHED: dict[int, tuple[str, LabelSpace]] = {  # by the number of classes
    21: ("PASCAL VOC 2012", voc.VOC),
    19: ("Cityscapes", cityscapes.CITYSCAPES),
    150: ("ADE20K", ade20k.ADE20K),
}


def published_label_space(
    num_classes: int, options: Settings, known: Mapping[int, tuple[str, LabelSpace]] = PUBLISHED
) -> tuple[LabelSpace, list[str]]:
    """The label space of the dataset with this number of classes, and the assumption; else numbered classes."""
    if num_classes not in known:
        return numbered_label_space(num_classes), []
    name, space = known[num_classes]
    return space, [f"the {num_classes} classes are those of {name}"]


def named_label_space(
    names: tuple[str, ...], space: LabelSpace, label: str, colors: tuple[tuple[int, int, int], ...] = ()
) -> LabelSpace:
    """The space of these names: the published one if it has the same. Raises ConversionError for another number.

    Colours count if there is one for each class.
    """
    if len(names) != len(space.names):
        raise ConversionError(f"{label}: {len(names)} names for {len(space.names)} classes")
    is_same = all(ours == _plain(theirs) for ours, theirs in zip(map(_plain, space.names), names, strict=True))
    fitting = colors if len(colors) == len(names) else ()
    return space if is_same else LabelSpace(names=distinct(names), colors=fitting)


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def distinct(names: Sequence[str]) -> tuple[str, ...]:
    """The names; one that has occurred before is followed by its number."""
    return tuple(f"{name} {index}" if name in names[:index] else name for index, name in enumerate(names))


def numbered_label_space(num_classes: int) -> LabelSpace:
    return LabelSpace(names=numbered_names(num_classes))
