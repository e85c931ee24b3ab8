"""A whole street, painted from far to near."""

from numpy.random import Generator
from PIL import Image, ImageDraw

from atrous.data.synthetic.classes import SKY
from atrous.data.synthetic.ground import draw_ground
from atrous.data.synthetic.houses import draw_side, draw_skyline
from atrous.data.synthetic.placing import placings
from atrous.data.synthetic.scene import SCALE, Camera, Light, Scene, Street
from atrous.data.synthetic.tones import LEAVES, SKIES, pick


def draw_street(rng: Generator, size: tuple[int, int]) -> Scene:
    height, width = SCALE * size[0], SCALE * size[1]
    paper, shade = Image.new("I", (width, height)), Image.new("L", (width, height))
    pens = ImageDraw.Draw(paper), ImageDraw.Draw(shade)
    scene = Scene(rng, _camera(rng, height, width), _street(rng), _light(rng), [], paper, shade, *pens)
    scene.ink(SKY, scene.light.sky[1], 0.0, grain=0.0)  # ink 0 is the empty paper
    draw_skyline(scene)
    draw_ground(scene)
    for side in (0, 1):
        draw_side(scene, side)
    for item in sorted(placings(scene), key=lambda item: -item.z):
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
    leaves = pick(rng, (LEAVES[:4], LEAVES[:4], LEAVES[3:], LEAVES))
    return Street(kerbs, walls, rng.uniform(24.0, 70.0), leaves)


def _light(rng: Generator) -> Light:
    index = int(rng.integers(len(SKIES)))
    warm, gain = rng.uniform(-0.1, 0.1), rng.uniform(0.85, 1.2)
    shadow = rng.uniform(0.3, 0.55) if index < 3 else rng.uniform(0.0, 0.2)
    slant = (rng.uniform(0.25, 1.1) * (1 if rng.random() < 0.5 else -1), rng.uniform(-0.3, 0.5))
    haze = rng.uniform(0.025, 0.05) if rng.random() < 0.1 else rng.uniform(0.001, 0.012)
    return Light(SKIES[index], (gain * (1 + warm), gain, gain * (1 - warm)), haze, shadow, slant)
