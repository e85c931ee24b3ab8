"""From the original's variables to a model's state, and what is left of them."""

import re
from collections.abc import Iterator, Mapping

import numpy as np
from torch import Tensor, nn

from atrous.backbones import Backbone
from atrous.convert.contract import Array
from atrous.convert.filling import Shape, as_float32, assign, require_all, require_no_model_left
from atrous.convert.systems.tf_deeplab.names import backbone_variables, variables
from atrous.models import Model

# What a training leaves beside the model: slots of optimisers, averages, counters, ranges of 8-bit training.
LEFT_BY_TRAINING = re.compile(
    r"(.*/)?(global_step|Momentum|Adam|Adam_1|RMSProp|RMSProp_1|ExponentialMovingAverage|beta[12]_power|"
    r"\w*quant(/.*)?|biased|local_step)"
)


def tf_axes(variable: str) -> Shape:
    """Which of our axes (out, in, height, width) are TensorFlow's: HWIM for a depthwise kernel, else HWIO."""
    return (2, 3, 0, 1) if variable.endswith("depthwise_weights") else (2, 3, 1, 0)


def tf_shape(variable: str, shape: Shape) -> Shape:
    return tuple(shape[axis] for axis in tf_axes(variable)) if len(shape) == 4 else tuple(shape)


def to_tensor(variable: str, array: Array) -> Tensor:
    """A TensorFlow variable in our order of axes, float32, with memory of its own."""
    ours = np.argsort(tf_axes(variable)) if array.ndim == 4 else None
    return as_float32(array.transpose(ours))


def backbone_shapes(backbone: Backbone, row: str) -> dict[str, Shape]:
    return _shapes(backbone, backbone_variables(backbone, row))


def shapes_of(model: Model) -> dict[str, Shape]:
    """Each variable that the model is made of, with its shape."""
    return _shapes(model, variables(model))


def _shapes(module: nn.Module, names: Mapping[str, str]) -> dict[str, Shape]:
    state = module.state_dict()
    return {name: tf_shape(name, tuple(state[key].shape)) for key, name in names.items()}


def fill(model: Model, arrays: Mapping[str, Array], label: str) -> list[str]:
    """Give the model its weights; returns the variables that were of no use, all of them left by a training.

    Where a batch norm has been folded into its convolution, a bias stands in its place: it becomes the shift of a
    batch norm of mean 0 and variance 1 that changes nothing else. Raises ValueError with the names of what is
    missing, of another shape, not finite, or of no use though it looks like a part of the model.
    """
    names = variables(model)
    given = dict(arrays) | dict(_unfolded(model, names, arrays))
    require_all(_shapes(model, names), {name: array.shape for name, array in given.items()}, label)
    used = set(names.values()) | {_bias_of(name) for name in names.values() if name not in arrays}
    ignored = sorted(given.keys() - used)
    require_no_model_left([name for name in ignored if not LEFT_BY_TRAINING.fullmatch(name)], label)
    state = {key: to_tensor(name, given[name]) for key, name in names.items()}
    assign(model, state, names, label)
    return ignored


def _bias_of(norm_variable: str) -> str:
    return norm_variable.rsplit("/", 2)[0] + "/biases"


def _unfolded(model: Model, names: Mapping[str, str], arrays: Mapping[str, Array]) -> Iterator[tuple[str, Array]]:
    """The four variables of each batch norm that has a bias in its place."""
    for path, module in model.named_modules():
        if not isinstance(module, nn.modules.batchnorm._BatchNorm):
            continue
        gamma, beta, mean, variance = (
            names[f"{path}.{leaf}"] for leaf in ("weight", "bias", "running_mean", "running_var")
        )
        bias = arrays.get(_bias_of(gamma))
        if bias is None or {gamma, beta, mean, variance} & arrays.keys():
            continue
        ones = np.ones(bias.shape, np.float32)
        yield from ((mean, 0 * ones), (variance, ones), (beta, bias))
        yield gamma, np.sqrt(ones + np.float32(module.eps))
