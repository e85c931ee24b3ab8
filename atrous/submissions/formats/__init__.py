"""The files that the benchmarks' servers take: a row of SUBMISSIONS is a file beside this one, of the same name."""

from atrous.submissions.contract import Format
from atrous.submissions.formats import (
    ade20k,
    cityscapes_instance,
    cityscapes_panoptic,
    cityscapes_pixel,
    coco_instances,
    coco_panoptic,
    voc,
)

SUBMISSIONS: dict[str, Format] = {
    "ade20k": ade20k.SCENE_PARSING,
    "cityscapes_instance": cityscapes_instance.CITYSCAPES_INSTANCE,
    "cityscapes_panoptic": cityscapes_panoptic.CITYSCAPES_PANOPTIC,
    "cityscapes_pixel": cityscapes_pixel.CITYSCAPES_PIXEL,
    "coco_instances": coco_instances.COCO_INSTANCES,
    "coco_panoptic": coco_panoptic.COCO_PANOPTIC_RESULTS,
    "voc": voc.VOC_SEGMENTATION,
}
