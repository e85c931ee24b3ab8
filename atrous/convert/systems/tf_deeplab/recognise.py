"""Which model a set of variables is, from their names and shapes, with flags for what these can't tell."""

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import torch

from atrous.backbones import BACKBONES, BackboneConfig, build_backbone
from atrous.backbones.nasnet import NASNETS
from atrous.convert.filling import Shapes, require_shapes, validated
from atrous.convert.systems.tf_deeplab import head
from atrous.convert.systems.tf_deeplab.flags import Flags
from atrous.convert.systems.tf_deeplab.names import ROOTS
from atrous.convert.systems.tf_deeplab.weights import backbone_shapes
from atrous.models import MODELS, ModelConfig, format_1

Settings = dict[str, Any]

VARIANTS = {"nas_hnasnet": "auto_deeplab_s", "nas_pnasnet": "pnasnet"}  # model_variant -> row of BACKBONES, if another
NUM_LARGE = 15  # blocks of MobileNetV3 large; the small one has 11
ROUNDED_BY = 8  # channels, at most
WIDTHS = (1.0, 0.5, 0.75, 0.35, 1.4, 1.3, 0.25, *(step / 20 for step in range(1, 41)))  # depth multipliers, usual first


def model_config(shapes: Shapes, flags: Flags, hints: Mapping[str, Any], label: str) -> ModelConfig:
    """The config of the one model that has these variables. Raises ValueError, in one line, if there is none."""
    _require_axes(shapes, label)
    backbone = _backbone(shapes, flags, label)
    scope = ROOTS[backbone].scope
    output_stride = _output_stride(backbone, shapes, flags, hints)
    settings: Settings = {"backbone": backbone, "output_stride": output_stride}
    settings["image_pyramid"] = flags.image_pyramid or (1.0,)
    settings["merge"] = "mean" if flags.merge_method == "avg" else "max"
    settings |= _options(backbone, shapes, flags, output_stride)
    plan = _planned(_as_config(backbone, settings), output_stride)
    require_shapes(plan.shapes, shapes, label)
    found = head.settings(head.Facts(shapes, flags, hints, scope, plan.channels, output_stride, label))
    return validated(MODELS[found["name"]].Config, {**settings, **found}, label)


def _require_axes(shapes: Shapes, label: str) -> None:
    """All networks here are fully convolutional."""
    wrong = next((name for name, shape in shapes.items() if name.endswith("weights") and len(shape) != 4), None)
    if wrong is not None:
        raise ValueError(f"{label}: {wrong} is {list(shapes[wrong])}: a convolution's weights have four axes")


# ---- backbone


def recognised(shapes: Shapes) -> bool:
    roots = {root.scope for root in ROOTS.values()}
    return any(name.partition("/")[0] in roots for name in shapes)


def _backbone(shapes: Shapes, flags: Flags, label: str) -> str:
    if flags.model_variant is not None:
        name = VARIANTS.get(flags.model_variant, flags.model_variant)
        if name not in ROOTS:
            known = ", ".join(sorted({*VARIANTS, *(ROOTS.keys() - VARIANTS.values())}))
            raise ValueError(f"model_variant={flags.model_variant}: unknown; known: {known}")
    scopes = {name.partition("/")[0] for name in shapes}
    if flags.model_variant is not None:
        if ROOTS[name].scope not in scopes:
            wanted = f"model_variant={flags.model_variant}, whose variables begin with {ROOTS[name].scope}/"
            raise ValueError(f"{label}: {wanted}, but none of its variables does: {_sample(shapes)}")
        return name
    rows = [row for row, root in ROOTS.items() if root.scope in scopes and _is_row(row, root.scope, shapes)]
    if not rows:
        raise ValueError(f"{label}: no network of TensorFlow DeepLab: its variables are {_sample(shapes)}")
    if len({ROOTS[row].scope for row in rows}) > 1:
        raise ValueError(f"{label}: several networks at once, where one is wanted: {', '.join(rows)}")
    return rows[0]


def _is_row(row: str, scope: str, shapes: Shapes) -> bool:
    """Tell rows of the same root scope apart."""
    if scope.startswith("resnet"):
        return row.endswith("_beta") == (f"{scope}/conv1_1/weights" in shapes)
    if scope == "MobilenetV3":
        is_large = f"{scope}/expanded_conv_{NUM_LARGE - 1}/project/weights" in shapes
        return is_large == ("large" in row)
    return True


