"""The backbones, by the names of their papers. A new one of a known family is a row of that family's table."""

from difflib import get_close_matches

from atrous.backbones.contract import Backbone, Entry
from atrous.backbones.mobilenet_v2 import MobileNetV2
from atrous.backbones.resnet import RESNETS, ResNet, Row


def _resnet(row: Row) -> Entry:
    return Entry(lambda output_stride, _, grid: ResNet(row, output_stride, grid), num_grid=row.blocks[-1])


__all__ = ["BACKBONES", "Backbone", "build_backbone", "check_backbone"]

BACKBONES: dict[str, Entry] = {
    "mobilenet_v2": Entry(lambda output_stride, width, _: MobileNetV2(output_stride, width), has_width=True),
    **{name: _resnet(row) for name, row in RESNETS.items()},
}


def check_backbone(name: str, depth_multiplier: float = 1.0, multi_grid: tuple[int, ...] | None = None) -> None:
    """Raises ValueError, with what would be right, if there is no such backbone or it can't be had like this."""
    if name not in BACKBONES:
        nearest = get_close_matches(name, BACKBONES, 1)
        meant = f"did you mean {nearest[0]}? " if nearest else ""
        raise ValueError(f"unknown backbone {name!r}: {meant}known: {', '.join(BACKBONES)}")
    entry = BACKBONES[name]
    if depth_multiplier != 1 and not entry.has_width:
        able = ", ".join(other for other, row in BACKBONES.items() if row.has_width)
        raise ValueError(
            f"depth_multiplier {depth_multiplier} is not for {name}, which has one width; it is for {able}"
        )
    if multi_grid is not None and not entry.num_grid:
        able = ", ".join(other for other, row in BACKBONES.items() if row.num_grid)
        raise ValueError(f"multi_grid {multi_grid} is not for {name}; it is for {able}")
    if multi_grid is not None and len(multi_grid) != entry.num_grid:
        raise ValueError(
            f"multi_grid {multi_grid}: the last stage of {name} has {entry.num_grid} units, each needs one"
        )


def build_backbone(
    name: str, output_stride: int, depth_multiplier: float = 1.0, multi_grid: tuple[int, ...] | None = None
) -> Backbone:
    """A row of BACKBONES with fresh weights; raises ValueError as `check_backbone`."""
    check_backbone(name, depth_multiplier, multi_grid)
    return BACKBONES[name].build(output_stride, depth_multiplier, multi_grid)
