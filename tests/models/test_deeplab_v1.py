"""DeepLab v1: the sizes of the paper's variants, and what the side branches add."""

import pytest
import torch
from torch import Tensor

from atrous.models import Model, build
from atrous.models.deeplab_v1 import DeepLabV1

VGG16 = 14_714_688  # its 13 convolutions
COUNTS = {  # millions in table 2 of the paper; the same to the last one, from its layers, for 21 classes
    "large_fov": (20.5, VGG16 + (9 * 512 + 1) * 1024 + (1024 + 1) * 1024 + (1024 + 1) * 21),
    "7x7": (134.3, VGG16 + (49 * 512 + 1) * 4096 + (4096 + 1) * 4096 + (4096 + 1) * 21),
    "4x4": (65.1, VGG16 + (16 * 512 + 1) * 4096 + (4096 + 1) * 4096 + (4096 + 1) * 21),
}


def _on_meta(**settings: object) -> Model:
    with torch.device("meta"):
        return build(DeepLabV1.Config.model_validate(settings), 21)


def _count(model: Model) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(("variant", "millions", "count"), [(name, *counts) for name, counts in COUNTS.items()])
def test_parameter_counts_are_the_papers(variant: str, millions: float, count: int) -> None:
    assert _count(_on_meta(variant=variant)) == count
    assert round(count / 1e6, 1) == millions


@pytest.mark.parametrize("variant", COUNTS)
@pytest.mark.parametrize("multi_scale", [False, True])
def test_every_variant_has_logits_at_stride_8(variant: str, multi_scale: bool) -> None:
    model = _on_meta(variant=variant, multi_scale=multi_scale)
    for size, grid in (((65, 97), (9, 13)), ((33, 50), (5, 7)), ((1, 1), (1, 1))):
        assert model(torch.zeros(1, 3, *size, device="meta")).semantic.shape == (1, 21, *grid)


def test_side_branches_add_a_3x3_and_a_1x1_on_the_image_and_four_poolings() -> None:
    inputs = (3, 64, 128, 256, 512)
    branches = sum((9 * inp + 1) * 128 + (128 + 1) * 128 for inp in inputs)
    assert _count(_on_meta(multi_scale=True)) - _count(_on_meta()) == branches + 5 * 128 * 21


def test_side_branches_follow_fc7_in_the_order_of_their_depth() -> None:
    torch.manual_seed(0)
    model = build(DeepLabV1.Config(multi_scale=True), 2).eval()
    seen: dict[str, Tensor] = {}
    for name in ("image", "c1", "c2", "c3", "c4"):
        module = model.get_submodule(f"sides.{name}")
        module.register_forward_hook(lambda _, inputs, output, name=name: seen.update({name: output}))
    model.get_submodule("classify").register_forward_pre_hook(lambda _, inputs: seen.update(joined=inputs[0]))
    with torch.no_grad():
        model(torch.randint(0, 256, (1, 3, 33, 41), dtype=torch.uint8))
    joined = seen.pop("joined")
    assert joined.shape == (1, 1024 + 5 * 128, 5, 6)
    torch.testing.assert_close(joined[:, 1024:], torch.cat(list(seen.values()), 1))
    assert list(seen) == ["image", "c1", "c2", "c3", "c4"]


def test_gradients_reach_the_side_branches() -> None:
    torch.manual_seed(0)
    model = build(DeepLabV1.Config(multi_scale=True), 2).train()
    torch.autograd.backward(model(torch.randint(0, 256, (1, 3, 33, 41), dtype=torch.uint8)).semantic.logsumexp(1).sum())
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []
