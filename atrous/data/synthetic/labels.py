"""From the painted map to the instance map."""

import numpy as np
from numpy.typing import NDArray

from atrous.data.synthetic.scene import Scene

VISIBLE = 40 / (128 * 192)  # the part of the image that a thing must cover; smaller things are ignored


def number_things(scene: Scene, kinds: NDArray[np.uint8], inks: NDArray[np.int32], ignore: int) -> NDArray[np.int32]:
    """[H, W] numbers without gaps; things that are hardly visible become `ignore` in `kinds`."""
    things = np.array([surface.thing for surface in scene.surfaces], np.int32)[inks]
    is_visible = np.bincount(things.ravel(), minlength=len(scene.surfaces)) >= VISIBLE * inks.size
    is_visible[0] = False
    kinds[(things > 0) & ~is_visible[things]] = ignore
    return (np.cumsum(is_visible) * is_visible).astype(np.int32)[things]
