"""What only the training knows: written while it runs, added up over interruptions."""

import json
from pathlib import Path

import pytest

from atrous import run_metrics, train
from atrous.interrupt import Interrupted
from atrous.report import facts
from atrous.report.facts import RunFacts
from atrous.report.training import Training, training_of, what_was_trained
from atrous.run_folder import RunFolder
from tests.runs import QUIET, Tiny, copied, stop_after

FACTS = RunFacts(10, 20, 30, 4, 1, "cpu")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that a test sets."""
    now = [100.0]
    monkeypatch.setattr("atrous.report.facts.time.monotonic", lambda: now[0])
    return now


def test_time_adds_up_over_sessions(tmp_path: Path, clock: list[float]) -> None:
    run = RunFolder(tmp_path)
    with facts.timed(run, FACTS, 0, 10) as note:
        clock[0] += 5
        note()
        assert read(run).seconds == 5
        clock[0] += 2
    first = read(run)
    assert (first.seconds, first.sessions) == (7, 1)
    clock[0] += 1000
    with pytest.raises(ZeroDivisionError), facts.timed(run, FACTS, 4, 10):
        clock[0] += 3
        raise ZeroDivisionError
    assert read(run) == first._replace(seconds=10, sessions=2)
    with facts.timed(run, FACTS, 10, 10):
        pass
    assert read(run).sessions == 2, "nothing is left to train"
    with facts.timed(run, FACTS, 0, 10):
        pass
    assert (read(run).seconds, read(run).sessions) == (0, 1), "a new run in the folder"


def read(run: RunFolder) -> RunFacts:
    value = facts.read(run.facts)
    assert value is not None
    return value


def test_only_the_first_process_writes(tmp_path: Path) -> None:
    with facts.timed(RunFolder(tmp_path, is_writer=False), FACTS, 0, 10) as note:
        note()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "3", '{"parameters": 1}', json.dumps({**FACTS._asdict(), "seconds": "7"}), '{"a": 1}', "[" * 9999],
)
def test_damaged_facts_are_none(text: str, tmp_path: Path) -> None:
    (tmp_path / "facts.json").write_text(text)
    assert facts.read(tmp_path / "facts.json") is None


def test_facts_survive_writing_and_reading(tmp_path: Path) -> None:
    (tmp_path / "facts.json").write_text(json.dumps(FACTS._asdict()))
    assert facts.read(tmp_path / "facts.json") == FACTS


@pytest.mark.parametrize(
    ("program", "processes", "expected"),
    [
        ("/usr/bin/atrous", "1", "atrous train 'my data' --out 'a b'"),
        ("/site-packages/atrous/__main__.py", "1", "atrous train 'my data' --out 'a b'"),
        ("/site-packages/atrous/__main__.py", "8", "torchrun --nproc-per-node=8 -m atrous train 'my data' --out 'a b'"),
        ("C:/Scripts/atrous.exe", "1", "atrous train 'my data' --out 'a b'"),
        ("/usr/bin/pytest", "1", ""),
        ("", "1", ""),
    ],
)
def test_the_command_can_be_pasted(
    program: str, processes: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", [program, "train", "my data", "--out", "a b"])
    monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)
    assert facts.command() == expected


def test_a_run_and_its_page_say_what_was_trained(finished: RunFolder) -> None:
    known = read(finished)
    assert (known.train_images, known.val_images, known.images_per_step, known.sessions) == (12, 3, 2, 1)
    assert known.parameters > 1000 and known.seconds > 0
    page = finished.report.read_text(encoding="utf-8")
    assert "12 for training, 3 for validation" in page and "4 steps, 0.667 epochs" in page
    assert "There are few training images" in page and 'id="samples"' in page


def test_a_resumed_run_counts_its_sessions(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        stop_after(3, patch)
        train.train(tiny(), tmp_path / "run", console=QUIET)
    before = read(RunFolder(tmp_path / "run"))
    run = train.train(tiny(), tmp_path / "run", resume=True, console=QUIET)
    after = read(run)
    assert (before.sessions, after.sessions, after.started) == (1, 2, before.started)
    assert after.seconds > before.seconds
    assert "in 2 sessions" in run.report.read_text(encoding="utf-8")


def test_a_finished_run_writes_its_page_again(tiny: Tiny, finished: RunFolder, tmp_path: Path) -> None:
    run = copied(finished, tmp_path / "run")
    run.report.unlink()
    train.train(tiny("train.eval_every=2"), run.path, resume=True, console=QUIET)
    assert run.report.exists() and read(run).sessions == 1


def test_a_run_from_before_there_were_facts_has_no_time(tiny: Tiny, finished: RunFolder, tmp_path: Path) -> None:
    run = copied(finished, tmp_path / "run")
    run.facts.unlink()
    train.train(tiny("train.eval_every=2"), run.path, resume=True, console=QUIET)
    assert (read(run).started, read(run).command) == ("", "")
    lines = what_was_trained(tiny(), training_of(run, []))
    assert "time" not in lines and "started" not in lines and lines["images"] == "12 for training, 3 for validation"


def test_what_was_trained_line_by_line(tiny: Tiny) -> None:
    changes = ("train.accumulate=3", "train.precision=bf16", "train.steps=1000", "optim.lr=0.01", "train.init=x")
    config = tiny(*changes)
    history = [{"step": step, "images_per_second": speed} for step, speed in enumerate((1.0, 30.0, 40.0))]
    facts = FACTS._replace(
        processes=2, images_per_step=12, seconds=4000, sessions=3, started="2026-01-02T03:04:05+00:00"
    )
    training = Training(history, facts, source="zoo:voc", num_reused=1200, num_random=4)
    lines = what_was_trained(
        config.model_copy(update={"train": config.train.model_copy(update={"init": "x"})}), training
    )
    assert lines == {
        "initial weights": "zoo:voc (all: 1,200 weights, 4 random)",
        "images": "20 for training, 30 for validation",
        "length": "2 of 1,000 steps, 1.2 epochs",
        "time": "1 h 6 min in 3 sessions",
        "speed": "30 images/s",
        "batch": "12 images (2 processes x 3 passes x 2)",
        "crop": "49 x 65",
        "learning rate": f"0.01, {config.optim.name}, {config.optim.schedule}",
        "precision": "bf16, averaged weights",
        "trained on": "cpu",
        "started": "2026-01-02 03:04",
    }
    assert what_was_trained(tiny(), Training())["initial weights"] == "random, seed 0"


def test_a_page_does_without_the_files_of_its_run(finished: RunFolder, tmp_path: Path) -> None:
    run = copied(finished, tmp_path / "run")
    run.facts.write_text("{")
    run.reused.write_text('{"reused": 3, "source": [1]}')
    run.data.write_text('{"train": [], "val": null}')
    training = training_of(run, [])
    assert training.facts is None and training.splits == {} and training.num_reused == 0
    assert len(training.history) == len(run_metrics.read_rows(run.metrics))
