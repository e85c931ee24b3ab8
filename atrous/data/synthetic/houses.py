"""Rows of houses along the pavements and across the end of the street."""

import itertools
import math
from typing import NamedTuple

from numpy.random import Generator

from atrous.data.synthetic.classes import BUILDING
from atrous.data.synthetic.plants import draw_crown, draw_garden
from atrous.data.synthetic.scene import Scene
from atrous.data.synthetic.shapes import NEAR, OUTWARD, Face, part, upright
from atrous.data.synthetic.tones import GLASS, LAMP, PLATES, SKIES, WALLS, WHITE, Tone, lit, pick, varied


class Look(NamedTuple):
    """How a house looks."""

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
    wall = varied(rng, pick(rng, WALLS))
    top, bottom = pick(rng, SKIES)
    return Look(
        wall=wall,
        roof=varied(rng, pick(rng, WALLS[:8])),
        trim=pick(rng, (WHITE, lit(wall, 0.7), lit(wall, 1.2))),
        glass=(GLASS, pick(rng, (GLASS, top, bottom)), pick(rng, (GLASS, top, LAMP))),
        sign=pick(rng, PLATES) if rng.random() < 0.3 else None,
        storey=rng.uniform(2.6, 3.4),
        bay=rng.uniform(2.2, 3.6),
        window=(rng.uniform(0.35, 0.7), rng.uniform(0.45, 0.65)),
        bricks=rng.random() < 0.5,
    )


def draw_skyline(scene: Scene) -> None:
    """Houses, or trees, across the end of the street."""
    rng, z = scene.rng, scene.street.end
    x, last = scene.camera.reach(0.0, z) - 3.0, scene.camera.reach(scene.paper.width, z)
    while x < last:
        width = rng.uniform(6.0, 14.0)
        if rng.random() < 0.3:
            draw_crown(scene, x + width / 2, z, width / 2, rng.uniform(3.0, 6.0))
        else:
            _draw_wall(scene, upright(x + width / 2, z, width, 0.0, rng.uniform(4.0, 11.0)), _look(rng), 0.9)
        x += width * 0.9


def draw_side(scene: Scene, side: int) -> None:
    """A row of houses and gardens along one pavement."""
    rng, end = scene.rng, scene.street.end
    green = pick(rng, (0.05, 0.15, 0.6))
    cuts = [NEAR]
    while cuts[-1] < end:
        cuts.append(cuts[-1] + rng.uniform(6.0, 13.0))
    for near, far in reversed(list(itertools.pairwise(cuts))):
        draw = draw_garden if rng.random() < green else _draw_house
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
    scene.fill(gable, scene.ink(BUILDING, lit(look.wall, 0.8), near))
    roof = scene.ink(BUILDING, look.roof, near)
    scene.fill(((x, height, near), (x, height, far), (ridge, top, far), (ridge, top, near)), roof)
    sunlit = 1.0 - 0.5 * scene.light.shadow * math.copysign(1.0, scene.light.slant[0] * -out)
    _draw_wall(scene, front, look, sunlit)


def _draw_wall(scene: Scene, face: Face, look: Look, factor: float) -> None:
    depth, height = (face[0][2] + face[1][2]) / 2, face[2][1]
    scene.fill(face, scene.ink(BUILDING, lit(look.wall, factor), depth, grain=0.12))
    if look.bricks and face[0][2] < 14.0:
        _draw_bricks(scene, face, lit(look.wall, factor * 0.84), depth)
    _draw_windows(scene, face, look, factor)
    if look.sign:
        board = scene.ink(BUILDING, lit(look.sign, factor), depth)
        scene.fill(part(face, 0.04, 0.96, look.storey * 0.82 / height, look.storey * 1.02 / height), board)


def _draw_bricks(scene: Scene, face: Face, tone: Tone, depth: float) -> None:
    joint, count = scene.ink(BUILDING, tone, depth), int(face[2][1] / 0.5)
    for step in range(1, count):
        scene.fill(part(face, 0.0, 1.0, step / count, (step + 0.22) / count), joint)


def _draw_windows(scene: Scene, face: Face, look: Look, factor: float) -> None:
    """Some reflect the sky; those out of sight or too far away are left out."""
    depth, storey = (face[0][2] + face[1][2]) / 2, look.storey / face[2][1]
    bays, storeys = max(1, round(math.dist(face[0], face[1]) / look.bay)), max(1, int(1 / storey))
    panes = [scene.ink(BUILDING, tone, depth, grain=0.03) for tone in look.glass]
    trim = scene.ink(BUILDING, lit(look.trim, factor), depth)
    kinds = scene.rng.integers(len(panes), size=(bays, storeys)).tolist()
    door = int(scene.rng.integers(bays))
    for bay in range(bays):
        column = part(face, bay / bays, (bay + 1) / bays, 0.0, 1.0)
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
        scene.fill(part(column, 0.42 - half, 0.58 + half, bottom - 0.06 * storey, top + 0.06 * storey), inks[0])
    scene.fill(part(column, 0.5 - half, 0.5 + half, bottom, top), inks[1])
