"""COCO's panoptic results (https://cocodataset.org/#format-results): a PNG of numbers for each image, and one JSON."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from atrous.data.coco_panoptic import COCO_PANOPTIC
from atrous.errors import DataError
from atrous.submissions.answers import MAX_NUMBER, official_segments, renumbered
from atrous.submissions.categories import categories, coco_segment
from atrous.submissions.coco_images import CocoConfig, identify
from atrous.submissions.contract import Answer, Format, Part
from atrous.tasks.segments import Segment, number_png


class Config(CocoConfig):
    """format.split and format.method name the files."""


def name_of(config: Config) -> str:
    return f"panoptic_{config.split}_{config.method}_results"


def of_image(answer: Answer, config: Config) -> Part:
    segments = official_segments(answer)
    if len(segments) > MAX_NUMBER:
        raise DataError(f"{len(segments)} segments, but a PNG holds numbers up to {MAX_NUMBER}")
    numbers = {key: number for number, key in enumerate(segments, 1)}
    content = number_png(renumbered(answer, numbers))
    return Part({f"{name_of(config)}/{answer.id}.png": content}, [_annotation(answer.id, segments, numbers)])


def _annotation(image: str, segments: Mapping[int, Segment], numbers: Mapping[int, int]) -> dict[str, Any]:
    rows = [coco_segment(segment, numbers[key]) for key, segment in segments.items()]
    return {"image_id": int(image), "file_name": f"{image}.png", "segments_info": rows}


def of_all(rows: Sequence[Any], config: Config) -> dict[str, bytes]:
    tree = {"annotations": list(rows), "categories": categories(COCO_PANOPTIC)}
    return {f"{name_of(config)}.json": json.dumps(tree).encode()}


COCO_PANOPTIC_RESULTS = Format(
    benchmark="COCO panoptic",
    config=Config,
    space=COCO_PANOPTIC,
    needs=("semantic", "instance"),
    identify=identify,
    example="000000142238.jpg",
    archive=lambda config: f"{name_of(config)}.zip",
    of_image=of_image,
    of_all=of_all,
    missing="panopticapi stops at an image without a prediction",
)
