"""The semantic loss: its terms, its hard pixels, its class weights."""

import pytest
import torch

from atrous.losses import LossConfig, hard_pixel_share, median_frequency_weights, semantic_loss
from atrous.types import Outputs


def outputs(*, auxiliary: bool) -> Outputs:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 5, 7, generator=generator)
    return Outputs(semantic=logits, auxiliary=logits[:, :, ::2, ::2] if auxiliary else None)


LABELS = torch.randint(0, 3, (2, 17, 25), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


def test_the_second_head_is_a_term_of_its_own_weight() -> None:
    full = semantic_loss(outputs(auxiliary=True), LABELS, LossConfig(auxiliary=1.0), ignore=255)
    less = semantic_loss(outputs(auxiliary=True), LABELS, LossConfig(auxiliary=0.4), ignore=255)
    assert set(full) == {"semantic", "auxiliary"}
    assert less["auxiliary"] == pytest.approx(float(full["auxiliary"]) * 0.4)
    assert less["semantic"] == full["semantic"]


def test_the_second_head_is_left_out_where_it_has_no_weight_or_is_not_there() -> None:
    assert set(semantic_loss(outputs(auxiliary=True), LABELS, LossConfig(auxiliary=0), ignore=255)) == {"semantic"}
    assert set(semantic_loss(outputs(auxiliary=False), LABELS, LossConfig(), ignore=255)) == {"semantic"}


def test_hard_pixels_fall_from_all_to_the_share_asked_for() -> None:
    config = LossConfig(hard_pixels=0.25, hard_pixels_step=100)
    assert [hard_pixel_share(config, step) for step in (0, 50, 100, 500)] == pytest.approx([1.0, 0.625, 0.25, 0.25])
    assert hard_pixel_share(LossConfig(hard_pixels=0.25), 0) == 0.25


def test_hard_pixels_raise_the_loss() -> None:
    every = semantic_loss(outputs(auxiliary=False), LABELS, LossConfig(), ignore=255)["semantic"]
    hard = semantic_loss(outputs(auxiliary=False), LABELS, LossConfig(), ignore=255, top_k=0.25)["semantic"]
    assert hard > every


def test_median_frequency_weights_lift_rare_classes() -> None:
    weights = median_frequency_weights(torch.tensor([100, 10, 0, 1000]))
    assert weights.tolist() == pytest.approx([1.0, 10.0, 0.0, 0.1])
