"""Gardens, hedges and trees."""

from atrous.data.synthetic.classes import VEGETATION
from atrous.data.synthetic.scene import Scene
from atrous.data.synthetic.shapes import CIRCLE, OUTWARD, thick, upright
from atrous.data.synthetic.tones import GREYS, HAIRS, TROUSERS, lit, pick, varied


def draw_garden(scene: Scene, side: int, near: float, far: float) -> None:
    """A hedge, or open lawn, with trees behind it."""
    rng, x, out = scene.rng, scene.street.walls[side], OUTWARD[side]
    for z in (far - 1.0, (near + far) / 2):
        draw_tree(scene, x + out * rng.uniform(1.5, 4.0), z)
    if rng.random() < 0.6:
        height, tone = rng.uniform(0.8, 1.6), varied(rng, pick(rng, scene.street.leaves))
        hedge = scene.ink(VEGETATION, lit(tone, 0.85), near, grain=0.4)
        top = scene.ink(VEGETATION, tone, near, grain=0.4)
        scene.shadow(((x, 0.0, near), (x, 0.0, far), (x, height, far), (x, height, near)))
        scene.fill(upright(x + out * 2.0, near, 4.0, 0.0, height), hedge)
        scene.fill(((x, height, near), (x, height, far), (x + out, height, far), (x + out, height, near)), top)
        scene.fill(((x, 0.0, near), (x, 0.0, far), (x, height, far), (x, height, near)), hedge)


def draw_tree(scene: Scene, x: float, z: float) -> None:
    rng = scene.rng
    if not scene.sees(upright(x, z, 4.0, 0.0, 3.0)):
        return
    radius, middle = rng.uniform(1.1, 2.0), rng.uniform(3.0, 4.4)
    trunk = scene.ink(VEGETATION, varied(rng, pick(rng, (GREYS[0], TROUSERS[7], HAIRS[1]))), z, grain=0.2)
    stem = upright(x, z, thick(0.3, z), 0.0, middle)
    scene.shadow(stem)
    scene.shadow([(x + radius * cos, middle + radius * sin, z) for cos, sin in CIRCLE])
    scene.fill(stem, trunk)
    draw_crown(scene, x, z, radius, middle)


def draw_crown(scene: Scene, x: float, z: float, radius: float, middle: float) -> None:
    """Blobs of leaves, the upper ones lighter."""
    rng, tone = scene.rng, varied(scene.rng, pick(scene.rng, scene.street.leaves))
    inks = [scene.ink(VEGETATION, lit(tone, factor), z, grain=0.4) for factor in (0.72, 0.88, 1.04, 1.2)]
    scene.blob((x, middle, z), radius * 0.9, inks[0])
    for right, up, size in sorted(rng.uniform(-0.6, 0.6, (8, 3)).tolist(), key=lambda blob: blob[1]):
        ink = inks[min(3, int((up + 0.8) * 2.6))]
        scene.blob((x + right * radius, middle + up * radius, z), radius * (0.42 + 0.12 * size), ink)
