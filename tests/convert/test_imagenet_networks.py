"""Classifiers of torchvision and timm, run by those programs themselves, against ours with the same weights."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from atrous.convert import convert
from atrous.errors import ConversionError
from tests.convert.conftest import random_image

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
STAGES = ("layer1", "layer2", "layer3", "layer4")
NETWORKS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnext50_32x4d")
SLOW = ("resnet34", "resnet101", "resnet152")
SIZE = (65, 98)  # odd and even: paddings at stride 2 differ


@pytest.fixture(autouse=True)
def torchvision(timm: Any) -> Any:  # noqa: ANN401
    return pytest.importorskip("torchvision.models", reason="torchvision is not installed: pip install '.[timm]'")


def seeded(network: nn.Module) -> nn.Module:
    """Weights and statistics of norms that show a wrong border, epsilon or stride."""
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low, high in (
                (module.running_mean, -0.1, 0.1),
                (module.running_var, 1e-4, 1e-3),  # small, so that the epsilon counts
                (module.weight.data, 0.01, 0.03),
                (module.bias.data, -0.1, 0.1),
            ):
                assert tensor is not None
                tensor.uniform_(low, high, generator=generator)
    return network.eval()


def normalized(pixels: Tensor) -> Tensor:
    mean, std = (torch.tensor(color).view(3, 1, 1) for color in (MEAN, STD))
    return (pixels - mean) / std


def outputs(network: nn.Module, pixels: Tensor) -> dict[str, Tensor]:
    """Of its stages and its classifier."""
    seen: dict[str, Tensor] = {}
    for stage in STAGES:
        network.get_submodule(stage).register_forward_hook(lambda _, __, y, stage=stage: seen.update({stage: y}))
    return {"classes": network(normalized(pixels)), **seen}


@torch.no_grad()
def assert_equal(network: nn.Module, path: Path, name: str) -> None:
    pixels = random_image(*SIZE)
    expected, segmenter = outputs(network, pixels), convert(path)
    assert (segmenter.model.config.name, segmenter.model.config.backbone.name) == ("image_classifier", name)
    features = segmenter.model.features(pixels)
    for index, stage in enumerate(STAGES):
        torch.testing.assert_close(features[f"c{index + 2}"], expected[stage], rtol=1e-5, atol=1e-5, msg=stage)
    torch.testing.assert_close(segmenter.model(pixels).classes, expected["classes"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in NETWORKS]
)
def test_torchvisions_resnets_number_for_number(name: str, torchvision: Any, tmp_path: Path) -> None:  # noqa: ANN401
    torch.manual_seed(1)
    network = seeded(getattr(torchvision, name)())
    torch.save(network.state_dict(), tmp_path / "a.pth")
    assert_equal(network, tmp_path / "a.pth", name)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in NETWORKS]
)
def test_timms_resnets_number_for_number(name: str, timm: Any, tmp_path: Path) -> None:  # noqa: ANN401
    torch.manual_seed(2)
    network = seeded(timm.create_model(name))
    save_file(network.state_dict(), tmp_path / "model.safetensors", {"format": "pt"})
    assert_equal(network, tmp_path / "model.safetensors", name)
    cfg: Any = network.pretrained_cfg
    assert [round(255 * value, 3) for value in (*cfg["mean"], *cfg["std"])] == [*MEAN, *STD]


def test_timms_and_torchvisions_weights_are_interchangeable(torchvision: Any, timm: Any) -> None:  # noqa: ANN401
    for name in NETWORKS:
        with torch.device("meta"):
            one, other = (network.state_dict() for network in (getattr(torchvision, name)(), timm.create_model(name)))
        assert {key: x.shape for key, x in one.items()} == {key: x.shape for key, x in other.items()}


# ---- networks that look like one of ours, and aren't

OTHERS = {
    "resnext101_64x4d": "3x3 of [256, 4, 3, 3]",
    "wide_resnet50_2": "its backbone is wide_resnet50_2",
    "seresnet50": "layer1.0.se.fc1",
    "mobilenetv2_100": "timm:mobilenetv2_100",
    "mobilenetv3_large_100": "timm:mobilenetv3_large_100",
    "legacy_xception": "Xception",
    "xception41": "no known system",
    "vgg16": "VGG",
    "convnextv2_atto": "no known system",
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_networks_of_timm_are_refused_in_one_line(name: str, timm: Any, tmp_path: Path) -> None:  # noqa: ANN401
    with torch.device("meta"):
        shapes = {key: tensor.shape for key, tensor in timm.create_model(name).state_dict().items()}
    arrays = {key: torch.zeros(()).expand(shape).numpy() for key, shape in shapes.items()}
    with pytest.raises(ConversionError) as error:
        convert(arrays)
    assert OTHERS[name] in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["mobilenet_v2", "mobilenet_v3_large", "mobilenet_v3_small", "vgg16"])
def test_torchvisions_networks_of_another_layout_say_why(name: str, torchvision: Any) -> None:  # noqa: ANN401
    with torch.device("meta"):
        shapes = {key: tensor.shape for key, tensor in getattr(torchvision, name)().state_dict().items()}
    arrays = {key: torch.zeros(()).expand(shape).numpy() for key, shape in shapes.items()}
    with pytest.raises(ConversionError, match="differ"):
        convert(arrays)
