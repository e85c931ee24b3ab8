"""Lawn, pavements and the road."""

from atrous.data.synthetic.classes import PAVEMENT, ROAD, VEGETATION
from atrous.data.synthetic.scene import Scene
from atrous.data.synthetic.shapes import CIRCLE, NEAR, strip
from atrous.data.synthetic.tones import GREYS, LEAVES, PAVINGS, WHITE, Tone, lit, pick, varied


def draw_ground(scene: Scene) -> None:
    rng, street, end = scene.rng, scene.street, scene.street.end
    lawn = scene.ink(VEGETATION, varied(rng, pick(rng, LEAVES[:4])), NEAR, grain=0.25)
    scene.fill(strip(-200.0, 200.0, NEAR, end), lawn)
    paving = varied(rng, pick(rng, PAVINGS))
    scene.fill(strip(*street.walls, NEAR, end), scene.ink(PAVEMENT, paving, NEAR))
    _draw_joints(scene, paving)
    kerb = scene.ink(PAVEMENT, lit(paving, rng.uniform(1.1, 1.5)), NEAR)
    scene.fill(strip(street.kerbs[0] - 0.35, street.kerbs[1] + 0.35, NEAR, end), kerb)
    asphalt = varied(rng, pick(rng, GREYS))
    scene.fill(strip(*street.kerbs, NEAR, end), scene.ink(ROAD, asphalt, NEAR, grain=0.14))
    _draw_patches(scene, asphalt)
    _draw_lanes(scene)


def _draw_joints(scene: Scene, paving: Tone) -> None:
    """The joints between the slabs of the pavement."""
    street, joint = scene.street, scene.ink(PAVEMENT, lit(paving, scene.rng.uniform(0.78, 0.95)), NEAR)
    size = scene.rng.uniform(0.8, 1.8)
    for step in range(2, int(16 / size)):
        scene.fill(strip(*street.walls, step * size, step * size + 0.07), joint)
    for kerb, wall in zip(street.kerbs, street.walls, strict=True):
        middle = (kerb + wall) / 2
        scene.fill(strip(middle - 0.03, middle + 0.03, NEAR, street.end), joint)


def _draw_patches(scene: Scene, asphalt: Tone) -> None:
    """Repaired asphalt and a manhole."""
    rng, (left, right) = scene.rng, scene.street.kerbs
    for factor in rng.uniform(0.78, 1.16, int(rng.integers(4))).tolist():
        x, z = rng.uniform(left, right - 2.0), rng.uniform(2.5, 14.0)
        patch = strip(x, x + rng.uniform(0.8, 2.0), z, z + rng.uniform(1.0, 5.0))
        scene.fill(patch, scene.ink(ROAD, lit(asphalt, factor), NEAR, grain=0.16))
    if rng.random() < 0.4:
        x, z = rng.uniform(left + 1, right - 1), rng.uniform(4.0, 9.0)
        cover = [(x + 0.4 * cos, 0.0, z + 0.4 * sin) for cos, sin in CIRCLE]
        scene.fill(cover, scene.ink(ROAD, lit(asphalt, 0.6), NEAR))


def _draw_lanes(scene: Scene) -> None:
    rng, (left, right), end = scene.rng, scene.street.kerbs, scene.street.end
    paint = scene.ink(ROAD, lit(WHITE, rng.uniform(0.7, 1.0)), NEAR, grain=0.2)
    middle, dash, start = (left + right) / 2, rng.uniform(1.5, 3.0), rng.uniform(0.0, 3.0)
    for step in range(int(min(end - start, 40.0) / (2 * dash))):
        near = NEAR + start + 2 * dash * step
        scene.fill(strip(middle - 0.08, middle + 0.08, near, near + dash), paint)
    if rng.random() < 0.35:
        for edge in (left + 0.35, right - 0.35):
            scene.fill(strip(edge - 0.06, edge + 0.06, NEAR, end), paint)
    if rng.random() < 0.35:
        _draw_crossing(scene, paint)


def _draw_crossing(scene: Scene, paint: int) -> None:
    left, right = scene.street.kerbs
    near = scene.rng.uniform(5.0, 12.0)
    count = int((right - left) / 1.1)
    for step in range(count):
        x = left + (step + 0.25) * (right - left) / count
        scene.fill(strip(x, x + 0.5, near, near + 3.0), paint)
