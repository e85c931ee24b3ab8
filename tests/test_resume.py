"""What may change between two parts of a run, and how each change is told."""

import contextlib
import io
from pathlib import Path
from typing import Any

import pytest
import torch

import atrous
from atrous import cli, run_state, train
from atrous import config as configs
from atrous.config import Config
from atrous.data.inventory import Inventory
from atrous.data.label_space import LabelSpace
from atrous.distributed import World
from atrous.errors import ConfigError, DataError
from atrous.interrupt import Interrupted
from atrous.resume import (
    ACCEPTED,
    accepted_changes,
    changed_drop_path,
    changed_images,
    changed_learning_rate,
    data_changes,
    fitting,
    require_accepted,
    require_same_classes,
    require_same_data,
    source_of,
)
from atrous.run_folder import RunFolder
from tests.conftest import tiny_config
from tests.runs import QUIET, assert_same, copied, losses, stop_after, validations

SPACE = LabelSpace(names=("road", "car", "sky"), colors=((1, 1, 1), (2, 2, 2), (3, 3, 3)), things=(1,))
RUN = Path("runs/mine")


# ---- settings


def test_accepted_settings_are_settings() -> None:
    known = {key for layout in ("folder", "list", "voc") for key in configs.known_keys({"data": {"format": layout}})}
    assert not ACCEPTED - known


def test_only_accepted_settings_may_change() -> None:
    stored = tiny_config()
    assert require_accepted(stored, stored, ACCEPTED, "--resume", RUN) == []
    changed = tiny_config("train.log_every=7", "data.root=/elsewhere")
    lines = require_accepted(stored, changed, ACCEPTED, "--resume", RUN)
    assert lines == ["data.root is now /elsewhere, not None", "train.log_every is now 7, not 1"]
    for setting in ("train.batch=4", "train.ema=0.5", "augment.flip=0", "evaluate.flip=true", "data.val=train"):
        with pytest.raises(
            ConfigError, match=rf"^--resume: {setting.partition('=')[0]} is .* here but .* in runs/mine; "
        ):
            require_accepted(stored, tiny_config(setting), ACCEPTED, "--resume", RUN)


def with_schedule(*settings: str, steps: int) -> Config:
    return tiny_config(f"train.steps={steps}", "optim.lr=0.1", "optim.end_lr=0", *settings)


def test_a_learning_rate_that_follows_the_number_of_steps_is_told() -> None:
    poly = ("optim.schedule=poly", "optim.power=1")
    lines = changed_learning_rate(with_schedule(*poly, steps=10), with_schedule(*poly, steps=20), done=5)
    assert lines == [
        "the learning rate (optim.schedule=poly) follows train.steps: at step 6 it is 0.075, not 0.05, "
        "and the result is not that of 20 steps without a break"
    ]
    for settings in (("optim.schedule=constant",), ("optim.schedule=step",), (*poly, "optim.decay_steps=8")):
        old, new = (with_schedule(*settings, steps=steps) for steps in (10, 20))
        assert changed_learning_rate(old, new, done=5) == []
    warm = (*poly, "optim.warmup_steps=4", "optim.warmup_lr=0.01")
    assert changed_learning_rate(with_schedule(*warm, steps=10), with_schedule(*warm, steps=20), done=2) == [
        "the learning rate (optim.schedule=poly) follows train.steps: at step 6 it is 0.0938, not 0.0833"
    ]  # all steps so far, and the next ones, belong to the warm-up of both
    assert changed_learning_rate(with_schedule(*poly, steps=20), with_schedule(*poly, steps=10), done=10) == []


def test_dropped_paths_that_follow_the_number_of_steps_are_told() -> None:
    drops = ("model.backbone=pnasnet", "model.backbone.drop_path=0.2")
    old, new = (tiny_config(*drops, f"train.steps={steps}") for steps in (4, 8))
    (line,) = changed_drop_path(old, new)
    assert line.startswith("the share of dropped paths (model.backbone.drop_path=0.2) rises until the last step")
    assert changed_drop_path(old, old) == []
    assert changed_drop_path(tiny_config(), tiny_config("train.steps=8")) == []


# ---- more steps, end to end

CONSTANT = ("optim.schedule=constant", "train.ema=0.9", "train.eval_every=10", "train.save_every=7", "augment.blur=0.5")


def more(run: RunFolder, *overrides: str) -> tuple[int, str]:
    """Resume a run as people do, from its own config; the exit code, and what was printed."""
    output = io.StringIO()
    words = ["train", str(run.config), "--out", str(run.path), "--resume", "--workers", "0", "--device", "cpu"]
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        code = cli.run([*words, *overrides])
    return code, " ".join(output.getvalue().split())


