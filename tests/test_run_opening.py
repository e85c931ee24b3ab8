"""Runs that are resumed with other settings or other data."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import atrous
from atrous import run_state, train
from atrous.errors import DataError
from atrous.run_folder import RunFolder
from tests.conftest import tiny_config
from tests.runs import FINISHED, QUIET, Tiny, assert_same, copied, folder_config, losses, weights


def resume_output(run: RunFolder, *overrides: str, **options: Any) -> str:  # noqa: ANN401 - those of train.train
    console = Console(width=400)
    with console.capture() as capture:
        train.train(tiny_config(*overrides), run.path, resume=True, console=console, **options)
    return capture.get()


def test_settings_that_nothing_is_learnt_from_may_change_and_are_said_and_stored(
    finished: RunFolder, tmp_path: Path
) -> None:
    run = copied(finished, tmp_path / "run")
    changed = ("train.eval_every=3", "train.save_every=7", "train.log_every=5", "data.on_error=skip", "train.steps=5")
    printed = resume_output(run, *changed)
    for line in (
        "train.eval_every is now 3, not 2",
        "data.on_error is now skip, not stop",
        "train.steps is now 5, not 4",
    ):
        assert line in printed
    assert "the learning rate (optim.schedule=cosine) follows train.steps: at step 5 it is " in printed
    assert atrous.config.load(str(run.config)) == tiny_config(*changed)
    lines = [json.loads(line) for line in run.changes.read_text().splitlines()]
    assert len(lines) == 5
    assert {"step": 4, "change": "train.steps is now 5, not 4"} in lines
    assert atrous.load(run.last).training == tiny_config(*changed)
    assert [row["step"] for row in losses(run)] == [1, 2, 3, 4, 5]
    assert "is now" not in resume_output(run, *changed)
    assert len(run.changes.read_text().splitlines()) == 5


def test_a_longer_run_with_a_constant_learning_rate_is_the_whole_one(tiny: Tiny, tmp_path: Path) -> None:
    constant = ("optim.schedule=constant", "train.eval_every=2")
    whole = train.train(tiny("train.steps=4", *constant), tmp_path / "whole", console=QUIET)
    run = train.train(tiny("train.steps=2", *constant), tmp_path / "run", console=QUIET)
    printed = resume_output(run, "train.steps=4", *constant)
    assert "train.steps is now 4, not 2" in printed
    assert "learning rate" not in printed
    assert_same(weights(whole), weights(run))
    assert_same(atrous.load(whole.best).model.state_dict(), atrous.load(run.best).model.state_dict())


def add(root: Path) -> None:
    for folder in ("images", "masks"):
        shutil.copy(root / folder / "train" / "0.png", root / folder / "train" / "7.png")


def take_away(root: Path) -> None:
    for folder in ("images", "masks"):
        (root / folder / "val" / "1.png").unlink()


def rename(root: Path) -> None:
    for folder in ("images", "masks"):
        (root / folder / "train" / "2.png").rename(root / folder / "train" / "two.png")


def grow(root: Path) -> None:
    for index in (1, 3):
        with (root / "masks" / "train" / f"{index}.png").open("ab") as file:
            file.write(b"\0")


CHANGES: dict[Callable[[Path], None], str] = {
    add: "train: 1 added (7)",
    take_away: "val: 1 removed (1)",
    rename: "train: 1 renamed (2 to two)",
    grow: "train: 2 of another size (1, 3)",
}


@pytest.mark.parametrize("change", CHANGES)
def test_changed_data_is_refused_until_it_is_accepted(
    folder_data: Path, tmp_path: Path, change: Callable[[Path], None]
) -> None:
    run = train.train(folder_config(folder_data, "train.eval_every=2"), tmp_path / "run", console=QUIET)
    state = run.state.read_bytes()
    change(folder_data)
    longer = folder_config(folder_data, "train.eval_every=2", "train.steps=5")
    with pytest.raises(DataError) as error:
        train.train(longer, run.path, resume=True, console=QUIET)
    assert str(error.value).startswith(f"--resume: the data is not that of the run in {run.path}: {CHANGES[change]}; ")
    assert "add --accept-changed-data" in str(error.value)
    assert run.state.read_bytes() == state
    assert "steps: 4" in run.config.read_text()
    console = Console(width=400)
    with console.capture() as capture:
        train.train(longer, run.path, resume=True, accept_changed_data=True, console=console)
    assert CHANGES[change] in capture.get()
    assert CHANGES[change] in run.changes.read_text()
    train.train(longer, run.path, resume=True, console=QUIET)


def test_accepted_data_is_stored_before_the_next_step(
    folder_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = train.train(folder_config(folder_data), tmp_path / "run", console=QUIET)
    add(folder_data)

    def killed(*_: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(train, "finish", killed)
        with pytest.raises(MemoryError):
            train.train(folder_config(folder_data), run.path, resume=True, accept_changed_data=True, console=QUIET)
    train.train(folder_config(folder_data), run.path, resume=True, console=QUIET)


CLASSES = {
    "names: [left, top]": "class 1 is 'top' here but 'right' there",
    "names: [right, left]": "class 0 is 'right' here but 'left' there, class 1 is 'left' here but 'right' there",
    "names: [left, right, top]": "class 2 is 'top' here but absent there",
    "names: [left, right]\nignore: 7": "the ignored value is 7 here but 255 there",
    "names: {1: left, 0: right}": "class 0 is 'right' here but 'left' there",
}


@pytest.mark.parametrize("content", CLASSES)
def test_changed_classes_are_always_refused(folder_data: Path, tmp_path: Path, content: str) -> None:
    run = train.train(folder_config(folder_data), tmp_path / "run", console=QUIET)
    (folder_data / "classes.yaml").write_text(content)
    old = {
        name: value for name, value in run_state.read_state(run.state).items() if name not in ("label_space", "files")
    }
    for state in (run_state.read_state(run.state), old):  # the model file knows the classes, too
        run_state.write_state(run, state)
        with pytest.raises(DataError) as error:
            train.train(folder_config(folder_data), run.path, resume=True, accept_changed_data=True, console=QUIET)
        assert f"the classes are not those of the run in {run.path}: {CLASSES[content]}" in str(error.value)
    assert atrous.load(run.last).label_space.names == ("left", "right")


def test_a_state_that_does_not_know_its_data_is_resumed_with_a_word(finished: RunFolder, tmp_path: Path) -> None:
    run = copied(finished, tmp_path / "run")
    state = run_state.read_state(run.state)
    run_state.write_state(run, {name: value for name, value in state.items() if name not in ("label_space", "files")})
    assert "whether the data has changed is not known" in resume_output(run, *FINISHED)
    assert "not known" not in resume_output(run, *FINISHED)
