"""TensorBoard's events, read back by its own reader, and the profile of a few steps."""

import gzip
import importlib.util
import io
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image as PILImage
from rich.console import Console

from atrous import cli, event_file, instruments, run_state, train
from atrous.config import override
from atrous.distributed import World
from atrous.errors import ConfigError
from atrous.event_file import EventFile
from atrous.interrupt import Interrupted
from atrous.run_folder import RunFolder
from tests.conftest import RECIPE, tiny_config
from tests.runs import QUIET, Tiny, assert_same, copied, losses, stop_after, validations, weights

reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
WITH_EVENTS = ("train.tensorboard=true", "train.eval_every=2")


def read(folder: Path) -> Any:  # noqa: ANN401 - of a library without types
    """What TensorBoard would show of a folder."""
    accumulator = reader.EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0})
    accumulator.Reload()
    return accumulator


def series(folder: Path, tag: str) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in read(folder).Scalars(tag)]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """Four steps with validations after the second and the fourth."""
    return train.train(tiny_config(*WITH_EVENTS), tmp_path_factory.mktemp("events") / "run", console=QUIET)


def rows_of(run: RunFolder) -> dict[str, list[tuple[int, float]]]:
    """The metrics by TensorBoard's tags."""
    figures = [(row["step"], "train", {**row, "step": None}) for row in losses(run)]
    figures += [(row["step"], "validation", row["scores"]) for row in validations(run)]
    figures += [(row["step"], "classes", row["classes"]) for row in validations(run)]
    tags: dict[str, list[tuple[int, float]]] = {}
    for step, group, values in figures:
        for name, value in values.items():
            if value is not None:
                tags.setdefault(f"{group}/{name}", []).append((step, value))
    return tags


def assert_whole(run: RunFolder) -> None:
    """Every row of the metrics is there, once."""
    tags = rows_of(run)
    assert {"train/loss", "train/learning_rate", "train/images_per_second", "validation/miou"} < tags.keys()
    assert set(read(run.events).Tags()["scalars"]) == tags.keys()
    for tag, values in tags.items():
        shown = series(run.events, tag)
        assert [step for step, _ in shown] == [step for step, _ in values], tag
        assert [value for _, value in shown] == pytest.approx([value for _, value in values], rel=1e-6), tag


def test_tensorboard_shows_what_the_metrics_hold(run: RunFolder) -> None:
    assert len(losses(run)) == 4 and len(validations(run)) == 2
    assert_whole(run)


def test_tensorboard_shows_the_first_validation_images_with_truth_and_prediction(run: RunFolder) -> None:
    events = read(run.events)
    tags = events.Tags()["images"]
    assert tags == [f"validation/val_0000{index}" for index in range(3)]
    for tag in tags:
        pictures = events.Images(tag)
        assert [one.step for one in pictures] == [2, 4]
        for one in pictures:
            with PILImage.open(io.BytesIO(one.encoded_image_string)) as picture:
                assert picture.size == (one.width, one.height)
                assert picture.width > 3 * 96  # panels of 96 x 64 beside one another


def test_a_training_is_the_same_with_and_without(run: RunFolder, finished: RunFolder) -> None:
    assert_same(weights(run), weights(finished))
    assert not finished.events.exists()


def resume(run: RunFolder, *overrides: str) -> str:
    console = Console(width=400)
    config = override(tiny_config(), [*WITH_EVENTS, *overrides], RECIPE)
    with console.capture() as capture:
        train.train(config, run.path, resume=True, console=console)
    return capture.get()


def test_no_step_comes_twice_after_a_resume(run: RunFolder, tmp_path: Path) -> None:
    longer = copied(run, tmp_path / "run")
    resume(longer, "train.steps=6")
    assert [row["step"] for row in losses(longer)] == [1, 2, 3, 4, 5, 6]
    assert_whole(longer)
    assert [one.step for one in read(longer.events).Images("validation/val_00000")] == [2, 4, 6]


