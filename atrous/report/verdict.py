"""What an evaluation says in words, worst first: what is wrong, the number behind it, and what to do.

A rule is a function from a case to a finding, or to None. RULES lists them; among equal weights they keep its order.
"""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np

from atrous.config import Config
from atrous.report.balance import measured
from atrous.report.charts import Point, column, smoothed
from atrous.report.text import count, fraction, known, listed, number, percent, plural
from atrous.report.training import NO_TRAINING, Training
from atrous.tasks.contract import Figures

Weight = Literal["fault", "warning", "note", "good"]
WEIGHTS: tuple[Weight, ...] = ("fault", "warning", "note", "good")  # worst first

FEW_TRAIN, MANY_TRAIN = 100, 1000  # images
FEW_VAL = 20
ALL = 0.9999  # a share that is as good as everything
NO_BETTER = 0.005  # accuracy above that of a constant answer
RARE = 0.01  # share of the labels, or of a class
WEAK = 0.5  # of the mean
FALL = 0.02  # of a score, that matters
LARGE_FALL = 0.05
RISE = 0.005  # of a score between the last two validations: still improving
LEARNT = 0.9  # of the training loss: it has fallen on
FLAT = 0.97  # of the training loss: it has not fallen
MOSTLY = 0.5  # of the pixels
FEWEST_LOSSES = 10  # logged, to say anything about their course


class Case(NamedTuple):
    """What a verdict is about."""

    figures: Figures
    scores: Sequence[float]  # the headline of each image
    num_skipped: int = 0  # images that could not be read
    config: Config | None = None  # of the training
    training: Training = NO_TRAINING

    @property
    def title(self) -> str:
        return self.figures.titles[self.figures.headline]

    @property
    def validations(self) -> list[Point]:
        rows = [{"step": row.get("step"), **row["scores"]} for row in self.training.history if "scores" in row]
        return [point for point in column(rows, self.figures.headline) if known(point[1]) is not None]

    @property
    def losses(self) -> list[Point]:
        return [point for point in smoothed(column(self.training.history, "loss")) if known(point[1]) is not None]


class Finding(NamedTuple):
    weight: Weight
    title: str  # a sentence without its full stop
    number: str  # what it rests on
    advice: str = ""
    section: str = ""  # of the page, to read on


Rule = Callable[[Case], Finding | None]


def judge(case: Case) -> list[Finding]:
    """What the rules find, worst first; if that is nothing to mend, it says so."""
    findings = [finding for rule in RULES if (finding := rule(case)) is not None]
    if not any(finding.weight in ("fault", "warning") for finding in findings):
        what = f"None of {len(RULES)} checks gave a warning"
        findings.append(Finding("good", "Nothing stands out that should be mended first", what))
    return sorted(findings, key=lambda finding: WEIGHTS.index(finding.weight))


# ---- the labels that it was measured on


def nothing_measured(case: Case) -> Finding | None:
    split = measured(case.figures)
    if split is None or split.total:
        return None
    what = f"0 labelled {case.figures.unit or 'values'} in {plural(len(case.scores), 'image')}"
    advice = "Look at the masks: their values must be those of the classes (classes.yaml), not all the ignored one."
    return Finding("fault", "Nothing was compared, so the scores mean nothing", what, advice)


def all_one_class(case: Case) -> Finding | None:
    split = measured(case.figures)
    if split is None or not split.total:
        return None
    name, frequency = max(split.classes.items(), key=lambda item: item[1].pixels)
    if frequency.pixels < ALL * split.total:
        return None
    what = f"{percent(frequency.pixels / split.total)} of {count(split.total)} {case.figures.unit}"
    advice = (
        f"A model that always answers {name} scores perfectly here. Check how the masks are read, or measure on "
        "images that show the other classes."
    )
    return Finding("fault", f"The validation labels are all {name}", what, advice, "classes")


def not_measured(case: Case) -> Finding | None:
    """Classes that the validation labels lack."""
    split = measured(case.figures)
    names = (
        [] if split is None or not split.total else [name for name, some in split.classes.items() if not some.pixels]
    )
    if not names:
        return None
    number_of = f"{len(names)} of {len(case.figures.table.rows)} classes never occur"
    title = f"{f'{names[0]} never occurs' if len(names) == 1 else number_of} in the validation labels"
    advice = "Nothing says how well the model finds them: add images that show them to the validation split."
    return Finding("warning", title, f"0 {case.figures.unit} of {listed(names)}", advice, "classes")


