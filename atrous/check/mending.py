"""`--fix OUT`: a corrected copy of a data set, in the layout `folder`; the original is only read.

Labels are written as PNG with the numbers of the classes, images byte by byte where nothing is wrong with them. What
can't be mended is left out, and said. The copy is made beside OUT and renamed when it is whole.
"""

import json
import os
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import PIL.Image
from numpy.typing import NDArray
from rich.console import Console

from atrous.check.evidence import Evidence
from atrous.check.facts import Content, Facts, Meaning, content
from atrous.check.looks import size_mismatch
from atrous.check.regions import SPECK, Mask, climbing, dilated, interior, region_numbers, snapped
from atrous.check.sources import AllSplits
from atrous.check.verdicts import Verdict
from atrous.data.contract import DataConfig
from atrous.data.image_files import unpack
from atrous.data.label_space import LabelSpace
from atrous.data.loader import read_each
from atrous.data.pairing import IMAGE_SUFFIXES
from atrous.data.pixels import Codes
from atrous.errors import ConfigError, DataError
from atrous.files import beside, prepare_output, remove_leftovers, user_path, write_atomically
from atrous.progress import counting
from atrous.trees import to_yaml
from atrous.types import Color, LabelMap

NAMES = ("train", "val")  # of the copy's splits
RECORD = "mended.json"  # what was changed, and what was left out
NOISE = 40  # of each of a colour's values: JPEG adds more at edges only
NOT_A_CLASS = 255  # written where a code has no meaning, before such labels are refused
UNREAD = "it can't be used"


class Plan(NamedTuple):
    """What becomes of each image."""

    left_out: Mapping[int, str]  # why
    targets: Mapping[int, str]  # place in the copy, without suffix: train/street/a


class Mended(NamedTuple):
    number: int  # of the image, among all
    changes: tuple[str, ...]


def require_new(path: Path, config: DataConfig) -> None:
    """Refuse a place that holds something, or that lies within the data set, before anything is read."""
    path = user_path(path)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ConfigError(f"--fix {path}: it is there already; name a new folder")
    root = None if config.root is None else user_path(config.root).resolve()
    if root is not None and root in (path.resolve(), *path.resolve().parents):
        raise ConfigError(f"--fix {path}: it lies within the data set {root}; name a folder elsewhere")
    prepare_output(path.absolute().parent)


def write(path: Path, evidence: Evidence, samples: AllSplits, workers: int, console: Console) -> str:
    """Write the copy, and say what it holds."""
    path = user_path(path).absolute()
    plan = planned(evidence)
    if not plan.targets:
        return f"no mended copy: none of {len(evidence.facts)} images with their labels can be mended"
    remove_leftovers(path.parent)
    aside = beside(path)
    try:
        changes = _write_images(aside, evidence, samples, plan, workers, console)
        write_atomically(aside / "classes.yaml", to_yaml(_classes(evidence.space)))
        write_atomically(aside / RECORD, json.dumps(_record(evidence, plan, changes), indent=1) + "\n")
        if path.is_dir():
            path.rmdir()  # it is empty
        aside.rename(path)
    except OSError as error:
        raise OSError(error.errno, f"cannot write {path}: {error.strerror}") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return _summary(path, plan, changes)


def _summary(path: Path, plan: Plan, changes: Sequence[Mended]) -> str:
    number = Counter(target.partition("/")[0] for target in plan.targets.values())
    content = ", ".join(f"{name} {number[name]:,}" for name in NAMES if number[name])
    changed = sum(bool(one.changes) for one in changes)
    left_out = f", {len(plan.left_out):,} left out" if plan.left_out else ""
    return f"mended copy: {path} ({content}; {changed:,} changed{left_out}: see {RECORD} in it)"


# ---- the plan


