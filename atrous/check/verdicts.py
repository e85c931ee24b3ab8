"""What is wrong with the codes of each label: which mistake explains them, and what they were meant to be."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from atrous.check.facts import Facts, LabelFacts, Meaning, meaning_of
from atrous.data.image_files import unpack
from atrous.data.label_space import BACKGROUND, LabelSpace
from atrous.data.naming import class_of_value, ignored_values, luma, naming_advice, numbering_mistake
from atrous.errors import listing
from atrous.types import Color

SMOOTH = 0.1  # more than labels that people draw, less than resized or compressed ones: see `smoothness`
SCATTERED = 0.3  # the share of wrong pixels that lie within an area of their value, below which they are debris
SHIFT = 8  # of a colour's values in JPEG files: rounding shifts whole areas by 2, a low quality by more
NUM_DEBRIS = 3  # different values that debris has, at least
SOLID, SOLID_UNKNOWN = 0.2, 0.02  # shares that make a value of a smoothed label real: of its own pixels, of all
VOID_COLORS: tuple[Color, ...] = ((224, 224, 192),)  # the borders of PASCAL VOC
FEWEST = 3  # labels of a split that are judged apart from the others
DOUBTFUL = -1  # in place of a class: VOC's aeroplane and potted plant become the same grey
MOSTLY = 0.4  # the share of ignored pixels beside which a background without pixels is suspicious


class Verdict(NamedTuple):
    """What one label is."""

    kinds: tuple[str, ...] = ()  # names of findings; none: its codes are right
    classes: Meaning | None = None  # code in the file -> class; None: nobody knows
    text: str = ""

    @property
    def is_smoothed(self) -> bool:
        return "smoothed-labels" in self.kinds


class Values(NamedTuple):
    """A label as numbers: what its codes are as label values."""

    number: int  # of its image, among all
    value_of: Mapping[int, int]  # code in the file -> label value
    kinds: tuple[str, ...]

    @property
    def all(self) -> set[int]:
        return set(self.value_of.values())


def verdicts(
    facts: Sequence[Facts], split_of: Sequence[str], space: LabelSpace, colors: Mapping[Color, int] | None
) -> list[Verdict]:
    """One for each label; () for images without one."""
    result = [Verdict() for _ in facts]
    numbers: list[Values] = []
    for index, one in enumerate(facts):
        if one.label is not None:
            verdict = _by_itself(index, one.label, space, colors)
            if isinstance(verdict, Values):
                numbers.append(verdict)
            else:
                result[index] = verdict
    labels = {one.number: facts[one.number].label for one in numbers}
    known = {index: label for index, label in labels.items() if label}
    for index, verdict in _together(numbers, known, split_of, space).items():
        result[index] = verdict
    return result


# ---- a label by itself


def _by_itself(
    index: int, label: LabelFacts, space: LabelSpace, colors: Mapping[Color, int] | None
) -> Verdict | Values:
    """A verdict, or the label's values, which mean something beside those of the others."""
    meaning = meaning_of(space, colors, is_colored=label.is_colored)
    kinds = ("smoothed-labels",) if is_smoothed(label, meaning) else ()
    codes = solid_codes(label, meaning) if kinds else list(label.counts)
    if label.is_colored and colors:
        return _of_known_colors(codes, meaning, kinds)
    if label.is_colored:
        return _of_unknown_colors(index, codes, space, kinds if label.is_lossy else (*kinds, "rgb-labels"))
    by_color = _by_palette(label, codes, space)
    if by_color is not None:
        return Verdict((*kinds, "palette-order"), by_color, "its indices aren't the numbers of the classes")
    return Values(index, {code: code for code in codes}, kinds)


def is_smoothed(label: LabelFacts, meaning: Meaning) -> bool:
    wrong = {code: number for code, number in label.counts.items() if meaning and code not in meaning}
    solid = sum(label.solid.get(code, 0) for code in wrong)
    is_debris = len(wrong) >= NUM_DEBRIS and solid < SCATTERED * sum(wrong.values())
    return label.is_lossy or label.smoothness > SMOOTH or is_debris


def solid_codes(label: LabelFacts, meaning: Meaning) -> list[int]:
    """The codes of a smoothed label that were there before."""
    own = {code: number for code, number in label.solid.items() if number >= SOLID * label.counts[code]}
    least = SOLID_UNKNOWN * label.num_pixels
    codes = [code for code, number in own.items() if code in meaning or number >= least]
    return codes or list(label.counts)[:1]


def _of_known_colors(codes: Sequence[int], meaning: Meaning, kinds: tuple[str, ...]) -> Verdict:
    classes = {code: meaning.get(code, _class_of_near(code, meaning) if kinds else None) for code in codes}
    wrong = [code for code, index in classes.items() if index is None]
    if wrong:
        names = listing(unpack(code) for code in wrong)
        return Verdict((*kinds, "values-outside"), None, f"{names}: not the colour of a class")
    own = {code: index for code, index in classes.items() if index is not None}
    return Verdict(kinds, {**meaning, **own} if kinds else own)  # compression may leave no pixel of a colour as it was


