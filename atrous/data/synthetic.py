"""Little street scenes drawn by code: a data set without files, learnt in minutes by shape and context, not by colour.

Everything stands on a ground plane in metres before a pinhole camera and is painted from far to near. What is painted
is a map of surfaces; colours, classes and things are looked up from that one map, so that labels are exact. Objects
borrow one another's colours on purpose: asphalt, paving, walls and metal share greys, cars and coats share everything.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, TypeAlias, TypeVar, overload

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter
from pydantic import Field, field_validator

from atrous.data.contract import DataConfig
from atrous.data.label_space import LabelSpace
from atrous.types import Color, Sample

Tone: TypeAlias = tuple[float, float, float]  # RGB, 0..255
Point: TypeAlias = tuple[float, float, float]  # metres: to the right of the camera, above the ground, ahead
Pixels: TypeAlias = NDArray[np.float32]
T = TypeVar("T")


class Class(NamedTuple):
    name: str
    color: Color
    thing: bool = False


CLASSES = (
    Class("sky", (114, 176, 226)),
    Class("building", (122, 110, 118)),
    Class("road", (112, 72, 136)),
    Class("pavement", (226, 140, 196)),
    Class("vegetation", (98, 156, 62)),
    Class("pole", (240, 196, 62)),
    Class("car", (36, 66, 178), thing=True),
    Class("person", (222, 52, 62), thing=True),
)
SKY, BUILDING, ROAD, PAVEMENT, VEGETATION, POLE, CAR, PERSON = range(len(CLASSES))

SPLITS = {"train": 0, "val": 1}
SMALLEST = 32  # pixels: below it persons and poles dissolve
SCALE = 2  # painted at twice the size, then reduced: smooth edges
IGNORE = 255
VISIBLE = 40 / (128 * 192)  # a thing of which a smaller part of the image is seen is ignored
NEAR = 0.8  # metres: where ground and walls begin, out of sight


class Config(DataConfig):
    """A scene depends on seed, split, index and size only, on whatever machine; `root` means nothing here."""

    format: Literal["synthetic"] = "synthetic"
    size: tuple[int, int] = (128, 192)  # height, width
    num_train: int = Field(default=2000, ge=1)
    num_val: int = Field(default=100, ge=1)
    seed: int = Field(default=0, ge=0)

    @field_validator("size")
    @classmethod
    def _is_large_enough(cls, size: tuple[int, int]) -> tuple[int, int]:
        if min(size) < SMALLEST:
            raise ValueError(f"size {size[0]}x{size[1]}: a street needs at least {SMALLEST}x{SMALLEST} pixels")
        return size

    @field_validator("ignore")
    @classmethod
    def _fits_a_byte(cls, ignore: int | None) -> int | None:
        if ignore is not None and not 0 <= ignore <= 255:
            raise ValueError(f"ignore {ignore}: a label is a byte, 0..255")
        return ignore


def label_space(config: Config) -> LabelSpace:
    """The eight classes; `config.names` renames all of them (a tuple) or some (class -> name)."""
    own = {index: row.name for index, row in enumerate(CLASSES)}
    given = dict(enumerate(config.names)) if isinstance(config.names, tuple) else config.names or {}
    if set(given) - set(own) or (isinstance(config.names, tuple) and len(given) < len(own)):
        raise ValueError(f"names for classes {sorted(given)}: the synthetic street has classes 0..{len(own) - 1}")
    return LabelSpace(
        names=tuple((own | given).values()),
        colors=tuple(row.color for row in CLASSES),
        things=tuple(index for index, row in enumerate(CLASSES) if row.thing),
        ignore=IGNORE if config.ignore is None else config.ignore,
    )


def samples(config: Config, split: str) -> Sequence[Sample]:
    """The scenes of `split` (train or val), each drawn when it is asked for; no scene is in both."""
    counts = {"train": config.num_train, "val": config.num_val}
    if split not in counts:
        raise ValueError(f"no split {split!r} in the synthetic street: it has {' and '.join(counts)}")
    return Scenes(config, split, range(counts[split]))


class Scenes(Sequence[Sample]):
    """Draws on each access and keeps nothing; a slice is lazy too."""

    def __init__(self, config: Config, split: str, indices: range) -> None:
        self.config, self.split, self.indices = config, split, indices

    def __len__(self) -> int:
        return len(self.indices)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> "Scenes": ...
    def __getitem__(self, index: int | slice) -> "Sample | Scenes":
        if isinstance(index, slice):
            return Scenes(self.config, self.split, self.indices[index])
        return _draw_sample(self.config, self.split, self.indices[index])


def _draw_sample(config: Config, split: str, index: int) -> Sample:
    rng = np.random.default_rng([config.seed, SPLITS[split], index])
    scene = _draw_street(rng, config.size)
    inks = np.ascontiguousarray(np.asarray(scene.paper)[::SCALE, ::SCALE])
    kinds = np.array([surface.kind for surface in scene.surfaces], np.uint8)[inks]
    image = _develop(scene, kinds)
    instance = _label(scene, kinds, inks, label_space(config).ignore)
    return Sample(f"{split}_{index:05d}", image, kinds, instance)


# The stage: camera, street, light, and the map that everything is painted on.


class Camera(NamedTuple):
    focal: float  # pixels of the painted map, as are all lengths here but the height
    x: float  # where the street vanishes
    horizon: float
    roll: float  # radians, small
    height: float  # metres above the road

    def project(self, points: Sequence[Point]) -> list[tuple[float, float]]:  # x, y
        focal, middle, horizon, roll, height = self
        pixels = []
        for right, up, ahead in points:
            scale = focal / ahead
            x, y = right * scale, (height - up) * scale
            pixels.append((middle + x - roll * y, horizon + y + roll * x))
        return pixels

    def reach(self, column: float, depth: float) -> float:
        """How many metres to the right of the camera `column` is at that depth."""
        return (column - self.x) * depth / self.focal


class Street(NamedTuple):
    """Metres; pairs are (left, right), left of the camera is negative."""

    kerbs: tuple[float, float]
    walls: tuple[float, float]
    end: float  # how far away a cross street ends it
    leaves: tuple[Tone, ...]  # of the season


class Light(NamedTuple):
    sky: tuple[Tone, Tone]  # at the top, at the horizon
    tint: Tone  # gain of R, G, B, round 1
    haze: float  # a surface 1 / haze metres away has half its colour
    shadow: float  # how much a shadow takes away, 0..1
    slant: tuple[float, float]  # length of the shadow of one metre, to the right and ahead


class Surface(NamedTuple):
    kind: int  # class
    tone: Tone
    depth: float  # metres
    thing: int = 0
    grain: float = 0.1  # strength of its texture, 0..1


class Scene(NamedTuple):
    rng: Generator
    camera: Camera
    street: Street
    light: Light
    surfaces: list[Surface]
    paper: Image.Image  # a pixel is an index into `surfaces`
    shade: Image.Image  # shadows on the ground: 255 is full shadow
    pen: ImageDraw.ImageDraw
    shade_pen: ImageDraw.ImageDraw

    def ink(self, kind: int, tone: Tone, depth: float, thing: int = 0, grain: float = 0.1) -> int:
        self.surfaces.append(Surface(kind, tone, depth, thing, grain))
        return len(self.surfaces) - 1

    def fill(self, points: Sequence[Point], ink: int) -> None:
        self.pen.polygon(self.camera.project(points), fill=ink)

    def blob(self, center: Point, radius: float, ink: int) -> None:
        ((x, y),), size = self.camera.project((center,)), radius * self.camera.focal / center[2]
        self.pen.ellipse((x - size, y - size, x + size, y + size), fill=ink)

    def sees(self, points: Sequence[Point]) -> bool:
        """Whether they are not all to one side of the image."""
        columns = [x for x, _ in self.camera.project(points)]
        return max(columns) > 0 and min(columns) < self.paper.width

    def shadow(self, points: Sequence[Point]) -> None:
        """Darken the ground below `points`, the top and the foot of what stands in the sun."""
        right, ahead = self.light.slant
        ground = [(x + right * y, 0.0, max(NEAR, z + ahead * y)) for x, y, z in points]
        self.shade_pen.polygon(self.camera.project(ground), fill=255)


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
CIRCLE = tuple((math.cos(math.tau * step / 12), math.sin(math.tau * step / 12)) for step in range(12))

OUTWARD = (-1.0, 1.0)  # from the street, by side
Face: TypeAlias = tuple[Point, Point, Point, Point]  # bottom left, bottom right, top right, top left
Edge: TypeAlias = tuple[tuple[float, float], tuple[float, float]]  # of a car: its ends, each (along, across)


def _pick(rng: Generator, options: Sequence[T]) -> T:
    return options[int(rng.integers(len(options)))]


def _lit(tone: Tone, factor: float) -> Tone:
    return (tone[0] * factor, tone[1] * factor, tone[2] * factor)


def _varied(rng: Generator, tone: Tone) -> Tone:
    factor = rng.uniform(0.86, 1.16)
    red, green, blue = rng.uniform(-8.0, 8.0, 3).tolist()
    return (tone[0] * factor + red, tone[1] * factor + green, tone[2] * factor + blue)


def _between(first: Point, second: Point, way: float) -> Point:
    (a, b, c), (d, e, f) = first, second
    return (a + (d - a) * way, b + (e - b) * way, c + (f - c) * way)


def _part(face: Face, left: float, right: float, bottom: float, top: float) -> Face:
    """A window of a face, in fractions of its sides."""
    low_left, low_right = _between(face[0], face[1], left), _between(face[0], face[1], right)
    high_left, high_right = _between(face[3], face[2], left), _between(face[3], face[2], right)
    return (
        _between(low_left, high_left, bottom),
        _between(low_right, high_right, bottom),
        _between(low_right, high_right, top),
        _between(low_left, high_left, top),
    )


def _upright(x: float, z: float, width: float, bottom: float, top: float) -> Face:
    """A face towards the camera."""
    left, right = x - width / 2, x + width / 2
    return ((left, bottom, z), (right, bottom, z), (right, top, z), (left, top, z))


def _thick(metres: float, z: float) -> float:
    """At least a dozen pixels of a 128 x 192 image: what is thinner is hardly learnt, in minutes, at stride 4."""
    return max(metres, 0.12 * z)


# The stage is set.


def _draw_street(rng: Generator, size: tuple[int, int]) -> Scene:
    height, width = SCALE * size[0], SCALE * size[1]
    paper, shade = Image.new("I", (width, height)), Image.new("L", (width, height))
    pens = ImageDraw.Draw(paper), ImageDraw.Draw(shade)
    scene = Scene(rng, _camera(rng, height, width), _street(rng), _light(rng), [], paper, shade, *pens)
    scene.ink(SKY, scene.light.sky[1], 0.0, grain=0.0)  # ink 0: the empty paper
    _draw_skyline(scene)
    _draw_ground(scene)
    for side in (0, 1):
        _draw_side(scene, side)
    for item in sorted(_place(scene), key=lambda item: -item.z):
        item.draw(scene, item.x, item.z)
    return scene


def _camera(rng: Generator, height: int, width: int) -> Camera:
    return Camera(
        focal=min(height, width / 1.5) * rng.uniform(0.8, 1.05),
        x=width * rng.uniform(0.36, 0.64),
        horizon=height * rng.uniform(0.34, 0.46),
        roll=rng.uniform(-0.05, 0.05),
        height=rng.uniform(1.7, 2.8),
    )


def _street(rng: Generator) -> Street:
    width, share = rng.uniform(6.0, 8.5), rng.uniform(0.35, 0.65)
    kerbs = (-width * share, width * (1 - share))
    pavements = rng.uniform(4.5, 7.0, 2).tolist()
    walls = (kerbs[0] - pavements[0], kerbs[1] + pavements[1])
    leaves = _pick(rng, (LEAVES[:4], LEAVES[:4], LEAVES[3:], LEAVES))
    return Street(kerbs, walls, rng.uniform(24.0, 70.0), leaves)


def _light(rng: Generator) -> Light:
    index = int(rng.integers(len(SKIES)))
    warm, gain = rng.uniform(-0.1, 0.1), rng.uniform(0.85, 1.2)
    shadow = rng.uniform(0.3, 0.55) if index < 3 else rng.uniform(0.0, 0.2)
    slant = (rng.uniform(0.25, 1.1) * (1 if rng.random() < 0.5 else -1), rng.uniform(-0.3, 0.5))
    haze = rng.uniform(0.025, 0.05) if rng.random() < 0.1 else rng.uniform(0.001, 0.012)
    return Light(SKIES[index], (gain * (1 + warm), gain, gain * (1 - warm)), haze, shadow, slant)


# What stands still, from far to near.


def _draw_skyline(scene: Scene) -> None:
    """Houses, or trees, across the end of the street."""
    rng, z = scene.rng, scene.street.end
    x, last = scene.camera.reach(0.0, z) - 3.0, scene.camera.reach(scene.paper.width, z)
    while x < last:
        width = rng.uniform(6.0, 14.0)
        if rng.random() < 0.3:
            _draw_crown(scene, x + width / 2, z, width / 2, rng.uniform(3.0, 6.0))
        else:
            _draw_wall(scene, _upright(x + width / 2, z, width, 0.0, rng.uniform(4.0, 11.0)), _look(rng), 0.9)
        x += width * 0.9


def _strip(left: float, right: float, near: float, far: float) -> Face:
    """A piece of ground."""
    return ((left, 0.0, near), (right, 0.0, near), (right, 0.0, far), (left, 0.0, far))


def _draw_ground(scene: Scene) -> None:
    rng, street, end = scene.rng, scene.street, scene.street.end
    lawn = scene.ink(VEGETATION, _varied(rng, _pick(rng, LEAVES[:4])), NEAR, grain=0.25)
    scene.fill(_strip(-200.0, 200.0, NEAR, end), lawn)
    paving = _varied(rng, _pick(rng, PAVINGS))
    scene.fill(_strip(*street.walls, NEAR, end), scene.ink(PAVEMENT, paving, NEAR))
    _draw_joints(scene, paving)
    kerb = scene.ink(PAVEMENT, _lit(paving, rng.uniform(1.1, 1.5)), NEAR)
    scene.fill(_strip(street.kerbs[0] - 0.35, street.kerbs[1] + 0.35, NEAR, end), kerb)
    asphalt = _varied(rng, _pick(rng, GREYS))
    scene.fill(_strip(*street.kerbs, NEAR, end), scene.ink(ROAD, asphalt, NEAR, grain=0.14))
    _draw_patches(scene, asphalt)
    _draw_lanes(scene)


def _draw_joints(scene: Scene, paving: Tone) -> None:
    """Between the slabs of the pavement."""
    street, joint = scene.street, scene.ink(PAVEMENT, _lit(paving, scene.rng.uniform(0.78, 0.95)), NEAR)
    size = scene.rng.uniform(0.8, 1.8)
    for step in range(2, int(16 / size)):
        scene.fill(_strip(*street.walls, step * size, step * size + 0.07), joint)
    for kerb, wall in zip(street.kerbs, street.walls, strict=True):
        middle = (kerb + wall) / 2
        scene.fill(_strip(middle - 0.03, middle + 0.03, NEAR, street.end), joint)


def _draw_patches(scene: Scene, asphalt: Tone) -> None:
    """Mended asphalt and a manhole."""
    rng, (left, right) = scene.rng, scene.street.kerbs
    for factor in rng.uniform(0.78, 1.16, int(rng.integers(4))).tolist():
        x, z = rng.uniform(left, right - 2.0), rng.uniform(2.5, 14.0)
        patch = _strip(x, x + rng.uniform(0.8, 2.0), z, z + rng.uniform(1.0, 5.0))
        scene.fill(patch, scene.ink(ROAD, _lit(asphalt, factor), NEAR, grain=0.16))
    if rng.random() < 0.4:
        x, z = rng.uniform(left + 1, right - 1), rng.uniform(4.0, 9.0)
        cover = [(x + 0.4 * cos, 0.0, z + 0.4 * sin) for cos, sin in CIRCLE]
        scene.fill(cover, scene.ink(ROAD, _lit(asphalt, 0.6), NEAR))


def _draw_lanes(scene: Scene) -> None:
    rng, (left, right), end = scene.rng, scene.street.kerbs, scene.street.end
    paint = scene.ink(ROAD, _lit(WHITE, rng.uniform(0.7, 1.0)), NEAR, grain=0.2)
    middle, dash, start = (left + right) / 2, rng.uniform(1.5, 3.0), rng.uniform(0.0, 3.0)
    for step in range(int(min(end - start, 40.0) / (2 * dash))):
        near = NEAR + start + 2 * dash * step
        scene.fill(_strip(middle - 0.08, middle + 0.08, near, near + dash), paint)
    if rng.random() < 0.35:
        for edge in (left + 0.35, right - 0.35):
            scene.fill(_strip(edge - 0.06, edge + 0.06, NEAR, end), paint)
    if rng.random() < 0.35:
        _draw_crossing(scene, paint)


def _draw_crossing(scene: Scene, paint: int) -> None:
    left, right = scene.street.kerbs
    near = scene.rng.uniform(5.0, 12.0)
    count = int((right - left) / 1.1)
    for step in range(count):
        x = left + (step + 0.25) * (right - left) / count
        scene.fill(_strip(x, x + 0.5, near, near + 3.0), paint)


class Look(NamedTuple):
    """Of a house."""

    wall: Tone
    roof: Tone
    trim: Tone
    glass: tuple[Tone, Tone, Tone]
    sign: Tone | None  # of a shop
    storey: float  # metres
    bay: float
    window: tuple[float, float]  # width and height in fractions of a bay and a storey
    bricks: bool


def _look(rng: Generator) -> Look:
    wall = _varied(rng, _pick(rng, WALLS))
    top, bottom = _pick(rng, SKIES)
    return Look(
        wall=wall,
        roof=_varied(rng, _pick(rng, WALLS[:8])),
        trim=_pick(rng, (WHITE, _lit(wall, 0.7), _lit(wall, 1.2))),
        glass=(GLASS, _pick(rng, (GLASS, top, bottom)), _pick(rng, (GLASS, top, LAMP))),
        sign=_pick(rng, PLATES) if rng.random() < 0.3 else None,
        storey=rng.uniform(2.6, 3.4),
        bay=rng.uniform(2.2, 3.6),
        window=(rng.uniform(0.35, 0.7), rng.uniform(0.45, 0.65)),
        bricks=rng.random() < 0.5,
    )


def _draw_side(scene: Scene, side: int) -> None:
    """A row of houses and gardens along one pavement."""
    rng, end = scene.rng, scene.street.end
    green = _pick(rng, (0.05, 0.15, 0.6))
    cuts = [NEAR]
    while cuts[-1] < end:
        cuts.append(cuts[-1] + rng.uniform(6.0, 13.0))
    for near, far in reversed(list(itertools.pairwise(cuts))):
        draw = _draw_garden if rng.random() < green else _draw_house
        draw(scene, side, near, min(far, end))


def _draw_house(scene: Scene, side: int, near: float, far: float) -> None:
    rng, x, out = scene.rng, scene.street.walls[side], OUTWARD[side]
    height, look = rng.uniform(4.0, 10.0), _look(rng)
    front: Face = ((x, 0.0, near), (x, 0.0, far), (x, height, far), (x, height, near))
    scene.shadow(front)
    top, ridge = height + 2.0, x + out * 1.5
    gable = (
        (x, 0.0, near),
        (x, height, near),
        (ridge, top, near),
        (x + out * 3.0, height, near),
        (x + out * 3.0, 0.0, near),
    )
    scene.fill(gable, scene.ink(BUILDING, _lit(look.wall, 0.8), near))
    roof = scene.ink(BUILDING, look.roof, near)
    scene.fill(((x, height, near), (x, height, far), (ridge, top, far), (ridge, top, near)), roof)
    sunlit = 1.0 - 0.5 * scene.light.shadow * math.copysign(1.0, scene.light.slant[0] * -out)
    _draw_wall(scene, front, look, sunlit)


def _draw_wall(scene: Scene, face: Face, look: Look, factor: float) -> None:
    depth, height = (face[0][2] + face[1][2]) / 2, face[2][1]
    scene.fill(face, scene.ink(BUILDING, _lit(look.wall, factor), depth, grain=0.12))
    if look.bricks and face[0][2] < 14.0:
        _draw_bricks(scene, face, _lit(look.wall, factor * 0.84), depth)
    _draw_windows(scene, face, look, factor)
    if look.sign:
        board = scene.ink(BUILDING, _lit(look.sign, factor), depth)
        scene.fill(_part(face, 0.04, 0.96, look.storey * 0.82 / height, look.storey * 1.02 / height), board)


def _draw_bricks(scene: Scene, face: Face, tone: Tone, depth: float) -> None:
    joint, count = scene.ink(BUILDING, tone, depth), int(face[2][1] / 0.5)
    for step in range(1, count):
        scene.fill(_part(face, 0.0, 1.0, step / count, (step + 0.22) / count), joint)


def _draw_windows(scene: Scene, face: Face, look: Look, factor: float) -> None:
    """Some mirror the sky; those out of sight, or too far away, are left out."""
    depth, storey = (face[0][2] + face[1][2]) / 2, look.storey / face[2][1]
    bays, storeys = max(1, round(math.dist(face[0], face[1]) / look.bay)), max(1, int(1 / storey))
    panes = [scene.ink(BUILDING, tone, depth, grain=0.03) for tone in look.glass]
    trim = scene.ink(BUILDING, _lit(look.trim, factor), depth)
    kinds = scene.rng.integers(len(panes), size=(bays, storeys)).tolist()
    door = int(scene.rng.integers(bays))
    for bay in range(bays):
        column = _part(face, bay / bays, (bay + 1) / bays, 0.0, 1.0)
        if column[0][2] < 36.0 and scene.sees(column):
            for level, kind in enumerate(kinds[bay]):
                foot = 0.0 if level == 0 and bay == door else 0.25
                _draw_window(scene, column, look, (level, foot, storey), (trim, panes[kind]))


def _draw_window(
    scene: Scene, column: Face, look: Look, place: tuple[int, float, float], inks: tuple[int, int]
) -> None:
    level, foot, storey = place
    half = 0.43 if look.sign and level == 0 else look.window[0] / 2
    bottom, top = storey * (level + foot), storey * (level + 0.25 + look.window[1])
    if column[0][2] < 12.0:
        scene.fill(_part(column, 0.42 - half, 0.58 + half, bottom - 0.06 * storey, top + 0.06 * storey), inks[0])
    scene.fill(_part(column, 0.5 - half, 0.5 + half, bottom, top), inks[1])


def _draw_garden(scene: Scene, side: int, near: float, far: float) -> None:
    """A hedge, or open lawn, with trees behind it."""
    rng, x, out = scene.rng, scene.street.walls[side], OUTWARD[side]
    for z in (far - 1.0, (near + far) / 2):
        _draw_tree(scene, x + out * rng.uniform(1.5, 4.0), z)
    if rng.random() < 0.6:
        height, tone = rng.uniform(0.8, 1.6), _varied(rng, _pick(rng, scene.street.leaves))
        hedge = scene.ink(VEGETATION, _lit(tone, 0.85), near, grain=0.4)
        top = scene.ink(VEGETATION, tone, near, grain=0.4)
        scene.shadow(((x, 0.0, near), (x, 0.0, far), (x, height, far), (x, height, near)))
        scene.fill(_upright(x + out * 2.0, near, 4.0, 0.0, height), hedge)
        scene.fill(((x, height, near), (x, height, far), (x + out, height, far), (x + out, height, near)), top)
        scene.fill(((x, 0.0, near), (x, 0.0, far), (x, height, far), (x, height, near)), hedge)


# What stands about.


class Placed(NamedTuple):
    x: float
    z: float
    draw: Callable[[Scene, float, float], None]


def _place(scene: Scene) -> list[Placed]:
    rng, street = scene.rng, scene.street
    still = [*_place_trees(rng, street), *_place_poles(rng, street)]
    return [*still, *_place_cars(rng, street), *_place_people(scene)]


def _place_cars(rng: Generator, street: Street) -> list[Placed]:
    """In three lanes: traffic between two rows of parked cars."""
    (left, right), placed = street.kerbs, []
    for x in (left + 1.0, (left + right) / 2, right - 1.0):
        z = rng.uniform(5.5, 10.0)
        while z < min(street.end - 3.0, 13.0):
            if rng.random() < 0.45:
                placed.append(Placed(x + rng.uniform(-0.3, 0.3), z, _draw_car))
            z += rng.uniform(5.5, 9.0)
    return placed or [Placed(right - 1.5, 9.0, _draw_car)]


def _place_people(scene: Scene) -> list[Placed]:
    """On the pavements mostly, some on the road; moved into sight."""
    rng, kerbs, walls = scene.rng, scene.street.kerbs, scene.street.walls
    pavements = ((walls[0] + 0.4, kerbs[0] - 0.4), (kerbs[1] + 0.4, walls[1] - 0.4))
    people = []
    for _ in range(int(rng.integers(2, 5))):
        z, lane = rng.uniform(3.0, 5.0), _pick(rng, (*pavements, *pavements, kerbs))
        left, right = scene.camera.reach(0.0, z) + 0.3, scene.camera.reach(scene.paper.width, z) - 0.3
        x = min(max(rng.uniform(*lane), left), right)
        if lane[0] <= x <= lane[1]:
            people.append(Placed(x, z, _draw_person))
    return people or [Placed((kerbs[0] + kerbs[1]) / 2, 8.0, _draw_person)]


def _place_trees(rng: Generator, street: Street) -> list[Placed]:
    kerbs, trees = (street.kerbs[0] - 0.7, street.kerbs[1] + 0.7), []
    for x in kerbs:
        step = _pick(rng, (7.0, 10.0, 30.0, 30.0))
        z = rng.uniform(6.0, 11.0)
        while z < min(street.end - 2.0, 17.0):
            trees.append(Placed(x, z, _draw_tree))
            z += step * rng.uniform(0.8, 1.3)
    return trees


def _place_poles(rng: Generator, street: Street) -> list[Placed]:
    kerbs = (street.kerbs[0] - 0.4, street.kerbs[1] + 0.4)
    depths = np.linspace(4.4, 7.5, int(rng.integers(2, 4))) + rng.uniform(-0.5, 0.5)
    return [Placed(_pick(rng, kerbs), z, _pick(rng, (_draw_lamp, _draw_sign, _draw_signal))) for z in depths.tolist()]


def _draw_tree(scene: Scene, x: float, z: float) -> None:
    rng = scene.rng
    if not scene.sees(_upright(x, z, 4.0, 0.0, 3.0)):
        return
    radius, middle = rng.uniform(1.1, 2.0), rng.uniform(3.0, 4.4)
    trunk = scene.ink(VEGETATION, _varied(rng, _pick(rng, (GREYS[0], TROUSERS[7], HAIRS[1]))), z, grain=0.2)
    stem = _upright(x, z, _thick(0.3, z), 0.0, middle)
    scene.shadow(stem)
    scene.shadow([(x + radius * cos, middle + radius * sin, z) for cos, sin in CIRCLE])
    scene.fill(stem, trunk)
    _draw_crown(scene, x, z, radius, middle)


def _draw_crown(scene: Scene, x: float, z: float, radius: float, middle: float) -> None:
    """Blobs of leaves, the upper ones lighter."""
    rng, tone = scene.rng, _varied(scene.rng, _pick(scene.rng, scene.street.leaves))
    inks = [scene.ink(VEGETATION, _lit(tone, factor), z, grain=0.4) for factor in (0.72, 0.88, 1.04, 1.2)]
    scene.blob((x, middle, z), radius * 0.9, inks[0])
    for right, up, size in sorted(rng.uniform(-0.6, 0.6, (8, 3)).tolist(), key=lambda blob: blob[1]):
        ink = inks[min(3, int((up + 0.8) * 2.6))]
        scene.blob((x + right * radius, middle + up * radius, z), radius * (0.42 + 0.12 * size), ink)


def _draw_post(scene: Scene, x: float, z: float, height: float) -> Tone:
    tone = _varied(scene.rng, _pick(scene.rng, METALS))
    post = _upright(x, z, _thick(0.28, z), 0.0, height)
    scene.shadow(post)
    scene.fill(post, scene.ink(POLE, tone, z, grain=0.06))
    return tone


def _draw_lamp(scene: Scene, x: float, z: float) -> None:
    height, inward = scene.rng.uniform(3.6, 5.0), math.copysign(1.3, -x)
    tone = _draw_post(scene, x, z, height)
    metal = scene.ink(POLE, tone, z)
    arm = _upright(x + inward / 2, z, abs(inward), height - 0.45, height)
    scene.fill(arm, metal)
    scene.fill(_upright(x + inward, z, 0.9, height - 0.55, height), metal)
    scene.fill(_upright(x + inward, z, 0.7, height - 0.55, height - 0.35), scene.ink(POLE, LAMP, z))


def _draw_sign(scene: Scene, x: float, z: float) -> None:
    rng, height, size = scene.rng, scene.rng.uniform(2.3, 3.0), scene.rng.uniform(0.55, 0.75)
    _draw_post(scene, x, z, height)
    outline = _pick(rng, (CIRCLE, CIRCLE[::3], CIRCLE[3::4], ((-1.0, -0.8), (1.0, -0.8), (1.0, 0.8), (-1.0, 0.8))))
    rim, plate = scene.ink(POLE, WHITE, z, grain=0.02), scene.ink(POLE, _varied(rng, _pick(rng, PLATES)), z, grain=0.02)
    for scale, ink in ((size, rim), (size * 0.76, plate)):
        scene.fill([(x + scale * right, height + scale * up, z) for right, up in outline], ink)


def _draw_signal(scene: Scene, x: float, z: float) -> None:
    height, shown = scene.rng.uniform(2.6, 3.2), int(scene.rng.integers(3))
    _draw_post(scene, x, z, height)
    scene.fill(_upright(x, z, 0.72, height - 0.6, height + 0.9), scene.ink(POLE, BLACK, z))
    for index, plate in enumerate((4, 3, 0)):
        lamp = scene.ink(POLE, _lit(PLATES[plate], 1.2 if index == shown else 0.35), z)
        scene.blob((x, height - 0.33 + 0.48 * index, z), 0.19, lamp)


# People and cars, the things.


Limb: TypeAlias = tuple[Tone, Sequence[tuple[float, float]]]  # an outline in metres from between the feet


def _draw_person(scene: Scene, x: float, z: float) -> None:
    rng, thing = scene.rng, len(scene.surfaces)
    size, stride = rng.uniform(1.05, 1.3), rng.uniform(0.06, 0.2)
    coat, legs = _varied(rng, _pick(rng, COATS)), _varied(rng, _pick(rng, TROUSERS))
    hem = _pick(rng, (0.85, 0.8, 0.5))  # a jacket, or a coat
    skin, hair = _pick(rng, SKINS), _pick(rng, HAIRS)
    scene.shadow(_upright(x, z, 0.5, 0.0, 1.7 * size))
    parts: list[Limb] = [
        *_leg(-stride, _lit(legs, 0.85)),
        *_leg(stride, legs),
        (coat, ((-0.3, hem), (0.3, hem), (0.29, 1.4), (0.14, 1.48), (-0.14, 1.48), (-0.29, 1.4))),
        *_arm(-1.0, _lit(coat, 0.8), skin),
        *_arm(1.0, _lit(coat, 0.8), skin),
        (hair, [(0.17 * cos, 1.64 + 0.18 * sin) for cos, sin in CIRCLE]),
        (skin if rng.random() < 0.7 else hair, [(0.13 * cos, 1.6 + 0.15 * sin) for cos, sin in CIRCLE]),
    ]
    for tone, outline in parts:
        points = [(x + 1.15 * size * right, size * up, z) for right, up in outline]
        scene.fill(points, scene.ink(PERSON, tone, z, thing, grain=0.06))


def _leg(foot: float, tone: Tone) -> tuple[Limb, Limb]:
    leg = ((foot - 0.12, 0.0), (foot + 0.14, 0.0), (foot / 2 + 0.14, 0.9), (foot / 2 - 0.14, 0.9))
    shoe = ((foot - 0.12, 0.0), (foot + 0.17, 0.0), (foot + 0.14, 0.1), (foot - 0.12, 0.1))
    return (tone, leg), (BLACK, shoe)


def _arm(side: float, sleeve: Tone, skin: Tone) -> tuple[Limb, Limb]:
    arm = ((side * 0.28, 1.42), (side * 0.44, 0.82), (side * 0.3, 0.78), (side * 0.18, 1.3))
    hand = ((side * 0.44, 0.82), (side * 0.43, 0.7), (side * 0.31, 0.7), (side * 0.3, 0.78))
    return (sleeve, arm), (skin, hand)


class Shape(NamedTuple):
    """Of a car, in metres; `foot` and `roof`: where its cabin begins and ends, in fractions of the length."""

    length: float
    width: float
    height: float
    belt: float
    foot: tuple[float, float]
    roof: tuple[float, float]


SHAPES = {
    "hatchback": Shape(3.8, 1.75, 1.5, 0.92, (-0.5, 0.24), (-0.4, 0.04)),
    "sedan": Shape(4.4, 1.8, 1.45, 0.9, (-0.38, 0.24), (-0.22, 0.08)),
    "suv": Shape(4.2, 1.85, 1.75, 1.05, (-0.5, 0.27), (-0.45, 0.1)),
    "van": Shape(4.7, 1.95, 2.2, 1.15, (-0.5, 0.44), (-0.5, 0.3)),
}


class Car(NamedTuple):
    shape: Shape
    x: float
    z: float
    heading: tuple[float, float]  # its front points to (right, ahead)
    tone: Tone
    thing: int

    def at(self, along: float, across: float, up: float) -> Point:
        """Where a point of the car is, in fractions of its length and width, and metres above the ground."""
        right, ahead = self.heading
        along, across = along * self.shape.length, across * self.shape.width
        return (self.x + along * right + across * ahead, up, max(NEAR, self.z + along * ahead - across * right))

    def face(self, bottom: Edge, top: Edge, low: float, high: float) -> Face:
        return (self.at(*bottom[0], low), self.at(*bottom[1], low), self.at(*top[1], high), self.at(*top[0], high))

    def sights(self) -> tuple[int, int]:
        """Which end (front 1, rear -1) and which flank (right 1, left -1) the camera sees; 0: neither."""
        along = self.x * self.heading[0] + self.z * self.heading[1]
        across = self.x * self.heading[1] - self.z * self.heading[0]
        end = 0 if abs(along) < self.shape.length / 2 else -int(math.copysign(1, along))
        flank = 0 if abs(across) < self.shape.width / 2 else -int(math.copysign(1, across))
        return end, flank

    def ink(self, scene: Scene, tone: Tone) -> int:
        return scene.ink(CAR, tone, self.z, self.thing, grain=0.03)


def _draw_car(scene: Scene, x: float, z: float) -> None:
    rng = scene.rng
    angle = rng.uniform(-0.12, 0.12) + (
        rng.uniform(0.0, math.tau) if rng.random() < 0.15 else _pick(rng, (0.0, math.pi))
    )
    heading = (math.sin(angle), math.cos(angle))
    tone = _varied(rng, _pick(rng, PAINTS))
    car = Car(_pick(rng, tuple(SHAPES.values())), x, z, heading, tone, len(scene.surfaces))
    end, flank = car.sights()
    _draw_car_shadow(scene, car)
    belt = car.shape.belt
    scene.fill([car.at(along, across, belt) for along, across in CORNERS], car.ink(scene, _lit(tone, 1.12)))
    if end:
        _draw_car_end(scene, car, end)
    if flank:
        _draw_car_flank(scene, car, flank)
    _draw_cabin(scene, car, end, flank)


CORNERS = ((-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5))


def _draw_car_shadow(scene: Scene, car: Car) -> None:
    """Where it stands, and what its four upright sides throw."""
    for first, second in zip(CORNERS, CORNERS[1:] + CORNERS[:1], strict=True):
        top = car.shape.height * 0.8
        scene.shadow((car.at(*first, 0.0), car.at(*second, 0.0), car.at(*second, top), car.at(*first, top)))
    scene.shadow([car.at(along * 1.06, across * 1.1, 0.0) for along, across in CORNERS])


def _draw_car_end(scene: Scene, car: Car, end: int) -> None:
    """Front or rear: tyres, body, bumper, lights, number plate."""
    along, belt = end * 0.5, car.shape.belt
    tyre = car.ink(scene, BLACK)
    edge = ((along, -0.5), (along, 0.5))
    face = car.face(edge, edge, 0.0, belt)
    scene.fill(_part(face, 0.04, 0.96, 0.16, 0.4), tyre)
    for left in (0.05, 0.8):
        scene.fill(_part(face, left, left + 0.15, 0.0, 0.4), tyre)
    scene.fill(_part(face, 0.0, 1.0, 0.26, 1.0), car.ink(scene, _lit(car.tone, 0.84)))
    scene.fill(_part(face, 0.0, 1.0, 0.26, 0.42), car.ink(scene, _lit(car.tone, 0.6)))
    lights = car.ink(scene, LAMP if end > 0 else (190.0, 30.0, 28.0))
    for left in (0.05, 0.73):
        scene.fill(_part(face, left, left + 0.22, 0.6, 0.8), lights)
    scene.fill(_part(face, 0.36, 0.64, 0.45, 0.58), car.ink(scene, WHITE))


def _draw_car_flank(scene: Scene, car: Car, flank: int) -> None:
    """One side: body, door, wheels."""
    across, belt = flank * 0.5, car.shape.belt
    edge = ((-0.5, across), (0.5, across))
    face = car.face(edge, edge, 0.0, belt)
    scene.fill(_part(face, 0.0, 1.0, 0.24, 1.0), car.ink(scene, car.tone))
    scene.fill(_part(face, 0.0, 1.0, 0.24, 0.36), car.ink(scene, _lit(car.tone, 0.7)))
    scene.fill(_part(face, 0.5, 0.52, 0.3, 1.0), car.ink(scene, _lit(car.tone, 0.75)))
    tyre, hub = car.ink(scene, BLACK), car.ink(scene, (150.0, 152.0, 156.0))
    for axle in (-0.31, 0.31):
        for radius, ink in ((0.34, tyre), (0.18, hub)):
            rim = [(axle + radius * cos / car.shape.length, 0.34 + radius * sin) for cos, sin in CIRCLE]
            scene.fill([car.at(along, across, up) for along, up in rim], ink)


def _draw_cabin(scene: Scene, car: Car, end: int, flank: int) -> None:
    """Roof, windscreen and side windows: narrower at the roof than at the belt."""
    shape, glass = car.shape, car.ink(scene, _pick(scene.rng, (GLASS, GLASS, scene.light.sky[0])))
    back, front = ([(along, -0.42), (along, 0.42)] for along in shape.roof)
    roof = [car.at(along, across, shape.height) for along, across in (*back, *reversed(front))]
    scene.fill(roof, car.ink(scene, _lit(car.tone, 1.15)))
    if end:
        foot, top = shape.foot[end > 0], shape.roof[end > 0]
        screen = car.face(((foot, -0.48), (foot, 0.48)), ((top, -0.42), (top, 0.42)), shape.belt, shape.height)
        scene.fill(screen, car.ink(scene, _lit(car.tone, 0.9)))
        scene.fill(_part(screen, 0.08, 0.92, 0.1, 0.86), glass)
    if flank:
        feet = ((shape.foot[0], flank * 0.48), (shape.foot[1], flank * 0.48))
        tops = ((shape.roof[0], flank * 0.42), (shape.roof[1], flank * 0.42))
        side = car.face(feet, tops, shape.belt, shape.height)
        scene.fill(side, car.ink(scene, _lit(car.tone, 1.02)))
        for left, right in ((0.1, 0.48), (0.54, 0.92)):
            scene.fill(_part(side, left, right, 0.1, 0.84), glass)


# From the painted map to a photograph and its labels; colours are planes, [3, H, W], until the end.


def _label(scene: Scene, kinds: NDArray[np.uint8], inks: NDArray[np.int32], ignore: int) -> NDArray[np.int32]:
    """Numbers the things without gaps; those of which too little is seen become `ignore` in `kinds`."""
    things = np.array([surface.thing for surface in scene.surfaces], np.int32)[inks]
    seen = np.bincount(things.ravel(), minlength=len(scene.surfaces)) >= VISIBLE * inks.size
    seen[0] = False
    kinds[(things > 0) & ~seen[things]] = ignore
    return (np.cumsum(seen) * seen).astype(np.int32)[things]


def _develop(scene: Scene, kinds: NDArray[np.uint8]) -> NDArray[np.uint8]:  # [H, W] -> [H, W, 3]
    rng, light, shape = scene.rng, scene.light, kinds.shape
    planes = _expose(scene)  # R, G, B, grain
    colors = planes[:3] * (1 + planes[3] * _texture(rng, shape))
    ground = np.isin(kinds, (ROAD, PAVEMENT))
    colors *= 1 - ground * _shadows(scene)
    colors += ground * _mist(scene, shape[0]) * (np.array(light.sky[1], np.float32)[:, None, None] - colors)
    colors += (kinds == SKY) * _heavens(scene, shape)
    colors *= np.array(light.tint, np.float32)[:, None, None]
    return _photograph(rng, colors)


def _expose(scene: Scene) -> Pixels:
    """Colours behind their haze and, last, the grain, 0..1, with smooth edges: [4, H, W]."""
    tones = np.array([(*surface.tone, 255 * surface.grain) for surface in scene.surfaces], np.float32)
    veil = np.array([[surface.depth] for surface in scene.surfaces], np.float32) * np.float32(scene.light.haze)
    tones[:, :3] += (np.array(scene.light.sky[1], np.float32) - tones[:, :3]) * (veil / (1 + veil))
    table = np.clip(tones, 0, 255).astype(np.uint8).view(np.uint32)[:, 0]
    painted = Image.frombytes("RGBX", scene.paper.size, table[np.asarray(scene.paper)].tobytes()).reduce(SCALE)
    planes = np.stack([np.asarray(plane, np.float32) for plane in painted.split()])
    planes[3] /= 255
    return planes


def _noise(rng: Generator, *shape: int) -> Pixels:
    """Grain in -1..1."""
    return np.frombuffer(rng.bytes(math.prod(shape)), np.uint8).reshape(shape).astype(np.float32) / 127.5 - 1


def _clouds(rng: Generator, shape: tuple[int, ...], cells: int) -> Pixels:
    """Smooth noise in -1..1 with `cells` bumps down the image."""
    height, width = cells, max(1, cells * shape[1] // shape[0])
    rough = Image.frombytes("L", (width, height), rng.bytes(width * height))
    smooth: Pixels = np.asarray(rough.resize((shape[1], shape[0]), Image.Resampling.BICUBIC), np.float32)
    return smooth / 127.5 - 1


def _texture(rng: Generator, shape: tuple[int, ...]) -> Pixels:
    texture: Pixels = 0.35 * _noise(rng, *shape) + 0.6 * _clouds(rng, shape, 40) + 0.3 * _clouds(rng, shape, 8)
    return texture


def _shadows(scene: Scene) -> Pixels:
    soft: Pixels = np.asarray(scene.shade.reduce(SCALE).filter(ImageFilter.BoxBlur(1)), np.float32)
    return soft * np.float32(scene.light.shadow / 255)


def _mist(scene: Scene, height: int) -> Pixels:  # [H, 1]
    """The share of haze over the ground, nearer and so clearer from row to row."""
    camera, rows = scene.camera, np.arange(height, dtype=np.float32)[:, None] * SCALE
    far = np.float32(scene.light.haze * camera.focal * camera.height)
    mist: Pixels = far / (far + np.maximum(0, rows - np.float32(camera.horizon)))
    return mist


def _heavens(scene: Scene, shape: tuple[int, ...]) -> Pixels:
    """What the sky differs by from its colour at the horizon: deeper upwards, and clouds."""
    top, bottom = np.array(scene.light.sky, np.float32)
    up = 1 - np.arange(shape[0], dtype=np.float32) * np.float32(SCALE / scene.camera.horizon)
    clouds: Pixels = np.maximum(0, _clouds(scene.rng, shape, 5) + 0.4 * _clouds(scene.rng, shape, 14))
    depth: Pixels = np.clip(up, 0, 1)[:, None] * (top - bottom)[:, None, None]
    return depth + np.float32(scene.rng.uniform(0, 50)) * clouds


def _photograph(rng: Generator, colors: Pixels) -> NDArray[np.uint8]:  # [3, H, W] -> [H, W, 3]
    """A sensor with noise behind a lens that isn't always sharp."""
    colors += np.float32(rng.uniform(1.0, 8.0)) * _noise(rng, *colors.shape)
    image = np.ascontiguousarray(np.clip(colors, 0, 255).astype(np.uint8).transpose(1, 2, 0))
    if rng.random() < 0.2:
        image = np.array(Image.fromarray(image).filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 0.8))))
    return image
