"""Classification as a task, alone and the whole way: trained, measured, predicted, reported."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

import atrous
from atrous import evaluate, predict, segmenter, train
from atrous.config import load
from atrous.data.label_space import LabelSpace, numbered_names
from atrous.distributed import World
from atrous.predicting.all_images import Summary
from atrous.run_folder import RunFolder
from atrous.tasks import classification
from atrous.tasks.classification import CLASSIFICATION, ClassificationObjective, LossConfig
from atrous.tasks.contract import Labels, TrainingData
from atrous.types import Batch, Facts, Outputs, Sample
from tests.conftest import TINY, noise, save
from tests.runs import QUIET, losses, validations

ALONE = World(0, 1, torch.device("cpu"))
SPACE = LabelSpace(names=numbered_names(7))


# ---- the objective


def objective() -> ClassificationObjective:
    facts = Facts("classification", 7, (0.0, 0.0, 0.0), 32, 32, "aligned_corners")
    return classification.objective(LossConfig(), facts, (), TrainingData(SPACE, None, torch.device("cpu")))


def batch(category: Tensor) -> Batch:
    return Batch(("x",) * len(category), torch.zeros(len(category), 3, 4, 4), category=category)


def test_the_loss_is_the_mean_cross_entropy_of_an_update() -> None:
    torch.manual_seed(0)
    logits, category = torch.randn(5, 7), torch.tensor([0, 6, 3, 3, 1])
    one = objective()
    targets = one.targets(batch(category))
    counts = one.counts(targets, step=0)
    assert counts is not None and counts.dtype == torch.float64
    assert counts.tolist() == [5]
    terms = one.terms(Outputs(classes=logits), targets, counts, step=0)
    torch.testing.assert_close(terms, {"category": F.cross_entropy(logits, category)})


def test_passes_of_an_update_weigh_each_image_the_same() -> None:
    torch.manual_seed(0)
    logits, category = torch.randn(5, 7), torch.tensor([0, 6, 3, 3, 1])
    one = objective()
    parts = [
        one.terms(Outputs(classes=logits[some]), one.targets(batch(category[some])), torch.tensor([5.0]), 0)
        for some in (slice(0, 2), slice(2, 5))
    ]
    torch.testing.assert_close(parts[0]["category"] + parts[1]["category"], F.cross_entropy(logits, category))


# ---- measured

ORDER = torch.tensor([0.3, 0.25, 0.2, 0.1, 0.08, 0.05, 0.02])  # class 0 is the likeliest, class 5 the sixth


def sample(category: int) -> Sample:
    return Sample(f"of_{category}", noise(8, 120), category=category)


def test_figures_by_hand() -> None:
    """Of six images two have the likeliest class, two others one of the first five, and two none of these."""
    truths = (0, 0, 1, 4, 5, 6)
    total = sum(CLASSIFICATION.statistics(Labels(classes=ORDER), sample(truth), SPACE)["accuracy"] for truth in truths)
    figures = CLASSIFICATION.report({"accuracy": total}, SPACE)
    assert figures.headline == "top_1"
    assert figures.scores == pytest.approx({"top_1": 2 / 6, "top_5": 4 / 6})
    assert figures.titles == {"top_1": "top-1 accuracy", "top_5": "top-5 accuracy"}
    assert figures.table.columns == ("accuracy", "images")
    expected = [(1.0, 2), (0.0, 1), (None, 0), (None, 0), (0.0, 1), (0.0, 1), (0.0, 1)]
    assert list(figures.table.rows.values()) == expected
    assert figures.table.totals == pytest.approx((2 / 6, 6))
    assert figures.confusion is None
    json.dumps(figures.to_tree())


def test_of_few_classes_all_are_among_the_first_five() -> None:
    space = LabelSpace(names=("cat", "dog"))
    labels = Labels(classes=torch.tensor([0.9, 0.1]))
    total = CLASSIFICATION.statistics(labels, sample(1), space)
    assert CLASSIFICATION.report(total, space).scores == {"top_1": 0.0, "top_5": 1.0}


# ---- shown


def test_a_training_sample_is_shown_with_its_class() -> None:
    picture = CLASSIFICATION.paint_truth(sample(5), SPACE)
    image = sample(5).image
    assert np.array_equal(picture[: image.shape[0], : image.shape[1]], image)
    assert picture.shape[0] > image.shape[0]
    assert CLASSIFICATION.painted(Labels(classes=ORDER), SPACE) == {}


def test_the_likeliest_classes_are_written_and_named() -> None:
    labels = Labels(classes=ORDER)
    written = json.loads(CLASSIFICATION.results["classes"].encode(labels, SPACE))
    assert list(written) == ["class_0", "class_1", "class_2", "class_3", "class_4"]
    assert list(written.values()) == pytest.approx([0.3, 0.25, 0.2, 0.1, 0.08])
    panels = CLASSIFICATION.panels(sample(5), labels, SPACE)
    assert [caption for caption, _ in panels] == ["Truth: class_5", "Prediction"]
    image, captioned = (panel for _, panel in panels)
    assert np.array_equal(captioned[:8], image)
    assert captioned.shape[0] > 8 + 5 * 15
    assert (captioned[8:] < 100).any()  # text, dark on white


# ---- the whole way


def brightness(split: str, count: int) -> list[Sample]:
    """Dark and bright images by turns."""
    rng = np.random.default_rng(0 if split == "train" else 1)
    return [
        Sample(
            f"{split}_{index}",
            rng.integers(0, 100, (40, 48, 3), dtype=np.uint8) + np.uint8(150 * (index % 2)),
            category=index % 2,
        )
        for index in range(count)
    ]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    def samples(config: object, split: str, needs: object = ()) -> Sequence[Sample]:
        return brightness(split, 8 if split == "train" else 4)

    common = [text for text in TINY if not text.startswith(("model.aspp", "model.decoder"))]
    short = ("train.steps=12", "train.eval_every=6", "train.batch=4", "train.batch_norm_momentum=0.3", "optim.lr=0.02")
    overrides = ("model.name=image_classifier", "augment.crop=33,41", "train.accumulate=2", *short)
    config = load("synthetic/deeplab_v3plus_tiny", [*common, *overrides])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("atrous.data.samples", samples)
        patch.setattr("atrous.data.label_space", lambda config: LabelSpace(names=("dark", "bright")))
        return train.train(config, tmp_path_factory.mktemp("classes") / "run", console=QUIET)


def test_a_classifier_learns_and_its_run_is_reported(run: RunFolder) -> None:
    assert [row["step"] for row in validations(run)] == [6, 12]
    assert validations(run)[-1]["scores"].keys() == {"top_1", "top_5"}
    assert losses(run)[-1]["loss"] < losses(run)[0]["loss"]
    best = atrous.load(run.best)
    assert best.results["scores"]["top_1"] == 1.0
    page = run.report.read_text(encoding="utf-8")
    for text in ("Top-1 accuracy", "Validation top-1 accuracy", "Truth: bright"):
        assert text in page
    assert "Confusion" not in page


def test_a_classifier_is_measured(run: RunFolder) -> None:
    evaluation = evaluate.evaluate(atrous.load(run.best), brightness("test", 6), world=ALONE, data_name="by hand")
    assert evaluation.figures.scores == {"top_1": 1.0, "top_5": 1.0}
    assert evaluation.figures.table.rows == {"dark": (1.0, 3), "bright": (1.0, 3)}
    assert [image.score for image in evaluation.images] == [1.0] * 6


def test_a_classifier_predicts_classes_with_their_probabilities(run: RunFolder) -> None:
    image = brightness("test", 2)[1].image
    classes = atrous.load(run.best).predict(image).classes
    assert list(classes) == ["dark", "bright"]
    assert sum(classes.values()) == pytest.approx(1)
    assert classes["bright"] > 0.5


def test_predictions_of_a_classifier_are_files(run: RunFolder, tmp_path: Path) -> None:
    save(tmp_path / "images" / "day.png", brightness("test", 2)[1].image)
    out = tmp_path / "out"
    summary = predict.run(run.best, [str(tmp_path / "images")], out, console=QUIET)
    files = (out / "classes" / "day.json", out / "overlays" / "day.jpg")
    assert summary == Summary(1, (), (out / "classes", out / "overlays"), files)
    classes = json.loads((out / "classes" / "day.json").read_text())
    assert next(iter(classes)) == "bright"
    assert classes == pytest.approx(segmenter.load(run.best).predict(tmp_path / "images" / "day.png").classes, abs=1e-5)
    with Image.open(out / "overlays" / "day.jpg") as overlay:
        assert overlay.width == 48
        assert overlay.height > 40
