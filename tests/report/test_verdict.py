"""Each rule of the verdict, on a history made by hand: when it speaks, with which number, and when it is silent."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from atrous.config import Config, override
from atrous.report import verdict
from atrous.report.balance import splits_of
from atrous.report.facts import RunFacts
from atrous.report.training import Training
from atrous.report.verdict import RULES, Case, Finding
from atrous.tasks.contract import Figures, Table
from tests.conftest import MOBILENET, tiny_config

NAMES = ("road", "car", "tree")
RIGHT = np.array([[700, 10, 5], [10, 180, 5], [5, 5, 90]])
FACTS = RunFacts(1000, train_images=2000, val_images=50, images_per_step=8, processes=1, device="cpu")


def figures(confusion: Any, **changes: Any) -> Figures:  # noqa: ANN401
    confusion = np.asarray(confusion)
    union = confusion.sum(0) + confusion.sum(1) - confusion.diagonal()
    iou = [
        hit / all_ if all_ else None for hit, all_ in zip(confusion.diagonal().tolist(), union.tolist(), strict=True)
    ]
    rows = {name: (value, int(row.sum())) for name, value, row in zip(NAMES, iou, confusion, strict=True)}
    mean = float(np.mean([value for value in iou if value is not None] or [0]))
    return Figures({"miou": mean}, {"miou": "mIoU"}, Table(("IoU", "pixels"), rows, unit="pixels"), confusion)._replace(
        **changes
    )


def history(scores: Sequence[float], losses: Sequence[float] = (), every: int = 100) -> list[dict[str, Any]]:
    """A validation after each `every` steps; the losses are spread evenly over all steps."""
    steps = len(scores) * every
    interval = steps / max(1, len(losses))
    return [
        *({"step": (index + 1) * every, "scores": {"miou": score}} for index, score in enumerate(scores)),
        *({"step": round((index + 1) * interval), "loss": loss} for index, loss in enumerate(losses)),
    ]


def case(confusion: Any = RIGHT, *, config: Config | None = None, **training: Any) -> Case:  # noqa: ANN401
    scores = training.pop("scores", [0.5] * 50)
    skipped = training.pop("num_skipped", 0)
    return Case(figures(confusion), scores, skipped, config, Training(**{"facts": FACTS, **training}))


def data(**train: Any) -> dict[str, Any]:  # noqa: ANN401
    classes = {name: {"pixels": 100, "images": 10} for name in NAMES}
    split = {"images": 20, "pixels": 300, "ignored": 0, "unlabelled": [], "num_unlabelled": 0, "classes": classes}
    return {"train": {**split, **train}}


def only(finding: Finding | None) -> Finding:
    assert finding is not None
    return finding


FALLING = [2.0 - 0.05 * index for index in range(30)]
LEVEL = [2.0] * 30


def test_a_good_training_has_nothing_to_mend() -> None:
    config = override(tiny_config(), ["train.init=a.safetensors"], "")
    (finding,) = verdict.judge(case(config=config, history=history([0.5, 0.6, 0.601], FALLING)))
    assert (finding.weight, finding.title) == ("good", "Nothing stands out that should be mended first")
    assert finding.number == f"None of {len(RULES)} checks gave a warning"


def test_findings_are_sorted_worst_first() -> None:
    findings = verdict.judge(
        case(
            [[900, 0, 0], [100, 0, 0], [0, 0, 0]], config=tiny_config(), scores=[0.1, 0.2], history=history([0.4, 0.5])
        )
    )
    weights = [verdict.WEIGHTS.index(finding.weight) for finding in findings]
    assert weights == sorted(weights) and len(set(weights)) == 3
    assert findings[0].weight == "fault"


def test_every_rule_is_silent_where_nothing_is_known() -> None:
    bare = Figures({"x": 0.5}, {"x": "x"}, Table(("x",), {"a": (0.5,), "b": (0.4,)}))
    assert [rule.__name__ for rule in RULES if rule(Case(bare, [0.5] * 50)) is not None] == []
    nothing = Figures({"x": math.nan}, {"x": "x"}, Table(("x",), {}))
    assert [rule.__name__ for rule in RULES if rule(Case(nothing, [])) is not None] == []


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_survives_damaged_histories(rule: verdict.Rule) -> None:
    rows: list[dict[str, Any]] = [
        {},
        {"loss": None},
        {"step": 1, "loss": math.nan},
        {"step": 2, "scores": {}},
        {"step": 3, "scores": {"miou": None}},
        {"step": None, "scores": {"miou": 0.5}},
        {"step": 4, "scores": {"miou": 0.5}},
    ]
    rule(case(history=rows, config=tiny_config()))
    rule(case(np.zeros((3, 3), int), history=[], facts=None))


# ---- the labels that it was measured on


def test_nothing_was_compared() -> None:
    finding = only(verdict.nothing_measured(case(np.zeros((3, 3), int))))
    assert (finding.weight, finding.number) == ("fault", "0 labelled pixels in 50 images")
    assert verdict.nothing_measured(case()) is None


def test_the_labels_are_all_one_class() -> None:
    finding = only(verdict.all_one_class(case([[0, 0, 0], [3, 1234567, 0], [0, 0, 1]])))
    assert (finding.weight, finding.title) == ("fault", "The validation labels are all car")
    assert finding.number == "100% of 1,234,571 pixels"
    assert verdict.all_one_class(case([[990, 0, 0], [5, 5, 0], [0, 0, 0]])) is None
    assert verdict.all_one_class(case(np.zeros((3, 3), int))) is None


def test_classes_are_not_in_the_validation_labels() -> None:
    one = only(verdict.not_measured(case([[5, 0, 1], [0, 5, 0], [0, 0, 0]])))
    assert (one.weight, one.title) == ("warning", "tree never occurs in the validation labels")
    two = only(verdict.not_measured(case([[5, 0, 1], [0, 0, 0], [0, 0, 0]])))
    assert two.title == "2 of 3 classes never occur in the validation labels"
    assert two.number == "0 pixels of car and tree"
    assert verdict.not_measured(case()) is None
    assert verdict.not_measured(case(np.zeros((3, 3), int))) is None, "another rule says that nothing was compared"


def test_few_images_were_measured() -> None:
    finding = only(verdict.few_validation_images(case(scores=[0.25, 0.75, math.nan])))
    assert finding.number == "3 images; one by one they score 0.250 to 0.750"
    assert only(verdict.few_validation_images(case(scores=[0.5]))).number == "1 image"
    assert verdict.few_validation_images(case(scores=[0.5] * 20)) is None
    assert only(verdict.few_validation_images(case(scores=[math.nan]))).number == "1 image"


def test_images_were_left_out() -> None:
    assert only(verdict.unreadable_images(case(num_skipped=3))).number == "3 of 53 images"
    assert verdict.unreadable_images(case()) is None


# ---- what the model predicts


def test_a_class_is_never_predicted() -> None:
    finding = only(
        verdict.never_predicted(
            case([[900, 0, 0], [5, 85, 0], [10, 0, 0]], config=tiny_config(), splits=splits_of(data()))
        )
    )
    assert (finding.weight, finding.title) == ("fault", "tree is never predicted")
    assert finding.number == "tree is 1.0% of the labels (10 pixels), and is in 10 training images"
    assert "loss.class_weights=counts" in finding.advice
    two = only(verdict.never_predicted(case([[9, 0, 0], [1, 0, 0], [1, 0, 0]])))
    assert two.title == "car and tree are never predicted"
    assert two.number == "car is 9.1% of the labels (1 pixels); tree is 9.1% of the labels (1 pixels)"
    assert "class_weights" not in two.advice, "the settings of the loss are not known"
    assert verdict.never_predicted(case([[9, 0, 0], [1, 1, 0], [0, 0, 0]])) is None, "tree isn't in the labels either"


def test_a_class_is_predicted_but_not_where_it_is() -> None:
    finding = only(verdict.never_recognised(case([[900, 0, 5], [5, 995, 0], [20, 979, 1]])))
    assert (finding.weight, finding.title) == ("fault", "tree is almost never recognised")
    assert finding.number == "0.1% of tree is found, 98% is taken for car"
    assert verdict.never_recognised(case()) is None
    assert verdict.never_recognised(case([[9, 0, 0], [1, 0, 0], [0, 0, 0]])) is None, "that is never predicted"


def test_class_weights_that_are_set_are_not_advised() -> None:
    weighted = override(tiny_config(), ["loss.class_weights=counts"], "")
    finding = only(verdict.never_predicted(case([[9, 0, 0], [1, 1, 0], [1, 0, 0]], config=weighted)))
    assert "class_weights" not in finding.advice


def test_a_constant_answer_would_be_as_good() -> None:
    finding = only(verdict.no_better_than_a_constant(case([[690, 10, 0], [200, 5, 0], [90, 0, 5]])))
    assert (finding.weight, finding.title) == ("fault", "The model does no better than one that always answers road")
    assert finding.number == "70% of the pixels are right; road alone is 70% of them"
    assert verdict.no_better_than_a_constant(case([[690, 10, 0], [150, 55, 0], [90, 0, 5]])) is None
    assert verdict.no_better_than_a_constant(case([[9, 0, 0], [0, 0, 0], [0, 0, 0]])) is None, "all one class"


def test_one_class_is_far_below_the_others() -> None:
    split = splits_of(
        data(classes={n: {"pixels": p, "images": 9} for n, p in zip(NAMES, (9000, 960, 40), strict=True)})
    )
    finding = only(verdict.weakest_class(case([[900, 0, 0], [0, 100, 0], [80, 0, 20]], splits=split)))
    assert finding.title == "tree is the weakest class"
    assert finding.number == "IoU 0.200, against 0.706 on average; it is 0.4% of the training labels"
    assert verdict.weakest_class(case()) is None
    assert verdict.weakest_class(case([[900, 0, 0], [0, 100, 0], [80, 0, 0]])) is None, "that is never predicted"


# ---- what it learnt from


def test_a_class_has_no_training_label() -> None:
    classes = {
        "road": {"pixels": 10, "images": 1},
        "car": {"pixels": 0, "images": 0},
        "tree": {"pixels": 1, "images": 1},
    }
    finding = only(verdict.never_labelled(case(splits=splits_of(data(classes=classes)))))
    assert (finding.weight, finding.title) == ("fault", "car has no label in the training images")
    assert finding.number == "0 pixels in 20 images"
    assert verdict.never_labelled(case(splits=splits_of(data()))) is None
    assert verdict.never_labelled(case()) is None


def test_training_images_without_a_label() -> None:
    split = splits_of(data(num_unlabelled=7, unlabelled=["a", "b"]))
    assert only(verdict.unlabelled_images(case(splits=split))).number == "7 of 20 images: a and b"
    assert verdict.unlabelled_images(case(splits=splits_of(data()))) is None


def test_most_of_the_training_labels_are_ignored() -> None:
    assert only(verdict.mostly_ignored(case(splits=splits_of(data(ignored=900))))).number == "75% of 1,200 pixels"
    assert verdict.mostly_ignored(case(splits=splits_of(data(ignored=290)))) is None


def test_there_are_few_training_images() -> None:
    finding = only(verdict.few_training_images(case(facts=FACTS._replace(train_images=1))))
    assert (finding.weight, finding.number) == ("warning", "1 image")
    assert verdict.few_training_images(case()) is None


def test_the_weights_were_random() -> None:
    finding = only(verdict.random_weights(case(config=tiny_config(*MOBILENET))))
    assert (finding.weight, finding.number) == ("note", "No model.pretrained and no train.init, 2,000 training images")
    assert "train.init=FILE train.reuse=backbone" in finding.advice and "mobilenet_v2" in finding.advice
    few = only(verdict.random_weights(case(config=tiny_config(), facts=FACTS._replace(train_images=30))))
    assert few.weight == "warning", "the fewer images there are, the more pretrained weights help"
    assert verdict.random_weights(case(config=override(tiny_config(), ["train.init=a.safetensors"], ""))) is None
    assert verdict.random_weights(case()) is None, "a converted model's training is not known"


# ---- how it went


def test_the_loss_did_not_fall() -> None:
    finding = only(verdict.loss_did_not_fall(case(history=history([0.5], LEVEL), config=tiny_config())))
    assert (finding.weight, finding.number) == ("fault", "2 at the start, 2 at the end")
    assert verdict.loss_did_not_fall(case(history=history([0.5], FALLING))) is None
    assert verdict.loss_did_not_fall(case(history=history([0.5], LEVEL[:5]))) is None, "too few to say"


def test_the_first_validation_was_the_best() -> None:
    finding = only(verdict.best_at_first(case(history=history([0.61, 0.5, 0.48], LEVEL), config=tiny_config())))
    assert finding.number == "mIoU 0.610 at step 100, 0.480 at step 300"
    assert "optim.lr (it was 0.0" in finding.advice
    assert verdict.best_at_first(case(history=history([0.61, 0.62, 0.48]))) is None
    assert verdict.best_at_first(case(history=history([0.61, 0.48]))) is None, "two points are no course"
    assert verdict.best_at_first(case(history=history([0.61, 0.48, 0.47], FALLING))) is None, "that is overfitting"


def test_the_score_was_still_rising() -> None:
    config = override(tiny_config(), ["train.steps=300"], "")
    finding = only(verdict.still_improving(case(history=history([0.4, 0.5, 0.6]), config=config)))
    assert (finding.weight, finding.number) == ("note", "mIoU 0.500 at step 200, 0.600 at step 300")
    assert finding.advice == "Train longer: train.steps=600."
    assert verdict.still_improving(case(history=history([0.4, 0.6, 0.5]))) is None
    assert verdict.still_improving(case(history=history([0.4, 0.6, 0.602]))) is None
    assert verdict.still_improving(case(history=history([0.4]))) is None


def test_overfitting_has_its_step() -> None:
    finding = only(verdict.overfitting(case(history=history([0.5, 0.7, 0.66, 0.6], FALLING))))
    assert (finding.weight, finding.title) == ("warning", "Overfitting since step 200")
    assert finding.number == "mIoU 0.700 at step 200, 0.600 at step 400, while the training loss fell from 1.3 to 0.55"
    assert verdict.overfitting(case(history=history([0.5, 0.7, 0.66, 0.6], LEVEL))) is None, "the loss must fall on"
    assert verdict.overfitting(case(history=history([0.5, 0.7, 0.69, 0.69], FALLING))) is None
    assert verdict.overfitting(case(history=history([0.5, 0.7, 0.6]))) is None, "without losses nobody knows"


def test_the_last_model_is_much_worse_than_the_best() -> None:
    finding = only(verdict.worse_at_the_end(case(history=history([0.5, 0.7, 0.6], LEVEL))))
    assert finding.number == "mIoU 0.700 at step 200, 0.600 at step 300"
    assert verdict.worse_at_the_end(case(history=history([0.5, 0.7, 0.6], FALLING))) is None, "overfitting says it"
    assert verdict.worse_at_the_end(case(history=history([0.7, 0.6, 0.5], LEVEL))) is None, "best at first says it"
    assert verdict.worse_at_the_end(case(history=history([0.5, 0.7, 0.67], LEVEL))) is None


def test_there_was_one_validation() -> None:
    config = override(tiny_config(), ["train.steps=100"], "")
    finding = only(verdict.one_validation(case(history=history([0.5]), config=config)))
    assert finding.number == "At step 100 of 100" and finding.advice.endswith("train.eval_every=20.")
    assert verdict.one_validation(case(history=history([0.5, 0.6]), config=config)) is None


# ---- the texts


CASES: list[Callable[[], Case]] = [
    lambda: case(np.zeros((3, 3), int)),
    lambda: case([[0, 0, 0], [3, 1234567, 0], [0, 0, 1]], config=tiny_config(), scores=[0.1]),
    lambda: case([[900, 0, 0], [100, 0, 0], [0, 0, 0]], config=tiny_config(), history=history([0.6, 0.5, 0.4], LEVEL)),
    lambda: case(num_skipped=2, history=history([0.5, 0.7, 0.6], FALLING), splits=splits_of(data(ignored=900))),
]


@pytest.mark.parametrize("make", CASES)
def test_findings_are_sentences(make: Callable[[], Case]) -> None:
    for finding in verdict.judge(make()):
        assert not finding.title.endswith(".") and not finding.number.endswith(".")
        assert not finding.advice or finding.advice.endswith(".")
        assert "  " not in f"{finding.title}{finding.number}{finding.advice}"
