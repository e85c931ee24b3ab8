"""data.format=mix: several datasets as one, each read as often as its weight says.

Their classes must be the same, which `map` can make them. An epoch has as many samples as the datasets together. Which
ones depends on the seed and the epoch alone; every image of a dataset comes as often as any other of it.
"""

from bisect import bisect
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import accumulate
from typing import Annotated, Any, Literal, overload

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from atrous.data.contract import DataConfig
from atrous.data.inventory import Inventory, inventory
from atrous.data.label_space import LabelSpace
from atrous.data.loader import Late, order_of
from atrous.data.merging import Merger, merger
from atrous.data.naming import renamed, with_things
from atrous.data.overlap import Paired
from atrous.data.pairing import Pair
from atrous.data.survey import labels_of
from atrous.errors import ConfigError, listing
from atrous.types import Sample

WEIGHT = "weight"
MAX_WEIGHT = 1_000_000


class Config(DataConfig):
    """data.format=mix data.parts={a: {format: voc, root: VOCdevkit, weight: 2}, b: {format: folder, ...}}"""

    format: Literal["mix"] = "mix"
    parts: Annotated[dict[str, dict[str, Any]], Field(max_length=100, default_factory=dict)]
    """The settings of each dataset by a name of your own, with its `weight`, if the parts have one."""
    validate_on: Annotated[tuple[str, ...], Field(max_length=100)] | None = None
    """The names of the datasets to validate on; none: all."""


class Mix(Sequence[Sample]):
    """The samples of all parts, one part after the other."""

    def __init__(self, parts: Mapping[str, Sequence[Sample]], weights: Sequence[float]) -> None:
        self.parts, self.weights = dict(parts), tuple(weights)
        self.starts = (0, *accumulate(len(part) for part in self.parts.values()))

    def __len__(self) -> int:
        return self.starts[-1]

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | Sequence[Sample]:
        """Beyond the last index they begin again: an epoch may read a sample more than once, augmented differently."""
        if isinstance(index, slice):
            return [self[place] for place in range(len(self))[index]]
        name, part, place = self._place(index)
        return _named(part[place], name)

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(len(self)))

    def late(self, index: int) -> Sample:
        """The sample whose pixels are read only where they are sliced, of a part that can do that."""
        name, part, place = self._place(index)
        return _named(part.late(place) if isinstance(part, Late) else part[place], name)

    def labels(self, index: int) -> Sample:
        name, part, place = self._place(index)
        return _named(labels_of(part, place), name)

    def _place(self, index: int) -> tuple[str, Sequence[Sample], int]:
        place = index % len(self)
        number = bisect(self.starts, place) - 1
        name = list(self.parts)[number]
        return name, self.parts[name], place - self.starts[number]

    def without_instances(self) -> "Mix":
        parts = {
            name: getattr(part, "without_instances", lambda part=part: part)() for name, part in self.parts.items()
        }
        return Mix(parts, self.weights)

    def order(self, seed: int, epoch: int) -> NDArray[np.int64]:
        """The samples of an epoch; those that come again are numbered beyond the last index."""
        return _order(self, seed, epoch)

    def inventory(self) -> Inventory:
        files = {name: inventory(part) for name, part in self.parts.items()}
        return {f"{name}/{key}": sizes for name, rows in files.items() for key, sizes in rows.items()}

    @property
    def pairs(self) -> Sequence[Pair]:
        files = {name: part.pairs for name, part in self.parts.items() if isinstance(part, Paired)}
        return [pair._replace(name=f"{name}/{pair.name}") for name, pairs in files.items() for pair in pairs]


def _named(sample: Sample, part: str) -> Sample:
    return sample._replace(name=f"{part}/{sample.name}")


@lru_cache(maxsize=2)  # it is asked for at each sample
def _order(mix: Mix, seed: int, epoch: int) -> NDArray[np.int64]:
    shares = shares_of(len(mix), mix.weights)
    rows = [
        start + _places(part, share, int(np.random.default_rng([seed, number]).integers(2**31)), epoch)
        for number, (part, share, start) in enumerate(zip(mix.parts.values(), shares, mix.starts, strict=False))
    ]
    indices = np.concatenate(rows)
    return np.random.default_rng([seed, epoch]).permutation(indices + len(mix) * _times_before(indices))


