"""The functions of the checks: each looks at the evidence, and says which images, files or classes are wrong."""

from collections.abc import Callable, Iterator

from atrous.check.evidence import Evidence, Item, Seen
from atrous.check.facts import Facts, Kind
from atrous.check.verdicts import Verdict
from atrous.data.survey import Survey, absent_classes, monotony
from atrous.errors import listing
from atrous.losses import median_frequency_weights
from atrous.types import Size

NUM_LISTED = 12  # classes that a line names
FEW = 0.2  # the share of images up to which those unlike the others are a mistake rather than the way of the data set
DOUBTFUL = 0.05  # the share of labels with wrong values beyond which nothing is said of the classes
NUM_NEGATIVE = 0.2  # the share of labels without an object up to which they may have been forgotten
SPECK_DENSITY = 1 / 5000  # specks per pixel: labels that people drew have half of that at most
EXTREME, IMBALANCED = 1e-4, 1e-3  # pixels of a class beside those of the largest one
PADDING = 0.5  # the share of a crop that most images don't fill
PART = 1 / 40  # the share of an image that a crop shows
VOID_NAMES = {"void", "ignore", "ignored", "unlabeled", "unlabelled", "dontcare", "undefined", "ignoreregion"}


# ---- files


def problems(kind: str, evidence: Evidence) -> Seen:
    return Seen(
        [
            evidence.item(index, problem.text)._replace(path=problem.path)
            for index, one in enumerate(evidence.facts)
            for problem in one.problems
            if problem.kind == kind
        ]
    )


def complaints(kind: str, evidence: Evidence) -> Seen:
    return Seen(
        [
            Item(complaint.text.rsplit(f" ({len(complaint.names)}): ", 1)[0], split, name)
            for split, complaint in evidence.complaints
            if complaint.kind == kind
            for name in complaint.names
        ]
    )


def missing_split(evidence: Evidence) -> Seen:
    items = [Item(text, split) for split, text in evidence.missing.items()]
    is_absent = all(text.startswith("no split ") for text in evidence.missing.values())
    return Seen(items, mend="" if is_absent else "correct what the message names; only then its images are checked")


def unnamed(evidence: Evidence) -> Seen:
    return Seen([Item(evidence.unnamed)] if evidence.unnamed else [])


def hidden(evidence: Evidence) -> Seen:
    return Seen([Item(str(path), name=path.name, path=path) for path in evidence.hidden])


def strays(evidence: Evidence) -> Seen:
    return Seen([Item(str(path), name=path.name, path=path) for path in evidence.strays])


# ---- image and label


def _sizes(one: Facts) -> str:
    """What is wrong with the sizes of an image and what belongs to it; "" if nothing."""
    if one.image is None:
        return ""
    own = (one.image.size, one.image.stored)
    if one.label is not None and one.label.size not in own:
        return f"image {_size(one.image.size)}, label {_size(one.label.size)} (width x height)"
    if one.map_size is not None and one.map_size not in own:
        return f"image {_size(one.image.size)}, instance map {_size(one.map_size)} (width x height)"
    return ""


def _size(size: Size) -> str:
    return f"{size[1]} x {size[0]}"


def size_mismatch(evidence: Evidence) -> Seen:
    texts = {index: _sizes(one) for index, one in enumerate(evidence.facts)}
    return Seen([evidence.item(index, text) for index, text in texts.items() if text])


def rotation(evidence: Evidence) -> Seen:
    pairs = [(index, one) for index, one in enumerate(evidence.facts) if _is_turned(one)]
    is_harmless = all(_is_upright(one) for _, one in pairs)
    return Seen([evidence.item(index, _turn(one)) for index, one in pairs], "note" if is_harmless else None)


def _is_turned(one: Facts) -> bool:
    if one.image is None or one.label is None or one.pair is None or _sizes(one):
        return False
    return one.image.orientation != one.label.orientation


