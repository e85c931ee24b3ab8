"""FCN, and the parts that torchvision's DeepLab v3 has beside the paper's."""

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from atrous.inference import pad_to_grid
from atrous.layers.aspp import ASPP
from atrous.layers.conv import ConvNorm
from atrous.models import MODELS, Model, build

TINY: dict[str, object] = {"backbone": "resnet_tiny", "head_channels": 8, "auxiliary_channels": 8}


def small(name: str = "fcn", **settings: object) -> Model:
    torch.manual_seed(0)
    narrow = TINY | ({"aspp_channels": 8, "output_stride": 8} if name == "deeplab_v3" else {})
    return build(MODELS[name].Config.model_validate(narrow | settings), 3).eval()


def images(batch: int, height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (batch, 3, height, width), dtype=torch.uint8, generator=generator)


@torch.no_grad()
@pytest.mark.parametrize("name", ["fcn", "deeplab_v3"])
def test_the_second_head_sees_c4(name: str) -> None:
    model, batch = small(name), images(2, 41, 57)
    outputs = model(batch)
    torch.testing.assert_close(outputs.auxiliary, model.get_submodule("auxiliary")(model.features(batch)["c4"]))
    assert outputs.semantic.shape == outputs.auxiliary.shape == (2, 3, 6, 8)
    assert set(model.logit_modules) == ({"head", "auxiliary"} if name == "fcn" else {"classify", "auxiliary"})


@pytest.mark.parametrize("name", ["fcn", "deeplab_v3"])
def test_there_may_be_no_second_head(name: str) -> None:
    model = small(name, auxiliary_channels=None)
    assert model(images(1, 33, 33)).auxiliary is None
    assert not [key for key in model.state_dict() if key.startswith("auxiliary")]


@torch.no_grad()
def test_torchvisions_3x3_is_behind_the_pyramid() -> None:
    model, batch = small("deeplab_v3", norm_eps=0.5), images(1, 33, 49)
    pyramid, refine = model.get_submodule("aspp"), model.get_submodule("refine")
    assert isinstance(pyramid, ASPP)
    assert isinstance(refine, ConvNorm)
    refined = refine(pyramid(model.features(batch)["c5"]))
    torch.testing.assert_close(model(batch).semantic, model.get_submodule("classify")(refined))
    norms = [module for part in (pyramid, refine) for module in part.modules() if hasattr(module, "running_mean")]
    assert {norm.eps for norm in norms} == {0.5}
    assert len(norms) == 9 + 1  # three of the branches are separable


def test_images_are_padded_for_aligned_corners_alone() -> None:
    batch = images(1, 40, 57)
    assert pad_to_grid(batch, small()).shape == (1, 3, 41, 57)
    assert pad_to_grid(batch, small(align_corners=False)) is batch


def test_it_learns_a_few_pictures_by_heart() -> None:
    model = small(dropout=0.0).train()
    batch, labels = torch.full((2, 3, 33, 33), 40.0), torch.zeros(2, 5, 5, dtype=torch.long)
    batch[0, :, :17], batch[1, :, :, 16:] = 220.0, 220.0
    labels[0, :2], labels[1, :, 3:] = 1, 2
    optimiser = torch.optim.Adam(model.parameters(), 0.005)
    for _ in range(80):
        outputs = model(batch)
        assert outputs.auxiliary is not None
        losses = [torch.nn.functional.cross_entropy(x, labels) for x in (outputs.semantic, outputs.auxiliary)]
        optimiser.zero_grad()
        torch.autograd.backward(losses)
        optimiser.step()
    assert float((model(batch).semantic.argmax(1) == labels).float().mean()) > 0.95


@pytest.mark.parametrize(
    ("name", "settings", "reason"),
    [
        ("fcn", {"image_pyramid": (0.5, 1.0)}, "image_pyramid .* is not for fcn"),
        ("fcn", {"head_channels": 0}, "greater than 0"),
        ("fcn", {"dropout": 1.0}, "less than 1"),
        ("deeplab_v3", {"image_pyramid": (0.5, 1.0)}, r"image_pyramid \(0.5, 1.0\) merges one output: not with aux"),
        ("deeplab_v3", {"norm_eps": 0}, "greater than 0"),
    ],
)
def test_bad_settings_are_refused(name: str, settings: dict[str, object], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        small(name, **settings)
