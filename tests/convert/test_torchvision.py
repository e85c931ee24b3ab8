"""torchvision's weights: the logits of the reference networks, and what is refused."""

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from atrous.convert import convert
from atrous.convert.run import conversion
from atrous.convert.systems import SYSTEMS
from atrous.inference import InferenceConfig
from atrous.inference.look import predict_labels, predict_probabilities
from tests.convert.conftest import (
    assert_close,
    assert_refused,
    config_of,
    empty_arrays,
    meta_model,
    random_image,
)
from tests.reference import torchvision as reference
from tests.reference.tf_deeplab import without
from tests.reference.torchvision import Arrays, ReferenceNetwork, Shapes

SYSTEM = SYSTEMS["torchvision"]
PUBLISHED = {  # number of parameters: classifiers have 1000 classes, the others 21 and an auxiliary head
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


def enlarged(x: Tensor | None) -> Tensor:
    assert x is not None
    return F.interpolate(x, SIZE, mode="bilinear", align_corners=False)


# ---- logits


@pytest.mark.parametrize(
    "name", ["deeplabv3_resnet50", pytest.param("deeplabv3_resnet101", marks=pytest.mark.slow), "fcn_resnet50"]
)
@torch.no_grad()
def test_both_heads_have_the_logits_of_the_reference_network(name: str) -> None:
    pixels, segmenter = random_image(*SIZE), convert(weights(name))
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
def test_imagenet_networks_have_the_logits_of_the_reference_network(name: str) -> None:
    segmenter = convert(weights(name))
    config = segmenter.model.config
    assert (config.name, config.backbone.name, config.output_stride) == ("image_classifier", name, 32)
    pixels = random_image(64, 97)
    assert_close(segmenter.model(pixels).classes, ReferenceNetwork(weights(name), name).classes(pixels))


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_networks_have_their_names_and_sizes(name: str) -> None:
    shapes, count = PUBLISHED[name]
    config = config_of(SYSTEM, shapes, model=name)
    assert config == config_of(SYSTEM, shapes)
    assert [name for name, system in SYSTEMS.items() if system.recognised(shapes)] == ["torchvision"]
    assert sum(parameter.numel() for parameter in meta_model(config).parameters()) == count


def test_weights_without_an_auxiliary_head_make_none() -> None:
    for shapes in (reference.fcn("resnet50", 3, auxiliary=False), reference.deeplab_v3("resnet50", 3, auxiliary=False)):
        model = meta_model(config_of(SYSTEM, shapes))
        assert "auxiliary" not in model.logit_modules
        assert model(torch.zeros(2, 3, 16, 24, device="meta")).heads == {}


def test_facts_that_weights_do_not_show_are_torchvisions() -> None:
    done = conversion(empty_arrays(PUBLISHED["deeplabv3_resnet50"][0]))
    model = done.segmenter.model
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert {norm.eps for norm in norms} == {1e-5}
    assert model.facts.convention == "half_pixel"
    assert done.system == "torchvision"
    assert done.segmenter.label_space.names[0] == "background"
    assert done.assumptions == ["the 21 classes are those of PASCAL VOC 2012"]
    assert all(name.endswith("num_batches_tracked") for name in done.unused)
    assert done.num_used == len(PUBLISHED["deeplabv3_resnet50"][0]) - len(done.unused)


def test_files_of_weights_and_of_checkpoints_are_read(tmp_path: Path) -> None:
    arrays = reference.random_weights(reference.classifier("resnet18", 5))
    state = {name: torch.from_numpy(array) for name, array in arrays.items()}
    torch.save(state, tmp_path / "resnet18-5c106cde.pth")
    torch.save({"model": state, "epoch": 3}, tmp_path / "checkpoint.pth.tar")
    expected = ReferenceNetwork(arrays, "resnet18").classes(random_image(33, 47))
    for name in ("resnet18-5c106cde.pth", "checkpoint.pth.tar"):
        with torch.no_grad():
            assert_close(convert(tmp_path / name).model(random_image(33, 47)).classes, expected)


# ---- refused


REFUSED: list[tuple[Shapes, dict[str, Any], str]] = [
    (reference.fcn("resnet50"), {"model": "fcn_resnet101"}, "model=fcn_resnet101, but .* model=fcn_resnet50"),
    (reference.fcn("resnet50"), {"num_classes": 19}, "num_classes=19, but .* num_classes=21"),
    (
        reference.fcn("resnet50"),
        {"num_clases": 19},
        "no model depends on an option 'num_clases'; did you mean num_classes",
    ),
    (reference.fcn("resnet50"), {"num_classes": "many"}, "num_classes='many': Input should be a valid integer"),
    (reference.resnet("resnet50"), {}, "fc.weight is missing, .*; there are conv1.weight"),
    (reference.resnet("resnet18", prefix="backbone."), {}, "classifier.4.weight is missing"),
    (
        {**reference.fcn("resnet50"), "classifier.9.weight": (3,)},
        {},
        "1 weight without a place .*: classifier.9.weight",
    ),
    (
        {**reference.classifier("resnet50"), "layer1.0.conv1.weight": (128, 64, 1, 1)},  # ResNeXt
        {},
        r"layer1.0.conv1.weight is \[128, 64, 1, 1\], not \[64, 64, 1, 1\]",
    ),
    (
        without(reference.classifier("resnet34"), "layer3.5"),
        {},
        "no ResNet has 5 units of two convolutions in layer3; known: resnet18",
    ),
    (
        without(reference.fcn("resnet50"), "aux_classifier.4.bias"),
        {},
        "missing 1 weight of the model: aux_classifier.4.bias",
    ),
]


def test_misfits_are_refused_in_one_line() -> None:
    for shapes, options, reason in REFUSED:
        assert_refused(empty_arrays(shapes), reason, options, system="torchvision")


def test_a_part_of_its_mobilenets_is_refused() -> None:
    weights = empty_arrays({"backbone.0.0.weight": (16, 3, 3, 3), "classifier.4.weight": (21, 256, 1, 1)})
    assert_refused(weights, r"classifier\.0\.weight is missing")
    assert_refused(empty_arrays({"backbone.0.0.weight": (16, 3, 3, 3)}), r"weights of no known system \(backbone\.0\.0")
