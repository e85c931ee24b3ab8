"""Builds a model without random weights, and fills it with those of another program."""

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from atrous import models
from atrous.convert.arrays import Array, Arrays, Shape, Shapes
from atrous.convert.layouts import Layout, Rules
from atrous.convert.system import Normalization, listed
from atrous.errors import ConversionError
from atrous.models import Model, ModelConfig

ROUNDED = 1e-5  # relative, of numbers in float32
NEAR = 0.02  # relative, of what is the same but for rounding
LARGEST_MEAN = 2.0  # of numbers that end at 1, with room
SMALLEST_STD = 2.5  # of bytes: smaller ones are of numbers that end at 1


def blank_model(config: ModelConfig, normalization: Normalization | None = None) -> Model:
    """The model with every learnt weight on the meta device, and everything else in place."""
    assert config.num_classes is not None
    with torch.device("meta"):
        model = models.build(config, config.num_classes)
    model.shift, model.scale = _normalization(model, normalization)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.num_batches_tracked = torch.tensor(0)
    return model


def _normalization(model: Model, normalization: Normalization | None) -> tuple[Tensor, Tensor]:
    """The backbone's own numbers, if a graph's differ from these by rounding only."""
    own: Normalization = (model.backbone.mean, model.backbone.std)
    numbers = own if normalization is None else in_bytes(normalization, range_of(model, normalization))
    numbers = own if np.allclose([*_colors(numbers)], own, rtol=ROUNDED) else numbers
    shift, scale = (torch.tensor(color).view(3, 1, 1) for color in _colors(numbers))
    return shift, scale


class Range(NamedTuple):
    """Pixels as a graph takes them: bytes are `factor` times these plus `summand`."""

    name: str
    factor: float
    summand: float


BYTES, UNIT, SIGNED = Range("0 to 255", 1, 0), Range("0 to 1", 255, 0), Range("-1 to 1", 127.5, 127.5)


def range_of(model: Model, normalization: Normalization) -> Range:
    """That with which the backbone's own numbers come out; else the one in which the mean can lie.

    A converter may move the scale into the first layer, so that bytes with a mean of 127.5 are divided by 1.
    """
    own = [model.backbone.mean, model.backbone.std]
    for one in (BYTES, UNIT, SIGNED):
        if np.allclose([*_colors(in_bytes(normalization, one))], own, rtol=NEAR, atol=1):
            return one
    shift, scale = normalization
    if max(map(abs, shift)) > LARGEST_MEAN or min(map(abs, scale)) > SMALLEST_STD:
        return BYTES
    return SIGNED if min(shift) < 0 else UNIT


def in_bytes(normalization: Normalization, pixels: Range) -> Normalization:
    shift, scale = normalization
    shifts = tuple(pixels.factor * one + pixels.summand for one in shift)
    return shifts, tuple(pixels.factor * one for one in scale)


def range_of_images(model: Model, normalization: Normalization | None) -> list[str]:
    """What is to be said of it."""
    pixels = BYTES if normalization is None else range_of(model, normalization)
    return [] if pixels is BYTES else [f"images reach the graph in {pixels.name}"]


def _colors(normalization: Normalization) -> Iterator[tuple[float, ...]]:
    """One number for each channel."""
    return (numbers * 3 if len(numbers) == 1 else numbers for numbers in normalization)


def shapes_of(arrays: Arrays) -> dict[str, Shape]:
    return {name: tuple(array.shape) for name, array in arrays.items()}


def original_shapes(module: nn.Module, rules: Rules, layout: Layout) -> dict[str, Shape]:
    """The module's weights, under the original's names and with their shapes there."""
    return _shapes(layout.names(module, rules), module.state_dict(), layout)


def _shapes(names: Mapping[str, str], state: Mapping[str, Tensor], layout: Layout) -> dict[str, Shape]:
    return {name: layout.shape(name, tuple(state[key].shape)) for key, name in names.items()}


def fill(model: Model, rules: Rules, layout: Layout, arrays: Arrays, label: str) -> list[str]:
    """Give the model its weights, and return the names of those that it doesn't use.

    Raises ConversionError with the names of the weights that are missing, have another shape, are not finite, or look
    like a part of a model and have no place in this one.
    """
    names, state = layout.names(model, rules), model.state_dict()
    arrays = layout.unfolded(model, names, arrays)
    require_all(_shapes(names, state, layout), shapes_of(arrays), label)
    unused = sorted(arrays.keys() - names.values())
    require_no_model_left([name for name in unused if not layout.leftovers.fullmatch(name)], label)
    _require_numbers(names.values(), arrays, label)
    tensors = {
        key: as_float32(layout.our_axes(name, arrays[name])).view(state[key].shape) for key, name in names.items()
    }
    assign(model, tensors, names, label)
    return unused


def _require_numbers(names: Iterable[str], arrays: Arrays, label: str) -> None:
    """Raises ConversionError for weights of 8 bits that stand for others: by which scale, the file doesn't say."""
    rounded = [name for name in names if arrays[name].dtype.kind in "iub" and arrays[name].dtype.itemsize == 1]
    if rounded:
        raise ConversionError(f"{label}: {_counted(rounded)} rounded to 8 bits, without a scale: {listed(rounded)}")


def as_float32(array: Array) -> Tensor:
    """A contiguous copy in its own memory."""
    with np.errstate(over="ignore"):  # what overflows becomes infinite, which `assign` refuses
        return torch.from_numpy(np.array(array, dtype=np.float32, order="C"))


def assign(model: Model, state: Mapping[str, Tensor], names: Mapping[str, str], label: str) -> None:
    """Make these tensors the model's weights; `names` are the original's. Raises ConversionError for NaN, infinity."""
    broken = [names[key] for key, tensor in state.items() if not tensor.isfinite().all()]
    if broken:
        raise ConversionError(f"{label}: {_counted(broken)} not finite in float32: {listed(broken)}")
    buffers = {key: value for key, value in model.state_dict().items() if key not in state}
    model.load_state_dict(dict(state) | buffers, assign=True)


def require_all(expected: Shapes, shapes: Shapes, label: str) -> None:
    missing = sorted(expected.keys() - shapes.keys())
    if missing:
        raise ConversionError(f"{label}: missing {_counted(missing)} of the model: {listed(missing)}")
    require_shapes(expected, shapes, label)


def require_shapes(expected: Shapes, shapes: Shapes, label: str) -> None:
    """Raises ConversionError with the names of those that are present with another shape."""
    wrong = [
        f"{name} is {list(shapes[name])}, not {list(shape)}"
        for name, shape in expected.items()
        if shapes.get(name, shape) != shape
    ]
    if wrong:
        raise ConversionError(f"{label}: {_counted(wrong)} of another shape than the model's: {listed(wrong)}")


def require_no_model_left(names: list[str], label: str) -> None:
    if names:
        raise ConversionError(
            f"{label}: {_counted(names)} without a place in the model that was recognised, or that the options "
            f"describe: {listed(names)}"
        )


def _counted(names: list[str]) -> str:
    return f"{len(names)} weight{'' if len(names) == 1 else 's'}"
