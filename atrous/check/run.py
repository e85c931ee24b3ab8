"""Reads all images and labels of a data set in parallel, and puts the findings together."""

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from atrous import data, terminal
from atrous.check import mending, page
from atrous.check.checks import CHECKS
from atrous.check.checkup import Checkup, findings, print_checkup
from atrous.check.evidence import Evidence
from atrous.check.facts import Facts, colors_of, facts, space_of_codes
from atrous.check.likeness import alike
from atrous.check.sources import AllSplits, Source, Split, open_source, open_splits, unread_files, with_names
from atrous.check.verdicts import Verdict, verdicts
from atrous.data import survey
from atrous.data.label_space import LabelSpace
from atrous.data.loader import read_each
from atrous.data.survey import Mask, Survey
from atrous.errors import AtrousError, ConfigError, listing, text_of
from atrous.files import write_atomically
from atrous.progress import counting, say

FEWEST = 16  # images that are worth a process of their own


def check(
    source: str,
    overrides: Sequence[str] = (),
    *,
    json_path: Path | None = None,
    page_path: Path | None = None,
    fix: Path | None = None,
    ignore: Sequence[str] = (),
    workers: int = 0,
    console: Console | None = None,
) -> Checkup:
    """Check a folder or the data of a recipe; print the findings, write them, and write a mended copy to `fix`.

    Raises AtrousError or OSError if the data can't be read at all.
    """
    console = console or terminal.console()
    _require_known(ignore)
    experiment = open_source(source, overrides)
    if fix is not None:
        mending.require_new(fix, experiment.config.data)
    named, unnamed = with_names(experiment.config.data)
    config, splits, missing = open_splits(named)
    space = space_of_codes(splits[0].samples, data.label_space(config))
    evidence = gather(splits, missing, space, experiment, workers, console)._replace(unnamed=unnamed)
    settings = config.model_dump(mode="json", exclude_none=True)
    images = {split.name: len(split.samples) for split in splits}
    checkup = Checkup(settings, images, findings(evidence, ignore), space, evidence.surveys)
    samples = AllSplits(splits)
    if json_path is not None:
        write_atomically(json_path, json.dumps(checkup.to_tree(), indent=1) + "\n")
    if page_path is not None:
        page.write(page_path, checkup, evidence, samples)
    print_checkup(checkup, console)
    if fix is not None:
        say(mending.write(fix, evidence, samples, workers, console), console)
    return checkup


def check_each(
    sources: Sequence[str],
    overrides: Sequence[str] = (),
    *,
    ignore: Sequence[str] = (),
    workers: int = 0,
    console: Console | None = None,
) -> list[Checkup | None]:
    """Check several folders, one after another, and print the findings; None for one that can't be read."""
    console = console or terminal.console()
    checkups: list[Checkup | None] = []
    for source in sources:
        console.print(f"[bold]{escape(source)}[/bold]", soft_wrap=True)
        try:
            checkups.append(check(source, overrides, ignore=ignore, workers=workers, console=console))
        except (AtrousError, OSError) as error:
            say(f"can't be checked: {text_of(error)}", console)
            checkups.append(None)
        console.print()
    return checkups


def _require_known(names: Sequence[str]) -> None:
    known = [row.name for row in CHECKS]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ConfigError(f"--ignore {unknown[0]}: no such finding; findings: {listing(known, limit=len(known))}")


def gather(
    splits: Sequence[Split],
    missing: Mapping[str, str],
    space: LabelSpace,
    source: Source,
    workers: int,
    console: Console,
) -> Evidence:
    """Read everything, once."""
    samples = AllSplits(splits)
    everything = _read(samples, space, workers, console)
    split_of = tuple(split.name for split in splits for _ in range(len(split.samples)))
    first = splits[0].samples
    judged = verdicts(everything, split_of, space, colors_of(first))
    hidden, strays = unread_files(splits)
    return Evidence(
        facts=everything,
        split_of=split_of,
        splits=tuple(split.name for split in splits),
        space=space,
        verdicts=judged,
        surveys={split.name: _survey(split.name, everything, split_of, judged, space) for split in splits},
        alike=alike(everything),
        complaints=[(split.name, complaint) for split in splits for complaint in split.complaints],
        missing=missing,
        hidden=hidden,
        strays=strays,
        crop=source.crop,
    )


def _read(samples: AllSplits, space: LabelSpace, workers: int, console: Console) -> list[Facts]:
    everything = []
    processes = min(workers, len(samples) // FEWEST)
    with counting("checking images", len(samples), console) as advance:
        for _, one in read_each(partial(_facts, samples, space), range(len(samples)), processes):
            everything.append(one)
            advance(1)
    return everything


def _facts(samples: AllSplits, space: LabelSpace, index: int) -> Facts:
    part, place = samples.place(index)
    return facts(part, space, place)


def _survey(
    split: str, everything: Sequence[Facts], split_of: Sequence[str], judged: Sequence[Verdict], space: LabelSpace
) -> Survey:
    """Of the labels whose values are right."""
    masks = [
        _mask(one, verdict)
        for one, verdict, name in zip(everything, judged, split_of, strict=True)
        if name == split and one.label is not None and not verdict.kinds
    ]
    return survey.summary(masks, space)


def _mask(one: Facts, verdict: Verdict) -> Mask:
    assert one.label is not None and verdict.classes is not None
    pixels: dict[int, int] = {}
    for code, number in one.label.counts.items():
        label = verdict.classes[code]
        pixels[label] = pixels.get(label, 0) + number
    return Mask(one.name, pixels)