@pytest.mark.slow
def test_twenty_steps_and_twenty_more_are_forty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bit for bit, whether the run was finished or stopped in its middle; weights, averages, optimizer and rows."""
    whole = train.train(tiny_config("train.steps=40", *CONSTANT), tmp_path / "whole", console=QUIET)
    run = train.train(tiny_config("train.steps=20", *CONSTANT), tmp_path / "run", console=QUIET)
    report = run.report.read_bytes()
    code, printed = more(run, "train.steps=40")
    assert code == 0 and "train.steps is now 40, not 20" in printed and "learning rate" not in printed
    assert run.report.read_bytes() != report
    stop_after(14, monkeypatch)
    stopped = RunFolder(tmp_path / "stopped")
    with pytest.raises(Interrupted):
        train.train(tiny_config("train.steps=20", *CONSTANT), stopped.path, console=QUIET)
    monkeypatch.undo()
    assert more(stopped, "train.steps=40")[0] == 0
    for other in (run, stopped):
        one, two = (run_state.read_state(folder.state) for folder in (whole, other))
        for part in ("model", "averaged"):
            assert_same(one[part], two[part])
        assert_same(atrous.load(whole.best).model.state_dict(), atrous.load(other.best).model.state_dict())
        assert {key: one[key] for key in ("step", "taken", "best")} == {
            key: two[key] for key in ("step", "taken", "best")
        }
        rows = [
            [(row["step"], row["loss"], row["learning_rate"]) for row in losses(folder)] for folder in (whole, other)
        ]
        assert rows[0] == rows[1] and len(rows[0]) == 40
        assert [row["scores"] for row in validations(whole)] == [row["scores"] for row in validations(other)]
        assert len(other.changes.read_text().splitlines()) == 1


def test_a_finished_run_takes_more_of_each_kind(finished: RunFolder, tmp_path: Path) -> None:
    run = copied(finished, tmp_path / "run")
    code, printed = more(run, "train.epochs=1")  # 12 images, 2 a step
    assert code == 0 and "train.steps is now 6, not 4" in printed
    assert "the learning rate (optim.schedule=cosine) follows train.steps: at step 5 it is" in printed
    assert [row["step"] for row in losses(run)] == [1, 2, 3, 4, 5, 6]
    code, printed = more(run, "train.steps=8", "train.eval_every=none")
    assert code == 0 and "train.eval_every is now None, not 2" in printed
    assert [row["step"] for row in validations(run)] == [2, 4, 6, 8]
    code, printed = more(run, "train.epochs=1")
    assert code == 2 and "train.steps is 6, but the run in" in printed and "has done 8 steps" in printed
    code, printed = more(run, "train.steps=9", "train.patience=2")
    assert code == 2 and "patience=2 needs eval_every" in printed
    code, printed = more(run, "train.steps=9", "optim.lr=0.1")
    assert code == 2 and "optim.lr is 0.1 here but" in printed
    assert [row["step"] for row in losses(run)][-1] == 8


def test_a_run_that_ended_early_goes_on_without_patience(tmp_path: Path) -> None:
    settings = ("optim.lr=1e-12", "train.batch_norm=frozen", "train.eval_every=1", "train.steps=6", "train.patience=1")
    run = train.train(tiny_config(*settings), tmp_path / "run", console=QUIET)
    done = losses(run)[-1]["step"]
    assert done < 6
    code, printed = more(run, "train.steps=7")
    assert code == 0 and f"ended early, after step {done} of 7" in printed
    assert "train.patience=none with --resume does the rest" in printed
    code, printed = more(run, "train.patience=none")
    assert code == 0 and "ended early" not in printed
    assert losses(run)[-1]["step"] == 7


# ---- classes


CLASSES: dict[str, dict[str, Any]] = {
    "class 2 is 'cloud' here but 'sky' there": {"names": ("road", "car", "cloud")},
    "class 0 is 'car' here but 'road' there, class 1 is 'road' here but 'car' there": {"names": ("car", "road", "sky")},
    "class 3 is 'tree' here but absent there": {"names": ("road", "car", "sky", "tree"), "colors": ()},
    "class 2 is absent here but 'sky' there": {"names": ("road", "car"), "colors": ()},
    "the ignored value is 0 here but 255 there": {"ignore": 0},
    "label values are {7: 0, 8: 1, 9: 2} here but label values are the numbers": {"raw_ids": ((7, 0), (8, 1), (9, 2))},
    "things are none here but car there": {"things": ()},
}


@pytest.mark.parametrize("line", CLASSES)
def test_each_change_of_the_classes_is_named(line: str) -> None:
    require_same_classes(SPACE, SPACE, RUN)
    with pytest.raises(DataError) as error:
        require_same_classes(SPACE, LabelSpace(**{**SPACE.model_dump(), **CLASSES[line]}), RUN)
    assert str(error.value).startswith(f"--resume: the classes are not those of the run in runs/mine: {line}")
    assert "train.init=runs/mine/last.safetensors train.reuse=all_but_logits" in str(error.value)


# ---- files


FILES: Inventory = {"a": [5, 1], "b": [6, 1], "c": [7, 1], "d": [7, 1]}
CHANGES: tuple[tuple[Inventory, str], ...] = (
    (FILES, ""),
    ({**FILES, "e": [9, 1]}, "1 added (e)"),
    ({name: FILES[name] for name in "acd"}, "1 removed (b)"),
    ({**FILES, "b": [6, 2]}, "1 of another size (b)"),
    ({"a": [5, 1], "c": [7, 1], "d": [7, 1], "x": [6, 1]}, "1 renamed (b to x)"),
    ({"a": [5, 1], "b": [6, 1], "x": [7, 1], "y": [7, 1]}, "2 added (x, y), 2 removed (c, d)"),  # which is which?
    ({"a": [5, 1], "b": [6, 1], "x": [8, 1]}, "1 added (x), 2 removed (c, d)"),
    ({name: FILES[name] for name in "badc"}, "in another order"),
    ({str(number): [number, 1] for number in range(10, 15)}, "5 added (10, 11, 12, ...), 4 removed (a, b, c, ...)"),
    ({}, "4 removed (a, b, c, ...)"),
)


@pytest.mark.parametrize(("files", "line"), CHANGES)
def test_each_change_of_the_files_is_told(files: Inventory, line: str) -> None:
    stored = source_of(SPACE, {"train": FILES, "val": {"v": [1, 1]}})
    source = source_of(SPACE, {"train": files, "val": {"v": [1, 1]}})
    expected = [f"train: {line}"] if line else []
    assert data_changes(stored, source) == expected
    assert require_same_data(stored, source, RUN, is_accepted=True) == expected
    if line:
        with pytest.raises(DataError) as error:
            require_same_data(stored, source, RUN, is_accepted=False)
        assert f"the data is not that of the run in runs/mine: train: {line}; add --accept-changed-data" in str(
            error.value
        )


def test_changes_in_both_splits_and_in_colors_are_told_together() -> None:
    space = SPACE.model_copy(update={"colors": ((1, 1, 1), (3, 3, 3), (2, 2, 2))})
    changes = data_changes(
        source_of(SPACE, {"train": FILES, "val": {}}), source_of(space, {"train": {}, "val": {"v": [1, 1]}})
    )
    assert changes == [
        "the colors of the classes are others",
        "train: 4 removed (a, b, c, ...)",
        "val: 1 added (v)",
    ]


def test_a_large_data_set_is_compared_quickly() -> None:
    """Every name is new: were each compared with each, this would take minutes."""
    old, new = ({f"{prefix}{number}": [number, 1] for number in range(100_000)} for prefix in "ab")
    changes = data_changes(source_of(SPACE, {"train": old}), source_of(SPACE, {"train": new}))
    assert changes[0].startswith("train: 100000 renamed (")


# ---- processes


def world(size: int) -> World:
    return World(0, size, torch.device("cpu"))


@pytest.mark.parametrize(
    ("batch", "accumulate", "size", "images", "expected"),
    [
        (2, 1, 2, 8, 2),  # of four processes, two are left
        (2, 4, 4, 8, 1),  # of one that accumulated, there are four
        (2, 1, 8, 8, 1),  # too many for 8 images: 16
        (2, 1, 3, 8, 1),
        (2, 1, 4, 0, 1),  # unknown
    ],
)
def test_a_step_keeps_its_images_where_that_is_possible(
    batch: int, accumulate: int, size: int, images: int, expected: int
) -> None:
    config = tiny_config(f"train.batch={batch}", f"train.accumulate={accumulate}")
    assert fitting(config, images, world(size)).train.accumulate == expected


def test_a_step_may_be_cut_otherwise_if_it_keeps_its_images() -> None:
    stored = tiny_config("train.batch=2")  # by three processes
    for settings, size in ((("train.batch=6",), 1), (("train.batch=1", "train.accumulate=3"), 2)):
        config = tiny_config(*settings, "train.parallel=fsdp")
        accepted = accepted_changes(stored, config, 6, world(size))
        changes = require_accepted(stored, config, accepted, "--resume", RUN)
        assert "train.parallel is now fsdp, not ddp" in changes
        assert changed_images(config, 6, world(size)) == []
    for images in (6, 0):
        config = tiny_config("train.batch=4")
        accepted = accepted_changes(stored, config, images, world(1))
        with pytest.raises(ConfigError, match=r"train\.batch is 4 here but 2 in runs/mine"):
            require_accepted(stored, config, accepted, "--resume", RUN)


def test_a_step_that_cannot_keep_its_images_is_told_and_the_learning_rate_may_follow() -> None:
    stored = tiny_config("train.batch=2", "optim.lr=0.02")
    assert changed_images(stored, 8, world(3)) == [
        "a step has 6 images, not 8 as so far, because 3 processes of 2 take part: the result is not that of a run "
        "without a break; by the linear rule optim.lr=0.015 suits 6 images as optim.lr=0.02 does 8"
    ]
    slower = tiny_config("train.batch=2", "optim.lr=0.015")
    accepted = accepted_changes(stored, slower, 8, world(3))
    assert require_accepted(stored, slower, accepted, "--resume", RUN) == ["optim.lr is now 0.015, not 0.02"]
    with pytest.raises(ConfigError, match=r"optim\.lr is 0\.015 here but 0\.02"):
        require_accepted(stored, slower, accepted_changes(stored, slower, 8, world(4)), "--resume", RUN)
