"""Cityscapes' panoptic results, as evalPanopticSemanticLabeling takes them: COCO's format with Cityscapes' names."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from atrous.data.cityscapes import CITYSCAPES
from atrous.errors import DataError
from atrous.settings import Settings
from atrous.submissions.answers import is_thing, official_segments, renumbered
from atrous.submissions.categories import categories, coco_segment
from atrous.submissions.cityscapes_images import EXAMPLE, MISSING, identify
from atrous.submissions.contract import Answer, Format, Part
from atrous.tasks.segments import Segment, number_png

DIVISOR = 1000  # a thing's number is its label id * 1000 + the number of the thing


class Config(Settings):
    """format.split names the files."""

    split: Literal["test", "val", "train"] = "test"
    """Images that were predicted."""


def name_of(config: Config) -> str:
    return f"cityscapes_panoptic_{config.split}"


def of_image(answer: Answer, config: Config) -> Part:
    segments = official_segments(answer)
    numbers = _numbers(answer, segments)
    file = f"{answer.id}_panoptic.png"
    rows = [coco_segment(segment, numbers[key]) for key, segment in segments.items()]
    annotation = {"image_id": answer.id, "file_name": file, "segments_info": rows}
    return Part({f"{name_of(config)}/{file}": number_png(renumbered(answer, numbers))}, [annotation])


def _numbers(answer: Answer, segments: Mapping[int, Segment]) -> dict[int, int]:
    """As in Cityscapes' own instanceIds: the label id of stuff, and of each class's things one after another."""
    numbers: dict[int, int] = {}
    counts = Counter[int]()
    for key, segment in segments.items():
        numbers[key] = segment.category
        if is_thing(answer, key):
            numbers[key] = segment.category * DIVISOR + counts[segment.category]
            counts[segment.category] += 1
    fullest = max(counts.values(), default=0)
    if fullest > DIVISOR:
        raise DataError(f"{fullest} things of one class, but Cityscapes has numbers for {DIVISOR}")
    return numbers


def of_all(rows: Sequence[Any], config: Config) -> dict[str, bytes]:
    tree = {"annotations": list(rows), "categories": categories(CITYSCAPES)}
    return {f"{name_of(config)}.json": json.dumps(tree).encode()}


CITYSCAPES_PANOPTIC = Format(
    benchmark="Cityscapes",
    config=Config,
    space=CITYSCAPES,
    needs=("semantic", "instance"),
    identify=identify,
    example=EXAMPLE,
    archive=lambda config: f"{name_of(config)}.zip",
    of_image=of_image,
    of_all=of_all,
    missing=MISSING,
)
