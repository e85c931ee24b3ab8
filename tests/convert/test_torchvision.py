"""torchvision's weights: the logits of its networks written out by the letter, and what is refused."""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from atrous.convert import convert
from atrous.convert.run import conversion
from atrous.convert.systems import mmsegmentation, semseg, torchvision
from atrous.convert.systems.torchvision import Options, model_config
from atrous.inference import InferenceConfig, predict_labels, predict_probabilities
from atrous.models import Model, ModelConfig, build
from tests.reference import torchvision as reference
from tests.reference.torchvision import Arrays, ReferenceNetwork, Shapes

PUBLISHED = {  # learnt parameters; those of ImageNet's with 1000 classes, the others with 21 and a second head
    "deeplabv3_resnet50": (reference.deeplab_v3("resnet50"), 42_004_074),
    "deeplabv3_resnet101": (reference.deeplab_v3("resnet101"), 60_996_202),
    "fcn_resnet50": (reference.fcn("resnet50"), 35_322_218),
    "fcn_resnet101": (reference.fcn("resnet101"), 54_314_346),
    "resnet18": (reference.classifier("resnet18"), 11_689_512),
    "resnet34": (reference.classifier("resnet34"), 21_797_672),
    "resnet50": (reference.classifier("resnet50"), 25_557_032),
    "resnet101": (reference.classifier("resnet101"), 44_549_160),
    "resnet152": (reference.classifier("resnet152"), 60_192_808),
}
SIZE = (45, 70)  # not of the form 8k, nor 8k + 1


@cache
def weights(name: str) -> Arrays:
    return reference.random_weights(PUBLISHED[name][0])


def image(height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (1, 3, height, width), dtype=torch.uint8, generator=generator)


def enlarged(x: Tensor | None) -> Tensor:
    assert x is not None
    return F.interpolate(x, SIZE, mode="bilinear", align_corners=False)


def assert_close(found: Tensor, expected: Tensor | None) -> None:
    assert expected is not None
    assert found.shape == expected.shape
    assert float((found - expected).abs().max()) <= 1e-4 * float(expected.abs().max())


def zeros(shapes: Shapes) -> Arrays:
    return {name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes.items()}


def config_of(shapes: Shapes, **options: Any) -> ModelConfig:  # noqa: ANN401
    return model_config(shapes, Options(**options), "given")


def blank(config: ModelConfig) -> Model:
    assert config.num_classes is not None
    with torch.device("meta"):
        return build(config, config.num_classes)


# ---- logits


@pytest.mark.parametrize(
    "name", ["deeplabv3_resnet50", pytest.param("deeplabv3_resnet101", marks=pytest.mark.slow), "fcn_resnet50"]
)
@torch.no_grad()
def test_both_heads_have_the_logits_of_the_network_by_the_letter(name: str) -> None:
    pixels, segmenter = image(*SIZE), convert(weights(name))
    network = ReferenceNetwork(weights(name), name.rpartition("_")[2])
    expected = network.fcn(pixels) if name.startswith("fcn") else network.deeplab_v3(pixels)
    outputs = segmenter.model(pixels)
    assert_close(enlarged(outputs.semantic), expected.main)
    assert_close(enlarged(outputs.heads["auxiliary"]), expected.auxiliary)
    whole = InferenceConfig()
    probabilities = predict_probabilities(segmenter.model, pixels, whole)
    torch.testing.assert_close(probabilities, expected.main.softmax(1), rtol=0, atol=1e-3)
    assert (predict_labels(segmenter.model, pixels, whole) == expected.main.argmax(1)).float().mean() > 0.999


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50"])
@torch.no_grad()
def test_imagenet_networks_tell_the_same_classes(name: str) -> None:
    segmenter = convert(weights(name))
    assert segmenter.model.config.model_dump(include={"name", "backbone", "output_stride"}) == {
        "name": "image_classifier",
        "backbone": name,
        "output_stride": 32,
    }
    pixels = image(64, 97)
    assert_close(segmenter.model(pixels).semantic[..., 0, 0], ReferenceNetwork(weights(name), name).classes(pixels))


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_names_and_sizes(name: str) -> None:
    shapes, count = PUBLISHED[name]
    config = config_of(shapes, model=name)
    assert config == config_of(shapes)
    assert torchvision.recognised(shapes)
    assert not semseg.recognised(shapes)
    assert not mmsegmentation.recognised(shapes)
    assert sum(parameter.numel() for parameter in blank(config).parameters()) == count


