"""The command line from end to end: what it prints, what it writes, and its exit code."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from atrous import __version__, create
from atrous.errors import ConfigError, ConversionError, DataError, ModelFileError, ProcessDied
from atrous.interrupt import Interrupted
from atrous.progress import Progress
from tests.command_line import RECIPE, failure, run
from tests.conftest import TINY, save


def test_train_evaluate_predict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    assert run("train", RECIPE, *TINY, "--out", str(out), "--workers", "0", "--device", "cpu") == 0
    assert "best model:" in capsys.readouterr().out
    assert run("evaluate", str(out / "best.safetensors"), "--json", str(tmp_path / "r.json"), "--workers", "0") == 0
    assert "mIoU" in capsys.readouterr().out
    assert 0 <= json.loads((tmp_path / "r.json").read_text())["scores"]["miou"] <= 1
    save(tmp_path / "image.png", np.zeros((20, 30, 3), np.uint8))
    images = (str(tmp_path / "image.png"), "evaluate.flip=true")
    assert run("predict", str(out / "best.safetensors"), *images, "--out", str(tmp_path / "p")) == 0
    assert (tmp_path / "p" / "masks" / "image.png").exists()


def test_without_a_verb_it_shows_the_way(capsys: pytest.CaptureFixture[str]) -> None:
    shown = []
    for arguments in ((), ("-h",), ("--help",), ("help",)):
        assert run(*arguments) == 0
        shown.append(capsys.readouterr().out)
    assert len(set(shown)) == 1
    assert "atrous train folder/deeplab_v3plus data.root=MYDATA" in shown[0]
    for verb in ("demo", "train", "evaluate", "predict", "convert", "recipes"):
        assert run(verb, "-h") == 0
        shown = [capsys.readouterr().out]
        assert run("help", verb) == 0
        assert capsys.readouterr().out == shown[0]


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    for word in ("--version", "-V", "version"):
        assert run(word) == 0
        assert capsys.readouterr().out == f"atrous {__version__}\n"


def test_a_shell_completes_verbs_recipes_and_formats() -> None:
    cases = {
        "atrous pre": "predict",
        "atrous train synthetic/de": RECIPE,
        "atrous predict model.safetensors photos --format cityscapes_pi": "cityscapes_pixel",
    }
    for words, completed in cases.items():
        environment = {"_ATROUS_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
        program = [sys.executable, "-c", "from atrous.cli import main; main()"]
        answer = subprocess.run(program, capture_output=True, text=True, env={**os.environ, **environment})
        assert completed in answer.stdout.split(), answer


def test_a_reader_that_stops_early_is_no_error() -> None:
    program = f"{sys.executable} -m atrous recipes synthetic/demo | true; exit ${{PIPESTATUS[0]}}"
    answer = subprocess.run(["bash", "-c", program], capture_output=True, text=True)
    assert answer.stderr == ""


def test_paths_may_begin_with_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, work = tmp_path / "home", tmp_path / "work"
    home.mkdir()
    work.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(work)
    save(home / "image.png", np.zeros((20, 30, 3), np.uint8))
    quick = ("--workers", "0", "--device", "cpu")
    assert run("train", RECIPE, *TINY, "--out=~/run", *quick) == 0
    (work / "mine.yaml").write_text("base: ~/run/config.yaml\ntrain: {init: ~/run/best.safetensors}\n")
    assert run("train", "mine.yaml", "--out", "~/run2", *quick) == 0
    assert run("evaluate", "~/run/best.safetensors", "--json=~/r.json", "--report=~/r.html", *quick) == 0
    assert run("predict", "~/run/best.safetensors", "~/*.png", "--out=~/p", "--device=cpu") == 0
    assert run("convert", "~/run/best.safetensors", "--out=~/c.safetensors") == 2  # not one of other programs
    assert {path.name for path in home.iterdir()} == {"run", "run2", "r.json", "r.html", "image.png", "p"}
    assert [path.name for path in work.iterdir()] == ["mine.yaml"]


WRONG_CALLS = {  # arguments: a part of the answer
    ("train", RECIPE, "train.stepz=3"): "did you mean train.steps?",
    ("train", "synthetic/deeplab_v3plus_tinny"): "did you mean synthetic/deeplab_v3plus_tiny?",
    ("train", "camvid/deeplab_v3plus_mobilenet_v2", "data.root=/nowhere"): "data.root: no such folder: /nowhere",
    ("train", "camvid/deeplab_v3plus_mobilenet_v2"): "data.root",
    ("train", RECIPE, "--device", "cuda:99"): "cuda:99",
    ("train", RECIPE, "--device", "tpux"): "tpux",
    ("train", RECIPE, "--out", "/proc/nowhere/run"): "output folder /proc/nowhere/run",
    ("train", RECIPE, "--wurkers", "2"): "--wurkers",
    ("train",): "a recipe is missing, such as `atrous train folder/deeplab_v3plus`",
    ("train", RECIPE, "--steps", "100"): "settings are written without dashes: train.steps=100",
    ("train", RECIPE, "--batch-size=4"): "here it is train.batch=4",
    ("train", RECIPE, "batch_size=4"): "here it is train.batch=4",
    ("train", "synthetic"): "did you mean synthetic/",
    ("train", RECIPE, "--device", "\x1b[31mred"): "\\x1b[31mred",
    ("evaluate", "/nowhere.safetensors"): "no such model file: /nowhere.safetensors",
    ("predict", "/nowhere.safetensors", "x.png", "--out", "never"): "no such model file: /nowhere.safetensors",
    ("recipes", "nothing/here"): "no such recipe",
    ("fly",): "fly",
}


def test_a_wrong_call_prints_one_line_and_writes_nothing(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for arguments, reason in WRONG_CALLS.items():
        assert reason in failure(capsys, *arguments), arguments
        assert list(tmp_path.iterdir()) == [], arguments


def test_skipped_files_are_named_at_first_and_counted_at_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    for count, last_line in ((5, []), (7, ["skipped: 7 unreadable images in total"])):
        with Progress(Console(width=200), steps=1, done=0) as progress:
            progress.skipped(tuple(f"[red]/{index}.png is broken" for index in range(count)))
        lines = capsys.readouterr().out.splitlines()
        assert lines == [*(f"skipped: [red]/{index}.png is broken" for index in range(5)), *last_line]


MEMORY: tuple[tuple[Exception, str], ...] = (  # as they are raised, on whose memory
    (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate\n2 GiB"), "GPU"),
    (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), "GPU"),
    (RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"), "GPU"),
    (RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory"), "CPU"),
    (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes."), "CPU"),
    (RuntimeError("std::bad_alloc"), "CPU"),
    (MemoryError(), "CPU"),
    (np._core._exceptions._ArrayMemoryError((2**40,), np.dtype(np.uint8)), "CPU"),  # type: ignore[attr-defined]
)


@pytest.mark.parametrize(("error", "device"), MEMORY)
def test_memory_that_runs_out_is_one_line_and_exit_code_1(
    error: Exception,
    device: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("atrous.train.train", raising(error))
    message = failure(capsys, "train", RECIPE, "--out", str(tmp_path / "run"), code=1)
    assert f"the {device} is out of memory" in message
    assert "train.batch" in message and "augment.crop" in message
    assert ("--workers" in message) == (device == "CPU")


def raising(error: BaseException) -> Callable[..., None]:
    def train(*arguments: object, **options: object) -> None:
        raise error

    return train


def test_a_bug_is_reported_as_ours_with_its_trace(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for bug in (ValueError("shapes do not match"), TypeError("shapes do not match"), KeyError("shapes do not match")):
        monkeypatch.setattr("atrous.train.train", raising(bug))
        assert run("train", RECIPE, "--out", str(tmp_path / "run")) == 1
        error = capsys.readouterr().err
        assert "Traceback" in error
        assert type(bug).__name__ in error and "shapes do not match" in error
        assert f"this is a fault of Atrous {__version__}, not yours" in error


ENDS: tuple[tuple[BaseException, int], ...] = (
    (ConfigError("train.steps is odd"), 2),
    (DataError("train.steps is odd"), 2),
    (ModelFileError("train.steps is odd"), 2),
    (ConversionError("train.steps is odd"), 2),
    (OSError("train.steps is odd"), 2),
    (OSError(28, "train.steps is odd"), 2),  # which Python writes as "[Errno 28] train.steps is odd"
    (FloatingPointError("train.steps is odd"), 1),
    (ProcessDied("train.steps is odd"), 1),
    (Interrupted("train.steps is odd"), 130),
    (Interrupted("train.steps is odd", signal.SIGTERM), 143),
)


def test_an_error_of_the_user_is_one_line_with_its_own_exit_code(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for error, code in ENDS:
        monkeypatch.setattr("atrous.train.train", raising(error))
        assert failure(capsys, "train", RECIPE, code=code) == "atrous: train.steps is odd\n", error
    monkeypatch.setattr("atrous.train.train", raising(KeyboardInterrupt()))
    assert failure(capsys, "train", RECIPE, code=130) == "atrous: interrupted\n"


def test_conventions_of_command_lines(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--version") == 0
    assert capsys.readouterr().out == f"atrous {__version__}\n"
    assert run("-h") == run("train", "-h") == 0


def test_a_model_of_other_classes_is_refused(
    folder_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    create("deeplab_v3", num_classes=5).save(tmp_path / "m.safetensors")
    message = failure(
        capsys, "evaluate", str(tmp_path / "m.safetensors"), "data.format=folder", f"data.root={folder_data}"
    )
    assert "is 5, but the label space has 2 classes" in message


def test_help_does_not_wait_for_torch() -> None:
    code = "import sys; from atrous import cli; cli.run(['--help']); sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


@pytest.mark.slow
def test_ctrl_c_exits_130_and_says_how_to_resume(tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = [sys.executable, "-m", "atrous", "train", RECIPE, *TINY, "train.steps=5000", "train.eval_every=5000"]
    process = subprocess.Popen(
        [*command, "--out", str(out), "--workers", "2"],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    while process.poll() is None and not (out / "metrics.jsonl").exists():
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # to the workers as well, as a terminal sends it
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert error.count("\n") <= 2  # the signal is acknowledged, unless it met the training as it waited for images
    assert f"--out {out} --resume" in error


def test_a_process_whose_peer_has_ended_points_to_its_message(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = RuntimeError("[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer [::1]:1")
    monkeypatch.setattr("atrous.train.train", raising(lost))
    for is_many, expected in ((True, "another process of this run ended"), (False, "this is a fault of Atrous")):
        monkeypatch.setattr(torch.distributed, "is_initialized", lambda is_many=is_many: is_many)
        monkeypatch.setattr("atrous.distributed.leave", lambda: None)
        assert run("train", RECIPE, "--out", str(tmp_path / "run")) == 1
        error = capsys.readouterr().err
        assert expected in error
        assert ("Traceback" in error) != is_many
