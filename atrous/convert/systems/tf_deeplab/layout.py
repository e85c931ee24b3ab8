"""TensorFlow's layout: which variables are in a scope, the order of their axes, and batch norms that were folded."""

import re
from collections.abc import Iterator, Mapping

import numpy as np
from torch import nn

from atrous.convert.arrays import Array, Arrays
from atrous.convert.layouts import NORM_LEAVES, Layout, Rules, as_our_kernel, kernel_shape, rename, require_name

# Slots of optimisers, averages, counters, and the ranges of 8-bit training.
LEFTOVERS = re.compile(
    r"(.*/)?(global_step|Momentum|(Adam|Adadelta|Ftrl|RMSProp)(_1)?|Adagrad|adam_[mv]|ExponentialMovingAverage|"
    r"beta[12]_power|\w*quant(/.*)?|biased|local_step|fake_quantization_step|save_counter|current_loss_scale|good_steps)"
)


def variables(module: nn.Module, rules: Rules) -> dict[str, str]:
    """The variable for each entry of the state dict that a training changes (not for `shift` and `scale`)."""
    return {
        f"{path}.{leaf}": variable
        for path, part in module.named_modules()
        for leaf, variable in _variables_of(path, part, rules)
    }


def _variables_of(path: str, module: nn.Module, rules: Rules) -> Iterator[tuple[str, str]]:
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        scope = rename(path, rules) or f"{_layer_scope(path, rules)}/BatchNorm"
        yield from ((leaf, f"{scope}/{name}") for leaf, name in NORM_LEAVES.items())
    elif isinstance(module, nn.Conv2d):
        scope = rename(path, rules) or _layer_scope(path, rules)
        yield "weight", scope if scope.endswith("weights") else f"{scope}/{_weights_name(module)}"
        if module.bias is not None:
            yield "bias", f"{scope}/biases"


def _weights_name(conv: nn.Conv2d) -> str:
    return "depthwise_weights" if conv.groups == conv.in_channels > 1 else "weights"


def _layer_scope(path: str, rules: Rules) -> str:
    """The scope of the layer that a convolution (`.conv`) or a batch norm (`.norm`) belongs to."""
    return require_name(path.rpartition(".")[0], rules)


# ---- folded batch norms


def _unfolded(module: nn.Module, names: Mapping[str, str], arrays: Arrays) -> Arrays:
    """Replaces a batch norm that was folded into its convolution with one that only shifts, by the convolution's bias.

    Its mean is 0, its variance 1, and its scale cancels epsilon.
    """
    unfolded = dict(arrays)
    for path, norm in module.named_modules():
        if isinstance(norm, nn.modules.batchnorm._BatchNorm):
            variables = {leaf: names[f"{path}.{leaf}"] for leaf in NORM_LEAVES}
            bias = _bias_of(variables["weight"])
            if bias in arrays and not arrays.keys() & variables.values():
                parts = _only_shifting(unfolded.pop(bias), norm.eps)
                unfolded |= {variables[leaf]: array for leaf, array in parts.items()}
    return unfolded


def _bias_of(norm_variable: str) -> str:
    return norm_variable.rsplit("/", 2)[0] + "/biases"


def _only_shifting(bias: Array, eps: float) -> dict[str, Array]:
    ones = np.ones(bias.shape, np.float32)
    scale = np.sqrt(ones + np.float32(eps))
    return {"weight": scale, "bias": bias, "running_mean": 0 * ones, "running_var": ones}


TENSORFLOW = Layout(variables, kernel_shape, as_our_kernel, LEFTOVERS, _unfolded)
