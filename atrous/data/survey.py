"""What the label maps of a split hold: read once before the first step, without their images."""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ValidationError

from atrous import distributed
from atrous.data.image_files import Code, WrongLabelsError
from atrous.data.instances import count_pairs, require_sound
from atrous.data.label_space import LabelSpace
from atrous.data.loader import read_each
from atrous.data.naming import class_of_value, ignored_values, naming_advice, naming_setting
from atrous.distributed import World
from atrous.errors import AtrousError, DataError, listing, text_of
from atrous.types import Sample

FEWEST = 64  # masks that are worth a process of their own
NUM_CODES = 300  # values, or colours, of a wrong mask that are kept to find its mistake
NUM_NAMED = 10  # images that data.json names
NUM_LISTED = 20  # classes that a line names


class Survey(NamedTuple):
    """The pixels of one split by class, and what is wrong with its masks."""

    masks: int  # that could be read
    pixels: tuple[int, ...]  # [C] of each class
    images: tuple[int, ...]  # [C] that hold the class
    pixels_of_images: tuple[int, ...]  # [C] all pixels of these images, ignored ones included
    ignored: int  # pixels
    masks_ignored: int = 0  # that have an ignored pixel
    unlabelled: tuple[str, ...] = ()  # the images whose pixels are all ignored
    problems: tuple[str, ...] = ()  # a line for each mask that can't be used
    wrong: Mapping[Code, int] = {}  # values, or colours, that are no class: the number of masks with each
    codes: frozenset[Code] = frozenset()  # all that the masks with wrong ones hold
    things: tuple[int, ...] = ()  # [C] things of each class; empty: the samples have no instance maps
    crowd_pixels: int = 0  # of classes of things, without a number
    masks_with_crowds: int = 0

    @property
    def num_images(self) -> int:
        return self.masks + len(self.problems)

    @property
    def num_pixels(self) -> int:
        return sum(self.pixels) + self.ignored


class _Counts(BaseModel):
    """A row of data.json."""

    pixels: int
    images: int
    pixels_of_images: int


class _Tree(BaseModel):
    """What is read back of data.json."""

    images: int
    unreadable: int
    ignored: int
    classes: dict[str, _Counts]


class Split(NamedTuple):
    """The samples of a split."""

    name: str
    samples: Sequence[Sample]
    purpose: str = ""  # what labels of one class alone can't be used for, such as "to learn from"; "": nothing
    like: Survey | None = None  # of a split that can be used, and so has the right values
    advice: str = ""  # how the split can have other samples


@runtime_checkable
class Labelled(Protocol):
    """Samples whose labels can be read without the image."""

    def labels(self, index: int) -> Sample: ...


def labels_of(samples: Sequence[Sample], index: int) -> Sample:
    """A sample with its labels; its image may be missing."""
    return samples.labels(index) if isinstance(samples, Labelled) else samples[index]


class Mask(NamedTuple):
    """What one mask holds, or why that is unknown."""

    name: str
    pixels: Mapping[int, int] = {}  # by label
    things: Mapping[int, int] | None = None  # things by label; None: there is no instance map
    crowd_pixels: int = 0
    problem: str = ""
    codes: tuple[Code, ...] = ()
    wrong: tuple[Code, ...] = ()


# ---- counting


