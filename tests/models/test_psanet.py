"""PSANet: the sizes that are published, every kind of mask, and what a mask means."""

from typing import Any

import pytest
import torch

from atrous.layers.resize import resize
from atrous.models.psanet import PSANet
from atrous.ops import point_wise_attention_loop
from tests.models.conftest import VARIANTS, num_parameters, on_meta, random_images, small

KINDS = [settings for name, settings in VARIANTS.values() if name == "psanet"]


def test_published_sizes() -> None:
    """Millions of parameters in training and in inference, entries of the original's state dict."""
    published: list[tuple[str, int, tuple[int, int] | None, float, float, int]] = [
        ("resnet50s", 150, None, 53.27, 50.88, 378),
        ("resnet101s", 150, (59, 59), 72.27, 69.87, 684),
        ("resnet50s", 19, (89, 89), 57.72, 55.35, 378),
        ("resnet101s", 19, (89, 89), 76.71, 74.35, 684),
    ]
    for backbone, num_classes, mask_size, training, inference, entries in published:
        model = on_meta("psanet", num_classes, backbone=backbone, mask_size=mask_size)
        count, second = num_parameters(model), num_parameters(model.get_submodule("auxiliary"))
        assert (round(count / 1e6, 2), round((count - second) / 1e6, 2)) == (training, inference)
        assert len(model.state_dict()) - len(("shift", "scale")) == entries


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_features_are_received_as_in_the_definition(kind: dict[str, Any]) -> None:
    model, images = small("psanet", 3, **kind), random_images(2, 33, 49)  # c5 is 5 x 7
    config = model.config
    assert isinstance(config, PSANet.Config)
    c5 = model.features(images)["c5"]
    parts = []
    for direction, attention in model.get_submodule("attention").named_children():
        x = attention.get_submodule("reduce")(c5)
        x = x if config.shrink_factor == 1 else resize(x, (3, 4))
        mask = attention.get_submodule("mask")(attention.get_submodule("adapt")(x))
        size = None if config.compact else (5, 7)
        parts.append(point_wise_attention_loop(x, mask, size, direction, softmax=config.psa_softmax))  # type: ignore[arg-type]
    received = model.get_submodule("projection")(torch.cat(parts, 1) / config.normalization_factor)
    expected = model.get_submodule("head")(torch.cat([c5, resize(received, (5, 7))], 1))
    torch.testing.assert_close(model(images).semantic, expected)


@torch.no_grad()
def test_a_mask_of_another_size_gives_the_same_where_the_map_is_small() -> None:
    large, little = small("psanet", mask_size=(9, 9)), small("psanet", mask_size=(5, 5))
    weights = large.state_dict()
    for direction in ("collect", "distribute"):
        name = f"attention.{direction}.mask.weight"
        weights[name] = weights[name].view(9, 9, 8, 1, 1)[2:7, 2:7].flatten(0, 1)
    little.load_state_dict(weights)
    images = random_images(1, 33, 33)  # attends on 3 x 3
    torch.testing.assert_close(little(images).semantic, large(images).semantic)


def test_default_masks_are_for_a_crop_of_465() -> None:
    assert PSANet.Config().mask == (59, 59)
    assert PSANet.Config(compact=True).mask == (30, 30)
    assert PSANet.Config().map_size(59, 59) == PSANet.Config(compact=True).map_size(59, 59) == (30, 30)


def test_settings_are_read_from_text() -> None:
    config = PSANet.Config.model_validate({"mask_size": "13,9", "compact": "false", "shrink_factor": "1"})
    assert (config.mask, config.compact, config.shrink_factor) == ((13, 9), False, 1)
