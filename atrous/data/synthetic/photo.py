"""From the painted map to a photograph. Colours are planes, [3, H, W], until the end."""

import math
from typing import TypeAlias

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from atrous.data.synthetic.classes import PAVEMENT, ROAD, SKY
from atrous.data.synthetic.scene import SCALE, Scene

Pixels: TypeAlias = NDArray[np.float32]


def develop(scene: Scene, kinds: NDArray[np.uint8]) -> NDArray[np.uint8]:  # [H, W] -> [H, W, 3]
    """The photograph of a scene whose classes are `kinds`."""
    rng, light, shape = scene.rng, scene.light, kinds.shape
    planes = expose(scene)  # R, G, B, grain
    colors = planes[:3] * (1 + planes[3] * _texture(rng, shape))
    ground = np.isin(kinds, (ROAD, PAVEMENT))
    colors *= 1 - ground * _shadows(scene)
    colors += ground * _mist(scene, shape[0]) * (np.array(light.sky[1], np.float32)[:, None, None] - colors)
    colors += (kinds == SKY) * _heavens(scene, shape)
    colors *= np.array(light.tint, np.float32)[:, None, None]
    return _photograph(rng, colors)


def expose(scene: Scene) -> Pixels:
    """Colours behind their haze and, as the last plane, the grain, 0..1, with smooth edges: [4, H, W]."""
    tones = np.array([(*surface.tone, 255 * surface.grain) for surface in scene.surfaces], np.float32)
    veil = np.array([[surface.depth] for surface in scene.surfaces], np.float32) * np.float32(scene.light.haze)
    tones[:, :3] += (np.array(scene.light.sky[1], np.float32) - tones[:, :3]) * (veil / (1 + veil))
    table = np.clip(tones, 0, 255).astype(np.uint8).view(np.uint32)[:, 0]
    painted = Image.frombytes("RGBX", scene.paper.size, table[np.asarray(scene.paper)].tobytes()).reduce(SCALE)
    planes = np.stack([np.asarray(plane, np.float32) for plane in painted.split()])
    planes[3] /= 255
    return planes


def _noise(rng: Generator, *shape: int) -> Pixels:
    """Grain in -1..1."""
    return np.frombuffer(rng.bytes(math.prod(shape)), np.uint8).reshape(shape).astype(np.float32) / 127.5 - 1


def _clouds(rng: Generator, shape: tuple[int, ...], cells: int) -> Pixels:
    """Smooth noise in -1..1 with `cells` bumps down the image."""
    height, width = cells, max(1, cells * shape[1] // shape[0])
    rough = Image.frombytes("L", (width, height), rng.bytes(width * height))
    smooth: Pixels = np.asarray(rough.resize((shape[1], shape[0]), Image.Resampling.BICUBIC), np.float32)
    return smooth / 127.5 - 1


def _texture(rng: Generator, shape: tuple[int, ...]) -> Pixels:
    texture: Pixels = 0.35 * _noise(rng, *shape) + 0.6 * _clouds(rng, shape, 40) + 0.3 * _clouds(rng, shape, 8)
    return texture


def _shadows(scene: Scene) -> Pixels:
    soft: Pixels = np.asarray(scene.shade.reduce(SCALE).filter(ImageFilter.BoxBlur(1)), np.float32)
    return soft * np.float32(scene.light.shadow / 255)


def _mist(scene: Scene, height: int) -> Pixels:  # [H, 1]
    """The share of haze over the ground, row by row; lower rows are nearer, and so clearer."""
    camera, rows = scene.camera, np.arange(height, dtype=np.float32)[:, None] * SCALE
    far = np.float32(scene.light.haze * camera.focal * camera.height)
    mist: Pixels = far / (far + np.maximum(0, rows - np.float32(camera.horizon)))
    return mist


def _heavens(scene: Scene, shape: tuple[int, ...]) -> Pixels:
    """The difference of the sky from its colour at the horizon: deeper upwards, and clouds."""
    top, bottom = np.array(scene.light.sky, np.float32)
    up = 1 - np.arange(shape[0], dtype=np.float32) * np.float32(SCALE / scene.camera.horizon)
    clouds: Pixels = np.maximum(0, _clouds(scene.rng, shape, 5) + 0.4 * _clouds(scene.rng, shape, 14))
    depth: Pixels = np.clip(up, 0, 1)[:, None] * (top - bottom)[:, None, None]
    return depth + np.float32(scene.rng.uniform(0, 50)) * clouds


def _photograph(rng: Generator, colors: Pixels) -> NDArray[np.uint8]:  # [3, H, W] -> [H, W, 3]
    """Sensor noise, and a lens that isn't always sharp."""
    colors += np.float32(rng.uniform(1.0, 8.0)) * _noise(rng, *colors.shape)
    image = np.ascontiguousarray(np.clip(colors, 0, 255).astype(np.uint8).transpose(1, 2, 0))
    if rng.random() < 0.2:
        image = np.array(Image.fromarray(image).filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 0.8))))
    return image