def few_validation_images(case: Case) -> Finding | None:
    scores = [score for score in case.scores if known(score) is not None]
    if not 0 < len(case.scores) < FEW_VAL:
        return None
    spread = f"; one by one they score {fraction(min(scores))} to {fraction(max(scores))}" if len(scores) > 1 else ""
    advice = "Differences between two models this small may be chance: label more images for validation."
    return Finding(
        "warning", "The score rests on few images", f"{plural(len(case.scores), 'image')}{spread}", advice, "images"
    )


def unreadable_images(case: Case) -> Finding | None:
    if not case.num_skipped:
        return None
    total = case.num_skipped + len(case.scores)
    what = f"{count(case.num_skipped)} of {plural(total, 'image')}"
    return Finding("warning", "Images that could not be read were left out", what, "Replace the files, or remove them.")


# ---- what the model predicts


def never_predicted(case: Case) -> Finding | None:
    confusion = case.figures.confusion
    if confusion is None or not confusion.sum():
        return None
    share = confusion.sum(1) / confusion.sum()
    names = list(case.figures.table.rows)
    missing = [index for index in range(len(names)) if share[index] > 0 and not confusion[:, index].any()]
    if not missing:
        return None
    title = f"{listed([names[index] for index in missing])} {'is' if len(missing) == 1 else 'are'} never predicted"
    pixels = confusion.sum(1).tolist()
    what = "; ".join(_in_labels(case, names[index], float(share[index]), pixels[index]) for index in missing[:3])
    advice = (
        "Train longer, or on more images that show it" if len(missing) == 1 else "Train longer, or on more such images"
    )
    return Finding("fault", title, what, f"{advice}{_class_weights(case)}.", "classes")


def _in_labels(case: Case, name: str, share: float, amount: int) -> str:
    train = case.training.splits.get("train")
    images = train.classes[name].images if train and name in train.classes else None
    known_images = "" if images is None else f", and is in {plural(images, 'training image')}"
    return f"{name} is {percent(share)} of the labels ({f'{count(amount)} {case.figures.unit}'.strip()}){known_images}"


def never_recognised(case: Case) -> Finding | None:
    """Classes that are predicted, but hardly ever where they are."""
    confusion = case.figures.confusion
    if confusion is None:
        return None
    totals, names = confusion.sum(1), list(case.figures.table.rows)
    hits = confusion.diagonal() / np.maximum(totals, 1)
    missed = [i for i in range(len(names)) if totals[i] and confusion[:, i].any() and hits[i] < RARE]
    if not missed:
        return None
    title = f"{listed([names[i] for i in missed])} {'is' if len(missed) == 1 else 'are'} almost never recognised"
    what = "; ".join(f"{percent(hits[i])} of {names[i]} is found, {_mistaken(case, i)}" for i in missed[:3])
    advice = (
        f"Check the labels of both classes, then train on more images that show the difference{_class_weights(case)}."
    )
    return Finding("fault", title, what, advice, "confusion")


def _mistaken(case: Case, index: int) -> str:
    """What most of a class is taken for."""
    assert case.figures.confusion is not None
    row = case.figures.confusion[index]
    return f"{percent(row.max() / row.sum())} is taken for {list(case.figures.table.rows)[int(row.argmax())]}"


def _class_weights(case: Case) -> str:
    """The setting that counts rare classes for more, where the loss has it and doesn't use it."""
    loss = case.config.loss if case.config else None
    is_unused = loss is not None and getattr(loss, "class_weights", "") is None
    return "; loss.class_weights=counts lets rare classes count for more" if is_unused else ""


