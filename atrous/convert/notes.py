"""What mmsegmentation notes beside its weights: its config, and the names and colours of its classes."""

from collections.abc import Mapping
from itertools import accumulate
from math import prod
from operator import mul
from typing import Any, NamedTuple

from atrous.convert.filling import shapes_of
from atrous.convert.readers.damage import DamagedError
from atrous.convert.readers.python_text import assignments
from atrous.convert.system import ForeignWeights
from atrous.convert.systems import mmsegmentation
from atrous.errors import ConversionError

CONFIGS = ("cfg", "config")  # version 1, version 0
CLASSES, COLORS = ("classes", "CLASSES"), ("palette", "PALETTE")
OF_HEAD = (
    *("num_classes", "align_corners", "pool_scales", "dilations", "recurrence"),
    *("psa_type", "mask_size", "shrink_factor"),
)
OF_BACKBONE = ("contract_dilation", "multi_grid", "style", "avg_down")
COLORS_OF_IMAGES = ("data_preprocessor", "img_norm_cfg")
ORDERS = ("bgr_to_rgb", "to_rgb")  # all of its programs read images as blue, green, red


class Strides(NamedTuple):
    """Of a backbone as it was designed."""

    stem: int
    stages: tuple[int, ...]


RESNET = Strides(4, (1, 2, 2, 2))
OTHERS = {"MobileNetV2": Strides(2, (1, 2, 2, 2, 1, 2, 1))}


def noted(weights: ForeignWeights, notes: Mapping[str, Any]) -> ForeignWeights:
    """With what the entry `meta` says, if the weights are mmsegmentation's."""
    meta = notes.get("meta")
    if not isinstance(meta, Mapping) or not mmsegmentation.recognised(shapes_of(weights.arrays)):
        return weights
    dataset = meta.get("dataset_meta")  # since version 1
    names, colors = (_first(dataset if isinstance(dataset, Mapping) else meta, keys) for keys in (CLASSES, COLORS))
    weights = weights._replace(class_names=_names(names), class_colors=_colors(colors))
    text = _first(meta, CONFIGS)
    if not isinstance(text, str):
        return weights
    try:
        return weights._replace(options=_options(assignments(text), weights.label))
    except DamagedError as error:
        return weights._replace(left_out=(*weights.left_out, f"its notes hold {error}, which was not read"))


def _first(tree: Mapping[str, Any], keys: tuple[str, ...]) -> Any:  # noqa: ANN401
    return next((tree[key] for key in keys if key in tree), None)


def _names(value: object) -> tuple[str, ...]:
    names = tuple(value) if isinstance(value, list | tuple) else ()
    return names if all(isinstance(name, str) and name.strip() and name.isprintable() for name in names) else ()


def _colors(value: object) -> tuple[tuple[int, int, int], ...]:
    colors = tuple(value) if isinstance(value, list | tuple) else ()
    return tuple((red, green, blue) for red, green, blue in colors) if all(map(_is_color, colors)) else ()


def _is_color(value: object) -> bool:
    is_triple = isinstance(value, list | tuple) and len(value) == 3
    return is_triple and all(isinstance(one, int) and 0 <= one <= 255 for one in value)  # type: ignore[attr-defined]


# ---- its config


def _options(config: Mapping[str, Any], label: str) -> dict[str, Any]:
    """The options that weights can't tell; what the config leaves out, the program's own defaults say."""
    model = _part(config, "model")
    backbone, head = _part(model, "backbone"), _part(model, "decode_head")
    images = next((part for name in COLORS_OF_IMAGES if (part := _part(config, name) or _part(model, name))), {})
    options = {name: head[name] for name in OF_HEAD if name in head}
    options |= {name: backbone[name] for name in OF_BACKBONE if name in backbone}
    options |= {name: images[name] for name in ("mean", "std") if name in images}
    options["bgr_to_rgb"] = _first(images, ORDERS)
    if backbone:
        options["output_stride"] = _output_stride(backbone, label)
    return {name: value for name, value in options.items() if value is not None}


def _output_stride(backbone: Mapping[str, Any], label: str) -> int:
    """Raises ConversionError for rates of stages that don't follow from it."""
    own = OTHERS.get(str(backbone.get("type")), RESNET)
    strides, rates = backbone.get("strides", own.stages), backbone.get("dilations", (1,) * len(own.stages))
    if not _are_small(strides) or len(strides) != len(own.stages):
        raise ConversionError(f"{label}: its config has strides={strides}, where {len(own.stages)} are expected")
    pairs = zip(accumulate(own.stages, mul), accumulate(strides, mul), strict=True)
    expected = tuple(max(1, whole // reached) for whole, reached in pairs)
    if rates != expected:
        raise ConversionError(
            f"{label}: its config has strides={strides}, dilations={rates}: with these strides, Atrous has {expected}"
        )
    return own.stem * int(prod(strides))


def _are_small(numbers: object) -> bool:
    return isinstance(numbers, tuple) and all(isinstance(one, int) and 1 <= one <= 4 for one in numbers)


def _part(tree: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = tree.get(name)
    return part if isinstance(part, Mapping) else {}
