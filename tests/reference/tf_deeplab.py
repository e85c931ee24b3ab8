"""TensorFlow DeepLab's goldens, and the weights for them: a seeded formula on the original's names."""

import gzip
import json
import math
import re
import zlib
from collections.abc import Callable, Mapping
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from atrous.convert.systems.tf_deeplab.layout import variables
from atrous.convert.systems.tf_deeplab.scopes import rules
from atrous.models import Model

GOLDENS = Path(__file__).parents[1] / "goldens" / "tf_deeplab"
CASES: dict[str, dict[str, Any]] = json.loads((GOLDENS / "models.json").read_text(encoding="utf-8"))
Shape = tuple[int, ...]
Shapes = dict[str, Shape]
Arrays = Mapping[str, NDArray[Any]]

LIST_OF = {  # by case, a list of variables; CHANGES may change it
    **dict.fromkeys(("mnv2_v3_os16_65", "mnv2_v3_os8_65", "mnv2_v3_os16_even64x80", "mnv2_imgpool_crop33"), "mnv2_v3"),
    **dict.fromkeys(("mnv2_v3plus_os16_65x97", "mnv2_ms_flip", "mnv2_pyramid_05_1_max"), "mnv2_v3plus"),
    "mnv2_dm05_os16_65": "mnv2_dm05",
    "mnv2_dec_multilevel_8_4": "mnv2_dec_8_4",
    "mnv2_nocrop_globalpool": "mnv2_dec_nosep",
    "mnv2_v2style_aspp_sum": "r50_v2sum",
    **dict.fromkeys(("r50_v3_os16_65", "r50_v3_os16_even64x80"), "r50_v3"),
    "r50b_v3plus_os8_65": "r50b_v3plus",
    "r101b_v3plus_os16_65": "r101b_v3plus",
    "r18b_os16_65": "r18b",
    **dict.fromkeys(
        ("x65_v3plus_os16_65", "x65_v3plus_os8_65", "x65_v3plus_os16_even64x80", "x65_bounded_os16_65"), "x65_v3plus"
    ),
    "x41_v3plus_os16_65": "x41_v3plus",
    **dict.fromkeys(("x71_dpc_os16_65", "x71_dpc_os8_65"), "x71_dpc"),
    "mnv3_large_os32_65x97": "mnv3_large",
    "mnv3_small_os32_65x97": "mnv3_small",
    "edgetpu_os16_65": "edgetpu",
    "hnas_os8_65": "hnas",
    "pnas_os16_65": "pnas",
}
# Flags that variables don't decide.
UNDECIDED = frozenset(
    {
        "output_stride",
        "atrous_rates",
        "multi_grid",
        "image_pooling_crop_size",
        "image_pooling_stride",
        "image_se_uses_qsigmoid",
        "use_bounded_activation",
        "dense_prediction_cell_config",
        "image_pyramid",
        "eval_scales",
        "add_flipped_images",
    }
)


@cache
def variable_lists() -> dict[str, Shapes]:
    """Name and shape of each variable of 31 networks, as the original program listed them."""
    with gzip.open(GOLDENS / "variables.json.gz") as file:
        lists: dict[str, dict[str, list[int]]] = json.load(file)
    return {key: {name: tuple(shape) for name, shape in shapes.items()} for key, shapes in lists.items()}


def variables_of(case: str) -> Shapes:
    shapes = variable_lists()[LIST_OF[case]]
    return CHANGES[case](shapes) if case in CHANGES else shapes


def without(shapes: Shapes, *prefixes: str) -> Shapes:
    return {name: shape for name, shape in shapes.items() if not name.startswith(prefixes)}


def dense_pyramid(shapes: Shapes) -> Shapes:
    """ASPP's separable convolutions as plain ones."""
    changed = {}
    for name, shape in shapes.items():
        if re.match(r"aspp\d_pointwise/", name):
            size = (3, 3, *shape[2:]) if name.endswith("weights") else shape
            changed[name.replace("_pointwise", "")] = size
        elif not re.match(r"aspp\d_depthwise/", name):
            changed[name] = shape
    return changed


def thin_decoder(shapes: Shapes) -> Shapes:
    """With the decoder of ResNet-50 beta, fed by the 64 channels of ResNet-18."""
    others = variable_lists()["r50b_v3plus"]
    decoder = {name: shape for name, shape in others.items() if name.startswith("decoder/")}
    return {**shapes, **decoder, "decoder/feature_projection0/weights": (1, 1, 64, 48)}


CHANGES: dict[str, Callable[[Shapes], Shapes]] = {
    "mnv2_nocrop_globalpool": lambda shapes: without(shapes, "decoder/"),
    "r50_v3_os16_65": dense_pyramid,
    "r18b_os16_65": thin_decoder,
}


