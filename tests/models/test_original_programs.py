"""ICNet and OCNet beside their programs: hellochick/ICNet-tensorflow (`ICNet_BN`) and openseg-group/OCNet.pytorch.

Their logits were computed on weights from the seeded formulas: ICNet's under TensorFlow 2.21, with its pyramid of 1, 2,
3 and 4 bins; OCNet's on ResNet-50, with InPlaceABN as a plain batch norm.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from atrous.convert.layouts import NORM_LEAVES, Rules, require_name
from atrous.models import Model, build
from atrous.models.icnet import ICNet
from atrous.models.ocnet import OCNet
from tests.convert.conftest import assert_close
from tests.reference import deeplab2, pytorch_programs
from tests.reference.pytorch_programs import Golden, read_golden

GOLDENS = Path(__file__).parents[1] / "goldens" / "programs"
Arrays = Mapping[str, NDArray[np.float32]]


def conv_norm(ours: str, theirs: str) -> Rules:
    return (rf"{ours}\.conv", theirs), (rf"{ours}\.norm", f"{theirs}_bn")


def model_with(config: ICNet.Config | OCNet.Config, weights: Mapping[str, Tensor]) -> Model:
    model = build(config, 5).eval()
    own = {key: value for key, value in model.state_dict().items() if key not in weights}
    assert all(key.endswith("num_batches_tracked") or "." not in key for key in own), own.keys()
    model.load_state_dict({**weights, **own})
    return model


# ---- ICNet

PARTS = {"conv1": "1x1_reduce", "conv2": "3x3", "conv3": "1x1_increase", "shortcut": "1x1_proj"}
UNITS = [f"conv{stage}_{unit}" for stage, count in ((2, 3), (3, 4), (4, 6), (5, 3)) for unit in range(1, count + 1)]
NUM_EARLY = 4  # units of the second branch, whose first three convolutions and pool stand before them
STEM = ("conv1_1_3x3_s2", "conv1_2_3x3", "conv1_3_3x3")
ICNET: Rules = (
    *(rule for place, name in enumerate(STEM) for rule in conv_norm(rf"backbone\.sub2\.{place}", name)),
    *(
        rule
        for place, unit in enumerate(UNITS)
        for ours, theirs in PARTS.items()
        for rule in conv_norm(
            rf"backbone\.sub2\.{place + 4}\.{ours}"
            if place < NUM_EARLY
            else rf"backbone\.sub4\.{place - NUM_EARLY}\.{ours}",
            f"{unit}_{theirs}",
        )
    ),
    *(rule for place in range(3) for rule in conv_norm(rf"backbone\.sub1\.{place}", f"conv{place + 1}_sub1")),
    *conv_norm("pyramid", "conv5_4_k1"),
    *conv_norm(r"fuse_c4\.coarse", "conv_sub4"),
    *conv_norm(r"fuse_c4\.fine", "conv3_1_sub2_proj"),
    *conv_norm(r"fuse_c3\.coarse", "conv_sub2"),
    *conv_norm(r"fuse_c3\.fine", "conv3_sub1_proj"),
    (r"cascade\.0", "sub4_out"),
    (r"cascade\.1", "sub24_out"),
    ("classify", "conv6_cls"),
)


def icnet_weights(model: nn.Module, arrays: Arrays) -> dict[str, Tensor]:
    weights: dict[str, NDArray[np.float32]] = {}
    for path, module in model.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            name = require_name(path, ICNET)
            weights |= {f"{path}.{ours}": arrays[f"{name}/{theirs}"] for ours, theirs in NORM_LEAVES.items()}
        elif isinstance(module, nn.Conv2d):
            name = require_name(path, ICNET)
            weights[f"{path}.weight"] = arrays[f"{name}/weights"].transpose(3, 2, 0, 1)
            weights |= {} if module.bias is None else {f"{path}.bias": arrays[f"{name}/biases"]}
    assert len(weights) == len(arrays)
    return {key: torch.from_numpy(np.array(array, order="C")) for key, array in weights.items()}


@torch.no_grad()
def test_icnet_is_the_programs() -> None:
    expected = read_golden(GOLDENS / "icnet_tensorflow.npz")
    config = ICNet.Config(bins=(1, 2, 3, 4))
    weights = icnet_weights(build(config, 5), deeplab2.seeded_weights(expected.shapes))
    outputs = model_with(config, weights)(expected.image)
    assert_close(outputs.semantic[..., ::2, ::2], expected.logits["logits"])  # every second, to be small
    assert_close(outputs.heads["cascade_1"][..., ::2, ::2], expected.logits["middle"])
    assert_close(outputs.heads["cascade_0"], expected.logits["coarse"])


# ---- OCNet

BGR_MEAN = torch.tensor([102.9801, 115.9465, 122.7717])
OCNET: Rules = (
    *((rf"backbone\.stem\.{place}\.conv", f"conv{place + 1}") for place in range(3)),
    *((rf"backbone\.stem\.{place}\.norm", f"bn{place + 1}") for place in range(3)),
    (r"backbone\.c(\d)\.(\d+)\.shortcut\.conv", r"layer#\1.\2.downsample.0"),
    (r"backbone\.c(\d)\.(\d+)\.shortcut\.norm", r"layer#\1.\2.downsample.1"),
    (r"backbone\.c(\d)\.(\d+)\.conv(\d)\.conv", r"layer#\1.\2.conv\3"),
    (r"backbone\.c(\d)\.(\d+)\.conv(\d)\.norm", r"layer#\1.\2.bn\3"),
    (r"context\.reduce\.conv", "context.0"),
    (r"context\.reduce\.norm", "context.1"),
    (r"context\.contexts\.0\.key\.conv", "context.2.stages.0.f_key.0"),
    (r"context\.contexts\.0\.key\.norm", "context.2.stages.0.f_key.1"),
    (r"context\.contexts\.0\.value", "context.2.stages.0.f_value"),
    (r"context\.contexts\.0\.output", "context.2.stages.0.W"),
    (r"context\.project\.conv", "context.2.conv_bn_dropout.0"),
    (r"context\.project\.norm", "context.2.conv_bn_dropout.1"),
    (r"auxiliary\.conv\.conv", "dsn.0"),
    (r"auxiliary\.conv\.norm", "dsn.1"),
    (r"auxiliary\.classify", "dsn.3"),
    ("classify", "cls"),
)


def ocnet_name(path: str) -> str:
    return re.sub(r"#(\d)", lambda stage: str(int(stage[1]) - 1), require_name(path, OCNET))


def ocnet_weights(model: nn.Module, golden: Golden) -> dict[str, Tensor]:
    """A convolution's bias moves the mean of its batch norm; the scale g of an InPlaceABN is |g| + eps."""
    arrays = {
        name: torch.from_numpy(np.array(array))
        for name, array in pytorch_programs.seeded_weights(golden.shapes).items()
    }
    for weight, first in {name: name.replace("f_query", "f_key") for name in arrays}.items():
        arrays[first] = arrays[weight]  # query and key are one
    weights: dict[str, Tensor] = {}
    for path, module in model.named_modules():
        if isinstance(module, nn.BatchNorm2d | nn.Conv2d):
            name = ocnet_name(path)
            weights |= {
                f"{path}.{leaf}": arrays[f"{name}.{leaf}"] for leaf in dict(module.state_dict()) if "num" not in leaf
            }
        if isinstance(module, nn.BatchNorm2d):
            weights[f"{path}.weight"] = weights[f"{path}.weight"].abs() + module.eps
            bias = arrays.get(f"{ocnet_name(path.replace('.norm', '.conv'))}.bias")
            weights[f"{path}.running_mean"] = weights[f"{path}.running_mean"] - (0 if bias is None else bias)
    return weights


@pytest.mark.slow
@torch.no_grad()
def test_base_ocnet_is_the_programs() -> None:
    """Its images are blue first; its auxiliary head has leaky ReLUs, and ours, which no prediction reads, ReLUs."""
    expected = read_golden(GOLDENS / "ocnet_openseg_base.npz")
    config = OCNet.Config.model_validate({"backbone": "resnet50s"})
    model = model_with(config, ocnet_weights(build(config, 5), expected))
    model.shift, model.scale = BGR_MEAN.view(3, 1, 1), torch.ones(3, 1, 1)
    assert_close(model(expected.image.flip(1)).semantic, expected.logits["logits"])
    model.auxiliary.conv.act = nn.LeakyReLU(0.01)  # type: ignore[union-attr]
    assert_close(model(expected.image.flip(1)).heads["auxiliary"], expected.logits["auxiliary"])
