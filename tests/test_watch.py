"""`atrous evaluate --watch`: what comes, in any order and state, is evaluated once, by its content."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

import atrous
from atrous import cli, evaluate, train, watch
from atrous.config import to_yaml
from atrous.distributed import World
from atrous.errors import AtrousError, ConfigError
from atrous.files import append_line
from atrous.interrupt import Interrupted, stop_signals
from atrous.run_folder import RunFolder
from tests.conftest import tiny_config
from tests.runs import QUIET, copied, folder_config, validations

Action = Callable[[], object]


def nothing() -> None:
    pass


@pytest.fixture(scope="module")
def early(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run of two steps, whose newest model is another than that of `finished`."""
    config = tiny_config("train.steps=2", "train.eval_every=2")
    return train.train(config, tmp_path_factory.mktemp("early") / "run", console=QUIET)


def watched(
    monkeypatch: pytest.MonkeyPatch,
    path: Path,
    actions: Sequence[Action] = (),
    *overrides: str,
    **options: Any,  # noqa: ANN401 - those of watch.run
) -> tuple[bool, str]:
    """Watch, with one action between two looks; the result, and what was printed."""
    console = Console(width=400)
    left = iter(actions)

    def sleep(_: float) -> None:
        next(left, nothing)()

    monkeypatch.setattr("atrous.watch.time.sleep", sleep)
    with console.capture() as capture:
        is_complete = watch.run(path, overrides, console=console, **options)
    return is_complete, capture.get()


def rows(run: RunFolder) -> list[dict[str, Any]]:
    return [json.loads(line) for line in run.watched.read_text().splitlines()]


def put(source: Path, target: Path) -> Action:
    """Replace a file as the training does; its time is the same as ever, as on another machine's clock."""

    def do() -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target.with_name(".new"))
        os.utime(target.with_name(".new"), (1e9, 1e9))
        target.with_name(".new").replace(target)

    return do


