"""PSPNet: the sizes that are published, its parts put together, and a few pictures learnt by heart."""

import pytest
import torch
from torch import Tensor

from atrous.layers.resize import resize
from atrous.models import Model, build
from atrous.models.pspnet import PSPNet

PUBLISHED = [  # millions of parameters in training and in inference, entries of the original's state dict
    ("resnet50s", 150, 49.18, 46.78, 370),
    ("resnet101s", 150, 68.17, 65.77, 676),
    ("resnet152s", 150, 83.82, 81.42, 982),
    ("resnet50s", 21, 49.08, 46.72, 370),
    ("resnet101s", 19, 68.07, 65.71, 676),
]


def _small(**settings: object) -> Model:
    torch.manual_seed(0)
    narrow = {"backbone": "resnet_tiny", "head_channels": 8, "auxiliary_channels": 8}
    return build(PSPNet.Config.model_validate(narrow | settings), 3).eval()


def _images(batch: int, height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (batch, 3, height, width), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize(("backbone", "num_classes", "training", "inference", "entries"), PUBLISHED)
def test_published_sizes(backbone: str, num_classes: int, training: float, inference: float, entries: int) -> None:
    with torch.device("meta"):
        model = build(PSPNet.Config(backbone=backbone), num_classes)
    count = sum(parameter.numel() for parameter in model.parameters())
    second = sum(parameter.numel() for parameter in model.get_submodule("auxiliary").parameters())
    assert (round(count / 1e6, 2), round((count - second) / 1e6, 2)) == (training, inference)
    assert len(model.state_dict()) - len(("shift", "scale")) == entries


@torch.no_grad()
def test_the_heads_are_figure_4s() -> None:
    model, images = _small(), _images(2, 41, 57)
    features, outputs = model.features(images), model(images)
    c5 = features["c5"]
    means = [torch.nn.functional.adaptive_avg_pool2d(c5, bins) for bins in (1, 2, 3, 6)]
    levels = [
        resize(model.get_submodule(f"pyramid.branches.{index}")(mean), (6, 8)) for index, mean in enumerate(means)
    ]
    torch.testing.assert_close(outputs.semantic, model.get_submodule("head")(torch.cat([c5, *levels], 1)))
    torch.testing.assert_close(outputs.auxiliary, model.get_submodule("auxiliary")(features["c4"]))


@pytest.mark.parametrize("output_stride", [8, 16, 32])
@pytest.mark.parametrize("size", [(1, 1), (40, 57), (33, 8)])
def test_both_heads_have_any_size_at_every_stride(output_stride: int, size: tuple[int, int]) -> None:
    outputs = _small(output_stride=output_stride)(_images(1, *size))
    grid = tuple(-(-side // output_stride) for side in size)
    assert outputs.semantic.shape == (1, 3, *grid)
    assert outputs.auxiliary.shape == (1, 3, *(-(-side // min(16, output_stride)) for side in size))


def test_without_a_pyramid_the_head_sees_c5() -> None:
    model = _small(bins=())
    assert model.get_parameter("head.conv.conv.weight").shape[1] == model.backbone.channels["c5"]
    assert model(_images(1, 33, 33)).semantic.shape == (1, 3, 5, 5)


def test_it_learns_a_few_pictures_by_heart() -> None:
    model = _small(dropout=0.0).train()
    assert _fitted(model) > 0.95


def _fitted(model: Model) -> float:
    """The share of pixels that it tells after 80 steps on two pictures of one bright part each."""
    images, labels = torch.full((2, 3, 33, 33), 40.0), torch.zeros(2, 5, 5, dtype=torch.long)
    images[0, :, :17], images[1, :, :, 16:] = 220.0, 220.0
    images += 20 * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    labels[0, :2], labels[1, :, 3:] = 1, 2
    optimiser = torch.optim.Adam(model.parameters(), 0.005)
    for _ in range(80):
        outputs = model(images)
        loss = sum(torch.nn.functional.cross_entropy(x, labels) for x in (outputs.semantic, outputs.auxiliary))
        assert isinstance(loss, Tensor)
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
    return float((model(images).semantic.argmax(1) == labels).float().mean())
