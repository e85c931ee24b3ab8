"""How often each class occurs in the labels of a split."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from markupsafe import Markup

from atrous.report.charts import bar
from atrous.report.tables import Name
from atrous.report.text import count, percent
from atrous.tasks.contract import Figures


class Frequency(NamedTuple):
    pixels: int  # or what else the labels are counted in
    images: int | None = None  # with at least one of them; None: not counted


class Split(NamedTuple):
    classes: Mapping[str, Frequency]
    images: int | None = None
    ignored: int = 0  # pixels
    unlabelled: Sequence[str] = ()  # a few images without a label
    num_unlabelled: int = 0

    @property
    def total(self) -> int:
        """All labels that count."""
        return sum(frequency.pixels for frequency in self.classes.values())


class Line(NamedTuple):
    """A class in each split: its bar, its share, the number of images if they were counted."""

    name: Name
    parts: list[tuple[Markup, str, str | None]]


def splits_of(tree: Mapping[str, Any]) -> dict[str, Split]:
    """The splits of a run's data.json; a split that isn't as it should be is left out."""
    splits = {name: _split(tree.get(name)) for name in ("train", "val")}
    return {name: split for name, split in splits.items() if split is not None}


def _split(tree: Any) -> Split | None:  # noqa: ANN401 - any JSON value
    try:
        classes = {
            str(name): Frequency(int(row["pixels"]), int(row["images"])) for name, row in tree["classes"].items()
        }
        names = [str(name) for name in tree["unlabelled"]]
        return Split(classes, int(tree["images"]), int(tree["ignored"]), names, int(tree["num_unlabelled"]))
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def measured(figures: Figures) -> Split | None:
    """The split that figures were measured on, from the rows of the confusion matrix."""
    if figures.confusion is None:
        return None
    totals = figures.confusion.sum(1).tolist()
    return Split({name: Frequency(int(total)) for name, total in zip(figures.table.rows, totals, strict=True)})


def lines(splits: Sequence[Split], names: Sequence[Name]) -> list[Line]:
    """The most frequent class of the first split first."""
    unsorted = [Line(name, [_part(split, name) for split in splits]) for name in names]
    return sorted(unsorted, key=lambda line: -_pixels(splits[0], line.name)) if splits else []


def _pixels(split: Split, name: Name) -> int:
    return split.classes[name.name].pixels if name.name in split.classes else 0


def _part(split: Split, name: Name) -> tuple[Markup, str, str | None]:
    images = split.classes[name.name].images if name.name in split.classes else None
    share = _pixels(split, name) / max(1, split.total)
    return Markup(bar(share, name.color)), percent(share), None if split.images is None else count(images)