def count(
    samples: Sequence[Sample],
    space: LabelSpace,
    world: World,
    *,
    workers: int = 0,
    advance: Callable[[int], None] = lambda number: None,
) -> Survey:
    """Read the labels of all samples once; the processes share them. Masks that can't be used are problems.

    `advance` is called with the number of masks finished since its last call.
    """
    indices = range(world.rank, len(samples), world.size)
    readers = min(workers + (workers > 0), len(indices) // FEWEST)  # one more: this process only waits for them
    masks = []
    for index, mask in read_each(partial(_read_mask, samples, space), indices, readers):
        masks.append((index, mask))
        advance(world.size)
    return summary([mask for _, mask in sorted(distributed.gather(masks), key=lambda pair: pair[0])], space)


def _read_mask(samples: Sequence[Sample], space: LabelSpace, index: int) -> Mask:
    """Errors of the user become values, as in `read_sample`."""
    try:
        return _counted(labels_of(samples, index), space)
    except WrongLabelsError as error:
        codes, wrong = (tuple(values)[:NUM_CODES] for values in (error.codes, error.wrong))
        return Mask("", problem=text_of(error), codes=codes, wrong=wrong)
    except (AtrousError, OSError) as error:
        return Mask("", problem=text_of(error))


def _counted(sample: Sample, space: LabelSpace) -> Mask:
    if sample.semantic is None:
        raise DataError(f"{sample.name} has no labels")
    pixels = {label: number for label, number in enumerate(np.bincount(sample.semantic.ravel()).tolist()) if number}
    wrong = [label for label in pixels if label >= space.num_classes and label != space.ignore]
    if wrong:
        raise WrongLabelsError(f"{sample.name}: label {listing(wrong)} is not a class", tuple(pixels), wrong)
    if sample.instance is None:
        return Mask(sample.name, pixels)
    pairs, areas = count_pairs(sample.instance, sample.semantic)
    require_sound(pairs, areas, space, sample.name)  # samples may come from anywhere
    numbers, labels = pairs >> 8, pairs & 255
    is_thing = np.isin(labels, space.things)
    things = Counter(labels[is_thing & (numbers > 0)].tolist())
    return Mask(sample.name, pixels, things, int(areas[is_thing & (numbers == 0)].sum()))


def summary(masks: Sequence[Mask], space: LabelSpace) -> Survey:
    usable = [mask for mask in masks if not mask.problem]
    pixels, images, pixels_of_images = (np.zeros(256, np.int64) for _ in range(3))
    for mask in usable:
        labels = list(mask.pixels)
        pixels[labels] += list(mask.pixels.values())
        images[labels] += 1
        pixels_of_images[labels] += sum(mask.pixels.values())
    return Survey(
        masks=len(usable),
        pixels=_by_class(pixels, space),
        images=_by_class(images, space),
        pixels_of_images=_by_class(pixels_of_images, space),
        ignored=int(pixels[space.ignore : space.ignore + 1].sum()),
        masks_ignored=int(images[space.ignore : space.ignore + 1].sum()),
        unlabelled=tuple(mask.name for mask in usable if not mask.pixels.keys() - {space.ignore}),
        problems=tuple(mask.problem for mask in masks if mask.problem),
        wrong=Counter(code for mask in masks for code in mask.wrong),
        codes=frozenset(code for mask in masks for code in mask.codes),
        things=_things(usable, space),
        crowd_pixels=sum(mask.crowd_pixels for mask in usable),
        masks_with_crowds=sum(mask.crowd_pixels > 0 for mask in usable),
    )


def _things(masks: Sequence[Mask], space: LabelSpace) -> tuple[int, ...]:  # [C]
    """Things of each class; () if no mask has an instance map."""
    counts = [mask.things for mask in masks if mask.things is not None]
    return tuple(sum(one.get(label, 0) for one in counts) for label in range(space.num_classes)) if counts else ()


def _by_class(numbers: NDArray[np.int64], space: LabelSpace) -> tuple[int, ...]:  # [256] -> [C]
    """Those of the classes; of a class whose number is ignored, 0."""
    return tuple(0 if label == space.ignore else int(numbers[label]) for label in range(space.num_classes))


# ---- judging


def require_usable(survey: Survey, space: LabelSpace, split: Split, *, skip_errors: bool) -> None:
    """Raise DataError for masks that can't be used, and for labels that don't serve the split's purpose."""
    if survey.problems and not (skip_errors and survey.masks):
        raise DataError(_problems(survey, space, split))
    line = monotony(survey, space) if split.purpose else ""
    if not any(survey.pixels):
        value = listing(ignored_values(space))
        line = f"all {survey.ignored} pixels of {_masks(survey.masks)} have the ignored value {value}"
    if line:
        purpose = f"nothing {split.purpose}: " if split.purpose else ""
        raise DataError(
            f"split {split.name!r}: {purpose}{line}{_advice_on_ignored(survey, space, split)}{split.advice}"
        )
    if split.purpose and survey.crowd_pixels and not any(survey.things):
        raise DataError(
            f"split {split.name!r}: nothing {split.purpose}: no thing has a number; all {survey.crowd_pixels} pixels "
            f"of {_names_of_things(space)} in {_masks(survey.masks)} are 0 in their instance maps"
        )


def remarks(survey: Survey, space: LabelSpace, split: Split) -> list[str]:
    """A line for each thing that may be meant, but should be known."""
    lines = [monotony(survey, space) or _absence(survey, space)]
    if survey.unlabelled:
        lines.append(
            f"{len(survey.unlabelled)} of {_masks(survey.masks)} are ignored entirely: {listing(survey.unlabelled)}"
        )
    if survey.crowd_pixels:
        share = 100 * survey.crowd_pixels / sum(survey.pixels[label] for label in space.things)
        lines.append(
            f"{percent(share)} of the pixels of {_names_of_things(space)}, in {_masks(survey.masks_with_crowds)}, have "
            "no number: they are crowds, in which no thing is counted"
        )
    if survey.problems:
        number = f"{len(survey.problems)} of {survey.num_images} masks"
        lines.append(f"{number} can't be used and are skipped, such as {survey.problems[0]}")
    return [f"split {split.name!r}: {line}" for line in lines if line]


def monotony(survey: Survey, space: LabelSpace) -> str:
    """What is said of labels that are all of one class although there are others; else ""."""
    present = [name for name, pixels in zip(space.names, survey.pixels, strict=True) if pixels]
    if len(present) != 1 or len(_countable(space)) < 2:
        return ""
    where = f"all {sum(survey.pixels)} labelled pixels of {_masks(survey.masks)}"
    return f"{where} are {present[0]}{_share_ignored(survey, space)}"


def _absence(survey: Survey, space: LabelSpace) -> str:
    """The classes without a labelled pixel; "" if there are none."""
    absent = absent_classes(survey, space)
    if not absent:
        return ""
    names, number = listing(absent, NUM_LISTED), f"{len(absent)} of {space.num_classes} classes"
    return f"no pixel of {names} ({number}) in {_masks(survey.masks)}{_share_ignored(survey, space)}"


def _names_of_things(space: LabelSpace) -> str:
    return listing((space.names[index] for index in space.things), NUM_LISTED)


def percent(share: float) -> str:
    """With two digits; 99.7 isn't all."""
    return f"{share:.2g} %" if share < 99.5 else f"{math.floor(10 * share) / 10:g} %"


def absent_classes(survey: Survey, space: LabelSpace) -> list[str]:
    return [space.names[index] for index in _countable(space) if not survey.pixels[index]]


def _countable(space: LabelSpace) -> list[int]:
    """The classes that a label file can hold: not ADE20K's "other", which is ignored but has a logit."""
    return sorted(set(class_of_value(space).values()) - {space.ignore})


def _masks(number: int) -> str:
    return "1 mask" if number == 1 else f"{number} masks"


def _problems(survey: Survey, space: LabelSpace, split: Split) -> str:
    first, others = survey.problems[0], len(survey.problems) - 1
    if not others:
        return f"{first}{_advice(survey, space, split)}"
    wrong = sorted(survey.wrong, key=lambda code: -survey.wrong[code])
    masks = listing(f"{code} in {_masks(survey.wrong[code])}" for code in wrong)
    values = f" ({masks})" if wrong else ""
    return f"{first}; {others} more of split {split.name!r} can't be used either{values}{_advice(survey, space, split)}"


def _share_ignored(survey: Survey, space: LabelSpace) -> str:
    if not survey.ignored:
        return ""
    share = 100 * survey.ignored / survey.num_pixels
    value = listing(ignored_values(space))
    return f" ({percent(share)} of the pixels, in {_masks(survey.masks_ignored)}, have the ignored value {value})"


def _advice(survey: Survey, space: LabelSpace, split: Split) -> str:
    """What to set, from all values that the masks hold; these are known where values are classes."""
    advice = naming_advice({*_values(survey, space), *survey.codes}, space)
    return _advice_on_likeness(split.like, space) if advice and split.like else advice


def _advice_on_likeness(other: Survey, space: LabelSpace) -> str:
    values = listing(_values(other, space), limit=20)
    return f"; the training labels have the values {values}: number these in the same way"


def _values(survey: Survey, space: LabelSpace) -> list[int]:
    classes = [index for index, pixels in enumerate(survey.pixels) if pixels]
    return classes + [space.ignore] * (survey.ignored > 0)


def _advice_on_ignored(survey: Survey, space: LabelSpace, split: Split) -> str:
    """What to set if an ignored value is meant to be a class."""
    ignored = ignored_values(space)
    if not survey.ignored or len(ignored) > 1:
        return "; are these the right masks?"
    if split.like is not None and not space.raw_ids:
        return _advice_on_likeness(split.like, space)
    return _advice(survey, space, split) or (
        f"; if {ignored[0]} is a class, name it, as in {naming_setting((0, ignored[0]), space.names)}"
    )


# ---- as files keep it


def to_tree(survey: Survey, space: LabelSpace) -> dict[str, Any]:
    """Plain values, for JSON. `pixels` are all that could be read, ignored ones included."""
    rows = zip(space.names, survey.pixels, survey.images, survey.pixels_of_images, strict=True)
    things = dict(zip(space.names, survey.things, strict=True)) if survey.things else {}
    return {
        "images": survey.num_images,
        "unreadable": len(survey.problems),
        "pixels": survey.num_pixels,
        "ignored": survey.ignored,
        "unlabelled": survey.unlabelled[:NUM_NAMED],
        "num_unlabelled": len(survey.unlabelled),
        "classes": {name: dict(zip(_Counts.model_fields, row, strict=True)) for name, *row in rows},
        **({"things": {space.names[label]: things[space.names[label]] for label in space.things}} if things else {}),
    }


def from_tree(tree: object, space: LabelSpace, images: int) -> Survey | None:
    """The counts by class that `to_tree` has kept; None if they are of other classes or another number of images."""
    try:
        content = _Tree.model_validate(tree)
    except ValidationError:
        return None
    if content.images != images or tuple(content.classes) != space.names:
        return None
    rows = content.classes.values()
    return Survey(
        masks=images - content.unreadable,
        pixels=tuple(row.pixels for row in rows),
        images=tuple(row.images for row in rows),
        pixels_of_images=tuple(row.pixels_of_images for row in rows),
        ignored=content.ignored,
    )
