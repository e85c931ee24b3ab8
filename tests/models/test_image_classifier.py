"""A backbone with its classifier: one vector of logits an image."""

import torch

from atrous.inference import InferenceConfig, predict_labels
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
    logits = model(IMAGES).semantic
    assert logits.shape == (3, 5, 1, 1)
    torch.testing.assert_close(logits[..., 0, 0], mean @ weight[:, :, 0, 0].T + bias)


@torch.no_grad()
def test_with_a_head_the_mean_is_of_the_wider_map() -> None:
    model = _small(head_channels=7)
    wide = model.get_submodule("widen")(model.features(IMAGES)["c5"])
    assert wide.shape[1] == 7
    assert float(wide.max()) <= 6
    torch.testing.assert_close(model(IMAGES).semantic, model.get_submodule("classify")(wide.mean((2, 3), keepdim=True)))


def test_every_pixel_has_the_label_of_its_image() -> None:
    model = _small()
    labels = predict_labels(model, IMAGES, InferenceConfig())
    assert labels.shape == (3, 65, 97)
    assert torch.equal(labels.flatten(1).amin(1), labels.flatten(1).amax(1))
