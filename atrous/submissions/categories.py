"""Classes and segments in the words of COCO's JSON files, which others have taken over."""

from typing import Any

from atrous.data.label_space import LabelSpace
from atrous.submissions.classes import official_ids, plain
from atrous.tasks.segments import Segment


def categories(space: LabelSpace) -> list[dict[str, Any]]:
    """Of a benchmark's own label space, by official id."""
    ids = official_ids(space)
    return [
        {
            "id": ids[plain(name)],
            "name": name,
            "isthing": int(index in space.things),
            "color": space.palette()[index].tolist(),
        }
        for index, name in enumerate(space.names)
        if index != space.ignore
    ]


def coco_segment(segment: Segment, number: int) -> dict[str, Any]:
    """`number` is what its pixels hold in the PNG; its category is an official id.

    COCO's program reads the first two keys alone; others, ours among them, read the score for average precision.
    """
    y, x, height, width = segment.box
    return {
        "id": number,
        "category_id": segment.category,
        "area": segment.area,
        "bbox": [x, y, width, height],
        "iscrowd": 0,
        **({} if segment.score is None else {"score": round(segment.score, 6)}),
    }