def _places(part: Sequence[Sample], share: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """`share` samples of a part; they go on where the last epoch's ended."""
    turns, places = np.divmod(np.arange(epoch * share, (epoch + 1) * share), len(part))
    orders = [order_of(part, seed, turn)[places[turns == turn]] for turn in np.unique(turns).tolist()]
    return np.concatenate(orders) if orders else np.empty(0, np.int64)


def _times_before(numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    """How often each number has come before."""
    by_number = np.argsort(numbers, kind="stable")
    ordered = numbers[by_number]
    firsts = np.flatnonzero(np.diff(ordered, prepend=-1))
    times = np.empty(len(numbers), np.int64)
    times[by_number] = np.arange(len(numbers)) - np.repeat(firsts, np.diff(firsts, append=len(numbers)))
    return times


def shares_of(total: int, weights: Sequence[float]) -> list[int]:
    """Whole numbers in the proportion of the weights, whose sum is `total`: the largest remainders are rounded up."""
    exact = [total * weight / sum(weights) for weight in weights]
    shares = [int(share) for share in exact]
    by_remainder = sorted(range(len(exact)), key=lambda place: shares[place] - exact[place])
    for place in by_remainder[: total - sum(shares)]:
        shares[place] += 1
    return shares


# ---- parts


def require_parts(config: Config) -> None:
    if len(config.parts) < 2:
        raise ConfigError("data.parts: name two datasets or more, as in {a: {format: voc, root: A}, b: {root: B}}")
    for name in config.validate_on or ():
        if name not in config.parts:
            raise ConfigError(f"data.validate_on: no part {name!r}; parts are {listing(config.parts)}")


def weights_of(config: Config, sizes: Mapping[str, int]) -> list[float]:
    """Of the parts in `sizes`: their weights or, if no part has one, their sizes."""
    weights = {name: settings.get(WEIGHT) for name, settings in config.parts.items()}
    if all(weight is None for weight in weights.values()):
        return [float(size) for size in sizes.values()]
    return [_weight(name, weights[name]) for name in sizes]


def _weight(name: str, value: object) -> float:
    try:
        weight = float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else 0.0
    except ValueError:
        weight = 0.0
    if value is None:
        raise ConfigError(f"data.parts.{name}.weight is missing: give all parts a weight, or none")
    if not 0 < weight <= MAX_WEIGHT:
        raise ConfigError(f"data.parts.{name}.weight: expected a number above 0, up to {MAX_WEIGHT:,}, got {value}")
    return weight


def common_space(spaces: Mapping[str, LabelSpace], config: Config) -> tuple[LabelSpace, dict[str, Merger]]:
    """The classes that all parts have, as the first part numbers them. Raises ConfigError that says what differs."""
    mergers = {name: merger(space, {}) for name, space in spaces.items()}
    first = next(iter(mergers))
    names = mergers[first].space.names
    for name, one in mergers.items():
        _require_same(name, one.space.names, first, names)
        mergers[name] = merger(spaces[name], {known: known for known in names})
        _require_same(name, _things(mergers[name]), first, _things(mergers[first]), "things")
    space = mergers[first].space.model_copy(update={"raw_ids": ()})
    return with_things(renamed(space, config), config.things), mergers


def _things(one: Merger) -> list[str]:
    return [one.space.names[index] for index in one.space.things]


def _require_same(name: str, own: Sequence[str], first: str, names: Sequence[str], what: str = "classes") -> None:
    missing, extra = ([one for one in some if one not in others] for some, others in ((names, own), (own, names)))
    if missing or extra:
        differences = [f"lacks {listing(missing, 10)}"] * bool(missing) + [f"has {listing(extra, 10)}"] * bool(extra)
        setting = "map" if what == "classes" else "things"
        raise ConfigError(
            f"data.parts.{name}: its {what} are not those of {first}: it {' and '.join(differences)}; set "
            f"data.parts.{name}.{setting}"
        )
