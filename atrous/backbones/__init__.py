"""The backbones, by the names of their papers. A new one of a known family is a row of that family's table."""

from difflib import get_close_matches

from atrous.backbones.contract import Backbone, Entry, Options
from atrous.backbones.icnet import ICNETS, ICNetBackbone
from atrous.backbones.icnet import Row as ICNetRow
from atrous.backbones.mobilenet_edgetpu import MobileNetEdgeTPU
from atrous.backbones.mobilenet_v2 import MobileNetV2
from atrous.backbones.mobilenet_v3 import MOBILENETS, MobileNetV3, Network
from atrous.backbones.nasnet import NASNETS, NASNet, Searched
from atrous.backbones.resnet import RESNETS, ResNet, Row
from atrous.backbones.vgg import VGG, VGGS
from atrous.backbones.vgg import Row as VGGRow
from atrous.backbones.xception import XCEPTIONS, Xception
from atrous.backbones.xception import Row as XceptionRow

__all__ = ["BACKBONES", "Backbone", "Options", "build_backbone", "check_backbone"]


def _resnet(row: Row) -> Entry:
    def build(output_stride: int, options: Options) -> Backbone:
        return ResNet(row, output_stride, options.multi_grid)

    return Entry(build, num_grid=row.blocks[-1])


def _vgg(row: VGGRow) -> Entry:
    return Entry(lambda output_stride, options: VGG(row), output_strides=(8,))


def _icnet(row: ICNetRow) -> Entry:
    return Entry(lambda output_stride, options: ICNetBackbone(row), output_strides=(32,))


def _xception(row: XceptionRow) -> Entry:
    def build(output_stride: int, options: Options) -> Backbone:
        return Xception(row, output_stride, options.multi_grid, options.bounded)

    return Entry(build, takes=frozenset({"bounded"}), num_grid=3)


def _mobilenet_v2(output_stride: int, options: Options) -> Backbone:
    return MobileNetV2(output_stride, options.depth_multiplier, options.divisible_by)


def _mobilenet_v3(network: Network) -> Entry:
    def build(output_stride: int, options: Options) -> Backbone:
        return MobileNetV3(network, output_stride, options.depth_multiplier)

    return Entry(build, takes=frozenset({"depth_multiplier"}))


def _mobilenet_edgetpu(output_stride: int, options: Options) -> Backbone:
    return MobileNetEdgeTPU(output_stride, options.depth_multiplier)


def _nasnet(found: Searched) -> Entry:
    def build(output_stride: int, options: Options) -> Backbone:
        return NASNet(
            found,
            output_stride,
            options.depth_multiplier,
            classification_head=options.classification_head,
            remove_stride_32=options.remove_stride_32,
            drop_path=options.drop_path,
        )

    takes = frozenset({"depth_multiplier", "classification_head", "remove_stride_32", "drop_path"})
    return Entry(build, takes, output_strides=tuple(found.levels))


PLAIN = Options()
BACKBONES: dict[str, Entry] = {
    "mobilenet_v2": Entry(_mobilenet_v2, takes=frozenset({"depth_multiplier", "divisible_by"})),
    **{name: _mobilenet_v3(network) for name, network in MOBILENETS.items()},
    "mobilenet_edgetpu": Entry(_mobilenet_edgetpu, takes=frozenset({"depth_multiplier"})),
    **{name: _resnet(row) for name, row in RESNETS.items()},
    **{name: _xception(row) for name, row in XCEPTIONS.items()},
    **{name: _vgg(row) for name, row in VGGS.items()},
    **{name: _icnet(row) for name, row in ICNETS.items()},
    **{name: _nasnet(found) for name, found in NASNETS.items()},
}


def check_backbone(name: str, output_stride: int = 8, options: Options = PLAIN) -> None:
    """Raises ValueError, with what would be right, if there is no such backbone or it can't be had like this."""
    if name not in BACKBONES:
        nearest = get_close_matches(name, BACKBONES, 1)
        meant = f"did you mean {nearest[0]}? " if nearest else ""
        raise ValueError(f"unknown backbone {name!r}: {meant}known: {', '.join(BACKBONES)}")
    strides = BACKBONES[name].output_strides
    if output_stride not in strides:
        raise ValueError(f"output_stride {output_stride} is not for {name}, which has {' or '.join(map(str, strides))}")
    for option, value in options._asdict().items():
        if value != Options._field_defaults[option] and not _takes(BACKBONES[name], option):
            able = ", ".join(other for other, row in BACKBONES.items() if _takes(row, option))
            raise ValueError(f"{option} {value} is not for {name}; it is for {able}")
    grid, units = options.multi_grid, BACKBONES[name].num_grid
    if grid is not None and len(grid) != units:
        raise ValueError(f"multi_grid {grid}: the last stage of {name} has {units} units, each needs one")


def _takes(entry: Entry, option: str) -> bool:
    if option == "multi_grid":
        return entry.num_grid > 0
    return option in entry.takes or option == "bounded"  # which the heads take in any case


def build_backbone(name: str, output_stride: int, options: Options = PLAIN) -> Backbone:
    """A row of BACKBONES with fresh weights; raises ValueError as `check_backbone`."""
    check_backbone(name, output_stride, options)
    return BACKBONES[name].build(output_stride, options)
