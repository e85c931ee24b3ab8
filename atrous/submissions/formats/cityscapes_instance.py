"""Cityscapes' instance results, as evalInstanceLevelSemanticLabeling takes them.

For each image there is a list, a line for each thing: the mask's path, its label id, how certain it is.
"""

from atrous.data.cityscapes import CITYSCAPES
from atrous.submissions.answers import png, score, things
from atrous.submissions.cityscapes_images import EXAMPLE, MISSING, identify
from atrous.submissions.contract import Answer, Format, NoSettings, Part
from atrous.tasks.segments import panoptic_array


class Config(NoSettings):
    """It has no settings."""


def of_image(answer: Answer, config: Config) -> Part:
    panoptic, own = panoptic_array(answer.labels), things(answer)
    masks = {key: f"masks/{answer.id}_{place}.png" for place, key in enumerate(own)}
    lines = [f"{masks[key]} {thing.category} {score(answer, thing):.6f}\n" for key, thing in own.items()]
    files = {file: png(panoptic == key) for key, file in masks.items()}
    return Part({f"{answer.id}_pred.txt": "".join(lines).encode(), **files})


CITYSCAPES_INSTANCE = Format(
    benchmark="Cityscapes",
    config=Config,
    space=CITYSCAPES,
    needs=("semantic", "instance"),
    identify=identify,
    example=EXAMPLE,
    archive=lambda config: "cityscapes_instance.zip",
    of_image=of_image,
    missing=MISSING,
    are_things_alone=True,
)