def _class_of_near(code: int, meaning: Meaning) -> int | None:
    """Of a colour that compression has changed a little, if a single known one is that near."""
    near = {index for known, index in meaning.items() if _distance(code, known) <= SHIFT}
    return near.pop() if len(near) == 1 else None


def _distance(code: int, other: int) -> int:
    return max(abs(one - two) for one, two in zip(unpack(code), unpack(other), strict=True))


def _of_unknown_colors(index: int, codes: Sequence[int], space: LabelSpace, kinds: tuple[str, ...]) -> Verdict | Values:
    """Grey colours are values; others may be those of the classes."""
    colors = {code: unpack(code) for code in codes}
    if all(red == green == blue for red, green, blue in colors.values()):
        return Values(index, {code: color[0] for code, color in colors.items()}, kinds)
    known = class_of_color(space)
    text = f"it is RGB, with {listing(map(str, colors.values()))}"
    if all(color in known for color in colors.values()):
        return Verdict(kinds, {code: known[color] for code, color in colors.items()}, text)
    return Verdict(kinds, None, text)


def class_of_color(space: LabelSpace) -> dict[Color, int]:
    palette = [(red, green, blue) for red, green, blue in space.palette()[: space.num_classes].tolist()]
    return dict.fromkeys(VOID_COLORS, space.ignore) | {color: index for index, color in enumerate(palette)}


def _by_palette(label: LabelFacts, codes: Sequence[int], space: LabelSpace) -> Meaning | None:
    """What the colours of a palette image say its indices are, if that isn't what the indices say."""
    meaning, known = class_of_value(space), class_of_color(space)
    colors = {code: label.palette.get(code) for code in codes if meaning.get(code) != space.ignore}
    if not space.colors or not all(color in known for color in colors.values()):
        return None
    by_color = {code: known[color] for code, color in colors.items() if color is not None}
    if all(meaning.get(code) == index for code, index in by_color.items()):
        return None
    return dict.fromkeys(codes, space.ignore) | by_color


# ---- the labels beside one another


def _together(
    numbers: Sequence[Values], labels: Mapping[int, LabelFacts], split_of: Sequence[str], space: LabelSpace
) -> dict[int, Verdict]:
    meaning = class_of_value(space)
    binary = _binary(numbers, labels, space)
    rest = [one for one in numbers if one.number not in binary]
    wrong = [one for one in rest if one.all - meaning.keys()]
    shifted = {} if wrong else _wrapped(rest, labels, split_of, space)
    mistaken = _mistaken(rest, wrong, space) if wrong else shifted
    right = {one.number: Verdict(one.kinds, _composed(one, meaning)) for one in numbers}
    return right | binary | mistaken


def _composed(one: Values, meaning: Meaning) -> dict[int, int]:
    return {code: meaning[value] for code, value in one.value_of.items() if value in meaning}


def _binary(numbers: Sequence[Values], labels: Mapping[int, LabelFacts], space: LabelSpace) -> dict[int, Verdict]:
    """Labels of 0 and 255 where 255 is ignored, unless 255 occurs beside other classes, too."""
    values = set().union(*(one.all for one in numbers)) if numbers else set()
    if space.raw_ids or space.ignore != 255 or 255 not in values:
        return {}
    white = [one for one in numbers if 255 in one.all]
    is_all, is_pair = values == {0, 255}, space.num_classes == 2
    if not is_all and any(one.all - {0, 255} or not (is_pair or 0 in one.all) for one in white):
        return {}
    if not any(_is_area(one, labels[one.number]) for one in white):
        return {}
    classes = {0: 0, 255: 1} if is_pair else None
    text = "its values are 0 and 255, and 255 is ignored"
    return {
        one.number: Verdict((*one.kinds, "binary-masks"), classes and _composed(one, classes), text) for one in white
    }


def _is_area(one: Values, label: LabelFacts) -> bool:
    """Whether the value 255 fills areas, as an object does, instead of drawing borders."""
    code = next(code for code, value in one.value_of.items() if value == 255)
    return label.solid.get(code, 0) >= label.counts[code] / 2


def _mistaken(rest: Sequence[Values], wrong: Sequence[Values], space: LabelSpace) -> dict[int, Verdict]:
    """One mistake of all wrong labels, or else one of each."""
    values = set().union(*(one.all for one in wrong))
    common = _mistake(values, space)
    if common is None:
        alone = {one.number: _mistake(one.all, space) for one in wrong}
        return {one.number: _verdict(one, alone[one.number], space) for one in wrong}
    kind, classes = common
    first = min(value for value, index in class_of_value(space).items() if index != space.ignore)
    everything = set().union(*(one.all for one in rest))
    is_general = everything <= {*classes, *ignored_values(space)} and not (kind == "off-by-one" and first in everything)
    return {one.number: _verdict(one, common, space) for one in (rest if is_general else wrong)}


