"""The scene: camera, street, light, and the map that everything is painted on."""

from collections.abc import Sequence
from typing import NamedTuple

from numpy.random import Generator
from PIL import Image, ImageDraw

from atrous.data.synthetic.shapes import NEAR, Point
from atrous.data.synthetic.tones import Tone

SCALE = 2  # painted at twice the size, then reduced, for smooth edges


class Camera(NamedTuple):
    focal: float  # pixels of the painted map, like all lengths here except the height
    x: float  # of the vanishing point
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
        """How many metres `column` is to the right of the camera at that depth."""
        return (column - self.x) * depth / self.focal


class Street(NamedTuple):
    """In metres; pairs are (left, right), and positions to the left of the camera are negative."""

    kerbs: tuple[float, float]
    walls: tuple[float, float]
    end: float  # distance of the cross street that ends it
    leaves: tuple[Tone, ...]  # of the season


class Light(NamedTuple):
    sky: tuple[Tone, Tone]  # at the top, at the horizon
    tint: Tone  # gain of R, G, B, around 1
    haze: float  # a surface 1 / haze metres away has half its colour
    shadow: float  # the share of light that a shadow takes away, 0..1
    slant: tuple[float, float]  # where the shadow of a post of one metre ends, to the right and ahead


class Surface(NamedTuple):
    kind: int  # its class
    tone: Tone
    depth: float  # metres
    thing: int = 0  # the same for all surfaces of a thing; 0: not of a thing
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
        """A new surface, as the number that paints it."""
        self.surfaces.append(Surface(kind, tone, depth, thing, grain))
        return len(self.surfaces) - 1

    def fill(self, points: Sequence[Point], ink: int) -> None:
        self.pen.polygon(self.camera.project(points), fill=ink)

    def blob(self, center: Point, radius: float, ink: int) -> None:
        ((x, y),), size = self.camera.project((center,)), radius * self.camera.focal / center[2]
        self.pen.ellipse((x - size, y - size, x + size, y + size), fill=ink)

    def sees(self, points: Sequence[Point]) -> bool:
        """False if all of them are to one side of the image."""
        columns = [x for x, _ in self.camera.project(points)]
        return max(columns) > 0 and min(columns) < self.paper.width

    def shadow(self, points: Sequence[Point]) -> None:
        """Darken the ground with the shadow of an outline."""
        right, ahead = self.light.slant
        ground = [(x + right * y, 0.0, max(NEAR, z + ahead * y)) for x, y, z in points]
        self.shade_pen.polygon(self.camera.project(ground), fill=255)
