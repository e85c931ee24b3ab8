"""The classes of deeplab2's data sets: which are things, which label is ignored, how panoptic numbers are made."""

from atrous.convert.label_spaces import numbered_label_space
from atrous.convert.systems.deeplab2.options import Options
from atrous.data import ade20k, cityscapes, coco_panoptic
from atrous.data.label_space import LabelSpace, numbered_names
from atrous.errors import ConfigError

STEP_CLASSES = ("sidewalk", "building", "vegetation", "sky", "person", "rider", "bicycle")  # of MOTChallenge-STEP
ADE20K_STUFF = frozenset(
    (
        *(0, 1, 2, 3, 4, 5, 6, 7, 10, 12, 14, 17, 18, 22, 26, 27, 29, 30, 35, 41, 47, 49, 52, 53, 55, 60, 61, 62, 64),
        *(69, 78, 80, 85, 92, 95, 97, 100, 101, 102, 106, 107, 110, 114, 115, 118, 123, 129, 132, 141, 142, 146),
    )
)
CITYSCAPES = cityscapes.CITYSCAPES
_COLOR = dict(zip(CITYSCAPES.names, CITYSCAPES.colors, strict=True))
LABEL_SPACES: dict[str, LabelSpace] = {
    "cityscapes_panoptic": CITYSCAPES,
    "coco_panoptic": coco_panoptic.COCO_PANOPTIC,
    "ade20k_panoptic": ade20k.WITH_OTHER.model_copy(
        update={
            "things": tuple(sorted(set(range(151)) - ADE20K_STUFF)),
            "ignore": 0,
            "raw_ids": tuple((index, index) for index in range(151)),
        }
    ),
    "kitti_step": CITYSCAPES.model_copy(update={"things": (11, 13)}),
    "motchallenge_step": LabelSpace(
        names=STEP_CLASSES, colors=tuple(_COLOR[name] for name in STEP_CLASSES), things=(4,)
    ),
    "cityscapes_dvps": CITYSCAPES.model_copy(update={"ignore": 32}),
    "semkitti_dvps": LabelSpace(names=numbered_names(19), things=tuple(range(8)), panoptic_divisor=2**16),
}
BY_NUMBER = {19: "cityscapes_panoptic", 134: "coco_panoptic", 151: "ade20k_panoptic"}


def label_space(num_classes: int, options: Options) -> tuple[LabelSpace, list[str]]:
    dataset = options.dataset or BY_NUMBER.get(num_classes)
    if dataset is None:
        return numbered_label_space(num_classes), [f"none of the {num_classes} classes is a thing (set dataset=)"]
    if dataset not in LABEL_SPACES:
        raise ConfigError(f"dataset={dataset}: its classes are unknown; known: {', '.join(LABEL_SPACES)}")
    space = LABEL_SPACES[dataset]
    if space.num_classes != num_classes:
        raise ConfigError(f"dataset={dataset} has {space.num_classes} classes, but the model has {num_classes}")
    assumption = f"the {num_classes} classes are those of {dataset} (set dataset= for others)"
    return space, [] if options.dataset else [assumption]
