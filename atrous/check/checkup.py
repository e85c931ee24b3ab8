"""The result of `atrous check`: findings as plain values, for a terminal, a JSON file, a page, and Python."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from atrous.check.checks import CHECKS
from atrous.check.evidence import Evidence, Item, Severity
from atrous.data import survey
from atrous.data.label_space import LabelSpace
from atrous.data.survey import Survey
from atrous.losses import median_frequency_weights
from atrous.terminal import printable

FORMAT = 1  # of the JSON
ORDER: tuple[Severity, ...] = ("error", "warning", "note")

TEXT = 100  # characters of a line in the table, also where there is no terminal


class Finding(NamedTuple):
    """One row of the result. `items` are the images, files or classes that it is about."""

    name: str
    title: str
    severity: Severity
    mend: str
    is_mended: bool  # by `--fix`
    items: Sequence[Item]

    @property
    def example(self) -> str:
        item = self.items[0]
        place = "/".join(filter(None, (item.split, item.name)))
        if not item.name and not item.split:
            return item.text
        return place if item.text in (place, str(item.path)) else f"{place}: {item.text}"


class Checkup(NamedTuple):
    """What was checked, and what was found."""

    data: Mapping[str, Any]  # settings
    images: Mapping[str, int]  # by split
    findings: Sequence[Finding]
    space: LabelSpace
    surveys: Mapping[str, Survey]  # of the labels whose values are right, by split

    @property
    def is_clean(self) -> bool:
        """Whether there is nothing but notes."""
        return all(finding.severity == "note" for finding in self.findings)

    def number(self, severity: str) -> int:
        return sum(finding.severity == severity for finding in self.findings)

    def to_tree(self) -> dict[str, Any]:
        """Plain values: what `--json` writes."""
        return {
            "format": FORMAT,
            "data": dict(self.data),
            "images": dict(self.images),
            "clean": self.is_clean,
            "errors": self.number("error"),
            "warnings": self.number("warning"),
            "notes": self.number("note"),
            "findings": [_tree(finding) for finding in self.findings],
            "splits": {name: survey.to_tree(one, self.space) for name, one in self.surveys.items()},
            "class_weights": dict(zip(self.space.names, self.weights(), strict=True)),
        }

    def weights(self) -> list[float]:
        """Of the classes, by median frequency balancing in the first split."""
        one = next(iter(self.surveys.values()))
        return [round(weight, 4) for weight in median_frequency_weights(one.pixels, one.pixels_of_images).tolist()]


def _tree(finding: Finding) -> dict[str, Any]:
    return {
        "name": finding.name,
        "severity": finding.severity,
        "title": finding.title,
        "mend": finding.mend,
        "mended_by_fix": finding.is_mended,
        "number": len(finding.items),
        "items": [
            {
                "split": item.split,
                "name": item.name,
                "text": item.text,
                "path": None if item.path is None else str(item.path),
                "box": None if item.box is None else list(item.box),
            }
            for item in finding.items
        ],
    }


def findings(evidence: Evidence, ignore: Sequence[str] = ()) -> list[Finding]:
    """What all checks but those of `ignore` say, the gravest first."""
    result = []
    for check in CHECKS:
        seen = check.look(evidence) if check.name not in ignore else None
        if seen is not None and seen.items:
            severity, mend = seen.severity or check.severity, seen.mend or check.mend
            result.append(Finding(check.name, check.title, severity, mend, check.is_mended, seen.items))
    return sorted(result, key=lambda finding: ORDER.index(finding.severity))


def print_checkup(checkup: Checkup, console: Console) -> None:
    """A table, and a line that says it all."""
    if checkup.findings:
        table = Table("finding", "", show_lines=True)
        table.columns[1].overflow = "fold"
        table.add_column("example and mend", overflow="fold", max_width=TEXT)
        table.columns[1].header, table.columns[1].justify = "number", "right"
        for finding in checkup.findings:
            head = f"{finding.severity}\n{finding.name}"
            text = f"{finding.title}\n{finding.example}\nmend: {finding.mend}"
            table.add_row(head, f"{len(finding.items):,}", printable(text, console.encoding))
        console.print(table)
    console.print(summary(checkup))


def summary(checkup: Checkup) -> str:
    images = ", ".join(f"{name} {number:,}" for name, number in checkup.images.items())
    counts = [
        f"{number} {severity}{'s' if number > 1 else ''}" for severity in ORDER if (number := checkup.number(severity))
    ]
    return f"{images}: {', '.join(counts) or 'nothing found'}"
