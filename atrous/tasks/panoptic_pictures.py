"""Panoptic maps as pictures: things in shades of their class's colour, outlined and named."""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from atrous import visualize
from atrous.data.label_space import LabelSpace
from atrous.tasks.class_map import label_map, panel_step
from atrous.tasks.contract import Labels
from atrous.tasks.segments import Segment, panoptic_array, segments, true_panoptic
from atrous.types import Color, Image, Sample
from atrous.visualize import Tag

LEGEND: dict[str, Color] = {"right": visualize.RIGHT, "wrong": visualize.WRONG, "ignored": visualize.IGNORED}


def paint(image: Image, labels: Labels, space: LabelSpace, alpha: float) -> Image:
    """The background keeps the photo, and things bear their names, unless `alpha` asks for the colours alone."""
    panoptic = panoptic_array(labels)
    picture = paint_map(image, panoptic, space, alpha)
    return visualize.tagged(picture, tags(panoptic, segments(labels, space), space)) if 0 < alpha < 1 else picture


def paint_map(image: Image, panoptic: NDArray[np.int32], space: LabelSpace, alpha: float) -> Image:
    """Things in shades of their class's colour, a bright line between segments; void shows the image."""
    ids, places = np.unique(panoptic, return_inverse=True)
    colors = np.array([shade(int(segment), space) for segment in ids], np.uint8).reshape(-1, 3)
    shown = np.setdiff1d(range(space.num_classes), space.background if alpha < 1 else ())
    bare = np.isin(panoptic // space.panoptic_divisor, shown, invert=True)
    spread = colors[places.reshape(panoptic.shape)]
    return visualize.overlay_colors(image, spread, panoptic, bare, alpha=alpha, line=visualize.line_width(image))


def tags(panoptic: NDArray[np.int32], segments: Sequence[Segment], space: LabelSpace) -> Iterable[Tag]:
    """The class of each thing, and how certain it is, the largest thing first."""
    things = (segment for segment in segments if segment.id % space.panoptic_divisor)
    for thing in sorted(things, key=lambda thing: -thing.area):
        y, x, height, width = thing.box
        mask = panoptic[y : y + height, x : x + width] == thing.id
        row, column = middle(mask)
        name = space.names[thing.category]
        certain = [] if thing.score is None else [f"{name} {min(thing.score, 1.0):.0%}"]
        yield Tag((*certain, name), (y + row, x + column), (height, width))


def middle(mask: NDArray[np.bool_]) -> tuple[int, int]:
    """The centre of the longest run in the row that halves the area: inside, whatever the shape."""
    below = np.cumsum(mask.sum(1))
    row = int(np.searchsorted(below, below[-1] / 2))
    ends = np.flatnonzero(np.diff(mask[row].astype(np.int8), prepend=0, append=0)).reshape(-1, 2)
    start, end = ends[np.argmax(ends[:, 1] - ends[:, 0])].tolist()
    return row, (start + end - 1) // 2


def paint_truth(sample: Sample, space: LabelSpace) -> Image:
    return paint(sample.image, Labels(panoptic=true_panoptic(sample, space)), space, visualize.ALPHA)


def painted(labels: Labels, space: LabelSpace) -> dict[str, Color]:
    """The classes in the picture, without the background. Things of a class have shades of its colour."""
    present = np.unique(panoptic_array(labels) // space.panoptic_divisor)
    shown = np.setdiff1d(np.intersect1d(present, range(space.num_classes)), space.background)
    return {space.names[index]: shade(int(index) * space.panoptic_divisor, space) for index in shown}


def shade(segment: int, space: LabelSpace) -> Color:
    """The colour of a segment: its class's, for things lighter or darker by its number."""
    category, number = divmod(segment, space.panoptic_divisor)
    color = space.palette()[category % 256].astype(int)
    if number:
        spread = np.random.default_rng([category, number]).integers(-60, 61, 3)  # as deeplab2 spreads them
        color = (color + spread).clip(0, 255)
    red, green, blue = color.tolist()
    return red, green, blue


def panels(sample: Sample, labels: Labels, space: LabelSpace) -> list[tuple[str, Image]]:
    assert labels.semantic is not None
    assert sample.semantic is not None
    step = panel_step(sample.image)
    classes, true_classes, truth, prediction = (
        visualize.thinned(one, step)
        for one in (
            label_map(labels, space),
            sample.semantic,
            true_panoptic(sample, space).numpy(),
            panoptic_array(labels),
        )
    )
    image = visualize.shrunk(sample.image, step)
    maps = (Labels(panoptic=torch.from_numpy(truth)), labels._replace(panoptic=torch.from_numpy(prediction)))
    truth_picture, picture = (paint(image, one, space, visualize.ALPHA) for one in maps)
    return [
        ("Image", image),
        ("Truth", truth_picture),
        ("Prediction", picture),
        ("Errors", visualize.error_map(classes, true_classes, space.ignore)),
    ]
