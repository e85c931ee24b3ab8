"""Label spaces from the names of classes, as files or settings list them."""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from difflib import get_close_matches
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple, TypeAlias

from pydantic import ValidationError

from atrous.data.contract import DataConfig
from atrous.data.label_space import MAX_LABEL, NOT_COUNTED, LabelSpace
from atrous.errors import AtrousError, ConfigError, DataError, listing
from atrous.trees import parse_yaml
from atrous.types import Color

Names: TypeAlias = Mapping[int, str] | Sequence[str]  # by label value; a sequence starts at 0

MANY = 3  # times as many values as classes: not labels any more


def named_space(
    names: Names, ignore: int | None, source: Path | None, colors: Mapping[str, Color] | None = None
) -> LabelSpace:
    """The label space of classes numbered by the values in the label files.

    `source` is the file that holds the names; None: the setting data.names. Values other than 0..C-1 become raw ids, in
    ascending order; a name for the ignored value among them is not a class. `ignore` None is 255, unless a class has
    that value. `colors` has one for each name, or is empty.
    """
    by_value = names_by_value(names)
    if outside := [value for value in (*by_value, ignore or 0) if not 0 <= value <= MAX_LABEL]:
        raise naming_error(source, f"a label value must be in 0..{MAX_LABEL}, got {listing(outside)}")
    is_plain = list(by_value) == list(range(len(by_value))) and (ignore is None or ignore <= 255)
    classes = {value: name for value, name in by_value.items() if is_plain or value != ignore}
    if len(classes) > 255:
        raise naming_error(source, f"{len(classes)} classes, but 8 bits hold at most 255 and an ignore value")
    raw_ids = [(value, index) for index, value in enumerate(classes)]
    ignored = [] if ignore is None else [(ignore, NOT_COUNTED)]
    try:
        return LabelSpace(
            names=tuple(classes.values()),
            colors=tuple(colors[name] for name in classes.values()) if colors else (),
            ignore=ignore if is_plain and ignore is not None else NOT_COUNTED,
            raw_ids=() if is_plain else (*raw_ids, *ignored),
        )
    except ValidationError as error:
        raise naming_error(source, one_line(error)) from error


def names_by_value(names: Names) -> dict[int, str]:
    """In ascending order of the values."""
    return dict(sorted(names.items() if isinstance(names, Mapping) else enumerate(names)))


def with_things(space: LabelSpace, names: Sequence[str] | None, source: Path | None = None) -> LabelSpace:
    """The label space in which the classes called `names` are things; None: those that it has.

    `source` is the file that holds the names; None: the setting data.things.
    """
    if names is None:
        return space
    repeated = [name for name, count in Counter(names).items() if count > 1]
    _require_things(not repeated, source, f"{listing(repeated)} is repeated")
    for name in names:
        _require_things(name in space.names, source, f"no class {name!r}; {nearest_name(name, space.names)}")
    indices = sorted(map(space.names.index, names))
    _require_things(space.ignore not in indices, source, "the ignored class can't be counted")
    return space.model_copy(update={"things": tuple(indices)})


def nearest_name(name: str, names: Sequence[str]) -> str:
    """The class that is probably meant, or all of them."""
    nearest = get_close_matches(name, names, 1)
    return f"did you mean {nearest[0]}?" if nearest else f"classes are {listing(names, limit=20)}"


def _require_things(holds: bool, source: Path | None, complaint: str) -> None:
    if not holds:
        raise (
            ConfigError(f"data.things: {complaint}") if source is None else DataError(f"{source}: things: {complaint}")
        )


def renamed(space: LabelSpace, config: DataConfig) -> LabelSpace:
    """The layout's own label space, unless the config sets names or an ignore value."""
    if config.names is None and config.ignore is None:
        return with_things(space, config.things)
    names = space.names if config.names is None else config.names
    ordered = names_by_value(names).values()
    colors = dict(zip(ordered, space.colors, strict=True)) if len(names) == len(space.colors) else None
    renamed_space = named_space(names, space.ignore if config.ignore is None else config.ignore, None, colors)
    return with_things(renamed_space, config.things)


def remapped(space: LabelSpace, config: DataConfig, raw_things: Collection[int] = ()) -> LabelSpace:
    """Like `renamed`, for label files of raw ids, of which `raw_things` are things.

    `config.names` has one name for each class, or is {raw id: name} for those to distinguish. Raw ids without a
    name are ignored, and so is the raw id `config.ignore`. Raises ConfigError for names that don't fit.
    """
    classes = dict(space.raw_ids)
    _require_raw_ids(config, space)
    if isinstance(config.names, Mapping):
        colors = {
            name: space.colors[classes[value]] for value, name in config.names.items() if classes[value] < NOT_COUNTED
        }
        all_colored = len(colors) == len(config.names)
        space = named_space(config.names, None, None, colors if all_colored else None)
        selection = {value: index for index, value in enumerate(sorted(config.names))}
        classes = dict.fromkeys(classes, NOT_COUNTED) | selection
    elif config.names is not None:
        space = named_space(config.names, None, None, dict(zip(config.names, space.colors, strict=True)))
    if config.ignore is not None:
        classes[config.ignore] = space.ignore
    things = sorted({classes[value] for value in raw_things if classes[value] not in (NOT_COUNTED, space.ignore)})
    update = {"raw_ids": tuple(classes.items()), "things": tuple(things)}
    return with_things(space.model_copy(update=update), config.things)