def test_each_model_is_evaluated_once_as_it_comes(
    early: RunFolder, finished: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From before the folder is there to the last step; the best model has the weights of one of the newest ones."""
    run = RunFolder(tmp_path / "runs" / "a")
    actions = [
        put(early.config, run.config),
        put(early.last, run.last),
        put(early.best, run.best),
        put(finished.config, run.config),
        put(finished.last, run.last),
        put(finished.best, run.best),
        put(finished.metrics, run.metrics),
    ]
    is_complete, printed = watched(monkeypatch, run.path, actions, timeout=100)
    assert is_complete
    lines = printed.splitlines()
    assert lines[0].startswith(f"{run.last}: not there yet") and "waiting for it" in lines[0]
    assert lines[-1] == f"{run.path}: the training is complete"
    evaluations = [line for line in lines if line.startswith("step ")]
    assert len(evaluations) == len(rows(run))
    assert [row["step"] for row in rows(run)][:2] == [2, 4]
    assert len({row["weights"] for row in rows(run)}) == len(rows(run))
    for row, source in zip(rows(run)[:2], (early.last, finished.last), strict=True):
        evaluation = evaluate.run(source, console=QUIET)
        assert row["scores"] == evaluation.figures.to_tree()["scores"]
        assert row["protocol"] == evaluation.protocol
        assert row["images"] == 3
        assert f"step {row['step']}: mIoU {row['scores']['miou']:.4f}" in printed


def test_what_is_in_the_log_is_not_evaluated_again(
    early: RunFolder, finished: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = copied(finished, tmp_path / "run")
    put(early.best, run.best)()  # so that it is not the last model
    assert watched(monkeypatch, run.path)[0]
    number = len(rows(run))
    with monkeypatch.context() as patch:
        patch.setattr(evaluate, "measured", lambda *_, **__: pytest.fail("evaluated again"))
        is_complete, printed = watched(monkeypatch, run.path)
        assert is_complete and f"{number} evaluations, which are not done again" in printed
        assert watched(monkeypatch, run.last)[0]
        lines = run.watched.read_bytes()
        run.watched.write_bytes(lines.splitlines(keepends=True)[-1])
        assert "1 evaluation, which is not done again" in watched(monkeypatch, run.path / rows(run)[0]["file"])[1]
        run.watched.write_bytes(lines)
    is_complete, _ = watched(monkeypatch, run.path, (), "evaluate.flip=true")  # another protocol
    assert is_complete and len(rows(run)) == 2 * number
    assert rows(run)[-1]["protocol"]["flipped too"] == "yes"
    append_line(run.watched, '{"weights": 3}')
    run.watched.write_bytes(run.watched.read_bytes() + b'{"cut o')
    append_line(run.watched, json.dumps(rows_without(run)))
    assert watched(monkeypatch, run.path)[0]


def rows_without(run: RunFolder) -> dict[str, Any]:
    """The first row, as a line after one that was cut off."""
    row: dict[str, Any] = json.loads(run.watched.read_text().splitlines()[0])
    return row


def test_half_a_file_is_waited_for(
    early: RunFolder, finished: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a copy by other means than the training's writes it: cut within the header, within the weights, whole."""
    content = finished.last.read_bytes()
    run = copied(finished, tmp_path / "run")
    run.best.unlink()
    run.last.write_bytes(content[:100])
    half = [nothing] * 4
    actions: list[Action] = [*half, lambda: run.last.write_bytes(content[:-1000]), *half]
    is_complete, printed = watched(
        monkeypatch, run.path, [*actions, lambda: run.last.write_bytes(content)], timeout=1000
    )
    assert is_complete
    assert [row["step"] for row in rows(run)] == [4]
    assert "waiting for another" in printed


def test_a_best_model_that_comes_after_the_last_validation_is_waited_for(
    early: RunFolder, finished: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = copied(finished, tmp_path / "run")
    run.metrics.unlink()
    put(early.last, run.last)()
    put(early.best, run.best)()
    long = [nothing] * 9
    actions = [
        *long,
        put(finished.last, run.last),
        *long,
        put(finished.metrics, run.metrics),
        put(finished.best, run.best),
    ]
    assert watched(monkeypatch, run.best, actions)[0]
    assert [row["file"] for row in rows(run)] == ["best.safetensors"] * 2


def test_a_folder_that_a_network_hides_for_a_moment_is_not_deleted(
    early: RunFolder, finished: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, hidden = copied(finished, tmp_path / "run"), tmp_path / "hidden"
    run.best.unlink()
    put(early.last, run.last)()
    actions: list[Action] = [*[nothing] * 9, lambda: run.path.rename(hidden), lambda: hidden.rename(run.path)]
    assert watched(monkeypatch, run.path, [*actions, put(finished.last, run.last)])[0]
    assert [row["step"] for row in rows(run)] == [2, 4]


def test_a_damaged_last_model_ends_the_watch_with_its_reason(
    finished: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = copied(finished, tmp_path / "run")
    run.best.unlink()
    content = bytearray(run.last.read_bytes())
    content[-5] ^= 1  # of the last weight
    run.last.write_bytes(content)
    is_complete, printed = watched(monkeypatch, run.path)
    assert not is_complete
    assert str(run.last) in printed.splitlines()[-1] and "checksum" in printed


def test_a_run_that_is_deleted_or_brings_nothing_ends_the_watch(
    early: RunFolder, finished: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunFolder(tmp_path / "a")
    put(finished.config, run.config)()
    put(early.last, run.last)()
    is_complete, printed = watched(monkeypatch, run.path, [nothing, lambda: shutil.rmtree(run.path)])
    assert not is_complete and printed.endswith(f"{run.path}: the run was deleted\n")
    assert not run.path.exists()
    is_complete, printed = watched(monkeypatch, tmp_path / "b", timeout=0)
    assert not is_complete and printed.endswith("no new model for 0 s\n")


def test_a_run_is_complete_when_it_ended_early_and_not_when_it_was_stopped(
    early: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped = copied(early, tmp_path / "stopped")
    stopped.config.write_text(to_yaml(tiny_config("train.steps=9", "train.eval_every=2")))
    is_complete, _ = watched(monkeypatch, stopped.path, timeout=0.2)
    assert not is_complete
    settings = ("optim.lr=1e-12", "train.batch_norm=frozen", "train.eval_every=1", "train.patience=1", "train.steps=9")
    run = train.train(tiny_config(*settings), tmp_path / "run", console=QUIET)
    assert len(validations(run)) < 9
    assert watched(monkeypatch, run.path, timeout=100)[0]


def test_where_the_training_does_not_validate_the_watcher_keeps_the_best(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scores are made up: the first is the best."""
    run = train.train(tiny_config("train.eval_every=none", "train.steps=2"), tmp_path / "run", console=QUIET)
    assert [row["step"] for row in validations(run)] == [2]
    assert atrous.load(run.best).results["step"] == 2
    assert watched(monkeypatch, run.path)[0]
    best = atrous.load(run.best_watched)
    assert best.results["step"] == 2 and best.results["scores"] == rows(run)[0]["scores"]
    log = rows(run)[0]
    log["scores"]["miou"], log["weights"] = 0.999, "another"
    run.watched.write_text(json.dumps(log) + "\n")
    run.best_watched.unlink()
    assert watched(monkeypatch, run.path)[0]
    assert len(rows(run)) == 2 and not run.best_watched.exists()  # not better than that
    run.watched.unlink()
    assert watched(monkeypatch, run.path, (), "evaluate.flip=true")[0]
    assert not run.best_watched.exists()  # another protocol than the run's own


def test_a_log_that_cannot_be_written_is_said_and_the_figures_are_printed(
    finished: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = copied(finished, tmp_path / "run")
    run.watched.mkdir()
    is_complete, printed = watched(monkeypatch, run.path)
    assert is_complete
    assert f"cannot write {run.watched}" in printed and "step 4: mIoU" in printed


def test_ctrl_c_ends_the_watch_in_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def press() -> None:
        os.kill(os.getpid(), signal.SIGINT)

    with stop_signals(), pytest.raises(Interrupted, match=f"^stopped watching {tmp_path / 'a'}$"):
        watched(monkeypatch, tmp_path / "a", [press])


def test_what_cannot_be_watched_is_refused(
    finished: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, other = str(finished.path), tmp_path / "model.onnx"
    other.touch()
    stored = tmp_path / "predictions.json"
    stored.write_text("{}")
    for arguments, words in (
        ((folder, "--watch", "--json", "a.json"), "single evaluation"),
        ((folder, "--watch", "--truth", "a.json"), "single evaluation"),
        ((folder, "--timeout", "3"), "needs --watch"),
        ((folder, "--watch", "--timeout", "-1"), "--timeout"),
        ((str(other), "--watch"), "is neither"),
        ((str(stored), "--watch"), "stored predictions"),
        ((folder, "--watch", "--metrics", "speed"), "no metric speed"),
        ((folder, "--watch", "train.steps=3"), "only settings of data, evaluate and decode"),
    ):
        assert cli.run(["evaluate", *arguments]) == 2
        error = capsys.readouterr().err
        assert words in error and error.count("\n") == 1, arguments
    monkeypatch.setattr("atrous.distributed.join", lambda _: World(0, 2, torch.device("cpu")))
    with pytest.raises(ConfigError, match="--watch takes one process, but there are 2"):
        watch.run(finished.path)


def test_data_that_is_not_there_is_the_usual_error(folder_data: Path, tmp_path: Path) -> None:
    run = train.train(folder_config(folder_data), tmp_path / "run", console=QUIET)
    shutil.rmtree(folder_data)
    with pytest.raises((AtrousError, OSError), match="no such folder"):
        watch.run(run.path, console=QUIET)


@pytest.fixture
def training(tmp_path: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """A training of 15 steps in another process, which saves at every step."""
    config = tiny_config("train.steps=15", "train.save_every=1", "train.eval_every=none")
    (tmp_path / "a.yaml").write_text(to_yaml(config))
    words = [sys.executable, "-m", "atrous", "train", "a.yaml", "--out", "runs/a", "--workers", "0", "--device", "cpu"]
    process = subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.DEVNULL, env={**os.environ})
    yield process
    process.kill()
    process.wait()


@pytest.mark.slow
def test_a_watcher_beside_a_training(
    training: "subprocess.Popen[bytes]", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("atrous.watch.POLL", 0.05)
    monkeypatch.chdir(tmp_path)
    arguments = ["evaluate", "runs/a", "--watch", "--timeout", "300", "--workers", "0", "--device", "cpu"]
    assert cli.run(arguments) == 0
    run = RunFolder(tmp_path / "runs" / "a")
    steps = [row["step"] for row in rows(run)]
    assert steps[-1] == 15 and steps == sorted(set(steps)) and len(steps) > 2
    best = max(rows(run), key=lambda row: row["scores"]["miou"])
    assert atrous.load(run.best_watched).results["scores"]["miou"] == best["scores"]["miou"]
    assert training.wait(300) == 0