def flags_of(case: str) -> dict[str, Any]:
    """The original's flags for a case, including those that its weights decide."""
    settings = CASES[case]
    flags = {name: settings[name] for name in ("output_stride", "atrous_rates", "decoder_output_stride")}
    flags |= {name: settings[name] for name in ("num_classes", "image_pyramid", "eval_scales")}
    renamed = {
        "model_variant": settings["variant"],
        "crop_size": settings["crop"],
        "add_flipped_images": settings["flip"],
    }
    return {**flags, **renamed, **settings["options"]}


def seeded_variables(case: str) -> Arrays:
    """A checkpoint of the case; read-only, because consecutive cases share it."""
    return _seeded_variables(tuple(variables_of(case).items()))


@lru_cache(maxsize=1)
def _seeded_variables(shapes: tuple[tuple[str, Shape], ...]) -> Arrays:
    arrays = {name: seeded(name, shape) for name, shape in shapes}
    for array in arrays.values():
        array.flags.writeable = False
    return arrays


def names(model: Model) -> dict[str, str]:
    """The original's variable for each weight of a model."""
    return variables(model, rules(model.config))


def checkpoint(model: Model) -> dict[str, NDArray[np.float32]]:
    """The weights of a model as the original would have saved them."""
    state = model.state_dict()
    return {name: _to_tf(name, state[key].numpy()) for key, name in names(model).items()}


def folded_checkpoint(model: Model) -> dict[str, NDArray[np.float32]]:
    """As an exporter writes it: each batch norm folded into the weights and a bias of the convolution before it."""
    arrays = checkpoint(model)
    eps = {path: norm.eps for path, norm in model.named_modules() if isinstance(norm, nn.BatchNorm2d)}
    variables = names(model)
    for path in eps:
        scope = variables[f"{path}.weight"].removesuffix("/BatchNorm/gamma")
        gamma, beta, mean, variance = (
            arrays.pop(f"{scope}/BatchNorm/{leaf}").astype(np.float64)
            for leaf in ("gamma", "beta", "moving_mean", "moving_variance")
        )
        factor = gamma / np.sqrt(variance + eps[path])
        weights = next(f"{scope}/{leaf}" for leaf in ("weights", "depthwise_weights") if f"{scope}/{leaf}" in arrays)
        spread = factor[:, None] if weights.endswith("depthwise_weights") else factor
        arrays[weights] = (arrays[weights] * spread).astype(np.float32)
        arrays[f"{scope}/biases"] = (beta - mean * factor).astype(np.float32)
    return arrays


def _to_tf(name: str, array: NDArray[np.float32]) -> NDArray[np.float32]:
    return array.transpose(tf_axes(name)) if array.ndim == 4 else array


def seeded(name: str, shape: Shape) -> NDArray[np.float32]:
    """The formula of specs/tf-deeplab.md, section 10; `shape` as TensorFlow orders it."""
    random, leaf = np.random.RandomState(zlib.crc32(name.encode())), name.rsplit("/", 1)[-1]
    if leaf in ("gamma", "moving_variance"):
        return random.uniform(0.5, 1.5, shape).astype(np.float32)
    if leaf in ("beta", "moving_mean", "biases"):
        return (0.1 * random.standard_normal(shape)).astype(np.float32)
    fan_in = math.prod(shape[:2] if leaf == "depthwise_weights" else shape[:-1])
    return (random.standard_normal(shape) / math.sqrt(fan_in)).astype(np.float32)


def tf_axes(name: str) -> tuple[int, ...]:
    """TensorFlow's order of our axes (out, in, height, width): HWIM for a depthwise kernel, else HWIO."""
    return (2, 3, 0, 1) if name.endswith("depthwise_weights") else (2, 3, 1, 0)


def listing(model: Model) -> dict[str, Shape]:
    """Name and shape of each variable, in TensorFlow's order of axes."""
    state = model.state_dict()
    return {name: _tf_shape(name, state[key]) for key, name in names(model).items()}


def _tf_shape(name: str, tensor: Tensor) -> Shape:
    return tuple(tensor.shape[axis] for axis in tf_axes(name)) if tensor.ndim == 4 else tuple(tensor.shape)


def load_seeded(model: Model) -> None:
    state = model.state_dict()
    for key, name in names(model).items():
        value = torch.from_numpy(seeded(name, _tf_shape(name, state[key])))
        if value.ndim == 4:
            value = value.permute(*np.argsort(tf_axes(name)).tolist())
        state[key].copy_(value)


def golden_image(case: str) -> Tensor:  # [1, 3, H, W] uint8
    pixels = np.random.RandomState(1234).randint(0, 256, (1, *CASES[case]["crop"], 3)).astype(np.uint8)
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)


def golden_logits(case: str, name: str = "merged_logits") -> Tensor:  # [1, C, h, w]
    with np.load(GOLDENS / f"{case}.npz") as golden:
        return torch.from_numpy(golden[name]).permute(0, 3, 1, 2)