def _output_stride(backbone: str, shapes: Shapes, flags: Flags, hints: Mapping[str, Any]) -> int:
    possible = BACKBONES[backbone].Config(name=backbone).output_strides
    default = 32 if head.classifier_scope(shapes, ROOTS[backbone].scope) else 16
    wanted = flags.output_stride or hints.get("output_stride") or default
    if backbone == "pnasnet" and flags.output_stride is None:  # whose widths tell
        found = {stride: _options(backbone, shapes, flags, stride) for stride in (wanted, *possible)}
        return min(found, key=lambda stride: _misfits(backbone, stride, found[stride], shapes))
    return possible[0] if flags.output_stride is None and wanted not in possible else wanted


def _options(backbone: str, shapes: Shapes, flags: Flags, output_stride: int) -> Settings:
    """What the backbone is built with beside its output stride."""
    takes, scope = BACKBONES[backbone].Config.model_fields, ROOTS[backbone].scope
    settings: Settings = {"bounded": flags.use_bounded_activation}
    if "multi_grid" in takes and flags.multi_grid is not None:
        settings["multi_grid"] = flags.multi_grid
    if "classification_head" in takes:
        found = f"{scope}/classification_head_conv/weights" in shapes
        settings["classification_head"] = (
            found if flags.nas_use_classification_head is None else (flags.nas_use_classification_head)
        )
        settings["remove_stride_32"] = flags.nas_remove_os32_stride
        settings["drop_path"] = 1 - flags.drop_path_keep_prob
    if "depth_multiplier" in takes:
        settings |= _width(backbone, shapes, flags, output_stride, settings)
    return settings


def _width(backbone: str, shapes: Shapes, flags: Flags, output_stride: int, settings: Settings) -> Settings:
    """The depth multiplier, and MobileNetV2's divisor, whose widths are those of the variables."""
    best, fewest = {"depth_multiplier": flags.depth_multiplier or 1.0}, 1 << 30
    for width in _candidates(backbone, shapes, flags):
        misfits = _misfits(backbone, output_stride, {**settings, **width}, shapes)
        if misfits < fewest:
            best, fewest = width, misfits
        if misfits == 0:
            break
    return best


def _misfits(backbone: str, output_stride: int, settings: Settings, shapes: Shapes) -> int:
    """How many variables of such a backbone have another shape."""
    wanted = _planned(_as_config(backbone, settings), output_stride).shapes
    return sum(shapes.get(name, shape) != shape for name, shape in wanted.items())


def _candidates(backbone: str, shapes: Shapes, flags: Flags) -> Iterator[Settings]:
    divisors = [flags.divisible_by] if flags.divisible_by else [None, 8]
    first = f"{ROOTS[backbone].scope}/cell_0/1x1/weights"
    if first in shapes:  # F = 20 * multiplier, or half of it where the first cell is at stride 8 already
        filters = flags.nas_stem_output_num_conv_filters
        counts = [filters] if filters else [shapes[first][-1], shapes[first][-1] // 2]
        yield from ({"depth_multiplier": count / NASNETS[backbone].filters} for count in counts)
        return
    widths = [flags.depth_multiplier] if flags.depth_multiplier else _near_widths(backbone, shapes)
    takes_divisor = "divisible_by" in BACKBONES[backbone].Config.model_fields
    for width in widths:
        for divisor in divisors if takes_divisor else [None]:
            yield {"depth_multiplier": width, "divisible_by": divisor}


def _near_widths(backbone: str, shapes: Shapes) -> list[float]:
    """Those whose stem, before its channels are rounded, is as wide as this one: to try all takes a second."""
    stem = f"{ROOTS[backbone].scope}/Conv/weights"
    whole_config = BACKBONES[backbone].Config(name=backbone)
    whole = _planned(whole_config, whole_config.output_strides[0]).shapes[stem][-1]
    found = shapes[stem][-1] if shapes.get(stem) else whole
    return [width for width in WIDTHS if abs(width * whole - found) <= ROUNDED_BY] or list(WIDTHS[:1])


class Plan(NamedTuple):
    shapes: Shapes  # of the variables
    channels: Mapping[str, int]


@lru_cache(maxsize=256)  # building takes long: a tenth of a second and more
def _planned(config: BackboneConfig, output_stride: int) -> Plan:
    with torch.device("meta"):
        network = build_backbone(config, output_stride)
    return Plan(backbone_shapes(network, config.name), network.channels)


def _as_config(backbone: str, settings: Settings) -> BackboneConfig:
    used = {name: settings[name] for name in format_1.BACKBONE if settings.get(name) is not None}
    tree = format_1.upgraded({"backbone": backbone, **used})
    return BACKBONES[backbone].Config.model_validate(tree["backbone"])


def _sample(shapes: Shapes) -> str:
    names = list(shapes)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "") if names else "none at all"
