"""A backbone with its classifier: one vector of logits for each image."""

import pytest
import torch

from atrous.errors import ConfigError
from atrous.inference import InferenceConfig
from atrous.inference.look import look
from atrous.models import Model
from tests.models.conftest import num_parameters, on_meta, random_images, small

IMAGES = random_images(3, 65, 97)


def _small(**settings: object) -> Model:
    model = small("image_classifier", 5, **{"head_channels": None, **settings})
    torch.nn.init.normal_(model.get_parameter("classify.weight"))
    return model


def test_mobilenet_v2_has_the_papers_size() -> None:
    model = on_meta("image_classifier", 1001, head_channels=1280)
    assert num_parameters(model) == 1_811_712 + (320 + 2) * 1280 + (1280 + 1) * 1001  # 3.5 M


@torch.no_grad()
def test_the_logits_are_of_the_mean_of_the_map() -> None:
    model = _small()
    mean = model.features(IMAGES)["c5"].mean((2, 3))
    weight, bias = model.get_parameter("classify.weight"), model.get_parameter("classify.bias")
    logits = model(IMAGES).classes
    assert logits is not None
    assert logits.shape == (3, 5)
    torch.testing.assert_close(logits, mean @ weight[:, :, 0, 0].T + bias)


@torch.no_grad()
def test_with_a_head_the_mean_is_of_the_wider_map() -> None:
    model = _small(head_channels=7)
    wide = model.get_submodule("widen")(model.features(IMAGES)["c5"])
    assert wide.shape[1] == 7
    assert float(wide.max()) <= 6
    logits = model.get_submodule("classify")(wide.mean((2, 3), keepdim=True)).flatten(1)
    torch.testing.assert_close(model(IMAGES).classes, logits)


def test_there_is_no_map_to_average_over_several_passes() -> None:
    model = _small()
    assert model(IMAGES).semantic.numel() == 0
    assert look(model, IMAGES, InferenceConfig()).outputs.classes is not None
    for config in (InferenceConfig(flip=True), InferenceConfig(mode="sliding"), InferenceConfig(scales=(0.5, 1))):
        with pytest.raises(ConfigError, match="a classification network has no class map"):
            look(model, IMAGES, config)