def _is_upright(one: Facts) -> bool:
    """Whether the label can only have been drawn on the upright photo."""
    assert one.image is not None and one.label is not None
    return one.label.orientation == 1 and one.label.size == one.image.size != one.image.stored


def _turn(one: Facts) -> str:
    assert one.image is not None and one.label is not None
    text = f"EXIF orientation {one.image.orientation}, that of the label {one.label.orientation}"
    if _is_upright(one):
        return f"{text}; the label is drawn on the upright photo"
    if one.label.size != one.image.size:
        return f"{text}; the label is drawn on the photo as stored, and is turned with it"
    return f"{text}; the sizes don't tell on which the label is drawn: it is taken as drawn on the upright photo"


# ---- values of labels


def verdicts(kind: str, evidence: Evidence) -> Seen:
    items = [
        evidence.item(index, _text(kind, one, verdict), box=one.label.wrong_box if one.label else None)
        for index, (one, verdict) in enumerate(zip(evidence.facts, evidence.verdicts, strict=True))
        if kind in verdict.kinds
    ]
    is_known = all(evidence.verdicts[item.image].classes is not None for item in items if item.image is not None)
    refused = problems(kind, evidence).items  # by a layout that reads labels itself
    return Seen([*items, *refused], mend="" if is_known or kind not in UNKNOWN else UNKNOWN[kind])


def _text(kind: str, one: Facts, verdict: Verdict) -> str:
    """What is wrong with one label, of what may be several things."""
    if kind == "smoothed-labels":
        return _codes(one)
    return "it is RGB" if kind == "rgb-labels" and (len(verdict.kinds) > 1 or not verdict.text) else verdict.text


def _codes(one: Facts) -> str:
    assert one.label is not None
    how = "stored as JPEG or WebP, with " if one.label.is_lossy else ""
    share = f"{100 * one.label.smoothness:.0f} %"
    return f"{how}{one.label.num_codes} different values; {share} of the edges pass through a value in between"


UNKNOWN = {  # mends where nobody knows what the codes were meant to be
    "rgb-labels": "give each class its colour in classes.yaml, as in colors: {person: [192, 0, 0]}",
    "grey-palette": "read the indices of the palette: export the labels anew, and don't convert them to grey",
    "binary-masks": "name the class that 255 stands for, as in data.names={0: background, 255: person}",
}


def void_class(evidence: Evidence) -> Seen:
    space, survey = evidence.space, evidence.surveys.get(evidence.splits[0])
    total = sum(survey.pixels) if survey else 0
    items = []
    for index, name in enumerate(space.names):
        share = survey.pixels[index] / total if survey and total else 0.0
        is_void = "".join(filter(str.isalpha, name.lower())) in VOID_NAMES and index != space.ignore
        if is_void and not (index == 0 and (space.num_classes == 2 or share > 1 / 2)):
            items.append(Item(f"class {index} is called {name!r}, and counts like any other", name=name))
    return Seen(items)


# ---- what the labels hold


def ignored_labels(evidence: Evidence) -> Seen:
    return Seen(
        [
            evidence.item(index, f"all its {evidence.facts[index].label.num_pixels} pixels are ignored")  # type: ignore[union-attr]
            for index in evidence.usable()
            if not _classes(evidence, index)
        ]
    )


def _classes(evidence: Evidence, index: int) -> set[int]:
    """The classes in one label."""
    label, classes = evidence.facts[index].label, evidence.verdicts[index].classes or {}
    return {classes[code] for code in (label.counts if label else ()) if code in classes} - {evidence.space.ignore, 255}


def empty_labels(evidence: Evidence) -> Seen:
    """Labels of the background alone, where most have more."""
    labels = {index: _classes(evidence, index) for index in evidence.usable()}
    background = {0, *evidence.space.background}
    empty = [index for index, classes in labels.items() if len(classes) == 1 and classes <= background]
    if len(empty) > len(labels) / 2:
        return Seen()
    items = [evidence.item(index, f"nothing but {_names(evidence, labels[index])}") for index in empty]
    return Seen(items, None if len(empty) <= NUM_NEGATIVE * len(labels) else "note")


