"""TensorFlow's research/deeplab: DeepLab v2 to v3+, the dense prediction cell, Auto-DeepLab."""

from collections.abc import Mapping
from typing import Any

import torch

from atrous.convert.contract import Conversion, Source
from atrous.convert.filling import blank_model, require_known, validated
from atrous.convert.systems.tf_deeplab import graphs, recognise
from atrous.convert.systems.tf_deeplab.flags import CROPS, NAS, SCALES, Flags
from atrous.convert.systems.tf_deeplab.recognise import recognised
from atrous.convert.systems.tf_deeplab.weights import fill
from atrous.data import ade20k, cityscapes, voc
from atrous.data.label_space import LabelSpace, numbered_names
from atrous.inference import InferenceConfig
from atrous.models import Model, ModelConfig
from atrous.segmenter import Segmenter

__all__ = ["convert", "graphs", "recognised"]

DATASETS = {21: "pascal_voc_seg", 19: "cityscapes", 151: "ade20k"}  # by the number of classes
LABEL_SPACES = {
    "pascal_voc_seg": voc.VOC,
    "cityscapes": cityscapes.CITYSCAPES,
    "ade20k": ade20k.WITH_OTHER,
}


def convert(source: Source, options: Mapping[str, Any]) -> Conversion:
    """The model of these variables; `options` are the original's flags. Raises ValueError in one line."""
    flags = read_flags(options, source.label)
    shapes = {name: tuple(array.shape) for name, array in source.variables.items()}
    config = recognise.model_config(shapes, flags, source.hints, source.label)
    model, ignored = _filled(config, source)
    label_space, notes = _label_space(model.num_classes, flags)
    segmenter = Segmenter(model.eval(), label_space, _inference(flags, source))
    return Conversion(
        segmenter, "tf_deeplab", len(shapes) - len(ignored), ignored, [*_taken_on_trust(config, flags, source), *notes]
    )


def read_flags(options: Mapping[str, Any], label: str) -> Flags:
    require_known(options, [*Flags.model_fields, *CROPS, *SCALES, NAS], label)
    return validated(Flags, options, label)


def _filled(config: ModelConfig, source: Source) -> tuple[Model, list[str]]:
    """The model with the source's weights, made without drawing random ones first."""
    model = blank_model(config)
    if source.normalization is not None:
        model.shift, model.scale = (torch.full((3, 1, 1), value) for value in source.normalization)
    return model, fill(model, source.variables, source.label)


def _label_space(num_classes: int, flags: Flags) -> tuple[LabelSpace, list[str]]:
    dataset = flags.dataset or DATASETS.get(num_classes, "")
    space = LABEL_SPACES.get(dataset)
    if space is None:
        return LabelSpace(names=numbered_names(num_classes)), []
    if space.num_classes != num_classes:
        raise ValueError(f"dataset={dataset} has {space.num_classes} classes, the model {num_classes}")
    assumed = f"the {num_classes} classes are those of {dataset} (dataset=... tells otherwise)"
    return space, [] if flags.dataset else [assumed]


def _inference(flags: Flags, source: Source) -> InferenceConfig:
    """A network made for one size of images is fed that size."""
    canvas = flags.crop_size or source.input_size
    framed = {"mode": "canvas", "window": canvas} if canvas else {}
    return InferenceConfig(**framed, scales=flags.eval_scales, flip=flags.add_flipped_images)


def _taken_on_trust(config: ModelConfig, flags: Flags, source: Source) -> list[str]:
    """What the weights don't tell and nobody has said."""
    rates = getattr(getattr(config, "aspp", config), "rates", ())
    are_rates_told = rates == () or flags.atrous_rates or "atrous_rates" in source.hints
    beta = "; the released beta ResNets want 1,2,4" if config.backbone.name.endswith("_beta") else ""
    notes = {
        f"output_stride={config.output_stride} (the original's default)": flags.output_stride is None
        and "output_stride" not in source.hints,
        f"atrous_rates: {'those of the output stride' if rates is None else rates}": not are_rates_told,
        f"multi_grid=1,1,1 (the original's default{beta})": flags.multi_grid is None
        and config.backbone.name.startswith(("resnet", "xception")),
        f"multi_grid does nothing: {config.backbone.name} has none": flags.multi_grid is not None
        and "multi_grid" not in type(config.backbone).model_fields,
        "dense_prediction_cell_json: the released cell": config.name == "dense_prediction_cell"
        and flags.dense_prediction_cell_config is None,
        "image_pooling_crop_size, image_pooling_stride, image_se_uses_qsigmoid: the original's defaults; the released "
        "MobileNetV3 models want 769,769 and 4,5 and true": config.name == "lraspp"
        and flags.image_pooling_crop_size is None,
    }
    return [note for note, is_untold in notes.items() if is_untold]