def no_better_than_a_constant(case: Case) -> Finding | None:
    confusion = case.figures.confusion
    if confusion is None or not confusion.sum():
        return None
    right, commonest = float(np.trace(confusion) / confusion.sum()), float(confusion.sum(1).max() / confusion.sum())
    if right > commonest + NO_BETTER or commonest >= ALL:
        return None
    name = list(case.figures.table.rows)[int(confusion.sum(1).argmax())]
    labels = case.figures.unit or "labels"
    what = f"{percent(right)} of the {labels} are right; {name} alone is {percent(commonest)} of them"
    advice = "Check that images and masks belong together, then train longer or change optim.lr."
    return Finding("fault", f"The model does no better than one that always answers {name}", what, advice, "confusion")


def weakest_class(case: Case) -> Finding | None:
    """A class far below the mean, unless it has no prediction at all, which another rule says."""
    column_name, rows = case.figures.table.columns[0], case.figures.table.rows
    values = {name: float(row[0]) for name, row in rows.items() if row[0] is not None and known(row[0]) is not None}
    if len(values) < 2 or case.figures.confusion is None:  # else more may be worse
        return None
    name, mean = min(values, key=lambda name: values[name]), sum(values.values()) / len(values)
    if not 0 < values[name] < WEAK * mean:
        return None
    rare = _share_in_training(case, name)
    also = f"; it is {percent(rare)} of the training labels" if rare is not None and rare < RARE else ""
    what = f"{column_name} {fraction(values[name])}, against {fraction(mean)} on average{also}"
    advice = f"See under Confusion what it is taken for. More images that show it help most{_class_weights(case)}."
    return Finding("note", f"{name} is the weakest class", what, advice, "confusion")


def _share_in_training(case: Case, name: str) -> float | None:
    train = case.training.splits.get("train")
    return train.classes[name].pixels / train.total if train and train.total and name in train.classes else None


# ---- what it learnt from


def never_labelled(case: Case) -> Finding | None:
    """Classes that the training labels lack."""
    train = case.training.splits.get("train")
    names = [] if train is None else [name for name, some in train.classes.items() if not some.pixels]
    if not names or train is None:
        return None
    title = f"{listed(names)} {'has' if len(names) == 1 else 'have'} no label in the training images"
    what = f"0 {case.figures.unit} in {plural(train.images or 0, 'image')}"
    advice = "The model can't learn what it is never shown: check the values in the masks, or leave the class out."
    return Finding("fault", title, what, advice, "balance")


def unlabelled_images(case: Case) -> Finding | None:
    train = case.training.splits.get("train")
    if train is None or not train.num_unlabelled:
        return None
    what = f"{count(train.num_unlabelled)} of {plural(train.images or 0, 'image')}: {listed(train.unlabelled)}"
    return Finding(
        "warning", "Training images have no label at all", what, "They teach nothing: check their masks.", "balance"
    )


def mostly_ignored(case: Case) -> Finding | None:
    train = case.training.splits.get("train")
    pixels = 0 if train is None else train.total + train.ignored
    if train is None or not pixels or train.ignored < MOSTLY * pixels:
        return None
    what = f"{percent(train.ignored / pixels)} of {count(pixels)} pixels"
    advice = "If that isn't meant, check the values in the masks and `ignore` in classes.yaml."
    return Finding("warning", "Most of the training labels are ignored", what, advice, "balance")


def few_training_images(case: Case) -> Finding | None:
    facts = case.training.facts
    if facts is None or facts.train_images >= FEW_TRAIN:
        return None
    advice = "Label more: up to a few hundred, each doubling usually shows. Until then pretrained weights help most."
    return Finding("warning", "There are few training images", plural(facts.train_images, "image"), advice, "trained")


def random_weights(case: Case) -> Finding | None:
    if case.config is None or case.config.train.init is not None or case.config.model.pretrained is not None:
        return None
    facts = case.training.facts
    images = f", {plural(facts.train_images, 'training image')}" if facts else ""
    is_many = facts is None or facts.train_images >= MANY_TRAIN
    advice = (
        "Pretrained weights would help: model.pretrained=imagenet, where some are known for the backbone "
        f"{case.config.model.backbone.name}, or train.init=FILE train.reuse=backbone, a model with that backbone."
    )
    return Finding(
        "note" if is_many else "warning",
        "The training began with random weights",
        f"No model.pretrained and no train.init{images}",
        advice,
        "trained",
    )


# ---- how it went


