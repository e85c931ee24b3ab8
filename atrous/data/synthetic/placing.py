"""Where cars, people, trees and poles stand."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.random import Generator

from atrous.data.synthetic.cars import draw_car
from atrous.data.synthetic.people import draw_person
from atrous.data.synthetic.plants import draw_tree
from atrous.data.synthetic.poles import draw_lamp, draw_sign, draw_signal
from atrous.data.synthetic.scene import Scene, Street
from atrous.data.synthetic.tones import pick


class Placing(NamedTuple):
    """Something to draw, and where its foot is."""

    x: float
    z: float
    draw: Callable[[Scene, float, float], None]


def placings(scene: Scene) -> list[Placing]:
    rng, street = scene.rng, scene.street
    plants_and_poles = [*_place_trees(rng, street), *_place_poles(rng, street)]
    return [*plants_and_poles, *_place_cars(rng, street), *_place_people(scene)]


def _place_cars(rng: Generator, street: Street) -> list[Placing]:
    """Three lanes: traffic between two rows of parked cars."""
    (left, right), cars = street.kerbs, []
    for x in (left + 1.0, (left + right) / 2, right - 1.0):
        z = rng.uniform(5.5, 10.0)
        while z < min(street.end - 3.0, 13.0):
            if rng.random() < 0.45:
                cars.append(Placing(x + rng.uniform(-0.3, 0.3), z, draw_car))
            z += rng.uniform(5.5, 9.0)
    return cars or [Placing(right - 1.5, 9.0, draw_car)]


def _place_people(scene: Scene) -> list[Placing]:
    """Mostly on the pavements, some on the road, all moved into view."""
    rng, kerbs, walls = scene.rng, scene.street.kerbs, scene.street.walls
    pavements = ((walls[0] + 0.4, kerbs[0] - 0.4), (kerbs[1] + 0.4, walls[1] - 0.4))
    people = []
    for _ in range(int(rng.integers(2, 5))):
        z, lane = rng.uniform(3.0, 5.0), pick(rng, (*pavements, *pavements, kerbs))
        left, right = scene.camera.reach(0.0, z) + 0.3, scene.camera.reach(scene.paper.width, z) - 0.3
        x = min(max(rng.uniform(*lane), left), right)
        if lane[0] <= x <= lane[1]:
            people.append(Placing(x, z, draw_person))
    return people or [Placing((kerbs[0] + kerbs[1]) / 2, 8.0, draw_person)]


def _place_trees(rng: Generator, street: Street) -> list[Placing]:
    kerbs, trees = (street.kerbs[0] - 0.7, street.kerbs[1] + 0.7), []
    for x in kerbs:
        step = pick(rng, (7.0, 10.0, 30.0, 30.0))
        z = rng.uniform(6.0, 11.0)
        while z < min(street.end - 2.0, 17.0):
            trees.append(Placing(x, z, draw_tree))
            z += step * rng.uniform(0.8, 1.3)
    return trees


def _place_poles(rng: Generator, street: Street) -> list[Placing]:
    kerbs = (street.kerbs[0] - 0.4, street.kerbs[1] + 0.4)
    depths = np.linspace(4.4, 7.5, int(rng.integers(2, 4))) + rng.uniform(-0.5, 0.5)
    return [Placing(pick(rng, kerbs), z, pick(rng, (draw_lamp, draw_sign, draw_signal))) for z in depths.tolist()]
