"""Labels at the grid of the logits: TensorFlow DeepLab's figure, strided slices, the weight of a pass in an update."""

import json

import numpy as np
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
from tests.test_tf_ops import GOLDENS

GRID = LossConfig(labels="grid")


def drawn(stride: int = 8, grid: tuple[int, int] = (5, 7), seed: int = 0) -> tuple[Tensor, Tensor]:
    """Logits [2, 3, h, w] and labels of k * stride + 1 pixels, a quarter of them ignored."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, 3, *grid, generator=generator)
    height, width = ((side - 1) * stride + 1 for side in grid)
    labels = torch.randint(0, 4, (2, height, width), generator=generator, dtype=torch.uint8)
    return logits, labels.where(labels < 3, 255).to(torch.uint8)


def test_the_loss_is_tensorflows_without_upsampled_logits() -> None:
    with np.load(GOLDENS / "ops.npz") as arrays:
        logits, labels = (torch.from_numpy(arrays[f"loss_{name}"]) for name in ("logits", "labels"))
    expected = json.loads((GOLDENS / "ops.json").read_text())["loss"]["no_upsample"]
    outputs = Outputs(semantic=logits.permute(0, 3, 1, 2))
    found = semantic_loss(outputs, labels[..., 0], GRID, ignore=255)["semantic"]
    assert float(found) == pytest.approx(expected, rel=1e-6)
    assert float(semantic_loss(outputs, labels[..., 0], LossConfig(), ignore=255)["semantic"]) != pytest.approx(
        expected
    )


@given(stride=st.sampled_from([1, 2, 4, 8, 16]), height=st.integers(1, 120), width=st.integers(2, 120))
@settings(max_examples=40, deadline=None)
def test_labels_of_k_strides_and_one_are_a_strided_slice(stride: int, height: int, width: int) -> None:
    labels = torch.arange(((height - 1) * stride + 1) * ((width - 1) * stride + 1)).view(-1, (width - 1) * stride + 1)
    assert torch.equal(resize_nearest(labels, (height, width)), labels[::stride, ::stride])


@pytest.mark.parametrize("align_corners", [True, False])
def test_the_loss_is_the_cross_entropy_at_strided_labels(align_corners: bool) -> None:
    logits, labels = drawn()
    found = semantic_loss(Outputs(logits), labels, GRID, ignore=255, align_corners=align_corners)["semantic"]
    expected = F.cross_entropy(logits, labels[:, ::8, ::8].long(), ignore_index=255)
    torch.testing.assert_close(found, expected)


def test_each_head_has_the_labels_of_its_own_grid() -> None:
    logits, labels = drawn()
    finer = drawn(stride=4, grid=(9, 13), seed=1)[0]
    found = semantic_loss(Outputs(logits, heads={"auxiliary": finer}), labels, GRID, ignore=255)
    expected = F.cross_entropy(finer, labels[:, ::4, ::4].long(), ignore_index=255)
    torch.testing.assert_close(found["auxiliary"], 0.4 * expected)


def test_gradients_reach_every_labelled_cell_and_no_other() -> None:
    logits, labels = drawn()
    semantic_loss(Outputs(logits.requires_grad_()), labels, GRID, ignore=255)["semantic"].backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert torch.equal(logits.grad.abs().sum(1) > 0, labels[:, ::8, ::8] != 255)


def test_the_number_of_all_labelled_pixels_leaves_one_pass_as_it_is() -> None:
    """Training passes how many pixels of the whole update are labelled; of one pass these are its own."""
    logits, labels = drawn()
    pixels = (labels != 255).sum().float()
    given_number = semantic_loss(Outputs(logits), labels, GRID, ignore=255, normalizer=pixels)["semantic"]
    torch.testing.assert_close(given_number, semantic_loss(Outputs(logits), labels, GRID, ignore=255)["semantic"])


def test_passes_count_by_their_labelled_pixels() -> None:
    first, second = drawn(), drawn(seed=1)
    second[1][:, :20] = 255
    pixels = [(labels != 255).sum().float() for _, labels in (first, second)]
    alone = [semantic_loss(Outputs(logits), labels, GRID, ignore=255)["semantic"] for logits, labels in (first, second)]
    together = [
        semantic_loss(Outputs(logits), labels, GRID, ignore=255, normalizer=pixels[0] + pixels[1])["semantic"]
        for logits, labels in (first, second)
    ]
    torch.testing.assert_close(
        together[0] + together[1], (alone[0] * pixels[0] + alone[1] * pixels[1]) / (pixels[0] + pixels[1])
    )


@pytest.mark.parametrize("normalizer", [None, torch.tensor(1.0), torch.tensor(900.0)])
@pytest.mark.parametrize("kept", [0, 1])
def test_without_a_label_under_the_grid_the_loss_is_zero(normalizer: Tensor | None, kept: int) -> None:
    """Neither where no pixel has a label, nor where those that have lie between the cells."""
    logits, labels = drawn()
    labels.fill_(255)
    labels[:, 3, 3] = 1 if kept else 255
    loss = semantic_loss(Outputs(logits.requires_grad_()), labels, GRID, ignore=255, normalizer=normalizer)["semantic"]
    loss.backward()  # type: ignore[no-untyped-call]
    assert float(loss.detach()) == 0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_hard_pixels_are_the_hardest_cells() -> None:
    logits, labels = drawn()
    found = semantic_loss(Outputs(logits), labels, GRID, ignore=255, top_k=0.2)["semantic"]
    cells = F.cross_entropy(logits, labels[:, ::8, ::8].long(), ignore_index=255, reduction="none").flatten()
    torch.testing.assert_close(found, cells.topk(int(0.2 * 70)).values.mean())


def test_a_recipe_chooses_it() -> None:
    assert load("synthetic/deeplab_v3plus_tiny", ["loss.labels=grid"]).loss.labels == "grid"
    with pytest.raises(ValueError, match=r"loss\.labels=gird: must be 'image' or 'grid'"):
        load("synthetic/deeplab_v3plus_tiny", ["loss.labels=gird"])