def loss_did_not_fall(case: Case) -> Finding | None:
    losses = case.losses
    if len(losses) < FEWEST_LOSSES or losses[-1][1] < FLAT * losses[0][1]:
        return None
    what = f"{number(losses[0][1], digits=3)} at the start, {number(losses[-1][1], digits=3)} at the end"
    return Finding(
        "fault", "The training loss did not fall", what, f"Change optim.lr{_lr(case)}, or train longer.", "course"
    )


def _lr(case: Case) -> str:
    return f" (it was {case.config.optim.lr:g})" if case.config else ""


def best_at_first(case: Case) -> Finding | None:
    points = case.validations
    if len(points) < 3 or points[0][1] < _best(case)[1] or points[0][1] - points[-1][1] < RISE or overfitting(case):
        return None
    advice = (
        f"The learning rate is probably too high for the rest of the run: lower optim.lr{_lr(case)}, "
        "or add optim.warmup_steps."
    )
    return Finding(
        "warning", "The first validation was the best", _course(case, points[0], points[-1]), advice, "course"
    )


def _course(case: Case, first: Point, last: Point) -> str:
    return f"{case.title} {fraction(first[1])} at step {count(first[0])}, {fraction(last[1])} at step {count(last[0])}"


def still_improving(case: Case) -> Finding | None:
    points = case.validations
    if len(points) < 2 or points[-1][1] < _best(case)[1] or points[-1][1] - points[-2][1] < RISE:
        return None
    longer = f": train.steps={2 * case.config.train.steps}" if case.config else ""
    return Finding(
        "note",
        "The score was still rising at the end",
        _course(case, points[-2], points[-1]),
        f"Train longer{longer}.",
        "course",
    )


def overfitting(case: Case) -> Finding | None:
    """The score falls after the best validation while the training loss falls on."""
    best, last = _best(case), _last(case)
    before, after = _loss_at(case, best[0]), _loss_at(case, last[0])
    if best[1] - last[1] < FALL or before is None or after is None or after > LEARNT * before:
        return None
    fall = f"from {number(before, digits=3)} to {number(after, digits=3)}"
    what = f"{_course(case, best, last)}, while the training loss fell {fall}"
    advice = (
        "It learns the training images by heart: more images, stronger augmentation (augment.*), more "
        "optim.weight_decay, or fewer steps. best.safetensors is from before."
    )
    return Finding("warning", f"Overfitting since step {count(best[0])}", what, advice, "course")


def _best(case: Case) -> Point:
    return max(case.validations, key=lambda point: point[1], default=(0.0, 0.0))


def _last(case: Case) -> Point:
    return case.validations[-1] if case.validations else (0.0, 0.0)


def _loss_at(case: Case, step: float) -> float | None:
    """The smoothed training loss at the logged step nearest to `step`."""
    return min(case.losses, key=lambda point: abs(point[0] - step), default=(0.0, None))[1]


def worse_at_the_end(case: Case) -> Finding | None:
    """The last model is far from the best, for another reason than those above."""
    best, last = _best(case), _last(case)
    if best[1] - last[1] < LARGE_FALL or overfitting(case) or best_at_first(case):
        return None
    advice = f"Use best.safetensors, not last.safetensors. A lower optim.lr{_lr(case)} makes the course steadier."
    return Finding("warning", "The last model is much worse than the best", _course(case, best, last), advice, "course")


def one_validation(case: Case) -> Finding | None:
    points = case.validations
    if len(points) != 1 or case.config is None:
        return None
    what = f"At step {count(points[0][0])} of {count(case.config.train.steps)}"
    interval = max(1, case.config.train.steps // 5)
    advice = f"More would show whether the model still improves, and keep the best: train.eval_every={interval}."
    return Finding("note", "There was only one validation", what, advice, "course")


RULES: tuple[Rule, ...] = (
    nothing_measured,
    all_one_class,
    loss_did_not_fall,
    no_better_than_a_constant,
    never_labelled,
    never_predicted,
    never_recognised,
    overfitting,
    best_at_first,
    worse_at_the_end,
    few_training_images,
    random_weights,
    unlabelled_images,
    mostly_ignored,
    not_measured,
    few_validation_images,
    unreadable_images,
    weakest_class,
    still_improving,
    one_validation,
)
