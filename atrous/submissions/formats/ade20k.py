"""ADE20K's scene parsing, as its server takes it: for each image a grey PNG with the classes 1 to 150."""

import re

from atrous.data.ade20k import ADE20K
from atrous.submissions.answers import class_map, png
from atrous.submissions.contract import Answer, Format, NoSettings, Part

OTHER = 0


class Config(NoSettings):
    """It has no settings."""


def identify(name: str) -> str | None:
    return name if re.fullmatch(r"ADE_(train|val|test)_\d{8}", name, re.ASCII) else None


def of_image(answer: Answer, config: Config) -> Part:
    return Part({f"{answer.id}.png": png(class_map(answer, OTHER))})


SCENE_PARSING = Format(
    benchmark="ADE20K's scene parsing",
    config=Config,
    space=ADE20K,
    needs=("semantic",),
    identify=identify,
    example="ADE_test_00000001.jpg",
    archive=lambda config: "ade20k.zip",
    of_image=of_image,
    missing="the evaluation stops at an image without a prediction",
)
