"""data.val_share: where a dataset has no split to validate on, some of its training images are set aside for that.

Which ones depends on their names and data.val_seed alone: an image that is added later moves no other one.
"""

import hashlib
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from atrous.data.contract import DataConfig
from atrous.errors import DataError
from atrous.files import composed
from atrous.types import Sample

DEFAULT_SHARE = 0.1
LEAST = 2  # images that are left to learn from


@runtime_checkable
class Divisible(Protocol):
    """Samples whose names are known without reading them."""

    @property
    def names(self) -> Sequence[str]: ...

    def chosen(self, places: Sequence[int]) -> Sequence[Sample]:
        """Those at the places, in this order."""


def divided(samples: Sequence[Sample], config: DataConfig) -> tuple[Sequence[Sample], Sequence[Sample]]:
    """The samples to learn from, and those that are set aside to validate on."""
    assert config.val_share is not None
    if not isinstance(samples, Divisible):
        raise DataError(f"data.val_share: data.format={config.format} can't be divided; set data.val to a split")
    names = samples.names
    aside = set(places_aside(names, config.val_share, config.val_seed))
    if not aside:
        noun, verb = ("image", "is") if len(names) == 1 else ("images", "are")
        raise DataError(
            f"data.val_share: {len(names)} {noun} of {config.train!r} {verb} too few to set one aside to validate on; "
            f"add images, or set data.val={config.train} to see no more than how well it has learnt them"
        )
    return tuple(
        samples.chosen([place for place in range(len(names)) if (place in aside) == is_aside])
        for is_aside in (False, True)
    )  # type: ignore[return-value]


def other_division(config: DataConfig) -> str:
    """What to set if the wrong images are set aside; "" if none are, which `with_validation` says by no share."""
    if config.val_share is None:
        return ""
    return f" (another data.val_seed or data.val_share sets other images of {config.train!r} aside)"


def places_aside(names: Sequence[str], share: float, seed: int) -> list[int]:
    """About a share of the places, at least one; [] where fewer than LEAST would be left. Equal names stay together."""
    draws = [draw(name, seed) for name in names]
    most = len(names) - LEAST
    last = sorted(draws)[: max(1, sum(value < share for value in draws))][:most][-1:] if most > 0 else []
    return [place for place, value in enumerate(draws) if last and value <= last[0]]


def draw(name: str, seed: int) -> float:
    """A number in 0..1 that only the name and the seed decide, on all machines."""
    digest = hashlib.sha256(f"{seed}:{composed(name)}".encode()).digest()
    return float(int.from_bytes(digest[:8], "big") / 2**64)
