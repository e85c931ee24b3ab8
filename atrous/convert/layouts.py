"""How frameworks name the weights of a module and order their axes: PyTorch here, TensorFlow in its own system."""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple, TypeAlias

import numpy as np
from torch import nn

from atrous.convert.arrays import BESIDE, Array, Arrays, Shape

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


def _nothing_folded(module: nn.Module, names: Mapping[str, str], arrays: Arrays) -> Arrays:
    return arrays


def beside(*names: str) -> re.Pattern[str]:
    """Names of what may lie beside a model's weights, all of these among them."""
    counters = rf"(.*\.)?({BATCH_COUNTER}|_running_iter|_tmp_running_(mean|var))"  # of synchronised norms, too
    return re.compile("|".join((counters, f"{BESIDE}.*", *names)))


PYTORCH = Layout(_names, _shape, _same_axes, beside(), _nothing_folded)


def pooled_image_first(array: Array) -> Array:
    """The weights of ASPP's projection where the pooled image is the last of the branches: the first of ours."""
    return np.roll(array, len(array), axis=1)


def identity_norm(bias: Array, eps: float) -> dict[str, Array]:
    """The weights of a batch norm that adds the bias and does nothing else."""
    ones = np.ones_like(bias)
    return {"weight": ones, "bias": bias, "running_mean": 0 * ones, "running_var": (1 - eps) * ones}
