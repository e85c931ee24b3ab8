"""Labels at the grid of the logits: TensorFlow DeepLab's figure, strided slices, the weight of a pass in an update."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from atrous.config import load
from atrous.losses import LossConfig, semantic_loss
from atrous.ops import resize_nearest
from atrous.types import Outputs
from tests.reference.tensorflow_deeplab import FIGURES, array

GRID = LossConfig(labels="grid")


def example(stride: int = 8, grid: tuple[int, int] = (5, 7), seed: int = 0) -> tuple[Tensor, Tensor]:
    """Logits [2, 3, h, w] and labels of k * stride + 1 pixels, a quarter of them ignored."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, 3, *grid, generator=generator)
    height, width = ((side - 1) * stride + 1 for side in grid)
    labels = torch.randint(0, 4, (2, height, width), generator=generator, dtype=torch.uint8)
    return logits, labels.where(labels < 3, 255).to(torch.uint8)


def grid_loss(logits: Tensor, labels: Tensor, *, normalizer: Tensor | None = None) -> Tensor:
    return semantic_loss(Outputs(logits), labels, GRID, ignore=255, normalizer=normalizer)["semantic"]


def test_the_loss_is_tensorflows_without_upsampled_logits() -> None:
    logits, labels = array("loss_logits").permute(0, 3, 1, 2), array("loss_labels")[..., 0]
    expected = FIGURES["loss"]["no_upsample"]
    assert float(grid_loss(logits, labels)) == pytest.approx(expected, rel=1e-6)
    at_image_size = semantic_loss(Outputs(logits), labels, LossConfig(), ignore=255)["semantic"]
    assert float(at_image_size) != pytest.approx(expected)


@given(stride=st.sampled_from([1, 2, 4, 8, 16]), height=st.integers(1, 120), width=st.integers(2, 120))
@settings(max_examples=40, deadline=None)
def test_labels_of_k_strides_and_one_are_a_strided_slice(stride: int, height: int, width: int) -> None:
    labels = torch.arange(((height - 1) * stride + 1) * ((width - 1) * stride + 1)).view(-1, (width - 1) * stride + 1)
    assert torch.equal(resize_nearest(labels, (height, width)), labels[::stride, ::stride])


def test_the_loss_is_the_cross_entropy_at_strided_labels() -> None:
    logits, labels = example()
    expected = F.cross_entropy(logits, labels[:, ::8, ::8].long(), ignore_index=255)
    for align_corners in (True, False):
        terms = semantic_loss(Outputs(logits), labels, GRID, ignore=255, align_corners=align_corners)
        torch.testing.assert_close(terms["semantic"], expected)


def test_each_head_has_the_labels_of_its_own_grid() -> None:
    logits, labels = example()
    finer = example(stride=4, grid=(9, 13), seed=1)[0]
    terms = semantic_loss(Outputs(logits, heads={"auxiliary": finer}), labels, GRID, ignore=255)
    expected = F.cross_entropy(finer, labels[:, ::4, ::4].long(), ignore_index=255)
    torch.testing.assert_close(terms["auxiliary"], 0.4 * expected)


def test_gradients_reach_every_labelled_cell_and_no_other() -> None:
    logits, labels = example()
    torch.autograd.backward(grid_loss(logits.requires_grad_(), labels))
    assert logits.grad is not None
    assert torch.equal(logits.grad.abs().sum(1) > 0, labels[:, ::8, ::8] != 255)


def test_in_a_single_pass_the_number_of_labelled_pixels_changes_nothing() -> None:
    """Training passes the number of labelled pixels of the whole update; in a single pass it is the pass's own."""
    logits, labels = example()
    pixels = (labels != 255).sum().float()
    torch.testing.assert_close(grid_loss(logits, labels, normalizer=pixels), grid_loss(logits, labels))


def test_passes_count_by_their_labelled_pixels() -> None:
    passes = example(), example(seed=1)
    passes[1][1][:, :20] = 255
    pixels = [(labels != 255).sum().float() for _, labels in passes]
    total = pixels[0] + pixels[1]
    alone = [grid_loss(*one) for one in passes]
    together = [grid_loss(*one, normalizer=total) for one in passes]
    torch.testing.assert_close(together[0] + together[1], (alone[0] * pixels[0] + alone[1] * pixels[1]) / total)


def test_without_a_label_under_the_grid_the_loss_is_zero() -> None:
    """Whether no pixel has a label, or only pixels between the cells have one."""
    logits, labels = example()
    for label in (255, 1):
        labels.fill_(255)
        labels[:, 3, 3] = label
        for normalizer in (None, torch.tensor(1.0), torch.tensor(900.0)):
            leaf = logits.clone().requires_grad_()
            loss = grid_loss(leaf, labels, normalizer=normalizer)
            torch.autograd.backward(loss)
            assert float(loss.detach()) == 0
            assert leaf.grad is not None
            assert not leaf.grad.any()


def test_hard_pixels_are_the_hardest_cells() -> None:
    logits, labels = example()
    loss = semantic_loss(Outputs(logits), labels, GRID, ignore=255, hard_pixels=0.2)["semantic"]
    cells = F.cross_entropy(logits, labels[:, ::8, ::8].long(), ignore_index=255, reduction="none").flatten()
    torch.testing.assert_close(loss, cells.topk(int(0.2 * 70)).values.mean())


def test_a_recipe_chooses_where_labels_are_compared() -> None:
    assert load("synthetic/deeplab_v3plus_tiny", ["loss.labels=grid"]).loss == LossConfig(labels="grid")
    with pytest.raises(ValueError, match=r"loss\.labels=gird: must be 'image' or 'grid'"):
        load("synthetic/deeplab_v3plus_tiny", ["loss.labels=gird"])
