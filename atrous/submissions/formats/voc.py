"""PASCAL VOC 2012's segmentations, as its server takes them: palette PNGs in the development kit's folders."""

import re
from typing import Literal

from atrous.data.voc import VOC
from atrous.settings import Settings
from atrous.submissions.answers import class_map
from atrous.submissions.contract import Answer, Format, Part
from atrous.visualize import palette_png


class Config(Settings):
    """Both name the folder."""

    competition: Literal["comp5", "comp6"] = "comp6"
    """Data that the model was trained on: comp5, VOC's own alone; comp6, others too, such as ImageNet or SBD."""
    split: Literal["test", "val", "train", "trainval"] = "test"
    """Images that were predicted."""


def identify(name: str) -> str | None:
    return name if re.fullmatch(r"\d{4}_\d{6}", name, re.ASCII) else None


def folder(config: Config) -> str:
    return f"{config.competition}_{config.split}_cls"


def of_image(answer: Answer, config: Config) -> Part:
    content = palette_png(class_map(answer, None), VOC.palette())
    return Part({f"results/VOC2012/Segmentation/{folder(config)}/{answer.id}.png": content})


VOC_SEGMENTATION = Format(
    benchmark="PASCAL VOC",
    config=Config,
    space=VOC,
    needs=("semantic",),
    identify=identify,
    example="2008_000006.jpg",
    archive=lambda config: f"voc2012_{folder(config)}.tgz",
    of_image=of_image,
    missing="the development kit stops at an image without a prediction",
)
