"""What a file of Keras says of its layers, beside what the model has: weights fit more than one network."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from atrous.convert.readers.keras import Layer
from atrous.errors import ConversionError
from atrous.models import Model

NEAR = 0.01  # relative: TensorFlow raises an epsilon of 1e-5 a little
NORM = nn.modules.batchnorm._BatchNorm
COMPARED: dict[str, tuple[type[nn.Module], Callable[[Any], object]]] = {  # by argument: of which modules, and theirs
    "strides": (nn.Conv2d, lambda module: module.stride),
    "dilation_rate": (nn.Conv2d, lambda module: module.dilation),
    "epsilon": (NORM, lambda module: module.eps),
}


def require_layers(model: Model, names: Mapping[str, str], layers: Mapping[str, Layer], label: str) -> None:
    """Raises ConversionError for the first layer with another stride, rate or epsilon; `names` are the original's."""
    modules = {names[key].rpartition("/")[0]: key.rpartition(".")[0] for key in names if layers}
    for name in modules.keys() & layers.keys():
        module, settings = model.get_submodule(modules[name]), layers[name].settings
        for argument, (kind, own) in COMPARED.items():
            if isinstance(module, kind) and argument in settings and not _is_same(settings[argument], own(module)):
                raise ConversionError(f"{label}: {name} has {argument} {settings[argument]}, the model {own(module)}")


def _is_same(theirs: Any, ours: Any) -> bool:  # noqa: ANN401 - numbers, or pairs of them
    if isinstance(ours, float):
        return isinstance(theirs, int | float) and math.isclose(theirs, ours, rel_tol=NEAR)
    return list(theirs) == list(ours) if isinstance(theirs, list | tuple) else (theirs, theirs) == tuple(ours)
