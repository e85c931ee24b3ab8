"""Cars of four shapes, seen from any side."""

import math
from typing import NamedTuple, TypeAlias

from atrous.data.synthetic.classes import CAR
from atrous.data.synthetic.scene import Scene
from atrous.data.synthetic.shapes import CIRCLE, NEAR, Face, Point, part
from atrous.data.synthetic.tones import BLACK, GLASS, LAMP, PAINTS, WHITE, Tone, lit, pick, varied

Edge: TypeAlias = tuple[tuple[float, float], tuple[float, float]]  # its two ends on a car, each (along, across)


class Shape(NamedTuple):
    """In metres. `foot` and `roof` are the ends of the cabin, below and above, in fractions of the length."""

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
        """A point of the car, in fractions of its length and width, and in metres above the ground."""
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


CORNERS = ((-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5))


def draw_car(scene: Scene, x: float, z: float) -> None:
    rng = scene.rng
    angle = rng.uniform(-0.12, 0.12) + (
        rng.uniform(0.0, math.tau) if rng.random() < 0.15 else pick(rng, (0.0, math.pi))
    )
    heading = (math.sin(angle), math.cos(angle))
    tone = varied(rng, pick(rng, PAINTS))
    car = Car(pick(rng, tuple(SHAPES.values())), x, z, heading, tone, len(scene.surfaces))
    end, flank = car.sights()
    _draw_car_shadow(scene, car)
    belt = car.shape.belt
    scene.fill([car.at(along, across, belt) for along, across in CORNERS], car.ink(scene, lit(tone, 1.12)))
    if end:
        _draw_car_end(scene, car, end)
    if flank:
        _draw_car_flank(scene, car, flank)
    _draw_cabin(scene, car, end, flank)


def _draw_car_shadow(scene: Scene, car: Car) -> None:
    """The shadow below it, and those of its four sides."""
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
    scene.fill(part(face, 0.04, 0.96, 0.16, 0.4), tyre)
    for left in (0.05, 0.8):
        scene.fill(part(face, left, left + 0.15, 0.0, 0.4), tyre)
    scene.fill(part(face, 0.0, 1.0, 0.26, 1.0), car.ink(scene, lit(car.tone, 0.84)))
    scene.fill(part(face, 0.0, 1.0, 0.26, 0.42), car.ink(scene, lit(car.tone, 0.6)))
    lights = car.ink(scene, LAMP if end > 0 else (190.0, 30.0, 28.0))
    for left in (0.05, 0.73):
        scene.fill(part(face, left, left + 0.22, 0.6, 0.8), lights)
    scene.fill(part(face, 0.36, 0.64, 0.45, 0.58), car.ink(scene, WHITE))


def _draw_car_flank(scene: Scene, car: Car, flank: int) -> None:
    """One side: body, door, wheels."""
    across, belt = flank * 0.5, car.shape.belt
    edge = ((-0.5, across), (0.5, across))
    face = car.face(edge, edge, 0.0, belt)
    scene.fill(part(face, 0.0, 1.0, 0.24, 1.0), car.ink(scene, car.tone))
    scene.fill(part(face, 0.0, 1.0, 0.24, 0.36), car.ink(scene, lit(car.tone, 0.7)))
    scene.fill(part(face, 0.5, 0.52, 0.3, 1.0), car.ink(scene, lit(car.tone, 0.75)))
    tyre, hub = car.ink(scene, BLACK), car.ink(scene, (150.0, 152.0, 156.0))
    for axle in (-0.31, 0.31):
        for radius, ink in ((0.34, tyre), (0.18, hub)):
            rim = [(axle + radius * cos / car.shape.length, 0.34 + radius * sin) for cos, sin in CIRCLE]
            scene.fill([car.at(along, across, up) for along, up in rim], ink)


def _draw_cabin(scene: Scene, car: Car, end: int, flank: int) -> None:
    """Roof, windscreen and side windows: narrower at the roof than at the belt."""
    shape, glass = car.shape, car.ink(scene, pick(scene.rng, (GLASS, GLASS, scene.light.sky[0])))
    back, front = ([(along, -0.42), (along, 0.42)] for along in shape.roof)
    roof = [car.at(along, across, shape.height) for along, across in (*back, *reversed(front))]
    scene.fill(roof, car.ink(scene, lit(car.tone, 1.15)))
    if end:
        foot, top = shape.foot[end > 0], shape.roof[end > 0]
        screen = car.face(((foot, -0.48), (foot, 0.48)), ((top, -0.42), (top, 0.42)), shape.belt, shape.height)
        scene.fill(screen, car.ink(scene, lit(car.tone, 0.9)))
        scene.fill(part(screen, 0.08, 0.92, 0.1, 0.86), glass)
    if flank:
        feet = ((shape.foot[0], flank * 0.48), (shape.foot[1], flank * 0.48))
        tops = ((shape.roof[0], flank * 0.42), (shape.roof[1], flank * 0.42))
        side = car.face(feet, tops, shape.belt, shape.height)
        scene.fill(side, car.ink(scene, lit(car.tone, 1.02)))
        for left, right in ((0.1, 0.48), (0.54, 0.92)):
            scene.fill(part(side, left, right, 0.1, 0.84), glass)
