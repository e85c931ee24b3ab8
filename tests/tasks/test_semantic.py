"""Semantic segmentation as a task: losses over an update, decoding, figures by hand, pictures."""

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from atrous import visualize
from atrous.data import survey
from atrous.data.label_space import LabelSpace
from atrous.distributed import World
from atrous.errors import ConfigError
from atrous.inference.seen import Seen
from atrous.losses.semantic import LossConfig
from atrous.tasks import semantic
from atrous.tasks.contract import Labels, TrainingData
from atrous.tasks.semantic import SEMANTIC, DecodeConfig, SemanticObjective
from atrous.types import Batch, Facts, Outputs, Sample
from tests.conftest import noise
from tests.reference.legacy import legacy

CPU = torch.device("cpu")
ALONE = World(0, 1, CPU)
SPACE = LabelSpace(names=("sky", "road", "car"), colors=((0, 0, 255), (99, 99, 99), (255, 0, 0)))
FACTS = Facts("semantic", 3, (0.0, 0.0, 0.0), 8, 8, "aligned_corners")


def labelled(name: str, semantic: list[list[int]]) -> Sample:
    array = np.array(semantic, np.uint8)
    return Sample(name, noise(*array.shape), array)


SAMPLES = (labelled("a", [[0, 0, 0, 0], [1, 1, 1, 255]]), labelled("b", [[1, 0, 0, 0], [2, 255, 255, 255]]))


def objective(heads: tuple[str, ...] = (), **settings: object) -> SemanticObjective:
    config = LossConfig.model_validate(settings)
    return semantic.objective(config, FACTS, heads, TrainingData(SPACE, survey.count(SAMPLES, SPACE, ALONE), CPU))


def batch(labels: Tensor) -> Batch:
    return Batch(("x",) * len(labels), torch.zeros(len(labels), 3, *labels.shape[1:], dtype=torch.uint8), labels)