@pytest.mark.slow
def test_what_a_kill_lost_is_shown_once(run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The state is of step 2, where its validation is not yet stored; steps 3 and 4 were shown, and come again."""
    early = copied(run, tmp_path / "early")
    stop_after(3, monkeypatch)
    with pytest.raises(Interrupted):
        train.train(tiny_config(*WITH_EVENTS, "train.save_every=2"), tmp_path / "stopped", console=QUIET)
    monkeypatch.undo()
    state = run_state.read_state(RunFolder(tmp_path / "stopped").state)
    for step, measured in ((2, 0), (2, 2), (3, 2)):
        again = copied(early, tmp_path / f"{step}{measured}")
        if step == 3:
            shutil.copy(RunFolder(tmp_path / "stopped").state, again.state)
        else:
            half = train.train(
                tiny_config(*WITH_EVENTS, "train.steps=2", "optim.schedule=constant"),
                tmp_path / f"h{measured}",
                console=QUIET,
            )
            shutil.copy(half.state, again.state)
            again_state = run_state.read_state(again.state)
            run_state.write_state(again, {**again_state, "measured": measured})
        resume(again)
        assert [row["step"] for row in losses(again)] == [1, 2, 3, 4]
        assert_whole(again)
        assert [one.step for one in read(again.events).Images("validation/val_00000")] == [2, 4]
    assert state["step"] == 3


def test_events_begin_with_the_whole_history_of_a_run_that_had_none(finished: RunFolder, tmp_path: Path) -> None:
    late = copied(finished, tmp_path / "run")
    assert "train.tensorboard is now True, not False" in resume(late, "train.steps=5")
    assert [step for step, _ in series(late.events, "train/loss")] == [1, 2, 3, 4, 5]
    assert_whole(late)


def test_a_clock_that_was_set_back_changes_no_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, now in enumerate((2e9, 1e9, 1.5e9)):
        monkeypatch.setattr("atrous.event_file.time.time", lambda now=now: now)
        file = EventFile(tmp_path, 2 * number, pytest.fail)
        for step in range(2 * number, 2 * number + 3):  # the last step comes again
            file.add_scalars(step, {"a": number})
    assert series(tmp_path, "a") == [(0, 0), (1, 0), (2, 1), (3, 1), (4, 2), (5, 2), (6, 2)]


def failing(limit: int, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Let writes fail after some bytes, as on a full disk, until the value is called."""
    real, is_full = Path.open, True

    class Full(io.BytesIO):
        def __init__(self, path: Path) -> None:
            super().__init__()
            self.file = real(path, "r+b" if path.exists() else "wb")

        def seek(self, place: int, whence: int = 0) -> int:
            return self.file.seek(place, whence)

        def write(self, content: Any) -> int:  # noqa: ANN401
            self.file.write(content[:limit])
            self.file.close()
            raise OSError(28, "No space left on device")

    def opened(path: Path, *arguments: Any, **options: Any) -> Any:  # noqa: ANN401
        return Full(path) if is_full and path.name.startswith(event_file.PREFIX) else real(path, *arguments, **options)

    def stop() -> None:
        nonlocal is_full
        is_full = False

    monkeypatch.setattr(Path, "open", opened)
    return stop


@pytest.mark.parametrize("limit", [0, 7, 100])
def test_a_full_disk_loses_nothing_and_is_said_once(
    limit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    file = EventFile(tmp_path, 0, told.append)
    file.add_scalars(1, {"a": 1.0})
    for step in (2, 4, 6):
        end = failing(limit, monkeypatch)
        file.add_scalars(step, {"a": step})
        file.add_scalars(step + 1, {"a": step + 1})
        assert series(tmp_path, "a") == [(index, index) for index in range(1, step)]
        end()
        if step < 6:
            file.add_picture(step, "p", (1, 1), b"png")
    file.flush()
    assert series(tmp_path, "a") == [(index, index) for index in range(1, 8)]
    assert len(told) == 3 and told[0] == (
        f"cannot write {file.path}: No space left on device; the training goes on, and tries again"
    )


def test_a_folder_that_cannot_be_written_ends_no_training(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    run.path.mkdir()
    run.events.touch()  # a file where the folder should be
    console = Console(width=400)
    with console.capture() as capture:
        train.train(tiny_config(*WITH_EVENTS), run.path, console=console)
    assert capture.get().count("cannot write") == 1
    assert run.report.exists()


def test_a_run_that_breaks_before_its_first_save_leaves_no_events(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(train, "update", broken)
    with pytest.raises(ZeroDivisionError):
        train.train(tiny_config(*WITH_EVENTS), tmp_path / "run", console=QUIET)
    assert not (tmp_path / "run").exists()


def test_only_the_first_process_has_instruments(tmp_path: Path) -> None:
    settings = tiny_config(*WITH_EVENTS, "train.profile_steps=1,2").train
    world = World(1, 2, torch.device("cpu"))
    run = RunFolder(tmp_path, is_writer=False)
    with instruments.opened(run, settings, world, QUIET, done=0, is_due=False) as tools:
        tools.log({"step": 1, "loss": 1.0})
        tools.advance(1)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_is_a_line_before_the_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "tensorboard"]:
        monkeypatch.delitem(sys.modules, name)
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "tensorboard" else real(name, *rest)
    )
    words = ["train", RECIPE, "train.tensorboard=true", "--out", str(tmp_path / "run"), "--workers", "0"]
    assert cli.run(words) == 2
    error = capsys.readouterr().err
    assert "pip install 'atrous[tensorboard]'" in error and error.count("\n") == 1
    assert not (tmp_path / "run").exists()


# ---- the profile


@pytest.mark.slow
def test_the_profiler_writes_nothing_of_its_own_to_the_terminal() -> None:
    """Its compiled part reads the variable once in a process."""
    lines = (
        "import torch",
        "from pathlib import Path",
        "from atrous.profiler import Profiler",
        "profiler = Profiler((1, 1), 0, Path('t'), Path('p'), torch.device('cpu'), lambda text: None)",
        "profiler.running.stop()",
    )
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")


def test_the_profile_has_a_trace_and_the_largest_costs(tiny: Tiny, tmp_path: Path) -> None:
    console = Console(width=400)
    with console.capture() as capture:
        run = train.train(tiny("train.profile_steps=2,2", "train.save_every=9"), tmp_path / "run", console=console)
    printed = capture.get()
    assert "profiled steps 2 to 2: " in printed and f"trace: {run.trace}" in printed
    trace = json.loads(gzip.decompress(run.trace.read_bytes()))
    names = [event.get("name", "") for event in trace["traceEvents"]]
    assert sum(name.startswith("Optimizer.step") for name in names) == 1  # of one step
    lines = run.profile.read_text().splitlines()
    assert lines[0].startswith("profiled steps 2 to 2: ") and 5 < len(lines) <= 13
    times = [float(line.split()[0]) for line in lines[1:]]
    assert times == sorted(times, reverse=True)
    assert "convolution_backward" in run.profile.read_text()
    assert set(run.path.iterdir()) >= {run.trace, run.profile}
    assert not list(run.path.glob(".trace*"))


@pytest.mark.slow
def test_a_profile_of_a_resumed_run_has_the_steps_that_are_left(
    finished: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = copied(finished, tmp_path / "run")
    config = tiny_config("train.eval_every=2", "train.steps=6", "train.profile_steps=3,5")
    train.train(config, run.path, resume=True, console=QUIET)
    assert run.profile.read_text().startswith("profiled steps 5 to 5: ")
    before = run.profile.read_text()
    train.train(config, run.path, resume=True, console=QUIET)  # only the report is written again
    assert run.profile.read_text() == before


def test_steps_that_were_done_without_a_profile_are_said(finished: RunFolder, tmp_path: Path) -> None:
    run = copied(finished, tmp_path / "run")
    printed = resume(run, "train.tensorboard=false", "train.profile_steps=1,2")
    assert "train.profile_steps=1,2: 4 steps are done, so there is nothing to profile" in printed
    assert not run.profile.exists()


@pytest.mark.slow
def test_a_training_that_is_stopped_writes_the_profile_so_far(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_after(3, monkeypatch)
    with pytest.raises(Interrupted):
        train.train(tiny("train.profile_steps=2,4"), tmp_path / "run", console=QUIET)
    assert RunFolder(tmp_path / "run").profile.read_text().startswith("profiled steps 2 to 3: ")


@pytest.mark.slow
def test_a_profile_that_cannot_be_written_ends_no_training(tiny: Tiny, tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    run.trace.mkdir(parents=True)
    console = Console(width=400)
    with console.capture() as capture:
        train.train(tiny("train.profile_steps=1,1"), run.path, console=console)
    assert f"cannot write {run.trace}" in capture.get()
    assert run.report.exists()


def test_steps_that_cannot_be_profiled_are_refused(tiny: Tiny, tmp_path: Path) -> None:
    for text, words in (
        ("3,2", r"profile_steps=\[3, 2\]: the last one comes before the first one"),
        ("0,2", "must be greater than 0|must be at least 1"),
        ("5", "train.profile_steps"),
        ("1,2,3", "wrong number of values"),
    ):
        with pytest.raises(ConfigError, match=words):
            tiny(f"train.profile_steps={text}")
    with pytest.raises(ConfigError, match=r"train\.profile_steps=2,5: the training has only 4 steps"):
        train.train(tiny("train.profile_steps=2,5"), tmp_path / "run", console=QUIET)