def test_without_a_second_head_there_is_none() -> None:
    for shapes in (reference.fcn("resnet50", 3, auxiliary=False), reference.deeplab_v3("resnet50", 3, auxiliary=False)):
        model = blank(config_of(shapes))
        assert "auxiliary" not in model.logit_modules
        assert model(torch.zeros(2, 3, 16, 24, device="meta")).heads == {}


def test_what_is_published_of_the_network_is_kept() -> None:
    done = conversion(zeros(PUBLISHED["deeplabv3_resnet50"][0]))
    model = done.segmenter.model
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert {norm.eps for norm in norms} == {1e-5}
    assert not model.align_corners
    assert done.system == "torchvision"
    assert done.segmenter.label_space.names[0] == "background"
    assert done.notes == ["the 21 classes are those of PASCAL VOC 2012"]
    assert all(name.endswith("num_batches_tracked") for name in done.ignored)
    assert done.used == len(PUBLISHED["deeplabv3_resnet50"][0]) - len(done.ignored)


def test_a_file_goes_through_and_can_be_loaded_again(tmp_path: Path) -> None:
    arrays = reference.random_weights(reference.classifier("resnet18", 5))
    state = {name: torch.from_numpy(array) for name, array in arrays.items()}
    torch.save(state, tmp_path / "resnet18-5c106cde.pth")
    torch.save({"model": state, "epoch": 3}, tmp_path / "checkpoint.pth.tar")
    expected = ReferenceNetwork(arrays, "resnet18").classes(image(33, 47))
    for name in ("resnet18-5c106cde.pth", "checkpoint.pth.tar"):
        with torch.no_grad():
            assert_close(convert(tmp_path / name).model(image(33, 47)).semantic[..., 0, 0], expected)


# ---- refused


@pytest.mark.parametrize(
    ("shapes", "options", "reason"),
    [
        (reference.fcn("resnet50"), {"model": "fcn_resnet101"}, "model=fcn_resnet101, but .* model=fcn_resnet50"),
        (reference.fcn("resnet50"), {"num_classes": 19}, "num_classes=19, but .* num_classes=21"),
        (reference.fcn("resnet50"), {"num_clases": 19}, "num_clases is no flag .*; did you mean num_classes"),
        (reference.fcn("resnet50"), {"num_classes": "many"}, "num_classes='many': Input should be a valid integer"),
        (reference.resnet("resnet50"), {}, "no network of torchvision: it has no fc.weight, but conv1.weight"),
        (reference.resnet("resnet18", prefix="backbone."), {}, "it has no classifier.4.weight"),
        (
            {**reference.fcn("resnet50"), "classifier.9.weight": (3,)},
            {},
            "1 variables have no place .*: classifier.9.weight",
        ),
        (
            {**reference.classifier("resnet50"), "layer1.0.conv1.weight": (128, 64, 1, 1)},  # ResNeXt
            {},
            r"layer1.0.conv1.weight is \[128, 64, 1, 1\], not \[64, 64, 1, 1\]",
        ),
        (
            {
                name: shape
                for name, shape in reference.classifier("resnet34").items()
                if not name.startswith("layer3.5")
            },
            {},
            "5 units of two convolutions in layer3, as no ResNet has; known: resnet18",
        ),
        (
            {name: shape for name, shape in reference.fcn("resnet50").items() if name != "aux_classifier.4.bias"},
            {},
            "1 variables of the model are missing: aux_classifier.4.bias",
        ),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(shapes: Shapes, options: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as error:
        convert(zeros(shapes), system="torchvision", options=options)
    assert "\n" not in str(error.value)


def test_mobilenets_are_of_no_known_system() -> None:
    with pytest.raises(ValueError, match=r"variables of no known system \(backbone\.0\.0\.weight"):
        convert(zeros({"backbone.0.0.weight": (16, 3, 3, 3), "classifier.4.weight": (21, 256, 1, 1)}))
