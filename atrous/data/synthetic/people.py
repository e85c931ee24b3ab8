"""Pedestrians."""

from collections.abc import Sequence
from typing import TypeAlias

from atrous.data.synthetic.classes import PERSON
from atrous.data.synthetic.scene import Scene
from atrous.data.synthetic.shapes import CIRCLE, upright
from atrous.data.synthetic.tones import BLACK, COATS, HAIRS, SKINS, TROUSERS, Tone, lit, pick, varied

Limb: TypeAlias = tuple[Tone, Sequence[tuple[float, float]]]  # an outline in metres from between the feet


def draw_person(scene: Scene, x: float, z: float) -> None:
    rng, thing = scene.rng, len(scene.surfaces)
    size, stride = rng.uniform(1.05, 1.3), rng.uniform(0.06, 0.2)
    coat, legs = varied(rng, pick(rng, COATS)), varied(rng, pick(rng, TROUSERS))
    hem = pick(rng, (0.85, 0.8, 0.5))  # a jacket, or a coat
    skin, hair = pick(rng, SKINS), pick(rng, HAIRS)
    scene.shadow(upright(x, z, 0.5, 0.0, 1.7 * size))
    parts: list[Limb] = [
        *_leg(-stride, lit(legs, 0.85)),
        *_leg(stride, legs),
        (coat, ((-0.3, hem), (0.3, hem), (0.29, 1.4), (0.14, 1.48), (-0.14, 1.48), (-0.29, 1.4))),
        *_arm(-1.0, lit(coat, 0.8), skin),
        *_arm(1.0, lit(coat, 0.8), skin),
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