def _names(evidence: Evidence, classes: set[int]) -> str:
    return listing((evidence.space.names[index] for index in sorted(classes)), NUM_LISTED)


def one_class(evidence: Evidence) -> Seen:
    texts = {split: monotony(survey, evidence.space) for split, survey in _trusted(evidence)}
    return Seen([Item(text, split) for split, text in texts.items() if text])


def absent(evidence: Evidence) -> Seen:
    """A split of fewer images than classes can hardly have them all."""
    items, is_expected = [], False
    for split, survey in _trusted(evidence):
        lacking = absent_classes(survey, evidence.space)
        if lacking and not monotony(survey, evidence.space):
            names = listing(lacking, NUM_LISTED)
            items.append(Item(f"no pixel of {names} ({len(lacking)} of {evidence.space.num_classes} classes)", split))
            is_expected |= survey.masks >= evidence.space.num_classes
    return Seen(items, None if is_expected else "note")


def _trusted(evidence: Evidence) -> Iterator[tuple[str, Survey]]:
    """Splits with labels nearly all of which are right: what they hold together means something."""
    for split in evidence.splits:
        total = evidence.split_of.count(split)
        if (total - len(evidence.usable(split))) <= DOUBTFUL * total and any(evidence.surveys[split].pixels):
            yield split, evidence.surveys[split]


def imbalance(evidence: Evidence) -> Seen:
    for _, survey in list(_trusted(evidence))[:1]:
        largest = max(survey.pixels)
        weights = median_frequency_weights(survey.pixels, survey.pixels_of_images).tolist()
        rare = [index for index, pixels in enumerate(survey.pixels) if 0 < pixels < IMBALANCED * largest]
        total = sum(survey.pixels)
        items = [
            Item(
                f"{100 * survey.pixels[index] / total:.2g} % of the labelled pixels; weight {weights[index]:.3g}",
                evidence.splits[0],
                evidence.space.names[index],
            )
            for index in rare
        ]
        is_extreme = any(survey.pixels[index] < EXTREME * largest for index in rare)
        return Seen(items, "warning" if is_extreme else None)
    return Seen()


def specks(evidence: Evidence) -> Seen:
    items, specks, pixels = [], 0, 0
    for index in evidence.usable():
        label = evidence.facts[index].label
        if label is not None and label.specks:
            box, number = label.specks[0], label.num_specks
            where = f"at x {box.left}, y {box.top}"
            text = f"a speck {where}" if number == 1 else f"{number} specks, the first one {where}"
            items.append(evidence.item(index, text, box=box))
            specks, pixels = specks + number, pixels + label.num_pixels
    return Seen(items, "warning" if specks > SPECK_DENSITY * pixels else None)


# ---- the same image twice


def copies(kind: str, across: bool, evidence: Evidence) -> Seen:
    pairs = [pair for pair in evidence.alike if pair.likeness == kind and _is_across(evidence, *pair[:2]) == across]
    return Seen([evidence.item(pair.second, _likeness(evidence, *pair[:2]), other=pair.first) for pair in pairs])


def _is_across(evidence: Evidence, first: int, second: int) -> bool:
    return evidence.split_of[first] != evidence.split_of[second]


def _likeness(evidence: Evidence, first: int, second: int) -> str:
    one, other = evidence.facts[first].label, evidence.facts[second].label
    same = one is None or other is None or one.size != other.size or one.counts == other.counts
    return f"as {_place(evidence, first)}{'' if same else ', but its label differs'}"


def _place(evidence: Evidence, number: int) -> str:
    return f"{evidence.split_of[number]}/{evidence.facts[number].name}"