def pass_of(size: int, seed: int) -> tuple[Tensor, Mapping[str, Tensor]]:
    """Logits on a coarser grid, and targets with a random share of ignored pixels."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 3, (size, 17, 25), generator=generator, dtype=torch.uint8)
    labels[torch.rand(labels.shape, generator=generator) < 0.2 * seed] = 255
    return torch.randn(size, 3, 3, 4, generator=generator), objective().targets(batch(labels))


# ---- the objective


def test_the_loss_is_the_cross_entropy_at_the_images_size() -> None:
    logits, targets = pass_of(2, seed=1)
    one = objective()
    counts = one.counts(targets, step=0)
    assert counts is not None and counts.dtype == torch.float64
    assert counts.tolist() == [int((targets["semantic"] != 255).sum())]
    terms = one.terms(Outputs(logits), targets, counts, step=0)
    large = F.interpolate(logits, (17, 25), mode="bilinear", align_corners=True)
    assert terms.keys() == {"semantic"}
    torch.testing.assert_close(terms["semantic"], F.cross_entropy(large, targets["semantic"].long(), ignore_index=255))


def test_legacy_logits_are_compared_as_they_are_upsampled() -> None:
    """All pixels, or the hardest: as if the logits had been upsampled by the definition first."""
    logits, targets = pass_of(2, seed=1)
    logits.requires_grad_()
    large = torch.from_numpy(legacy(logits.detach().numpy(), (17, 25)))
    losses = F.cross_entropy(large, targets["semantic"].long(), ignore_index=255, reduction="none")
    for hard_pixels, expected in ((1.0, losses[targets["semantic"] != 255]), (0.3, losses.flatten().topk(255).values)):
        one = objective(hard_pixels=hard_pixels)._replace(convention="legacy")
        terms = one.terms(Outputs(logits), targets, one.counts(targets, step=0), step=0)
        torch.testing.assert_close(terms["semantic"].detach(), expected.mean())
    terms["semantic"].backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None and logits.grad.abs().sum() > 0


def test_passes_of_an_update_weigh_each_pixel_the_same() -> None:
    """Two passes with different numbers of labelled pixels, with the counts of both, are one large pass."""
    (few, few_targets), (many, many_targets) = pass_of(1, seed=3), pass_of(2, seed=1)
    one = objective()
    counts = one.counts(few_targets, 0), one.counts(many_targets, 0)
    assert counts[0] is not None and counts[1] is not None
    total = counts[0] + counts[1]
    parts = [
        one.terms(Outputs(logits), targets, total, 0)["semantic"]
        for logits, targets in ((few, few_targets), (many, many_targets))
    ]
    targets = {"semantic": torch.cat([few_targets["semantic"], many_targets["semantic"]])}
    whole = one.terms(Outputs(torch.cat([few, many])), targets, one.counts(targets, 0), 0)["semantic"]
    torch.testing.assert_close(parts[0] + parts[1], whole)


def test_hard_pixels_have_means_of_their_own() -> None:
    logits, targets = pass_of(2, seed=1)
    hard = objective(hard_pixels=0.5, hard_pixels_step=10)
    assert hard.counts(targets, step=0) is not None  # the share is still 1
    assert hard.counts(targets, step=5) is None
    late, early = (
        hard.terms(Outputs(logits), targets, hard.counts(targets, step), step)["semantic"] for step in (10, 0)
    )
    assert late > early


def test_an_update_without_a_labelled_pixel_has_no_loss() -> None:
    targets = {"semantic": torch.full((1, 9, 9), 255, dtype=torch.uint8)}
    one = objective()
    terms = one.terms(Outputs(torch.randn(1, 3, 2, 2)), targets, one.counts(targets, 0), 0)
    assert terms["semantic"] == 0


def test_training_heads_are_terms_of_their_own() -> None:
    logits, targets = pass_of(2, seed=1)
    both = objective(heads=("auxiliary",), weights={"auxiliary": 0.5})
    outputs = Outputs(logits, heads={"auxiliary": logits})
    terms = both.terms(outputs, targets, both.counts(targets, 0), 0)
    torch.testing.assert_close(terms["auxiliary"], 0.5 * terms["semantic"])
    with pytest.raises(ConfigError, match=r"loss\.weights\.auxiliary: the model has no such training head"):
        objective(weights={"auxiliary": 0.5})


def test_class_weights_are_set_or_counted() -> None:
    assert objective().weights is None
    fixed = objective(class_weights=(1, 2, 3)).weights
    counted = objective(class_weights="counts").weights
    assert fixed is not None and counted is not None
    assert fixed.tolist() == [1, 2, 3]
    # 7 of 16 pixels, 4 of 16, and 1 of the 8 of the one image that holds class 2
    frequency = torch.tensor([7 / 16, 4 / 16, 1 / 8])
    torch.testing.assert_close(counted, (4 / 16) / frequency)
    with pytest.raises(ConfigError, match=r"loss\.class_weights: 2 values for 3 classes"):
        objective(class_weights=(1, 2))


# ---- decoded


def seen(outputs: Tensor, *, is_mean: bool, size: tuple[int, int] = (17, 25)) -> Seen:
    return Seen(Outputs(outputs), (17, 25), (17, 25), size, "aligned_corners", is_mean)


def test_labels_are_the_likeliest_classes_at_the_images_size() -> None:
    logits, _ = pass_of(2, seed=1)
    large = F.interpolate(logits, (17, 25), mode="bilinear", align_corners=True)
    labels = SEMANTIC.decode(seen(logits, is_mean=False), SPACE, DecodeConfig())
    assert len(labels) == 2
    for one, expected in zip(labels, large.argmax(1), strict=True):
        assert one.semantic is not None and one.probabilities is None
        assert torch.equal(one.semantic.long(), expected)
    for one, expected in zip(
        SEMANTIC.decode(seen(large.softmax(1), is_mean=True), SPACE, DecodeConfig()), large.softmax(1), strict=True
    ):
        assert one.semantic is not None and one.probabilities is not None
        assert torch.equal(one.probabilities, expected)
        assert torch.equal(one.semantic, expected.argmax(0))


# ---- measured

# truth 0 0 0 0 / 1 1 1 - and 1 0 0 0 / 2 - - -
PREDICTED = (torch.tensor([[0, 0, 0, 1], [1, 1, 0, 2]]), torch.tensor([[1, 1, 0, 0], [0, 2, 2, 2]]))
EXPECTED = torch.tensor([[5, 2, 0], [1, 3, 0], [1, 0, 0]])


def total() -> Tensor:
    statistics = [
        SEMANTIC.statistics(Labels(predicted), sample, SPACE)["miou"]
        for predicted, sample in zip(PREDICTED, SAMPLES, strict=True)
    ]
    matrix: Tensor = statistics[0] + statistics[1]
    return matrix


def test_figures_by_hand() -> None:
    assert torch.equal(total(), EXPECTED)
    figures = SEMANTIC.report({"miou": total()}, SPACE)
    ious = 5 / 9, 3 / 6, 0.0
    accuracies = 5 / 7, 3 / 4, 0.0
    assert figures.headline == "miou"
    assert figures.scores == pytest.approx(
        {"miou": sum(ious) / 3, "pixel_accuracy": 8 / 12, "mean_accuracy": sum(accuracies) / 3}
    )
    assert figures.titles == {"miou": "mIoU", "pixel_accuracy": "pixel accuracy", "mean_accuracy": "mean accuracy"}
    assert figures.table.columns == ("IoU", "accuracy", "pixels")
    for name, row in zip(SPACE.names, zip(ious, accuracies, (7, 4, 1), strict=True), strict=True):
        assert figures.table.rows[name] == pytest.approx(row)
    assert figures.table.totals == pytest.approx((sum(ious) / 3, sum(accuracies) / 3, 12))
    assert figures.confusion is not None and figures.confusion.tolist() == EXPECTED.tolist()
    assert figures.notes["mean over"] == "3 of 3 classes"
    assert figures.notes["pixels"] == "one confusion matrix over all pixels whose label isn't 255"


def test_an_absent_class_is_undefined_and_left_out() -> None:
    figures = SEMANTIC.report({"miou": torch.diag(torch.tensor([3, 1, 0]))}, SPACE)
    assert figures.scores["miou"] == 1.0
    assert figures.table.rows["car"] == (None, None, 0)
    assert figures.notes["mean over"] == "2 of 3 classes; in neither labels nor predictions, so left out: car"


# ---- shown


def test_panels_show_the_image_the_truth_the_prediction_and_the_errors() -> None:
    sample, labels = SAMPLES[0], Labels(PREDICTED[0])
    panels = dict(SEMANTIC.panels(sample, labels, SPACE))
    assert list(panels) == ["Image", "Truth", "Prediction", "Errors"]
    assert panels["Image"] is sample.image
    assert all(panel.shape == (2, 4, 3) for panel in panels.values())
    right, wrong, ignored = visualize.RIGHT, visualize.WRONG, visualize.IGNORED
    expected = [[right, right, right, wrong], [right, right, wrong, ignored]]
    assert np.array_equal(panels["Errors"], np.array(expected, np.uint8))
    assert SEMANTIC.legend == {"right": right, "wrong": wrong, "ignored": ignored}
    assert np.array_equal(panels["Truth"][1, 3], sample.image[1, 3])  # an ignored pixel stays the image's
    assert np.array_equal(panels["Prediction"], SEMANTIC.paint(sample.image, labels, SPACE, 0.55))


def test_masks_are_written_with_the_colours_of_the_classes() -> None:
    content = SEMANTIC.results["masks"].encode(Labels(PREDICTED[0]), SPACE)
    with Image.open(io.BytesIO(content)) as mask:
        assert mask.mode == "P"
        assert np.array_equal(np.array(mask), PREDICTED[0].numpy())
        colors: Any = np.array(mask.convert("RGB"))
    assert np.array_equal(colors, np.array(SPACE.colors, np.uint8)[PREDICTED[0].numpy()])


def test_class_weights_lie_on_the_device() -> None:
    """Moved at each step, they would wait for it each time."""
    config = LossConfig(class_weights=(1.0, 2.0, 3.0))
    weights = semantic.objective(config, FACTS, (), TrainingData(SPACE, None, torch.device("meta"))).weights
    assert weights is not None
    assert weights.device.type == "meta"


BACKGROUND = LabelSpace(names=("background", "cat", "dog"))
HALF = torch.tensor([[0, 0, 1, 1]] * 2)


def test_the_background_is_not_laid_over_a_photo() -> None:
    image = noise(2, 4)
    mixed = SEMANTIC.paint(image, Labels(HALF), BACKGROUND, 0.5)
    assert np.array_equal(mixed[:, :2], image[:, :2])
    assert not np.array_equal(mixed[:, 2:], image[:, 2:])
    colors = SEMANTIC.paint(image, Labels(HALF), BACKGROUND, 1.0)
    assert colors[0, 0].tolist() == [0, 0, 0], "alpha 1 shows the colours alone"
    sample = Sample("a", image, np.array([[0, 255, 1, 1]] * 2, np.uint8))
    truth = SEMANTIC.paint_truth(sample, BACKGROUND)
    assert np.array_equal(truth[:, :2], image[:, :2]), "neither background nor ignored pixels"
    assert not np.array_equal(truth[:, 2:], image[:, 2:])


def test_what_is_painted_has_a_name_and_a_colour_but_not_the_background() -> None:
    assert SEMANTIC.painted(Labels(HALF), BACKGROUND) == {"cat": (128, 0, 0)}
    assert SEMANTIC.painted(Labels(HALF), SPACE) == {"sky": (0, 0, 255), "road": (99, 99, 99)}
    many = LabelSpace(names=tuple(f"class {index}" for index in range(300)))
    assert list(SEMANTIC.painted(Labels(torch.tensor([[299, 1]])), many)) == ["class 1", "class 299"]


def test_panels_of_a_large_image_are_small() -> None:
    sample = Sample("a", noise(3000, 50), np.zeros((3000, 50), np.uint8))
    panels = SEMANTIC.panels(sample, Labels(torch.zeros(3000, 50, dtype=torch.int64)), SPACE)
    assert {image.shape for _, image in panels} == {(1000, 17, 3)}
