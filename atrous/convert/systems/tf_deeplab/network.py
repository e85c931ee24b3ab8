"""Which model a set of variables is, from their names and shapes, with flags for what these can't tell."""

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import nn

from atrous.backbones import BACKBONES, BackboneConfig, build_backbone
from atrous.backbones.mobilenet_edgetpu import MobileNetEdgeTPU
from atrous.backbones.mobilenet_v2 import MobileNetV2
from atrous.backbones.mobilenet_v3 import MobileNetV3
from atrous.backbones.nasnet import NASNETS
from atrous.convert.arrays import Shapes
from atrous.convert.filling import original_shapes, require_shapes
from atrous.convert.options import validated
from atrous.convert.system import ConfigFields, Deduction, listed
from atrous.convert.systems.tf_deeplab.head import FlagEvidence, Trunk, classifier_scope, deduced_head
from atrous.convert.systems.tf_deeplab.layout import TENSORFLOW
from atrous.convert.systems.tf_deeplab.scopes import ROOTS, backbone_rules
from atrous.errors import ConfigError, ConversionError

VARIANTS = {"nas_hnasnet": "auto_deeplab_s", "nas_pnasnet": "pnasnet"}  # model_variant -> row of BACKBONES, if another
NUM_LARGE = 15  # blocks of MobileNetV3 large; the small one has 11
ROUNDED_BY = 8  # channels, at most
WIDTHS = (1.0, 0.5, 0.75, 0.35, 1.4, 1.3, 0.25, *(step / 20 for step in range(1, 41)))  # depth multipliers, usual first


def recognised(shapes: Shapes) -> bool:
    roots = {root.scope for root in ROOTS.values()}
    return any(name.partition("/")[0] in roots for name in shapes)


def config(evidence: FlagEvidence) -> Deduction:
    _require_axes(evidence)
    name = _backbone(evidence)
    output_stride = _output_stride(evidence, name)
    backbone = validated(
        BACKBONES[name].Config, _backbone_fields(evidence, name, output_stride), evidence.label, ConfigError
    )
    plan = planned(backbone, output_stride)
    _require_backbone(evidence, name, plan.shapes)
    head = deduced_head(evidence, Trunk(ROOTS[name].scope, plan.channels, output_stride))
    merged = {} if head.fields["name"] == "image_classifier" else _merged_scales(evidence)
    return Deduction({"backbone": backbone, "output_stride": output_stride, **merged, **head.fields}, head.decided)


def _require_backbone(evidence: FlagEvidence, name: str, expected: Shapes) -> None:
    """Raises ConversionError: of another network where most shapes differ, else with the names of those that do."""
    present = [variable for variable in expected if variable in evidence.shapes]
    wrong = [variable for variable in present if evidence.shapes[variable] != expected[variable]]
    if 2 * len(wrong) > len(present):
        first = f"{wrong[0]} is {list(evidence.shapes[wrong[0]])}, not {list(expected[wrong[0]])}"
        raise ConversionError(
            f"{evidence.label}: another network under the names of {name}: {len(wrong)} of {len(present)} weights have "
            f"another shape, such as {first}"
        )
    require_shapes(expected, evidence.shapes, evidence.label)


def _merged_scales(evidence: FlagEvidence) -> ConfigFields:
    flags = evidence.options
    return {
        "align_corners": evidence.hints.convention == "aligned_corners",
        "half_pixel_centers": evidence.hints.convention != "legacy",
        "image_pyramid": flags.image_pyramid or (1.0,),
        "merge": "mean" if flags.merge_method == "avg" else "max",
    }


def _require_axes(evidence: FlagEvidence) -> None:
    """All networks here are fully convolutional."""
    for name, shape in evidence.shapes.items():
        if name.endswith("weights") and len(shape) != 4:
            raise ConversionError(
                f"{evidence.label}: {name} is {list(shape)}: a convolution's weights must have four axes"
            )


# ---- backbone


def _backbone(evidence: FlagEvidence) -> str:
    """Its row of BACKBONES."""
    scopes = {name.partition("/")[0] for name in evidence.shapes}
    if evidence.options.model_variant is not None:
        return _named_backbone(evidence, evidence.options.model_variant, scopes)
    label, present = evidence.label, listed(list(evidence.shapes))
    rows = [row for row, root in ROOTS.items() if root.scope in scopes and _is_row(row, root.scope, evidence.shapes)]
    if not rows:
        raise ConversionError(f"{label}: not a network of TensorFlow DeepLab: its variables are {present}")
    if len({ROOTS[row].scope for row in rows}) > 1:
        raise ConversionError(f"{label}: several networks at once; model_variant= picks one of {', '.join(rows)}")
    return rows[0]


