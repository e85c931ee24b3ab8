"""Panoptic quality by its definition (arXiv:1801.00868, section 4.1): masks, sets and loops."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Map = NDArray[np.int64]


def statistic(prediction: Map, truth: Map, things: Sequence[bool], *, divisor: int, ignore: int) -> NDArray[np.float64]:
    num_classes = len(things)

    def category(segment: int) -> int | None:
        own = segment // divisor
        return own if own < num_classes and own != ignore else None

    void = np.array([[category(int(pixel)) is None for pixel in row] for row in truth]).reshape(truth.shape)
    total = np.zeros((num_classes, 4))
    true_segments = [int(segment) for segment in np.unique(truth) if category(int(segment)) is not None]
    predicted_segments = [int(segment) for segment in np.unique(prediction) if category(int(segment)) is not None]
    crowds = {segment for segment in true_segments if segment % divisor == 0 and things[segment // divisor]}
    matched = set()
    for true in true_segments:
        hits = 0
        for predicted in predicted_segments:
            if category(true) != category(predicted) or true in crowds:
                continue
            own, other = truth == true, (prediction == predicted) & ~void
            iou = (own & other).sum() / (own | other).sum()
            if iou > 0.5:
                hits += 1
                matched.add(predicted)
                total[true // divisor] += (iou, 1, 0, 0)
        if not hits and true not in crowds:
            total[true // divisor, 3] += 1
    for predicted in set(predicted_segments) - matched:
        own = prediction == predicted
        crowd = np.isin(truth, [segment for segment in crowds if category(segment) == category(predicted)])
        if (own & (void | crowd)).sum() / own.sum() <= 0.5:
            total[predicted // divisor, 2] += 1
    return total
