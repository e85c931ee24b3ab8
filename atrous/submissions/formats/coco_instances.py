"""COCO's results of instance segmentation (https://cocodataset.org/#format-results): one JSON list of masks."""

import json
from collections.abc import Sequence
from typing import Any

from atrous.data.coco_panoptic import COCO_PANOPTIC
from atrous.submissions import rle
from atrous.submissions.answers import score, things
from atrous.submissions.coco_images import CocoConfig, identify
from atrous.submissions.contract import Answer, Format, Part
from atrous.tasks.segments import panoptic_array


class Config(CocoConfig):
    """format.split and format.method name the file."""


def name_of(config: Config) -> str:
    return f"detections_{config.split}_{config.method}_results"


def of_image(answer: Answer, config: Config) -> Part:
    panoptic = panoptic_array(answer.labels)
    rows = [
        {
            "image_id": int(answer.id),
            "category_id": thing.category,
            "segmentation": rle.encode(panoptic == key),
            "score": score(answer, thing),
        }
        for key, thing in things(answer).items()
    ]
    return Part({}, rows)


def of_all(rows: Sequence[Any], config: Config) -> dict[str, bytes]:
    return {f"{name_of(config)}.json": json.dumps(list(rows)).encode()}


COCO_INSTANCES = Format(
    benchmark="COCO's instances",
    config=Config,
    space=COCO_PANOPTIC,
    needs=("semantic", "instance"),
    identify=identify,
    example="000000142238.jpg",
    archive=lambda config: f"{name_of(config)}.zip",
    of_image=of_image,
    of_all=of_all,
    missing="pycocotools counts its things as missed",
    empty="pycocotools doesn't take a list without things",
    are_things_alone=True,
)
