"""The official ids of a model's classes, which are known by their names."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from atrous.data.label_space import BACKGROUND, LabelSpace
from atrous.errors import ConfigError, listing
from atrous.submissions.contract import NO_CLASS, Format

NOTHING = {*BACKGROUND, "other"}  # classes of a model that stand for no class of a benchmark


def official_ids(space: LabelSpace) -> dict[str, int]:
    """Of the classes of a benchmark's own label space, by plain name."""
    values = {index: value for value, index in space.raw_ids} if space.raw_ids else range(space.num_classes)
    return {plain(name): values[index] for index, name in enumerate(space.names) if index != space.ignore}


def plain(name: str) -> str:
    """A class's name without what programs write differently: `traffic light`, `traffic_light`, `Traffic-Light`."""
    return "".join(filter(str.isalnum, name.casefold()))


def ids_of_classes(space: LabelSpace, form: Format) -> NDArray[np.int64]:  # [C]
    """The official id of each class of a model, or NO_CLASS. Raises ConfigError for a model of other classes."""
    official = official_ids(form.space)
    written = _things(form.space) if form.are_things_alone else set(official)
    own = {plain(name): name for index, name in enumerate(space.names) if index != space.ignore}
    counted = _things(space) if form.are_things_alone else set(own)
    others = [own[name] for name in own if name in counted - written and name not in NOTHING - written]
    lacking = [name for name in form.space.names if plain(name) in written - set(own)]
    differences = [*_part("lack", lacking, len(written)), *_part("have", others, len(counted))]
    if "instance" in form.needs and not differences:
        differences = _different_things(space, form)
    if differences:
        raise ConfigError(f"the model's classes aren't those of {form.benchmark}: they {' and '.join(differences)}")
    is_written = [plain(name) in written and index != space.ignore for index, name in enumerate(space.names)]
    values = (official[plain(name)] if known else NO_CLASS for name, known in zip(space.names, is_written, strict=True))
    return np.fromiter(values, np.int64, space.num_classes)


def _part(verb: str, names: list[str], count: int) -> list[str]:
    return [f"{verb} {listing(names)} ({len(names)} of {count})"] if names else []


def _things(space: LabelSpace) -> set[str]:
    return {plain(space.names[index]) for index in space.things if index != space.ignore}


def _different_things(space: LabelSpace, form: Format) -> list[str]:
    own, official = _things(space), _things(form.space)
    return [*_names("count the stuff", form.space, own - official), *_names("don't count", form.space, official - own)]


def _names(what: str, space: LabelSpace, wanted: Iterable[str]) -> list[str]:
    names = [name for name in space.names if plain(name) in set(wanted)]
    return [f"{what} {listing(names)}"] if names else []