def _require_raw_ids(config: DataConfig, space: LabelSpace) -> None:
    values, names = dict(space.raw_ids), config.names
    if isinstance(names, Mapping) and (unknown := sorted(set(names) - set(values))):
        raise ConfigError(f"data.names: no label value {listing(unknown)}; values are {min(values)}..{max(values)}")
    if isinstance(names, tuple) and len(names) != space.num_classes:
        raise ConfigError(f"data.names: {len(names)} names, but the dataset has {space.num_classes} classes")
    if config.ignore is not None and not 0 <= config.ignore <= MAX_LABEL:
        raise ConfigError(f"data.ignore: a label value must be in 0..{MAX_LABEL}, got {config.ignore}")


def class_of_value(space: LabelSpace) -> dict[int, int]:
    """The class, or ignore value, that each value in a label file stands for; all other values are errors."""
    classes = dict(space.raw_ids) or {index: index for index in range(space.num_classes)}
    return {space.ignore: space.ignore} | classes


def ignored_values(space: LabelSpace) -> list[int]:
    """The values in a label file that count neither in the loss nor in a score."""
    return [value for value, index in class_of_value(space).items() if index == space.ignore]


# How a wrong numbering is mended


def naming_advice(codes: Iterable[object], space: LabelSpace) -> str:
    """What to set so that the values of label files, all of them, become the classes; "" if nothing is likely."""
    values = sorted(code for code in codes if isinstance(code, int))
    if space.raw_ids:  # someone has already said which values are classes
        return ""
    if mistake := numbering_mistake(values, space):
        classes = mistake.values
        return f"; if the values {listing(classes, 20)} are the classes, set {naming_setting(classes, space.names)}"
    labelled = [value for value in values if value != space.ignore]
    if labelled[-1:] >= [space.num_classes] and labelled == list(range(labelled[0], labelled[-1] + 1)):
        return _advice_on_more(labelled[-1], space)
    if len(values) > MANY * space.num_classes:
        return "; so many values come from masks that were resized smoothly or compressed; save them as PNG, unresized"
    return ""


def _advice_on_more(last: int, space: LabelSpace) -> str:
    """What to do about values without gaps, of which there are more than names."""
    known = f"; the values reach {last}, but the names end at {space.num_classes - 1}"
    if last == space.num_classes and "background" not in space.names:
        names = listing(map(_in_yaml, ("background", *space.names)), limit=20)
        return f'{known}; if 0 is the background, set "data.names=[{names}]"'
    objects = ", or write 1 for every object if each has its own number" if space.num_classes == 2 else ""
    return f"{known}: name them all{objects}"


class Mistake(NamedTuple):
    """A usual way to number the classes wrongly."""

    kind: str  # the name of a finding of `atrous check`
    values: tuple[int, ...]  # of the classes, in their order


def numbering_mistake(values: Sequence[int], space: LabelSpace) -> Mistake | None:
    """The mistake that explains all `values` of label files, in ascending order; None if none does."""
    mistakes = (
        ("grey-palette", [luma(color) for color in space.palette()[: space.num_classes].tolist()]),
        ("spread-values", _steady(value for value in values if value != space.ignore)),
        ("spread-values", _steady(values)),
        ("spread-values", (0, 255)),
        ("spread-values", range(1, space.num_classes + 1)),
    )
    plain = set(range(space.num_classes))
    for kind, classes in mistakes:
        is_possible = len(set(classes)) == space.num_classes and set(values) <= {*classes, space.ignore}
        if is_possible and set(values) & set(classes) - plain:
            usual = {(0, 255): "binary-masks", tuple(range(1, space.num_classes + 1)): "off-by-one"}
            return Mistake(usual.get(tuple(classes), kind), tuple(classes))
    return None


def _steady(values: Iterable[int]) -> Sequence[int]:
    """Values with the same step between neighbours, but for rounding, such as 0, 85, 170, 255; else ()."""
    ordered = sorted(values)
    steps = [after - before for before, after in pairwise(ordered)]
    return ordered if steps and max(steps) - min(steps) <= 1 else ()


def luma(color: Sequence[int]) -> int:
    """The grey that Pillow converts a colour to (ITU-R BT.601)."""
    red, green, blue = color
    return (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16


def naming_setting(values: Iterable[int], names: Iterable[str]) -> str:
    """The setting that gives values to classes, as it is written on a command line."""
    pairs = sorted(zip(values, map(_in_yaml, names), strict=False))
    return f'"data.names={{{listing((f"{value}: {name}" for value, name in pairs), limit=20)}}}"'


def _in_yaml(name: str) -> str:
    """Quoted where YAML would read something else, as in `no` or `a, b`."""
    is_plain = re.fullmatch(r"[A-Za-z][\w -]*", name) and parse_yaml(name) == name
    return name if is_plain else "'" + name.replace("'", "''") + "'"


def one_line(error: ValidationError) -> str:
    """All problems that pydantic reports, in one line."""
    places = [(".".join(map(str, problem["loc"])), problem["msg"]) for problem in error.errors()]
    return "; ".join(": ".join(filter(None, (place, text.removeprefix("Value error, ")))) for place, text in places)


def naming_error(source: Path | None, text: str) -> AtrousError:
    """`source` as in `named_space`."""
    return ConfigError(f"data.names: {text}") if source is None else DataError(f"{source}: {text}")
