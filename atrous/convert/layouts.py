"""How frameworks name the weights of a module and order their axes: PyTorch here, TensorFlow in its own system."""

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import NamedTuple, TypeAlias

import numpy as np
from torch import nn

from atrous.convert.arrays import BESIDE, Array, Arrays, Shape, Shapes

Rules: TypeAlias = tuple[tuple[str, str], ...]  # (pattern of our module's whole path, its name in the original)

BATCH_COUNTER = "num_batches_tracked"
CLASSIFIER = "fc.weight"  # ImageNet's: a matrix in the original, a 1x1 convolution here


class Layout(NamedTuple):
    """A framework's conventions, by which rules become names of weights and its arrays become ours."""

    names: Callable[[nn.Module, Rules], dict[str, str]]  # from the keys of our state dict, without our own buffers
    shape: Callable[[str, Shape], Shape]  # the original's shape of a weight, by its name there and our shape
    our_axes: Callable[[str, Array], Array]  # a weight of the original, its axes in our order
    leftovers: re.Pattern[str]  # names of what a training saves besides the model
    unfolded: Callable[[nn.Module, Mapping[str, str], Arrays], Arrays]  # batch norms that an exporter folded, restored


def rename(path: str, rules: Rules) -> str | None:
    """The name that the first matching rule gives to a module."""
    return next((re.sub(pattern, name, path) for pattern, name in rules if re.fullmatch(pattern, path)), None)


def require_name(path: str, rules: Rules) -> str:
    name = rename(path, rules)
    assert name is not None, f"no rule names {path}"
    return name


# ---- PyTorch


def _names(module: nn.Module, rules: Rules) -> dict[str, str]:
    return dict(_named(module, rules))


def _named(module: nn.Module, rules: Rules) -> Iterator[tuple[str, str]]:
    for key in module.state_dict():
        path, _, leaf = key.rpartition(".")
        if path and leaf != BATCH_COUNTER:
            yield key, f"{require_name(path, rules)}.{leaf}"


def _shape(name: str, shape: Shape) -> Shape:
    return shape[:2] if name == CLASSIFIER else shape


def _same_axes(name: str, array: Array) -> Array:
    return array


def nothing_folded(module: nn.Module, names: Mapping[str, str], arrays: Arrays) -> Arrays:
    return arrays


def beside(*names: str) -> re.Pattern[str]:
    """Names of what may lie beside a model's weights, all of these among them."""
    counters = rf"(.*\.)?({BATCH_COUNTER}|_running_iter|_tmp_running_(mean|var))"  # of synchronised norms, too
    return re.compile("|".join((counters, f"{BESIDE}.*", *names)))


PYTORCH = Layout(_names, _shape, _same_axes, beside(), nothing_folded)


# ---- Keras


NORM_LEAVES = {  # a batch norm's
    "weight": "gamma",
    "bias": "beta",
    "running_mean": "moving_mean",
    "running_var": "moving_variance",
}


def leaves(module: nn.Module) -> dict[str, str]:
    """What Keras calls the weights of a layer, by our own names; {} of what isn't a layer with weights."""
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        return NORM_LEAVES
    if not isinstance(module, nn.Conv2d):
        return {}
    is_depthwise = module.groups == module.in_channels > 1
    kernel = {"weight": "depthwise_kernel" if is_depthwise else "kernel"}
    return kernel if module.bias is None else {**kernel, "bias": "bias"}


def kernel_axes(name: str) -> Shape:
    """TensorFlow's order of our axes (out, in, height, width): HWIM for a depthwise kernel, else HWIO."""
    return (2, 3, 0, 1) if name.endswith(("depthwise_kernel", "depthwise_weights")) else (2, 3, 1, 0)


def kernel_shape(name: str, shape: Shape) -> Shape:
    return tuple(shape[axis] for axis in kernel_axes(name)) if len(shape) == 4 else shape


def as_our_kernel(name: str, array: Array) -> Array:
    return array.transpose(np.argsort(kernel_axes(name))) if array.ndim == 4 else array


def _keras_names(module: nn.Module, rules: Rules) -> dict[str, str]:
    return {
        f"{path}.{ours}": f"{require_name(path, rules)}/{theirs}"
        for path, part in module.named_modules()
        for ours, theirs in leaves(part).items()
    }


KERAS = Layout(_keras_names, kernel_shape, as_our_kernel, re.compile(r"(?!)"), nothing_folded)


# ---- a single class

ONE_LOGIT = "its single logit is that of class 1, by a sigmoid"


def has_one_logit(shapes: Shapes, layers: Iterable[str]) -> bool:
    """Whether one of these layers has a single output."""
    return any(shapes.get(f"{name}.weight", (0,))[0] == 1 for name in layers)


def with_two_classes(arrays: Arrays, layers: Collection[str]) -> Arrays:
    """A single logit of these layers is that of class 1, against 0 of class 0: a sigmoid is the softmax of both."""
    names = [name for name in arrays if name.rpartition(".")[0] in layers and len(arrays[name]) == 1]
    return {**arrays, **{name: np.stack([0 * arrays[name][0], arrays[name][0]]) for name in names}}


def two_classes_of(*layers: str) -> Callable[[nn.Module, Mapping[str, str], Arrays], Arrays]:
    return lambda module, names, arrays: with_two_classes(arrays, layers)


# ---- channels


def pooled_image_first(array: Array) -> Array:
    """The weights of ASPP's projection where the pooled image is the last of the branches: the first of ours."""
    return np.roll(array, len(array), axis=1)


def identity_norm(bias: Array, eps: float) -> dict[str, Array]:
    """The weights of a batch norm that adds the bias and does nothing else."""
    ones = np.ones_like(bias)
    return {"weight": ones, "bias": bias, "running_mean": 0 * ones, "running_var": (1 - eps) * ones}
