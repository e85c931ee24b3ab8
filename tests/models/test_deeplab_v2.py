"""DeepLab v2: the branches are summed, straight to logits or through VGG-16's fully connected layers."""

import copy

import pytest
import torch
from torch import Tensor, nn

from atrous.models import Model
from atrous.types import Outputs
from tests.models.conftest import config_of, head_parameters, num_parameters, on_meta, random_images, small

IMAGES = random_images(2, 49, 65)


def _small(**settings: object) -> Model:
    model = small("deeplab_v2", **settings)
    for conv in model.modules():
        if isinstance(conv, nn.Conv2d) and conv.bias is not None:
            nn.init.normal_(conv.bias)
    return model


def _alone(model: Model, chosen: int) -> Tensor:
    """The logits when all branches but one give nothing."""
    one = copy.deepcopy(model)
    for index, branch in enumerate(one.get_submodule("classify").children()):
        if index != chosen:
            for parameter in branch.parameters():
                nn.init.zeros_(parameter)
    outputs: Outputs = one(IMAGES)
    return outputs.semantic


@torch.no_grad()
@pytest.mark.parametrize("hidden", [None, 8])
def test_the_logits_are_the_sum_of_each_branch_alone(hidden: int | None) -> None:
    model = _small(hidden=hidden, rates=(1, 2, 3))
    alone = [_alone(model, branch) for branch in range(3)]
    torch.testing.assert_close(model(IMAGES).semantic, torch.stack(alone).sum(0))
    assert not torch.allclose(alone[0], alone[1])


@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_branches_have_the_kernel_and_the_rates_of_the_config(kernel: int) -> None:
    model = _small(rates=(2, 5), kernel=kernel)
    convs = [conv for conv in model.get_submodule("classify").children() if isinstance(conv, nn.Conv2d)]
    assert [conv.kernel_size for conv in convs] == [(kernel, kernel)] * 2
    assert [conv.dilation for conv in convs] == [(2, 2), (5, 5)]
    assert model(IMAGES).semantic.shape == (2, 4, 7, 9)


def test_parameter_counts() -> None:
    vgg, resnet = on_meta("deeplab_v2", 21, backbone="vgg16", hidden=1024), on_meta("deeplab_v2", 21)
    branch = (9 * 512 + 1) * 1024 + (1024 + 1) * 1024 + (1024 + 1) * 21  # fc6, fc7, fc8
    assert num_parameters(vgg) == 14_714_688 + 4 * branch == 37_877_652
    assert head_parameters(resnet) == 4 * (9 * 2048 + 1) * 21


def test_defaults_are_those_of_section_4_1_2() -> None:
    config = config_of("deeplab_v2").model_dump()
    assert (config["backbone"]["name"], config["output_stride"]) == ("resnet_v1_101", 8)
    assert config["rates"] == (6, 12, 18, 24)
