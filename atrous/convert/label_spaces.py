"""The label space of a converted model: weights show the number of classes, not their names."""

from collections.abc import Mapping

from atrous.data import ade20k, cityscapes, voc
from atrous.data.label_space import LabelSpace, numbered_names
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


def numbered_label_space(num_classes: int) -> LabelSpace:
    return LabelSpace(names=numbered_names(num_classes))
