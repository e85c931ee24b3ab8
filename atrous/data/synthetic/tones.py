"""Colours. Objects share them on purpose, so that a colour alone doesn't tell the class."""

from collections.abc import Sequence
from typing import TypeAlias, TypeVar

from numpy.random import Generator

T = TypeVar("T")
Tone: TypeAlias = tuple[float, float, float]  # RGB, 0..255


def _tone(text: str) -> Tone:
    red, green, blue = bytes.fromhex(text)
    return (red, green, blue)


def _tones(text: str) -> tuple[Tone, ...]:
    return tuple(map(_tone, text.split()))


SKIES = (  # at the top, at the horizon; the first are sunny
    (_tone("5894de"), _tone("bcd8f0")),
    (_tone("3a70c4"), _tone("96bee8")),
    (_tone("7aa0c8"), _tone("d8dcde")),
    (_tone("969ca6"), _tone("c6c8cc")),
    (_tone("c4cad0"), _tone("dededc")),
    (_tone("70747e"), _tone("a0a0a0")),
    (_tone("5c6eac"), _tone("f4be8e")),
    (_tone("887aa0"), _tone("f0ceb0")),
)
GREYS = _tones("5c5c60 706e6e 82807e 7a7c84 92908c")
PAVINGS = GREYS[1:] + _tones("a69e92 b2aca6 9c7a6a 9e9278")
WALLS = GREYS + _tones("ac5442 925c48 d6be96 e2dacc c49e60 809cb6 d09280 869878 546480 bcb0a8")
PAINTS = GREYS + _tones("3e68b2 80b0dc c42c28 e2e2e0 26282e 3a6846 deb23e 964c34 bec4cc cebc9c")
COATS = WALLS + PAINTS
TROUSERS = GREYS + _tones("303856 26262a 786048 58749c")
SKINS = _tones("f0ccb0 d6a480 a06c4e 684634")
HAIRS = _tones("2e2420 604028 ceaa68 989694 8c3e24")
LEAVES = _tones("4a7a34 608c3e 3a623e 7c8c3a ba8c34 b05c30 8e7a4a")
METALS = GREYS + _tones("404246 3c544c b0b2b4 ba9642")
PLATES = _tones("cc2e2a 2c5cb2 e8e6e0 e8be38 388454")
WHITE, GLASS, BLACK, LAMP = _tones("dedcd6 343e4a 222226 fae2a0")


def pick(rng: Generator, options: Sequence[T]) -> T:
    return options[int(rng.integers(len(options)))]


def lit(tone: Tone, factor: float) -> Tone:
    return (tone[0] * factor, tone[1] * factor, tone[2] * factor)


def varied(rng: Generator, tone: Tone) -> Tone:
    """A little darker or lighter, and of a slightly different hue."""
    factor = rng.uniform(0.86, 1.16)
    red, green, blue = rng.uniform(-8.0, 8.0, 3).tolist()
    return (tone[0] * factor + red, tone[1] * factor + green, tone[2] * factor + blue)