def planned(evidence: Evidence) -> Plan:
    left_out = {index: reason for index, one in enumerate(evidence.facts) if (reason := _reason(evidence, index, one))}
    left_out |= {item.image: item.text for item in size_mismatch(evidence).items if item.image is not None}
    left_out = _copies(evidence, left_out)
    targets: dict[int, str] = {}
    for index in range(len(evidence.facts)):
        if index not in left_out:
            targets[index] = _target(evidence, index, set(targets.values()))
    return Plan(left_out, targets)


def _reason(evidence: Evidence, index: int, one: Facts) -> str:
    """Why an image can't be in the copy; "" if it can."""
    verdict = evidence.verdicts[index]
    if one.problems or one.image is None or one.label is None:
        return one.problems[0].text if one.problems else UNREAD
    if one.instances is not None and (
        one.instances.crossing or one.instances.largest >= evidence.space.panoptic_divisor
    ):
        return "its instances can't be used"
    if verdict.classes is None:
        return verdict.text or UNREAD
    codes = [code for code in one.label.counts if code in verdict.classes]
    ignored = {evidence.space.ignore, NOT_A_CLASS}
    return "" if {verdict.classes[code] for code in codes} - ignored else "all its pixels are ignored"


def _copies(evidence: Evidence, left_out: Mapping[int, str]) -> dict[int, str]:
    """Also without copies: of two in one split the second one, of two in different splits that in the training."""
    result = dict(left_out)
    for first, second, likeness in evidence.alike:
        if likeness == "frames" or first in result or second in result:
            continue
        is_across = evidence.split_of[first] != evidence.split_of[second]
        index, other = (first, second) if is_across else (second, first)
        result[index] = f"the same image as {evidence.split_of[other]}/{evidence.facts[other].name}"
    return result


def _target(evidence: Evidence, index: int, taken: set[str]) -> str:
    """Within the copy, whatever the name: that of a list may be a path of its own."""
    split = NAMES[min(evidence.splits.index(evidence.split_of[index]), len(NAMES) - 1)]
    parts = [part for part in Path(evidence.facts[index].name).parts if part not in ("..", ".", os.sep)]
    target = "/".join((split, *parts))
    return target if target not in taken else "/".join((split, *parts[:-1], f"{index}_{parts[-1]}"))


# ---- writing