def _verdict(one: Values, mistake: tuple[str, Meaning] | None, space: LabelSpace) -> Verdict:
    wrong = sorted(one.all - class_of_value(space).keys())
    text = f"{'values' if len(wrong) > 1 else 'value'} {listing(wrong)}: not a class" if wrong else ""
    if mistake is None:
        return Verdict((*one.kinds, "values-outside"), None, text + naming_advice(one.all, space))
    kind, classes = mistake
    text = f"its values are {listing(sorted(one.all), 20)}"
    if doubtful := [value for value in sorted(one.all) if classes.get(value) == DOUBTFUL]:
        return Verdict((*one.kinds, kind), None, f"{text}; several classes have the grey {listing(doubtful)}")
    return Verdict((*one.kinds, kind), _composed(one, classes), text)


def _mistake(values: Iterable[int], space: LabelSpace) -> tuple[str, Meaning] | None:
    """The name of a mistake, and the class that each value was meant to be."""
    ordered = sorted(values)
    ignored = dict.fromkeys(ignored_values(space), space.ignore)
    if greys := _greys(ordered, space):
        return "grey-palette", ignored | greys
    mistake = None if space.raw_ids else numbering_mistake(ordered, space)
    if mistake is not None:
        return mistake.kind, ignored | {value: index for index, value in enumerate(mistake.values)}
    meaning = class_of_value(space)
    for step in (1, -1):
        classes = _shifted(ordered, step, meaning, space)
        if classes is not None:
            return "off-by-one", classes
    return None


def _greys(values: Sequence[int], space: LabelSpace) -> dict[int, int]:
    """The class of each grey that the colours of the classes become; {} if these aren't the values."""
    numbers = range(space.num_classes)
    if space.raw_ids or all(value in numbers or value == space.ignore for value in values):
        return {}
    classes: dict[int, int] = {}
    for color, index in class_of_color(space).items():
        grey = luma(color)
        classes[grey] = index if classes.get(grey, index) == index else DOUBTFUL
    return classes if set(values) <= {*classes, space.ignore} else {}


def _shifted(values: Sequence[int], step: int, meaning: Meaning, space: LabelSpace) -> Meaning | None:
    """What values that are all one too large, or too small, were meant to be; None if they aren't.

    A class at one end is never used then, and there is one too many at the other.
    """
    labels = sorted(value for value, index in meaning.items() if index != space.ignore)
    unused = labels[0] if step > 0 else labels[-1]
    moved = {value: value - step for value in values}
    if unused in moved or len(moved) < 2:
        return None
    classes = {value: meaning[old] for value, old in moved.items() if old in meaning}
    stays = {value: space.ignore for value in moved if value not in classes and meaning.get(value) == space.ignore}
    lowest = {255: meaning[0]} if step < 0 and 255 in moved and 0 in meaning and 255 not in meaning else {}
    classes = {**classes, **stays, **lowest}
    return classes if classes.keys() >= moved.keys() else None


def _wrapped(
    rest: Sequence[Values], labels: Mapping[int, LabelFacts], split_of: Sequence[str], space: LabelSpace
) -> dict[int, Verdict]:
    """Labels from which one was subtracted, so that the background became 255, which is ignored: all, or a split's."""
    is_plain = not space.raw_ids and space.ignore == 255
    if not is_plain or "".join(filter(str.isalpha, space.names[0].lower())) not in BACKGROUND:
        return {}
    if _is_wrapped(rest, labels, space):
        return {one.number: _unwrapped(one, space) for one in rest}
    verdicts: dict[int, Verdict] = {}
    for split in dict.fromkeys(split_of):
        own = [one for one in rest if split_of[one.number] == split]
        others = [one for one in rest if split_of[one.number] != split]
        is_other = _share_ignored(others, labels) < MOSTLY / 4
        if len(own) >= FEWEST and is_other and _is_wrapped(own, labels, space):
            verdicts |= {one.number: _unwrapped(one, space) for one in own}
    return verdicts


def _is_wrapped(some: Sequence[Values], labels: Mapping[int, LabelFacts], space: LabelSpace) -> bool:
    has_last = any(space.num_classes - 1 in one.all for one in some)
    is_labelled = sum(bool(one.all - {255}) for one in some) > len(some) / 2
    return is_labelled and not has_last and _share_ignored(some, labels) >= MOSTLY


def _share_ignored(some: Sequence[Values], labels: Mapping[int, LabelFacts]) -> float:
    """The share of the pixels whose value is 255."""
    number = sum(labels[one.number].counts.get(code, 0) for one in some for code, v in one.value_of.items() if v == 255)
    return number / max(sum(labels[one.number].num_pixels for one in some), 1)


def _unwrapped(one: Values, space: LabelSpace) -> Verdict:
    last = space.num_classes - 1
    classes = {255: 0} | {index: index + 1 for index in range(last)}
    text = f"its values are one too small: {space.names[last]} never occurs, and most pixels are ignored"
    return Verdict((*one.kinds, "off-by-one"), _composed(one, classes), text)
