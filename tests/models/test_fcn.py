"""FCN, and the parts that torchvision's DeepLab v3 has beside the paper's."""

import pytest
import torch

from atrous.inference.frames import pad_to_grid
from atrous.layers.aspp import ASPP
from atrous.layers.conv import ConvNorm
from atrous.models import Model
from tests.models.conftest import random_images, small

TORCHVISION: dict[str, dict[str, object]] = {
    "fcn": {},
    "deeplab_v3": {
        "backbone": "resnet_tiny",
        "output_stride": 8,
        "head_channels": 8,
        "auxiliary_channels": 8,
        "aspp": {"channels": 8, "norm_eps": 0.5},
    },
}


def _torchvisions(name: str, **settings: object) -> Model:
    return small(name, 3, **{**TORCHVISION[name], **settings})


@torch.no_grad()
@pytest.mark.parametrize("name", ["fcn", "deeplab_v3"])
def test_the_second_head_sees_c4(name: str) -> None:
    model, batch = _torchvisions(name), random_images(2, 41, 57)
    outputs = model(batch)
    auxiliary = outputs.heads["auxiliary"]
    torch.testing.assert_close(auxiliary, model.get_submodule("auxiliary")(model.features(batch)["c4"]))
    assert outputs.semantic.shape == auxiliary.shape == (2, 3, 6, 8)
    assert set(model.logit_modules) == ({"head", "auxiliary"} if name == "fcn" else {"classify", "auxiliary"})


@pytest.mark.parametrize("name", ["fcn", "deeplab_v3"])
def test_there_may_be_no_second_head(name: str) -> None:
    model = _torchvisions(name, auxiliary_channels=None)
    assert model(random_images(1, 33, 33)).heads == {}
    assert not [key for key in model.state_dict() if key.startswith("auxiliary")]


@torch.no_grad()
def test_torchvisions_3x3_comes_after_aspp() -> None:
    model, batch = _torchvisions("deeplab_v3"), random_images(1, 33, 49)
    pyramid, refine = model.get_submodule("aspp"), model.get_submodule("refine")
    assert isinstance(pyramid, ASPP)
    assert isinstance(refine, ConvNorm)
    refined = refine(pyramid(model.features(batch)["c5"]))
    torch.testing.assert_close(model(batch).semantic, model.get_submodule("classify")(refined))
    norms = [module for part in (pyramid, refine) for module in part.modules() if hasattr(module, "running_mean")]
    assert {norm.eps for norm in norms} == {0.5}
    assert len(norms) == 9 + 1  # three of the branches are separable


def test_images_are_padded_only_for_aligned_corners() -> None:
    batch = random_images(1, 40, 57)
    assert pad_to_grid(batch, small("fcn")).shape == (1, 3, 41, 57)
    assert pad_to_grid(batch, small("fcn", align_corners=False)) is batch
