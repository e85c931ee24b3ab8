"""The semantic loss: its terms, its hard pixels, its class weights."""

import math

import pytest
import torch

from atrous.losses import LossConfig, hard_pixel_share, median_frequency_weights, presence_loss, semantic_loss
from atrous.types import Outputs


def outputs(*, auxiliary: bool) -> Outputs:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 5, 7, generator=generator)
    return Outputs(semantic=logits, heads={"auxiliary": logits[:, :, ::2, ::2]} if auxiliary else {})


LABELS = torch.randint(0, 3, (2, 17, 25), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


def test_the_second_head_is_a_term_of_its_own_weight() -> None:
    full = semantic_loss(outputs(auxiliary=True), LABELS, LossConfig(weights={"auxiliary": 1.0}), ignore=255)
    less = semantic_loss(outputs(auxiliary=True), LABELS, LossConfig(), ignore=255)
    assert set(full) == {"semantic", "auxiliary"}
    assert less["auxiliary"] == pytest.approx(float(full["auxiliary"]) * 0.4)
    assert less["semantic"] == full["semantic"]


def test_the_second_head_is_left_out_where_it_has_no_weight_or_is_not_there() -> None:
    without = LossConfig(weights={"auxiliary": 0})
    assert set(semantic_loss(outputs(auxiliary=True), LABELS, without, ignore=255)) == {"semantic"}
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


def test_every_scale_of_a_pyramid_is_a_term_beside_the_merged_one() -> None:
    merged, (fine, coarse) = outputs(auxiliary=True), torch.randn(2, 2, 3, 5, 7)
    heads = {"scale_0": fine, "scale_1": coarse, **merged.heads}
    terms = semantic_loss(merged._replace(heads=heads), LABELS, LossConfig(), ignore=255)
    assert list(terms) == ["semantic", "scale_0", "scale_1", "auxiliary"]
    alone = [semantic_loss(Outputs(semantic=logits), LABELS, LossConfig(), ignore=255) for logits in (fine, coarse)]
    assert [terms["scale_0"], terms["scale_1"]] == [one["semantic"] for one in alone]
    assert terms["semantic"] == semantic_loss(merged, LABELS, LossConfig(), ignore=255)["semantic"]


def test_the_scales_are_summed_over_the_same_pixels() -> None:
    logits, pixels = outputs(auxiliary=False).semantic, torch.tensor(10.0)
    given = Outputs(semantic=logits, heads={"scale_0": logits, "scale_1": -logits})
    terms = semantic_loss(given, LABELS, LossConfig(), ignore=255, top_k=0.5, normalizer=pixels)
    assert terms["scale_0"] == terms["semantic"]
    half = semantic_loss(Outputs(semantic=-logits), LABELS, LossConfig(), ignore=255, top_k=0.5, normalizer=pixels)
    assert terms["scale_1"] == half["semantic"]


def _cascade(*scales: float) -> Outputs:
    given = outputs(auxiliary=False)
    return given._replace(heads={f"cascade_{index}": scale * given.semantic for index, scale in enumerate(scales)})


def test_each_level_of_a_cascade_has_its_own_weight() -> None:
    terms = semantic_loss(_cascade(1, 1), LABELS, LossConfig(), ignore=255)
    whole = float(terms["semantic"])
    assert [float(terms[name]) for name in ("cascade_0", "cascade_1")] == pytest.approx([0.16 * whole, 0.4 * whole])
    less = semantic_loss(_cascade(1, 1), LABELS, LossConfig(weights={"cascade_0": 0, "cascade_1": 1}), ignore=255)
    assert set(less) == {"semantic", "cascade_1"}


PRESENT = torch.tensor([[2.0, -1.0, 0.5], [0.0, 3.0, -2.0]])  # [B, C] logits
SCENES = torch.tensor([[[0, 0, 255], [2, 0, 9]], [[1, 1, 255], [255, 255, 255]]], dtype=torch.uint8)


def _presence_by_hand(image: int, there: tuple[int, ...]) -> float:
    probability = PRESENT[image].double().sigmoid().tolist()
    return -sum(math.log(p if index in there else 1 - p) for index, p in enumerate(probability)) / 3


def test_presence_is_the_cross_entropy_of_the_classes_in_an_image() -> None:
    """Nine and 255 are no classes: the images hold 0 and 2 on four pixels, and 1 on two."""
    images = _presence_by_hand(0, (0, 2)), _presence_by_hand(1, (1,))
    assert float(presence_loss(PRESENT, SCENES, ignore=255)) == pytest.approx((4 * images[0] + 2 * images[1]) / 6)


def test_presence_is_the_same_in_one_pass_or_two() -> None:
    pixels = torch.tensor(6.0)
    parts = [presence_loss(PRESENT[i : i + 1], SCENES[i : i + 1], ignore=255, normalizer=pixels) for i in (0, 1)]
    assert float(sum(parts)) == pytest.approx(float(presence_loss(PRESENT, SCENES, ignore=255)))


def test_presence_is_a_term_where_the_model_has_it_and_it_has_a_weight() -> None:
    given = outputs(auxiliary=False)._replace(heads={"presence": PRESENT})
    terms = semantic_loss(given, LABELS, LossConfig(), ignore=255)
    assert float(terms["presence"]) == pytest.approx(0.2 * float(presence_loss(PRESENT, LABELS, ignore=255)))
    assert set(semantic_loss(given, LABELS, LossConfig(weights={"presence": 0}), ignore=255)) == {"semantic"}


def test_an_image_without_a_label_says_nothing_of_what_is_there() -> None:
    logits = PRESENT.clone().requires_grad_()
    loss = presence_loss(logits, torch.full((2, 3, 3), 255), ignore=255)
    torch.autograd.backward(loss)
    assert float(loss.detach()) == 0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_presence_in_low_precision_is_found_in_float32() -> None:
    assert presence_loss(PRESENT.bfloat16(), SCENES, ignore=255).dtype == torch.float32
    assert presence_loss(PRESENT.double(), SCENES, ignore=255).dtype == torch.float64
