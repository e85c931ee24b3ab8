"""All that the checks look at: the facts of every image, and what they say together."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

from atrous.check.facts import Facts
from atrous.check.likeness import Alike
from atrous.check.regions import Box
from atrous.check.verdicts import Verdict
from atrous.data.label_space import LabelSpace
from atrous.data.pairing import Complaint
from atrous.data.survey import Survey
from atrous.types import Size

Severity: TypeAlias = Literal["error", "warning", "note"]


class Item(NamedTuple):
    """One image, file or class that a finding is about."""

    text: str  # what is wrong with it
    split: str = ""
    name: str = ""  # of the image
    image: int | None = None  # its number, among all
    other: int | None = None  # of an image that it is compared with
    path: Path | None = None  # of a file that is no image of the data set
    box: Box | None = None


class Seen(NamedTuple):
    """What a check has seen. It may know better than its row how grave that is, and what to do."""

    items: Sequence[Item] = ()
    severity: Severity | None = None
    mend: str = ""


class Evidence(NamedTuple):
    facts: Sequence[Facts]  # of the images of all splits, one split after another
    split_of: Sequence[str]
    splits: tuple[str, ...]  # that could be listed
    space: LabelSpace
    verdicts: Sequence[Verdict] = ()
    surveys: Mapping[str, Survey] = {}  # of the labels whose values are right
    alike: Sequence[Alike] = ()
    complaints: Sequence[tuple[str, Complaint]] = ()  # with their split
    missing: Mapping[str, str] = {}  # why a split can't be listed
    unnamed: str = ""  # what to write if nothing names the classes
    hidden: Sequence[Path] = ()  # files among the images and labels that systems have made
    strays: Sequence[Path] = ()  # other files among them
    crop: Size | None = None  # of the training; None: not known

    def item(self, index: int, text: str, *, box: Box | None = None, other: int | None = None) -> Item:
        return Item(text, self.split_of[index], self.facts[index].name, index, other, box=box)

    def usable(self, split: str = "") -> list[int]:
        """Images whose label is right, of one split or of all."""
        return [
            index
            for index, (one, verdict) in enumerate(zip(self.facts, self.verdicts, strict=True))
            if one.label is not None and not verdict.kinds and split in ("", self.split_of[index])
        ]
