"""The semantic loss: its terms, its hard pixels, its class weights."""

import math
import re
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from atrous.errors import ConfigError
from atrous.losses import (
    LossConfig,
    hard_pixel_share,
    median_frequency_weights,
    presence_loss,
    require_heads,
    semantic_loss,
)
from atrous.ops import resize_nearest, upsample_cross_entropy, upsample_dice, upsample_lovasz
from atrous.types import Outputs

LOGITS = torch.randn(2, 3, 5, 7, generator=torch.Generator().manual_seed(0))
LABELS = torch.randint(0, 3, (2, 17, 25), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


def terms(heads: Mapping[str, Tensor], weights: Mapping[str, float] | None = None) -> dict[str, Tensor]:
    config = LossConfig(weights=dict(weights or {}))
    return semantic_loss(Outputs(semantic=LOGITS, heads=heads), LABELS, config, ignore=255)


def test_each_head_is_a_term_with_its_own_weight() -> None:
    """The papers' weights where the config has none, 1 for a head that no paper weights, no term for a weight of 0."""
    papers = {"semantic": 1.0, "scale_0": 1.0, "auxiliary": 0.4, "cascade_0": 0.16, "cascade_1": 0.4}
    configured = {"semantic": 1.0, "scale_0": 1.0, "auxiliary": 1.0, "cascade_1": 0.3}
    assert list(terms({})) == ["semantic"]
    whole = float(terms({})["semantic"])
    heads = {name: LOGITS for name in papers if name != "semantic"}
    for losses, expected in (
        (terms(heads), papers),
        (terms(heads, {"auxiliary": 1.0, "cascade_0": 0.0, "cascade_1": 0.3}), configured),
    ):
        assert list(losses) == list(expected)
        assert [float(loss) for loss in losses.values()] == pytest.approx([one * whole for one in expected.values()])


def test_a_head_is_compared_by_its_own_logits_and_grid() -> None:
    heads = {"scale_0": -LOGITS, "scale_1": LOGITS[:, :, ::2, ::2]}
    losses = terms(heads)
    for name, logits in {"semantic": LOGITS, **heads}.items():
        alone = semantic_loss(Outputs(semantic=logits), LABELS, LossConfig(), ignore=255)
        assert losses[name] == alone["semantic"]


def test_hard_pixels_and_the_normalizer_hold_for_every_head() -> None:
    outputs = Outputs(semantic=LOGITS, heads={"scale_0": LOGITS, "scale_1": -LOGITS})
    options = {"ignore": 255, "hard_pixels": 0.5, "normalizer": torch.tensor(10.0)}
    losses = semantic_loss(outputs, LABELS, LossConfig(), **options)  # type: ignore[arg-type]
    assert losses["scale_0"] == losses["semantic"]
    negated = semantic_loss(Outputs(semantic=-LOGITS), LABELS, LossConfig(), **options)  # type: ignore[arg-type]
    assert losses["scale_1"] == negated["semantic"]


def test_weights_of_heads_that_the_model_lacks_are_refused() -> None:
    cases = {
        (
            "auxilary",
            ("auxiliary",),
        ): "loss.weights.auxilary: the model has no such training head; did you mean auxiliary?",
        ("presence", ("cascade_0", "cascade_1")): "no such training head; it has cascade_0, cascade_1",
        ("auxiliary", ()): "loss.weights.auxiliary: the model has no such training head; it has none",
        ("semantic", ("auxiliary",)): "loss.weights.semantic: the model has no such training head; it has auxiliary",
    }
    for (name, heads), message in cases.items():
        with pytest.raises(ConfigError, match=re.escape(message)):
            require_heads(LossConfig(weights={name: 0.5}), heads)
    require_heads(LossConfig(weights={"auxiliary": 0.5}), ("auxiliary", "presence"))
    require_heads(LossConfig(), ())


# ---- smoothing, focus, regions


def test_the_pixels_loss_is_smoothed_and_focused_in_every_head() -> None:
    outputs = Outputs(semantic=LOGITS, heads={"scale_0": -LOGITS})
    losses = semantic_loss(outputs, LABELS, LossConfig(label_smoothing=0.1, focal=2.0), ignore=255)
    for name, logits in {"semantic": LOGITS, "scale_0": -LOGITS}.items():
        torch.testing.assert_close(losses[name], upsample_cross_entropy(logits, LABELS, label_smoothing=0.1, focal=2))


def test_dice_and_lovasz_are_terms_of_the_main_logits() -> None:
    outputs = Outputs(semantic=LOGITS, heads={"auxiliary": LOGITS})
    config = LossConfig(cross_entropy=0.5, dice=2.0, lovasz=3.0)
    losses = semantic_loss(outputs, LABELS, config, ignore=0, class_weights=torch.tensor([1.0, 2, 3]))
    assert list(losses) == ["semantic", "auxiliary", "dice", "lovasz"]
    options: dict[str, Any] = {"ignore": 0, "class_weights": torch.tensor([1.0, 2, 3])}
    assert losses["dice"] == 2 * upsample_dice(LOGITS, LABELS, **options)
    assert losses["lovasz"] == 3 * upsample_lovasz(LOGITS, LABELS, **options)
    assert losses["semantic"] == 0.5 * upsample_cross_entropy(LOGITS, LABELS, **options)


def test_dice_alone_has_no_cross_entropy() -> None:
    config = LossConfig(cross_entropy=0, dice=1)
    assert list(semantic_loss(Outputs(semantic=LOGITS), LABELS, config, ignore=255)) == ["dice"]


def test_dice_is_compared_on_the_grid_and_divided_like_the_rest() -> None:
    """Half of an update's pixels are in this pass: it counts by a half."""
    config = LossConfig(labels="grid", dice=1)
    whole = semantic_loss(Outputs(semantic=LOGITS), LABELS, config, ignore=255)["dice"]
    halved = semantic_loss(
        Outputs(semantic=LOGITS), LABELS, config, ignore=255, normalizer=torch.tensor(2.0 * LABELS.numel())
    )["dice"]
    torch.testing.assert_close(whole, upsample_dice(LOGITS, resize_nearest(LABELS, (5, 7))))
    torch.testing.assert_close(halved, whole / 2)


def test_a_loss_without_a_term_is_refused() -> None:
    with pytest.raises(ValidationError, match="cross_entropy, dice and lovasz are all 0: nothing would be learnt"):
        LossConfig(cross_entropy=0)
    for wrong in ({"label_smoothing": 1}, {"focal": -1}, {"dice": -1}, {"lovasz": math.nan}, {"focal": math.inf}):
        with pytest.raises(ValidationError):
            LossConfig.model_validate(wrong)


# ---- hard pixels and class weights


def test_the_share_of_hard_pixels_falls_linearly() -> None:
    config = LossConfig(hard_pixels=0.25, hard_pixels_step=100)
    assert [hard_pixel_share(config, step) for step in (0, 50, 100, 500)] == pytest.approx([1.0, 0.625, 0.25, 0.25])
    assert hard_pixel_share(LossConfig(hard_pixels=0.25), 0) == 0.25


def test_hard_pixels_raise_the_loss() -> None:
    every, hard = (
        semantic_loss(Outputs(semantic=LOGITS), LABELS, LossConfig(), ignore=255, hard_pixels=share)["semantic"]
        for share in (1.0, 0.25)
    )
    assert hard > every


def test_class_weights_scale_the_pixels_of_their_class() -> None:
    labels = torch.zeros_like(LABELS)
    outputs = Outputs(semantic=LOGITS)
    plain, weighted = (
        semantic_loss(outputs, labels, LossConfig(), ignore=255, class_weights=class_weights)["semantic"]
        for class_weights in (None, torch.tensor([3.0, 1.0, 1.0]))
    )
    torch.testing.assert_close(weighted, 3 * plain)


def test_median_frequency_weights_raise_rare_classes() -> None:
    """Frequencies 0.1, 0.01 and 0.5, the median is 0.1; a class without pixels is left out and weighs 1."""
    weights = median_frequency_weights([100, 10, 0, 500], [1000, 1000, 0, 1000])
    assert weights.tolist() == pytest.approx([1.0, 10.0, 1.0, 0.2])
    assert median_frequency_weights([0, 0], [0, 0]).tolist() == [1.0, 1.0]


def test_the_median_of_an_even_number_of_frequencies_lies_between_the_two_in_the_middle() -> None:
    """`torch.median` would be the lower one, which made the rarer of two classes weigh 1 and the other less."""
    assert median_frequency_weights([90, 10], [100, 100]).tolist() == pytest.approx([0.5 / 0.9, 0.5 / 0.1])
    four = median_frequency_weights([40, 30, 20, 10], [100, 100, 100, 100])
    assert four.tolist() == pytest.approx([0.25 / 0.4, 0.25 / 0.3, 0.25 / 0.2, 0.25 / 0.1])


def test_a_frequency_is_among_the_images_that_hold_the_class() -> None:
    """Class 1 has a quarter of the one image that holds it, however many images lack it."""
    weights = median_frequency_weights([375, 25], [400, 100])
    median = (375 / 400 + 25 / 100) / 2
    assert weights.tolist() == pytest.approx([median / (375 / 400), median / (25 / 100)])


# ---- presence


PRESENCE = torch.tensor([[2.0, -1.0, 0.5], [0.0, 3.0, -2.0]])  # [B, C] logits
SCENES = torch.tensor([[[0, 0, 255], [2, 0, 9]], [[1, 1, 255], [255, 255, 255]]], dtype=torch.uint8)


def _presence_by_hand(image: int, classes: tuple[int, ...]) -> float:
    probabilities = PRESENCE[image].double().sigmoid().tolist()
    return -sum(math.log(p if index in classes else 1 - p) for index, p in enumerate(probabilities)) / 3


def test_presence_is_the_cross_entropy_of_the_classes_in_an_image() -> None:
    """9 and 255 are not classes: the images contain 0 and 2 on four pixels, and 1 on two."""
    images = _presence_by_hand(0, (0, 2)), _presence_by_hand(1, (1,))
    assert float(presence_loss(PRESENCE, SCENES, ignore=255)) == pytest.approx((4 * images[0] + 2 * images[1]) / 6)


def test_presence_is_the_same_in_one_pass_or_two() -> None:
    pixels = torch.tensor(6.0)
    parts = [presence_loss(PRESENCE[i : i + 1], SCENES[i : i + 1], ignore=255, normalizer=pixels) for i in (0, 1)]
    assert float(sum(parts)) == pytest.approx(float(presence_loss(PRESENCE, SCENES, ignore=255)))


def test_presence_is_a_term_unless_its_weight_is_zero() -> None:
    loss = float(presence_loss(PRESENCE, LABELS, ignore=255))
    assert float(terms({"presence": PRESENCE})["presence"]) == pytest.approx(0.2 * loss)
    assert set(terms({"presence": PRESENCE}, {"presence": 0})) == {"semantic"}


def test_an_image_without_labels_adds_nothing_to_presence() -> None:
    logits = PRESENCE.clone().requires_grad_()
    loss = presence_loss(logits, torch.full((2, 3, 3), 255), ignore=255)
    torch.autograd.backward(loss)
    assert float(loss.detach()) == 0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_presence_is_computed_in_float32_or_better() -> None:
    assert presence_loss(PRESENCE.bfloat16(), SCENES, ignore=255).dtype == torch.float32
    assert presence_loss(PRESENCE.double(), SCENES, ignore=255).dtype == torch.float64
