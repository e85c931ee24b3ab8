"""torchvision's DeepLab v3 and FCN, and the ImageNet ResNets that they begin with."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from pydantic import PositiveInt

from atrous.convert.contract import Array, Conversion, Source
from atrous.convert.filling import PUBLISHED, Shapes, blank_model, published_classes, require_known, validated
from atrous.convert.naming import Rules, count_modules, fill, require_agreement, require_shape, stages
from atrous.models import MODELS, ModelConfig
from atrous.segmenter import Segmenter
from atrous.settings import Settings as FrozenSettings

Settings = dict[str, Any]

PROGRAM = "torchvision"
PLAIN_STEM = (64, 3, 7, 7)
BACKBONES = {  # by whether units are bottlenecks, and their number in layer3
    (False, 2): "resnet18",
    (False, 6): "resnet34",
    (True, 6): "resnet50",
    (True, 23): "resnet101",
    (True, 36): "resnet152",
}
PROJECTION = "classifier.0.project.0.weight"
COMMON: Settings = {"output_stride": 8, "align_corners": False}


def _rules(prefix: str, heads: Rules) -> Rules:
    stem = ((r"backbone\.stem\.0\.conv", f"{prefix}conv1"), (r"backbone\.stem\.0\.norm", f"{prefix}bn1"))
    return (*stem, *stages(prefix), *heads)


def _fcn_head(ours: str, theirs: str) -> Rules:
    parts = ((r"conv\.conv", 0), (r"conv\.norm", 1), ("classify", 4))
    return tuple((rf"{ours}\.{part}", f"{theirs}.{place}") for part, place in parts)


RULES: dict[str, Rules] = {
    "image_classifier": _rules("", (("classify", "fc"),)),
    "fcn": _rules("backbone.", (*_fcn_head("head", "classifier"), *_fcn_head("auxiliary", "aux_classifier"))),
    "deeplab_v3": _rules(
        "backbone.",
        (
            (r"aspp\.branches\.(\d)\.conv", r"classifier.0.convs.\1.0"),
            (r"aspp\.branches\.(\d)\.norm", r"classifier.0.convs.\1.1"),
            (r"aspp\.image_pooling\.conv", "classifier.0.convs.4.1"),
            (r"aspp\.image_pooling\.norm", "classifier.0.convs.4.2"),
            (r"aspp\.projection\.conv", "classifier.0.project.0"),
            (r"aspp\.projection\.norm", "classifier.0.project.1"),
            (r"refine\.conv", "classifier.1"),
            (r"refine\.norm", "classifier.2"),
            ("classify", "classifier.4"),
            *_fcn_head("auxiliary", "aux_classifier"),
        ),
    ),
}
MODEL_NAMES = {"deeplab_v3": "deeplabv3_", "fcn": "fcn_", "image_classifier": ""}  # before the backbone's


class Options(FrozenSettings):
    """The arguments of its reference scripts that weights tell; None: whatever they tell."""

    model: str | None = None  # deeplabv3_resnet50
    num_classes: PositiveInt | None = None


def recognised(shapes: Shapes) -> bool:
    is_segmenter = "backbone.conv1.weight" in shapes and "classifier.4.weight" in shapes
    return is_segmenter or (shapes.get("conv1.weight") == PLAIN_STEM and "layer1.0.conv1.weight" in shapes)


def convert(source: Source, options: Mapping[str, Any]) -> Conversion:
    """The model of these weights. Raises ValueError in one line."""
    require_known(options, Options.model_fields, source.label)
    read = validated(Options, options, source.label)
    config = model_config({name: array.shape for name, array in source.variables.items()}, read, source.label)
    model = blank_model(config)
    arrays = _our_axes(source.variables)
    ignored = fill(model, RULES[config.name], arrays, source.label)
    label_space, notes = published_classes(model.num_classes, {21: PUBLISHED[21]})
    return Conversion(Segmenter(model.eval(), label_space), PROGRAM, len(arrays) - len(ignored), ignored, notes)


def model_config(shapes: Shapes, options: Options, label: str) -> ModelConfig:
    """The config of the one model that has these weights. Raises ValueError, in one line, if there is none."""
    found = _head(shapes, label)
    prefix = "" if found["name"] == "image_classifier" else "backbone."
    backbone = _backbone(shapes, prefix, label)
    told = {"model": f"{MODEL_NAMES[found['name']]}{backbone}", "num_classes": found["num_classes"]}
    require_agreement(options.model_dump(), told, label)
    return validated(MODELS[found["name"]].Config, {"backbone": backbone, **found}, label)


def _backbone(shapes: Shapes, prefix: str, label: str) -> str:
    units = count_modules(shapes, f"{prefix}layer3.")
    has_bottlenecks = f"{prefix}layer1.0.conv3.weight" in shapes
    if (has_bottlenecks, units) not in BACKBONES:
        kind = "bottlenecks" if has_bottlenecks else "units of two convolutions"
        raise ValueError(f"{label}: {units} {kind} in layer3, as no ResNet has; known: {', '.join(BACKBONES.values())}")
    return BACKBONES[has_bottlenecks, units]


def _head(shapes: Shapes, label: str) -> Settings:
    def outputs(name: str) -> int:
        return require_shape(shapes, name, PROGRAM, label)[0]

    if "conv1.weight" in shapes:
        return {"name": "image_classifier", "output_stride": 32, "num_classes": outputs("fc.weight")}
    second = outputs("aux_classifier.0.weight") if "aux_classifier.0.weight" in shapes else None
    found = {**COMMON, "num_classes": outputs("classifier.4.weight"), "auxiliary_channels": second}
    if PROJECTION not in shapes:
        return {"name": "fcn", "head_channels": outputs("classifier.0.weight"), **found}
    pyramid = {"rates": (12, 24, 36), "separable": False, "dropout": 0.5, "norm_eps": 1e-5}
    widths = {"aspp_channels": outputs(PROJECTION), "head_channels": outputs("classifier.1.weight")}
    return {"name": "deeplab_v3", **pyramid, **widths, **found}


def _our_axes(variables: Mapping[str, Array]) -> dict[str, Array]:
    """The image's mean is the last there, not the first of the branches joined."""
    arrays = dict(variables)
    if PROJECTION in arrays and arrays[PROJECTION].ndim == 4:
        joined = arrays[PROJECTION]
        arrays[PROJECTION] = np.roll(joined, len(joined), axis=1)
    return arrays
