"""Activation checkpointing: every family computes the same numbers, and keeps less for the backward pass."""

import copy

import pytest
import torch
from torch import Tensor, nn

from atrous.backbones import FAMILIES, Backbone, build_backbone
from atrous.layers.drop_path import DropPath
from atrous.layers.recompute import recompute
from tests.backbones.test_backbones import SMALL

STEPS = 3


def backbones(family: str) -> tuple[Backbone, Backbone]:
    """One that keeps its activations, and the same one that recomputes them."""
    config = FAMILIES[family].Config.model_validate(SMALL[family])
    torch.manual_seed(0)
    keeping = build_backbone(config, config.output_strides[-1]).train()
    for module in keeping.modules():
        if isinstance(module, DropPath):
            module.progress = 1.0
    recomputing = copy.deepcopy(keeping)
    recompute(recomputing.parts())
    return keeping, recomputing


def learnt(backbone: nn.Module) -> int:
    """Take a few steps; returns the bytes that the last forward pass kept for its backward pass."""
    optimizer = torch.optim.SGD(backbone.parameters(), lr=0.01, momentum=0.9)
    for step in range(STEPS):
        torch.manual_seed(step)
        images = torch.rand(2, 3, 33, 33) * 2 - 1
        kept: dict[int, int] = {}

        def note(tensor: Tensor, kept: dict[int, int] = kept) -> Tensor:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            features = backbone(images)
        weights = {name: torch.randn(1) for name in features}
        total = torch.stack([(feature * weights[name]).square().mean() for name, feature in features.items()]).sum()
        total.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
    return sum(kept.values())


LARGE = ("nasnet", "xception", "vgg")  # slow ones


@pytest.mark.parametrize(
    "family", [pytest.param(family, marks=pytest.mark.slow if family in LARGE else ()) for family in SMALL]
)
def test_weights_statistics_and_counters_are_the_same_after_some_steps(family: str) -> None:
    keeping, recomputing = backbones(family)
    before = copy.deepcopy(recomputing.state_dict())
    bytes_kept, bytes_recomputed = learnt(keeping), learnt(recomputing)
    assert recomputing.state_dict().keys() == before.keys()
    for name, value in keeping.state_dict().items():
        assert torch.equal(value, recomputing.state_dict()[name]), name
    assert any(not torch.equal(value, recomputing.state_dict()[name]) for name, value in before.items())
    counters = [value for name, value in before.items() if name.endswith("num_batches_tracked")]
    assert all(value == 0 for value in counters)
    own = [value for name, value in recomputing.state_dict().items() if name.endswith("num_batches_tracked")]
    assert all(value == STEPS for value in own)
    assert bytes_recomputed < 0.75 * bytes_kept


@pytest.mark.parametrize("family", SMALL)
def test_every_parameter_belongs_to_a_part(family: str) -> None:
    backbone, _ = backbones(family)
    inside = sum(parameter.numel() for part in backbone.parts() for parameter in part.parameters())
    assert inside == sum(parameter.numel() for parameter in backbone.parameters())


def test_frozen_norms_and_passes_without_gradients_are_as_before() -> None:
    keeping, recomputing = backbones("resnet")
    for backbone in (keeping, recomputing):
        backbone.eval()
    learnt(keeping), learnt(recomputing)
    for name, value in keeping.state_dict().items():
        assert torch.equal(value, recomputing.state_dict()[name]), name
    with torch.inference_mode():
        images = torch.rand(1, 3, 33, 33)
        for name, feature in keeping(images).items():
            assert torch.equal(feature, recomputing(images)[name])


def test_a_copy_recomputes_with_its_own_weights() -> None:
    _, recomputing = backbones("resnet")
    images = torch.rand(2, 3, 33, 33)
    twin = copy.deepcopy(recomputing)
    before = recomputing.eval()(images)["c5"]
    learnt(twin)
    assert torch.equal(recomputing(images)["c5"], before)
    assert not torch.equal(twin.eval()(images)["c5"], before)