def _named_backbone(evidence: FlagEvidence, variant: str, scopes: set[str]) -> str:
    row = VARIANTS.get(variant, variant)
    if row not in ROOTS:
        known = ", ".join(sorted({*VARIANTS, *(ROOTS.keys() - VARIANTS.values())}))
        raise ConfigError(f"model_variant={variant}: unknown; known: {known}")
    if ROOTS[row].scope not in scopes:
        scope, present = ROOTS[row].scope, listed(list(evidence.shapes))
        raise ConfigError(
            f"{evidence.label}: the variables of model_variant={variant} begin with {scope}/, but there are {present}"
        )
    return row


def _is_row(row: str, scope: str, shapes: Shapes) -> bool:
    """Whether these variables are of this row, among those with the same root scope."""
    if scope.startswith("resnet"):
        return row.endswith("_beta") == (f"{scope}/conv1_1/weights" in shapes)
    if scope == "MobilenetV3":
        is_large = f"{scope}/expanded_conv_{NUM_LARGE - 1}/project/weights" in shapes
        return is_large == ("large" in row)
    return True


def _default(backbone: str) -> BackboneConfig:
    return BACKBONES[backbone].Config(name=backbone)


def _output_stride(evidence: FlagEvidence, backbone: str) -> int:
    flag, possible = evidence.options.output_stride, _default(backbone).output_strides
    if flag is not None:
        if flag not in possible:
            known = " or ".join(map(str, possible))
            raise ConfigError(f"{evidence.label}: output_stride={flag}: {backbone} has {known}")
        return flag
    default = 32 if classifier_scope(evidence.shapes, ROOTS[backbone].scope) else 16
    stride = evidence.hints.output_stride or default
    if backbone == "pnasnet":  # its widths tell
        return min((stride, *possible), key=lambda stride: _num_pnasnet_misfits(evidence, stride))
    return stride if stride in possible else possible[0]


def _num_pnasnet_misfits(evidence: FlagEvidence, output_stride: int) -> int:
    fields = _backbone_fields(evidence, "pnasnet", output_stride)
    return _num_misfits(evidence, fields, output_stride)


def _seen_grid(evidence: FlagEvidence) -> tuple[int, ...] | None:
    """A graph's, unless it is that of the original's default."""
    grid = evidence.hints.multi_grid
    return None if grid is None or set(grid) == {1} else grid


def _backbone_fields(evidence: FlagEvidence, backbone: str, output_stride: int) -> ConfigFields:
    """The fields of its own config."""
    settings, flags = BACKBONES[backbone].Config.model_fields, evidence.options
    fields: ConfigFields = {"name": backbone, "bounded": flags.use_bounded_activation}
    if "multi_grid" in settings:
        fields["multi_grid"] = flags.multi_grid or _seen_grid(evidence)
    if "classification_head" in settings:
        has_head = evidence.has(f"{ROOTS[backbone].scope}/classification_head_conv/weights")
        flag = flags.nas_use_classification_head
        fields["classification_head"] = has_head if flag is None else flag
        fields["remove_stride_32"] = flags.nas_remove_os32_stride
        fields["drop_path"] = 1 - flags.drop_path_keep_prob
    if "depth_multiplier" in settings:
        fields |= _width(evidence, backbone, output_stride, fields)
    return fields | _as_in_file(evidence, fields, output_stride)


def _as_in_file(evidence: FlagEvidence, fields: ConfigFields, output_stride: int) -> ConfigFields:
    """What differs from the published networks: channels of the last convolution, and the rates in a graph."""
    config, hints = validated(BACKBONES[fields["name"]].Config, fields, evidence.label, ConfigError), evidence.hints
    own, last = planned(config, output_stride), f"{ROOTS[config.name].scope}/Conv_1/weights"
    changes: ConfigFields = {}
    if isinstance(config, MobileNetEdgeTPU.Config) and evidence.shapes.get(last):
        channels = evidence.shapes[last][-1]
        changes["last_channels"] = None if channels == own.channels["c5"] else channels
    stride = hints.output_stride
    as_graph = planned(config, stride).block_rates if stride in config.output_strides else None
    if as_graph and hints.block_rates not in (None, as_graph) and len(hints.block_rates) == len(as_graph):
        _require_its_stride(evidence, output_stride)
        changes["rates"] = hints.block_rates
    return changes


