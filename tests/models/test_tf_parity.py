"""Our networks compute what TensorFlow DeepLab computed from the same weights: those that a seeded formula makes."""

import json
import math
import re
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from atrous.models import MODELS, Model, build

GOLDENS = Path(__file__).parents[1] / "goldens" / "tf_deeplab"
CASES: dict[str, dict[str, Any]] = json.loads((GOLDENS / "models.json").read_text(encoding="utf-8"))
LEAVES = {
    "norm.weight": "BatchNorm/gamma",
    "norm.bias": "BatchNorm/beta",
    "norm.running_mean": "BatchNorm/moving_mean",
    "norm.running_var": "BatchNorm/moving_variance",
    "depthwise.conv.weight": "depthwise_weights",
    "conv.weight": "weights",
}
RULES = [  # our layer, its name in the checkpoint
    (r"backbone\.stem", "MobilenetV2/Conv"),
    (r"backbone\.blocks\.0\.(\w+)", r"MobilenetV2/expanded_conv/\1"),
    (r"backbone\.blocks\.(\d+)\.(\w+)", r"MobilenetV2/expanded_conv_\1/\2"),
    (r"aspp\.image_pooling", "image_pooling"),
    (r"aspp\.branches\.0", "aspp0"),
    (r"aspp\.branches\.(\d)\.(\w+)", r"aspp\1_\2"),
    (r"aspp\.projection", "concat_projection"),
    (r"low_level", "decoder/feature_projection0"),
    (r"decoder\.(\d)\.(\w+)", r"decoder/decoder_conv\1_\2"),
]


def _tf_name(key: str) -> str:
    if key.startswith("classify."):
        return {"weight": "logits/semantic/weights", "bias": "logits/semantic/biases"}[key.split(".")[1]]
    layer, kind, leaf = key.rsplit(".", 2)
    pattern, name = next(rule for rule in RULES if re.fullmatch(rule[0], layer))
    depthwise = layer.endswith("depthwise") and kind == "conv"
    return f"{re.sub(pattern, name, layer)}/{LEAVES[('depthwise.' if depthwise else '') + f'{kind}.{leaf}']}"


def _seeded(name: str, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """The formula of specs/tf-deeplab.md, section 10; `shape` as TensorFlow orders it."""
    random, leaf = np.random.RandomState(zlib.crc32(name.encode())), name.rsplit("/", 1)[-1]
    if leaf in ("gamma", "moving_variance"):
        return random.uniform(0.5, 1.5, shape)
    if leaf in ("beta", "moving_mean", "biases"):
        return 0.1 * random.standard_normal(shape)
    return random.standard_normal(shape) / math.sqrt(
        math.prod(shape[:2] if leaf == "depthwise_weights" else shape[:-1])
    )


def _tensor(key: str, like: Tensor) -> Tensor:
    name = _tf_name(key)
    if like.ndim != 4:
        return torch.from_numpy(_seeded(name, tuple(like.shape)).astype(np.float32))
    axes = (2, 3, 0, 1) if name.endswith("depthwise_weights") else (2, 3, 1, 0)  # HWIM or HWIO from ours
    shape = tuple(like.shape[axis] for axis in axes)
    weights = torch.from_numpy(_seeded(name, shape).astype(np.float32))
    return weights.permute(*np.argsort(axes).tolist()).contiguous()


def _model(case: dict[str, Any]) -> Model:
    name = "deeplab_v3plus" if case["decoder_output_stride"] else "deeplab_v3"
    settings = case["options"] | {"output_stride": case["output_stride"], "rates": case["atrous_rates"] or ()}
    model = build(MODELS[name].Config(**settings), case["num_classes"]).eval()
    state = model.state_dict()
    learnt = [key for key in state if not key.endswith(("num_batches_tracked", "shift", "scale"))]
    model.load_state_dict(state | {key: _tensor(key, state[key]) for key in learnt})
    return model


@pytest.mark.parametrize("case", CASES)
def test_logits_are_the_originals(case: str) -> None:
    image = np.random.RandomState(1234).randint(0, 256, (1, *CASES[case]["crop"], 3)).astype(np.uint8)
    with np.load(GOLDENS / f"{case}.npz") as golden:
        expected = torch.from_numpy(golden["merged_logits"]).permute(0, 3, 1, 2)
    with torch.no_grad():
        semantic = _model(CASES[case])(torch.from_numpy(image).permute(0, 3, 1, 2)).semantic
    assert semantic.shape == expected.shape
    assert (semantic - expected).abs().max() <= 1e-4 * expected.abs().max()
