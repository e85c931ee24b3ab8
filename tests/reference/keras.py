"""Goldens of bonlime's program in Keras, and files as each version of Keras writes them."""

import io
import json
import re
import zipfile
from collections import Counter
from collections.abc import Mapping
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any

import h5py
from numpy.typing import NDArray

from tests.reference import deeplab2
from tests.reference.pytorch_programs import Golden, read_golden

GOLDENS = Path(__file__).parents[1] / "goldens" / "keras"
CASES = sorted(path.stem for path in GOLDENS.glob("*.npz"))
Arrays = Mapping[str, NDArray[Any]]
Described = tuple[str, str, dict[str, Any]]  # a layer: name, class, arguments
KINDS = {"kernel": "Conv2D", "depthwise_kernel": "DepthwiseConv2D", "gamma": "BatchNormalization"}  # by first weight
OLD = "_layer_checkpoint_dependencies"  # of Keras 2.12


@cache
def golden(case: str) -> Golden:
    return read_golden(GOLDENS / f"{case}.npz")


def seeded_weights(case: str) -> Arrays:
    """By layer and weight, such as `Conv/kernel`."""
    return deeplab2.seeded_weights(golden(case).shapes)


def by_layer(arrays: Arrays) -> dict[str, dict[str, Any]]:
    groups = groupby(arrays, key=lambda name: name.partition("/")[0])
    return {layer: {name.partition("/")[2]: arrays[name] for name in names} for layer, names in groups}


# ---- files


def write_named(path: Path, arrays: Arrays, config: Mapping[str, Any] | None = None, suffix: str = ":0") -> Path:
    """As Keras 1 and 2, or Keras 3 without a suffix, write `.h5`; with a config, a whole model."""
    layers = by_layer(arrays)
    with h5py.File(path, "w") as file:
        if config is not None:
            file.attrs["model_config"] = json.dumps(config).encode()
        root = file if config is None else file.create_group("model_weights")
        root.attrs["layer_names"] = [name.encode() for name in ("input_1", *layers)]
        root.create_group("input_1").attrs["weight_names"] = []
        for layer, weights in layers.items():
            group = root.create_group(layer)
            names = [f"{layer}/{weight}{suffix}" for weight in weights]
            group.attrs["weight_names"] = [name.encode() for name in names]
            for name, array in zip(names, weights.values(), strict=True):
                group[name] = array
    return path


def write_numbered(target: Path | io.BytesIO, arrays: Arrays, *, named: bool = True, root: str = "layers") -> None:
    """As Keras 3 writes `.weights.h5`; archives of Keras 2 don't name the layers."""
    groups = _groups(arrays)
    with h5py.File(target, "w") as file:
        for group, (layer, weights) in zip(groups, by_layer(arrays).items(), strict=True):
            variables = file.create_group(f"{root}/{group}/vars")
            if named:
                variables.attrs["name"] = layer
            for number, array in enumerate(weights.values()):
                variables[str(number)] = array


def _groups(arrays: Arrays) -> list[str]:
    counts: Counter[str] = Counter()
    groups = []
    for weights in by_layer(arrays).values():
        kind = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", KINDS[next(iter(weights))]).lower().replace("conv2_d", "conv2d")
        groups.append(f"{kind}_{counts[kind]}" if counts[kind] else kind)
        counts[kind] += 1
    return groups


def write_archive(path: Path, arrays: Arrays, config: Mapping[str, Any], **layout: Any) -> Path:  # noqa: ANN401
    """As Keras writes `.keras`."""
    content = io.BytesIO()
    write_numbered(content, arrays, **layout)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("metadata.json", "{}")
        archive.writestr("config.json", json.dumps(config))
        archive.writestr("model.weights.h5", content.getvalue())
    return path


def config_of(arrays: Arrays, *others: Described) -> dict[str, Any]:
    """A model's description: its layers with weights, and others by name, class and arguments."""
    weighted: list[Described] = [(layer, KINDS[next(iter(weights))], {}) for layer, weights in by_layer(arrays).items()]
    settings = {name: (kind, arguments) for name, kind, arguments in (*weighted, *others)}
    layers = [
        {"class_name": kind, "config": {"name": name, **arguments}} for name, (kind, arguments) in settings.items()
    ]
    return {"class_name": "Functional", "config": {"name": "deeplabv3plus", "layers": layers}}
