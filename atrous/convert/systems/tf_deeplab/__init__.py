"""TensorFlow's research/deeplab: DeepLab v2 to v3+, the dense prediction cell, Auto-DeepLab."""

from atrous.convert.flow.agreement import Passes
from atrous.convert.label_spaces import numbered_label_space
from atrous.convert.system import Evidence, System
from atrous.convert.systems.tf_deeplab import network
from atrous.convert.systems.tf_deeplab.flags import Flags, unpacked
from atrous.convert.systems.tf_deeplab.layout import TENSORFLOW
from atrous.convert.systems.tf_deeplab.scopes import rules
from atrous.data import ade20k, cityscapes, voc
from atrous.data.label_space import LabelSpace
from atrous.errors import ConfigError
from atrous.inference import InferenceConfig
from atrous.models import ModelConfig
from atrous.models.deeplab_v2 import DeepLabV2
from atrous.models.deeplab_v3 import DeepLabV3
from atrous.models.deeplab_v3plus import DeepLabV3Plus

__all__ = ["SYSTEM"]

DATASETS = {21: "pascal_voc_seg", 19: "cityscapes", 151: "ade20k"}  # by the number of classes
LABEL_SPACES = {
    "pascal_voc_seg": voc.VOC,
    "cityscapes": cityscapes.CITYSCAPES,
    "ade20k": ade20k.WITH_OTHER,
}


def label_space(num_classes: int, flags: Flags) -> tuple[LabelSpace, list[str]]:
    dataset = flags.dataset or DATASETS.get(num_classes, "")
    space = LABEL_SPACES.get(dataset)
    if space is None:
        return numbered_label_space(num_classes), []
    if space.num_classes != num_classes:
        raise ConfigError(f"dataset={dataset} has {space.num_classes} classes, but the model has {num_classes}")
    assumption = f"the {num_classes} classes are those of {dataset} (set dataset= for others)"
    return space, [] if flags.dataset else [assumption]


def inference(evidence: Evidence[Flags], config: ModelConfig) -> InferenceConfig:
    """A network for images of one size gets images of that size."""
    flags = evidence.options
    canvas = flags.crop_size or evidence.input_size
    on_canvas = {"mode": "canvas", "window": canvas} if canvas else {}
    return InferenceConfig(**on_canvas, scales=flags.eval_scales, flip=flags.add_flipped_images)


def passes(flags: Flags) -> Passes:
    pyramid, num_views = flags.image_pyramid or (1.0,), 2 if flags.add_flipped_images else 1
    scales = tuple(one * other for one in flags.eval_scales for other in pyramid)
    number = len(scales) * num_views
    if len(pyramid) > 1:
        return Passes(number, "max of logits" if flags.merge_method == "max" else "mean of logits", scales=scales)
    return Passes(number, "mean of probabilities", flags.add_flipped_images, scales)


def assumptions(evidence: Evidence[Flags], config: ModelConfig) -> dict[str, bool]:
    flags, hints, backbone, rates = evidence.options, evidence.hints, config.backbone.name, _rates(config)
    has_grid = "multi_grid" in type(config.backbone).model_fields
    beta = "; the released beta ResNets need 1,2,4" if backbone.endswith("_beta") else ""
    is_cell, is_light = config.name == "dense_prediction_cell", config.name == "lraspp"
    return {
        f"output_stride={config.output_stride} (the original's default)": not (
            flags.output_stride or hints.output_stride
        ),
        f"atrous_rates: {'those of the output stride' if rates is None else rates}": not (
            rates == () or flags.atrous_rates or hints.atrous_rates
        ),
        f"multi_grid=1,1,1 (the original's default{beta})": has_grid
        and flags.multi_grid is None
        and hints.multi_grid is None,
        f"multi_grid has no effect on {backbone}": not has_grid and flags.multi_grid is not None,
        "dense_prediction_cell_json: the released cell": is_cell
        and flags.dense_prediction_cell_config is None
        and hints.output_stride is None,
        "image_pooling_crop_size, image_pooling_stride, image_se_uses_qsigmoid: the original's defaults; the released "
        "MobileNetV3 models need 769,769 and 4,5 and true": is_light
        and flags.image_pooling_crop_size is None
        and hints.pooling is None,
    }


def _rates(config: ModelConfig) -> tuple[int, ...] | None:
    """None if they follow from the output stride, () if there are none."""
    if isinstance(config, DeepLabV3.Config | DeepLabV3Plus.Config):
        return config.aspp.rates
    return config.rates if isinstance(config, DeepLabV2.Config) else ()


SYSTEM = System(
    network.recognised,
    Flags,
    network.config,
    rules,
    assumptions,
    inference,
    label_space=label_space,
    layout=TENSORFLOW,
    unpacked=unpacked,
    runtime_options=("output_stride", "atrous_rates", "image_pooling_crop_size", "image_pooling_stride"),
    graph_options=(
        ("use_bounded_activation", True),
        ("image_se_uses_qsigmoid", True),
        ("nas_remove_os32_stride", True),
    ),
    passes=passes,
)