def frames(evidence: Evidence) -> Seen:
    pairs = [pair for pair in evidence.alike if pair.likeness == "frames"]
    items = [evidence.item(pair.second, f"as {_place(evidence, pair.first)}", other=pair.first) for pair in pairs]
    return Seen(items, "warning" if any(_is_across(evidence, *pair[:2]) for pair in pairs) else None)


# ---- images


def kind_of_image(kind: Kind, evidence: Evidence) -> Seen:
    """Images of a kind that most others aren't of; if most are, it is the way of this data set."""
    images = [one.image for one in evidence.facts if one.image is not None]
    items = [
        evidence.item(index, f"{one.image.kind}, read as RGB with 8 bits")
        for index, one in enumerate(evidence.facts)
        if one.image is not None and one.image.kind == kind
    ]
    return Seen(items, None if len(items) <= len(images) / 2 else "note")


def blank(evidence: Evidence) -> Seen:
    return Seen(
        [
            evidence.item(index, f"all pixels have one grey, {one.image.thumb[0, 0]}")
            for index, one in enumerate(evidence.facts)
            if one.image is not None and one.image.thumb.min() == one.image.thumb.max()
        ]
    )


def smaller_than_crop(evidence: Evidence) -> Seen:
    def is_small(height: int, width: int) -> bool:
        assert evidence.crop is not None
        tall, wide = evidence.crop
        return min(height, tall) * min(width, wide) < PADDING * tall * wide

    return _against_crop(evidence, is_small)


def larger_than_crop(evidence: Evidence) -> Seen:
    def is_large(height: int, width: int) -> bool:
        assert evidence.crop is not None
        return evidence.crop[0] * evidence.crop[1] < PART * height * width

    return _against_crop(evidence, is_large)


def _against_crop(evidence: Evidence, is_odd: Callable[[int, int], bool]) -> Seen:
    if evidence.crop is None:
        return Seen()
    sizes = {index: one.image.size for index, one in enumerate(evidence.facts) if one.image is not None}
    odd = [index for index, size in sizes.items() if is_odd(*size)]
    if len(odd) <= len(sizes) / 2:
        return Seen()
    height, width = evidence.crop
    return Seen([evidence.item(i, f"{sizes[i][1]} x {sizes[i][0]}, crop {width} x {height}") for i in odd])


# ---- instances


def crossing_instances(evidence: Evidence) -> Seen:
    return Seen(
        [
            evidence.item(index, f"instance {listing(one.instances.crossing)} lies in several classes", box=box)
            for index, one in enumerate(evidence.facts)
            if one.instances is not None and one.instances.crossing
            for box in [one.instances.crossing_box]
        ]
    )


def without_instances(evidence: Evidence) -> Seen:
    """Images that a panoptic training would refuse, in a data set that tells things apart."""
    pairs = {index: one.pair for index, one in enumerate(evidence.facts) if one.pair is not None and one.pair.label}
    missing = [index for index, pair in pairs.items() if pair.instance is None]
    if not evidence.space.things or len(missing) == len(pairs):
        return Seen()
    return Seen([evidence.item(index, "no instance map") for index in missing])


def unnumbered(evidence: Evidence) -> Seen:
    items = []
    for split, survey in evidence.surveys.items():
        facts = [evidence.facts[index].instances for index in evidence.usable(split)]
        pixels = sum(survey.pixels[label] for label in evidence.space.things)
        if facts and pixels and all(one is not None and not one.largest for one in facts):
            names = listing((evidence.space.names[label] for label in evidence.space.things), NUM_LISTED)
            items.append(Item(f"all {pixels} pixels of {names} are 0 in the instance maps", split))
    return Seen(items)


def too_many_instances(evidence: Evidence) -> Seen:
    limit = evidence.space.panoptic_divisor
    return Seen(
        [
            evidence.item(
                index, f"{one.instances.largest} is the largest number of a thing; there is room for {limit - 1}"
            )
            for index, one in enumerate(evidence.facts)
            if one.instances is not None and one.instances.largest >= limit
        ]
    )