def _write_images(
    place: Path, evidence: Evidence, samples: AllSplits, plan: Plan, workers: int, console: Console
) -> list[Mended]:
    changes = []
    indices = list(plan.targets)
    write_one = partial(_write_one, place, samples, evidence.space, evidence.verdicts, plan.targets, indices)
    with counting("writing images", len(indices), console) as advance:
        for _, mended in read_each(write_one, range(len(indices)), min(workers, len(indices) // 16)):
            changes.append(mended)
            advance(1)
    return changes


def _write_one(
    place: Path,
    samples: AllSplits,
    space: LabelSpace,
    verdicts: Sequence[Verdict],
    targets: Mapping[int, str],
    indices: Sequence[int],
    number: int,
) -> Mended:
    index = indices[number]
    part, place_in_part = samples.place(index)
    read = content(part, place_in_part)
    if read.pixels is None or read.codes is None:
        raise DataError(f"{read.name} has changed since it was checked")
    image = _write_image(place / "images" / targets[index], read, part, place_in_part)
    labels = mended_labels(read.codes, verdicts[index], space)
    _save(labels, place / "masks" / f"{targets[index]}.png")
    if read.instance is not None:
        _save(read.instance.astype(np.uint16), place / "instances" / f"{targets[index]}.png")
    return Mended(index, (*image, *verdicts[index].kinds, *_rotation(read)))


def _rotation(read: Content) -> tuple[str, ...]:
    is_turned = read.label_header is not None and read.header is not None
    return ("exif-rotation",) if is_turned and read.label_header.orientation != read.header.orientation else ()  # type: ignore[union-attr]


def _write_image(target: Path, read: Content, samples: object, index: int) -> tuple[str, ...]:
    """Byte by byte, or, if its pixels aren't upright RGB, as PNG of the pixels that are read; says what was changed."""
    pairs = getattr(samples, "pairs", None)
    header, source = read.header, None if pairs is None else pairs[index].image
    is_plain = header is not None and header.mode == "RGB" and not header.is_deep and header.orientation == 1
    if source is not None and is_plain and source.suffix.lower() in IMAGE_SUFFIXES:
        copy = target.with_name(target.name + source.suffix.lower())
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, copy)
        return ()
    assert read.pixels is not None
    _save(read.pixels, target.with_name(f"{target.name}.png"))
    return () if header is None else (f"image of mode {header.mode}, orientation {header.orientation}, as upright RGB",)


def _save(pixels: NDArray[np.uint8], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(pixels).save(path)


def mended_labels(codes: Codes, verdict: Verdict, space: LabelSpace) -> NDArray[np.uint8]:  # [H, W]
    """The numbers of the classes. Pixels between two labels get the nearest one beside them."""
    assert verdict.classes is not None
    if verdict.is_smoothed and codes.is_colored:
        codes = codes._replace(values=_without_noise(codes, verdict.classes))
    values = codes.values.astype(np.int64)
    if verdict.is_smoothed:
        values = snapped(values, _levels(codes), _sure(codes, list(verdict.classes)))
        numbers, sizes = region_numbers(values)
        values = snapped(values, _levels(codes), sizes[numbers] > SPECK)  # what compression has left
    labels = np.full(values.shape, space.ignore if space.ignore <= 255 else NOT_A_CLASS, np.uint8)
    for code, index in verdict.classes.items():
        labels[values == code] = min(index, 255)
    return labels


def _without_noise(codes: Codes, classes: Meaning) -> LabelMap:
    """Colours that differ from that of a class no more than JPEG's noise does become one colour of that class."""
    values, levels = codes.values.astype(np.int64), _levels(codes)
    code_of = {index: code for code, index in reversed(list(classes.items()))}
    distance = np.full(values.shape, NOISE + 1)
    for code, index in classes.items():
        away = abs(levels - np.array(unpack(code))).max(axis=-1)
        values[away < distance], distance = code_of[index], np.minimum(distance, away)
    return values


def _levels(codes: Codes) -> NDArray[np.int64]:  # [H, W, K]
    values = codes.values.astype(np.int64)
    return (
        np.stack([values & 255, values >> 8 & 255, values >> 16 & 255], -1) if codes.is_colored else values[..., None]
    )


def _sure(codes: Codes, solid: Sequence[int]) -> Mask:
    """The pixels whose code is one that was drawn; beside a slope between others, only those in a square of 3 x 3."""
    slope = codes.values if not codes.is_colored else _levels(codes).sum(axis=-1)
    return np.isin(codes.values, solid) & (~dilated(climbing(slope)) | dilated(interior(codes.values)))


# ---- beside the images


def _classes(space: LabelSpace) -> dict[str, object]:
    """What classes.yaml says of the copy."""
    colors: list[Color] = [(red, green, blue) for red, green, blue in space.palette()[: space.num_classes].tolist()]
    is_colored = bool(space.colors) and len(set(colors)) == len(colors)
    ignore = space.ignore if space.ignore <= 255 else NOT_A_CLASS
    tree: dict[str, object] = {"names": list(space.names), "ignore": ignore}
    tree |= {"things": [space.names[index] for index in space.things]} if space.things else {}
    return tree | ({"colors": [list(color) for color in colors]} if is_colored else {})


def _record(evidence: Evidence, plan: Plan, changes: Sequence[Mended]) -> dict[str, object]:
    def name(index: int) -> str:
        return f"{evidence.split_of[index]}/{evidence.facts[index].name}"

    return {
        "changed": {name(one.number): list(one.changes) for one in changes if one.changes},
        "left_out": {name(index): reason for index, reason in plan.left_out.items()}
        | {f"{split}/{item}": complaint.text for split, complaint in evidence.complaints for item in complaint.names},
    }