def _require_its_stride(evidence: FlagEvidence, output_stride: int) -> None:
    """Raises ConfigError: which rates would belong to another output stride isn't known."""
    if output_stride != evidence.hints.output_stride:
        raise ConfigError(
            f"{evidence.label}: output_stride={output_stride}, but its graph has rates of its own, "
            f"{evidence.hints.block_rates}, which are those of output_stride={evidence.hints.output_stride} alone"
        )


# ---- width


def _width(evidence: FlagEvidence, backbone: str, output_stride: int, fields: ConfigFields) -> ConfigFields:
    """The depth multiplier, and MobileNetV2's divisor, with which the fewest variables have another shape."""
    best: ConfigFields = {"depth_multiplier": evidence.options.depth_multiplier or 1.0}
    fewest = 1 << 30
    for width in _candidates(evidence, backbone):
        misfits = _num_misfits(evidence, {**fields, **width}, output_stride)
        if misfits < fewest:
            best, fewest = width, misfits
        if misfits == 0:
            break
    return best


def _num_misfits(evidence: FlagEvidence, fields: ConfigFields, output_stride: int) -> int:
    """How many variables would have another shape in a backbone with these fields."""
    config = validated(BACKBONES[fields["name"]].Config, fields, evidence.label, ConfigError)
    expected = planned(config, output_stride).shapes
    return sum(evidence.shapes.get(name, shape) != shape for name, shape in expected.items())


def _candidates(evidence: FlagEvidence, backbone: str) -> Iterator[ConfigFields]:
    flags, shapes = evidence.options, evidence.shapes
    first = f"{ROOTS[backbone].scope}/cell_0/1x1/weights"
    if first in shapes:  # F = 20 * multiplier, or half of it where the first cell is at stride 8 already
        filters = flags.nas_stem_output_num_conv_filters
        counts = [filters] if filters else [shapes[first][-1], shapes[first][-1] // 2]
        yield from ({"depth_multiplier": count / NASNETS[backbone].filters} for count in counts)
        return
    divisors = [flags.divisible_by] if flags.divisible_by else [None, 8]
    widths = [flags.depth_multiplier] if flags.depth_multiplier else _near_widths(shapes, backbone)
    has_divisor = "divisible_by" in BACKBONES[backbone].Config.model_fields
    for width in widths:
        for divisor in divisors:
            yield {"depth_multiplier": width, **({"divisible_by": divisor} if has_divisor else {})}


def _near_widths(shapes: Shapes, backbone: str) -> list[float]:
    stem = f"{ROOTS[backbone].scope}/Conv/weights"
    return widths_near(backbone, shapes[stem][-1] if shapes.get(stem) else None) or list(WIDTHS[:1])


def widths_near(backbone: str, channels: int | None) -> list[float]:
    """Those whose stem, before its channels are rounded, has about as many: trying all would take a second."""
    stem = f"{ROOTS[backbone].scope}/Conv/weights"
    full = planned(_default(backbone), _default(backbone).output_strides[0]).shapes[stem][-1]
    return [width for width in WIDTHS if abs(width * full - (channels or full)) <= ROUNDED_BY]


class Plan(NamedTuple):
    shapes: Shapes  # of the variables
    channels: Mapping[str, int]
    block_rates: tuple[int, ...]  # of its blocks, if it has some


@lru_cache(maxsize=256)  # building one takes a tenth of a second or more
def planned(config: BackboneConfig, output_stride: int) -> Plan:
    with torch.device("meta"):
        network = build_backbone(config, output_stride)
    shapes = original_shapes(network, backbone_rules(config.name), TENSORFLOW)
    return Plan(shapes, network.channels, tuple(_block_rates(network)))


def _block_rates(network: nn.Module) -> Iterator[int]:
    """Of the kernel in each block that isn't 1x1."""
    for block in network.blocks if isinstance(network, MobileNetV2 | MobileNetV3 | MobileNetEdgeTPU) else ():
        yield max(conv.dilation[0] for conv in block.modules() if isinstance(conv, nn.Conv2d))
