"""Points and faces of a scene, in metres."""

import math
from typing import TypeAlias

Point: TypeAlias = tuple[float, float, float]  # metres: to the right of the camera, above the ground, ahead
Face: TypeAlias = tuple[Point, Point, Point, Point]  # bottom left, bottom right, top right, top left
NEAR = 0.8  # where ground and walls begin, out of sight
OUTWARD = (-1.0, 1.0)  # away from the street, by side
CIRCLE = tuple((math.cos(math.tau * step / 12), math.sin(math.tau * step / 12)) for step in range(12))


def _between(first: Point, second: Point, way: float) -> Point:
    (a, b, c), (d, e, f) = first, second
    return (a + (d - a) * way, b + (e - b) * way, c + (f - c) * way)


def part(face: Face, left: float, right: float, bottom: float, top: float) -> Face:
    """A part of a face, in fractions of its sides."""
    low_left, low_right = _between(face[0], face[1], left), _between(face[0], face[1], right)
    high_left, high_right = _between(face[3], face[2], left), _between(face[3], face[2], right)
    return (
        _between(low_left, high_left, bottom),
        _between(low_right, high_right, bottom),
        _between(low_right, high_right, top),
        _between(low_left, high_left, top),
    )


def upright(x: float, z: float, width: float, bottom: float, top: float) -> Face:
    """A rectangle that faces the camera; `x` is its middle."""
    left, right = x - width / 2, x + width / 2
    return ((left, bottom, z), (right, bottom, z), (right, top, z), (left, top, z))


def strip(left: float, right: float, near: float, far: float) -> Face:
    """A rectangle on the ground."""
    return ((left, 0.0, near), (right, 0.0, near), (right, 0.0, far), (left, 0.0, far))


def thick(metres: float, z: float) -> float:
    """At least a dozen pixels of a 128 x 192 image: a network of stride 4 hardly learns thinner things in minutes."""
    return max(metres, 0.12 * z)
