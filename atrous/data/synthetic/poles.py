"""Street lamps, traffic signs and traffic lights."""

import math

from atrous.data.synthetic.classes import POLE
from atrous.data.synthetic.scene import Scene
from atrous.data.synthetic.shapes import CIRCLE, thick, upright
from atrous.data.synthetic.tones import BLACK, LAMP, METALS, PLATES, WHITE, Tone, lit, pick, varied


def _draw_post(scene: Scene, x: float, z: float, height: float) -> Tone:
    tone = varied(scene.rng, pick(scene.rng, METALS))
    post = upright(x, z, thick(0.28, z), 0.0, height)
    scene.shadow(post)
    scene.fill(post, scene.ink(POLE, tone, z, grain=0.06))
    return tone


def draw_lamp(scene: Scene, x: float, z: float) -> None:
    height, inward = scene.rng.uniform(3.6, 5.0), math.copysign(1.3, -x)
    tone = _draw_post(scene, x, z, height)
    metal = scene.ink(POLE, tone, z)
    arm = upright(x + inward / 2, z, abs(inward), height - 0.45, height)
    scene.fill(arm, metal)
    scene.fill(upright(x + inward, z, 0.9, height - 0.55, height), metal)
    scene.fill(upright(x + inward, z, 0.7, height - 0.55, height - 0.35), scene.ink(POLE, LAMP, z))


def draw_sign(scene: Scene, x: float, z: float) -> None:
    rng, height, size = scene.rng, scene.rng.uniform(2.3, 3.0), scene.rng.uniform(0.55, 0.75)
    _draw_post(scene, x, z, height)
    outline = pick(rng, (CIRCLE, CIRCLE[::3], CIRCLE[3::4], ((-1.0, -0.8), (1.0, -0.8), (1.0, 0.8), (-1.0, 0.8))))
    rim, plate = scene.ink(POLE, WHITE, z, grain=0.02), scene.ink(POLE, varied(rng, pick(rng, PLATES)), z, grain=0.02)
    for scale, ink in ((size, rim), (size * 0.76, plate)):
        scene.fill([(x + scale * right, height + scale * up, z) for right, up in outline], ink)


def draw_signal(scene: Scene, x: float, z: float) -> None:
    height, shown = scene.rng.uniform(2.6, 3.2), int(scene.rng.integers(3))
    _draw_post(scene, x, z, height)
    scene.fill(upright(x, z, 0.72, height - 0.6, height + 0.9), scene.ink(POLE, BLACK, z))
    for index, plate in enumerate((4, 3, 0)):
        lamp = scene.ink(POLE, lit(PLATES[plate], 1.2 if index == shown else 0.35), z)
        scene.blob((x, height - 0.33 + 0.48 * index, z), 0.19, lamp)
