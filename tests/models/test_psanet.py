"""PSANet: the sizes that are published, every kind of mask on every size, and what a mask means."""

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from atrous.layers.resize import resize
from atrous.models import Model, build
from atrous.models.psanet import PSANet
from atrous.ops import point_wise_attention_loop

PUBLISHED = [  # millions of parameters in training and in inference, entries of the original's state dict
    ("resnet50s", 150, None, 53.27, 50.88, 378),
    ("resnet101s", 150, (59, 59), 72.27, 69.87, 684),
    ("resnet50s", 19, (89, 89), 57.72, 55.35, 378),
    ("resnet101s", 19, (89, 89), 76.71, 74.35, 684),
]
KINDS: list[dict[str, Any]] = [
    {"psa_type": "collect"},
    {"psa_type": "distribute", "shrink_factor": 1},
    {"psa_type": "bidirectional", "psa_softmax": False, "normalization_factor": 30.0},
    {"psa_type": "bidirectional", "compact": True, "mask_size": (3, 4)},
]


def _small(**settings: object) -> Model:
    torch.manual_seed(0)
    narrow = {"backbone": "resnet_tiny", "psa_channels": 8, "head_channels": 8, "auxiliary_channels": 8}
    return build(PSANet.Config.model_validate(narrow | {"mask_size": (5, 7)} | settings), 3).eval()


def _images(batch: int, height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (batch, 3, height, width), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize(("backbone", "num_classes", "mask_size", "training", "inference", "entries"), PUBLISHED)
def test_published_sizes(
    backbone: str, num_classes: int, mask_size: tuple[int, int] | None, training: float, inference: float, entries: int
) -> None:
    with torch.device("meta"):
        model = build(PSANet.Config(backbone=backbone, mask_size=mask_size), num_classes)
    count = sum(parameter.numel() for parameter in model.parameters())
    second = sum(parameter.numel() for parameter in model.get_submodule("auxiliary").parameters())
    assert (round(count / 1e6, 2), round((count - second) / 1e6, 2)) == (training, inference)
    assert len(model.state_dict()) - len(("shift", "scale")) == entries


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_received_is_the_definitions(kind: dict[str, Any]) -> None:
    model, images = _small(**kind), _images(2, 33, 49)  # c5 is 5 x 7
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


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(1, 1), (40, 57), (34, 8), (161, 120)])
def test_any_size_works(kind: dict[str, Any], size: tuple[int, int]) -> None:
    outputs = _small(**kind)(_images(1, *size))
    grid = tuple(-(-side // 8) for side in size)
    assert outputs.semantic.shape == outputs.auxiliary.shape == (1, 3, *grid)
    assert outputs.semantic.isfinite().all()


@torch.no_grad()
def test_a_mask_of_another_size_gives_the_same_where_the_map_is_small() -> None:
    large, small = _small(mask_size=(9, 9)), _small(mask_size=(5, 5))
    weights = large.state_dict()
    for direction in ("collect", "distribute"):
        name = f"attention.{direction}.mask.weight"
        weights[name] = weights[name].view(9, 9, 8, 1, 1)[2:7, 2:7].flatten(0, 1)
    small.load_state_dict(weights)
    images = _images(1, 33, 33)  # attends on 3 x 3
    torch.testing.assert_close(small(images).semantic, large(images).semantic)


def test_masks_by_default_are_for_a_crop_of_465() -> None:
    assert PSANet.Config().mask == (59, 59)
    assert PSANet.Config(compact=True).mask == (30, 30)
    assert PSANet.Config().map_size(59, 59) == PSANet.Config(compact=True).map_size(59, 59) == (30, 30)


@pytest.mark.parametrize("kind", KINDS)
def test_training_reaches_every_parameter(kind: dict[str, Any]) -> None:
    model = _small(**kind).train()
    outputs = model(_images(2, 33, 49))
    torch.autograd.backward(outputs.semantic.logsumexp(1).sum() + outputs.auxiliary.logsumexp(1).sum())
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize("kind", KINDS)
def test_it_learns_pictures_by_heart(kind: dict[str, Any]) -> None:
    model = _small(dropout=0.0, **kind).train()
    images, labels = torch.full((2, 3, 33, 33), 40.0), torch.zeros(2, 5, 5, dtype=torch.long)
    images[0, :, :17], images[1, :, :, 16:] = 220.0, 220.0
    images += 20 * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    labels[0, :2], labels[1, :, 3:] = 1, 2
    optimiser = torch.optim.Adam(model.parameters(), 0.005)
    for _ in range(80):
        optimiser.zero_grad()
        torch.autograd.backward(torch.nn.functional.cross_entropy(model(images).semantic, labels))
        optimiser.step()
    assert (model(images).semantic.argmax(1) == labels).float().mean() > 0.95


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mask_size": (58, 59)}, "mask_size 58,59: odd sides only, as 59,59"),
        ({"mask_size": (0, 3)}, "greater than 0"),
        ({"shrink_factor": 0}, "greater than 0"),
        ({"psa_type": "both"}, "'collect', 'distribute' or 'bidirectional'"),
        ({"normalization_factor": 0.0}, "greater than 0"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        PSANet.Config(**settings)


def test_settings_are_read_from_text() -> None:
    config = PSANet.Config.model_validate({"mask_size": "13,9", "compact": "false", "shrink_factor": "1"})
    assert (config.mask, config.compact, config.shrink_factor) == ((13, 9), False, 1)
