"""Cityscapes' pixel-level results, as evalPixelLevelSemanticLabeling takes them: a PNG of label ids for each image."""

from atrous.data.cityscapes import CITYSCAPES
from atrous.submissions.answers import class_map, png
from atrous.submissions.cityscapes_images import EXAMPLE, MISSING, identify
from atrous.submissions.contract import Answer, Format, NoSettings, Part

UNLABELED = 0


class Config(NoSettings):
    """It has no settings."""


def of_image(answer: Answer, config: Config) -> Part:
    return Part({f"{answer.id}_labelIds.png": png(class_map(answer, UNLABELED))})


CITYSCAPES_PIXEL = Format(
    benchmark="Cityscapes",
    config=Config,
    space=CITYSCAPES,
    needs=("semantic",),
    identify=identify,
    example=EXAMPLE,
    archive=lambda config: "cityscapes_pixel.zip",
    of_image=of_image,
    missing=MISSING,
)
