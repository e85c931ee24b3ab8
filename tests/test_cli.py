"""The command line from end to end: what it prints, what it writes, and its exit code."""

import inspect
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import PIL.Image
import pytest
import torch
from PIL import Image
from rich.console import Console

from atrous import __version__, cli, create, report
from atrous.commands import evaluate, options
from atrous.config import Config, load, override
from atrous.errors import ConfigError, ConversionError, DataError, ModelFileError, ProcessDied
from atrous.interrupt import Interrupted
from atrous.progress import Progress
from atrous.run_folder import RunFolder
from tests.conftest import SHARED, SMALL_MODEL, TINY, save
from tests.runs import copied

RECIPE = "synthetic/deeplab_v3plus_tiny"


def run(*arguments: str) -> int:
    return cli.run([str(argument) for argument in arguments])


def failure(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 2) -> str:
    """The one line that a failing call prints."""
    assert run(*arguments) == code
    error = capsys.readouterr().err
    assert error.startswith("atrous: ")
    assert error.count("\n") == 1, error
    return error


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


def test_recipes_are_listed_printed_and_described(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("recipes") == 0
    listing = capsys.readouterr().out
    assert "camvid/deeplab_v3plus_mobilenet_v2" in listing
    names = [line.partition(" ")[0] for line in listing.splitlines()]
    texts = [line.removeprefix(name) for name, line in zip(names, listing.splitlines(), strict=True)]
    starts = {len(name) + len(text) - len(text.lstrip()) for name, text in zip(names, texts, strict=True)}
    assert starts == {max(map(len, names)) + 1}  # a column of names and one of descriptions
    assert run("recipes", RECIPE) == 0
    assert "depth_multiplier" in capsys.readouterr().out
    assert run("recipes", "--schema", str(tmp_path / "schema.json")) == 0
    assert "properties" in json.loads((tmp_path / "schema.json").read_text())


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


def test_a_folder_of_recipes_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("recipes", "synthetic") == 0
    assert {line.partition("/")[0] for line in capsys.readouterr().out.splitlines()} == {"synthetic"}


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


FOLDER = (
    "data.format=folder",
    *SMALL_MODEL,
    "augment.crop=33,49",
    "train.batch=2",
    "train.steps=4",
)


def no_folder(root: Path) -> None:
    root.rename(root.with_name("elsewhere"))


def empty_split(root: Path) -> None:
    for path in root.glob("*/train/*"):
        path.unlink()


def no_label(root: Path) -> None:
    (root / "masks" / "train" / "3.png").unlink()


def no_image(root: Path) -> None:
    (root / "images" / "train" / "3.png").unlink()


def other_size(root: Path) -> None:
    save(root / "masks" / "train" / "3.png", np.zeros((40, 61), np.uint8))


def truncated(root: Path, split: str = "train") -> None:
    path = root / "images" / split / "1.png"
    path.write_bytes(path.read_bytes()[:200])


def truncated_in_val(root: Path) -> None:
    truncated(root, "val")


def unknown_value(root: Path) -> None:
    save(root / "masks" / "train" / "3.png", np.full((40, 60), 2, np.uint8))


def colored(root: Path) -> None:
    save(root / "masks" / "train" / "3.png", np.full((40, 60, 3), 128, np.uint8))


def one_class(root: Path) -> None:
    (root / "classes.yaml").write_text("names: [left]\n")


def intact(root: Path) -> None:
    """The mistake is in the settings."""


BAD_INPUTS: tuple[tuple[Callable[[Path], None], tuple[str, ...], str], ...] = (
    (no_folder, (), "data.root: no such folder: {root}"),
    (empty_split, (), "{root}/images/train"),
    (no_label, (), "images in {root}/images/train without a label in {root}/masks/train (1): 3"),
    (no_image, (), "labels in {root}/masks/train without an image in {root}/images/train (1): 3"),
    (other_size, (), "{root}/masks/train/3.png is 61 x 40"),
    (truncated, (), "{root}/images/train/1.png"),
    (unknown_value, (), "{root}/masks/train/3.png: value 2 (2400 pixels)"),
    (colored, (), "{root}/masks/train/3.png: the mask is RGB"),
    (one_class, (), "{root}/classes.yaml"),
    (intact, ("train.batch=1",), "train.batch=1"),
    (intact, ("model.num_classes=5",), "model.num_classes"),
    (intact, ("data.val=test",), "{root}/images/test"),
    (intact, ("--out", "/proc/nowhere/run"), "output folder /proc/nowhere/run"),
    (truncated_in_val, (), "{root}/images/val/1.png"),
)


@pytest.mark.parametrize(("spoil", "settings", "reason"), BAD_INPUTS)
def test_bad_input_is_named_in_one_line_and_leaves_nothing_behind(
    folder_data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    spoil: Callable[[Path], None],
    settings: tuple[str, ...],
    reason: str,
) -> None:
    spoil(folder_data)
    out = tmp_path / "run"
    arguments = [*FOLDER, f"data.root={folder_data}", "--out", str(out), "--workers", "0", "--device", "cpu", *settings]
    assert reason.format(root=folder_data) in failure(capsys, "train", RECIPE, *arguments)
    if spoil is not truncated_in_val:  # only the validation reads it, after steps that are saved
        assert not out.exists()


def test_names_in_brackets_are_printed_as_they_are(
    folder_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder_data / "classes.yaml").write_text("names: ['road [dirt]', '[/red]']\n")
    out = tmp_path / "[" / "x]"
    arguments = [*FOLDER, f"data.root={folder_data}", "--out", str(out), "--workers", "0", "--device", "cpu"]
    assert run("train", RECIPE, *arguments) == 0
    printed = capsys.readouterr().out
    for text in ("road [dirt]", "[/red]", "[/x]"):
        assert text in printed.replace("\n", "")


def test_skipped_files_are_named_at_first_and_counted_at_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    for count, last_line in ((5, []), (7, ["skipped: 7 unreadable images in total"])):
        with Progress(Console(width=200), steps=1, done=0) as progress:
            progress.skipped(tuple(f"[red]/{index}.png is broken" for index in range(count)))
        lines = capsys.readouterr().out.splitlines()
        assert lines == [*(f"skipped: [red]/{index}.png is broken" for index in range(5)), *last_line]


def test_where_a_run_goes_without_out(monkeypatch: pytest.MonkeyPatch, tiny: Callable[..., Config]) -> None:
    folders: list[Path] = []
    monkeypatch.setattr("atrous.config.load", lambda *_: tiny())
    monkeypatch.setattr("atrous.train.train", lambda config, out, **_: folders.append(out))
    for source, words, folder in (
        (RECIPE, (), f"runs/{RECIPE}"),
        (RECIPE, ("--resume",), f"runs/{RECIPE}"),
        ("mine/street.v2.yaml", (), "runs/street.v2"),
        ("/data/street.yml", ("--resume",), "runs/street"),
        ("runs/a/config.yaml", ("--resume",), "runs/a"),
        ("runs/a/config.yaml", (), "runs/config"),
    ):
        assert run("train", source, *words) == 0
        assert folders.pop() == Path(folder), source


def test_a_run_is_its_own_recipe(finished: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine, calls = copied(finished, tmp_path / "runs" / "mine"), list[tuple[Config, Path, object]]()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("atrous.train.train", lambda config, out, *, resume, **_: calls.append((config, out, resume)))
    stored = load(str(mine.config))
    for words, out, resume in (
        (("runs/mine", "--resume"), "runs/mine", True),
        (("--resume", "runs/mine"), "runs/mine", True),
        (("--resume", "--out", "runs/mine"), "runs/mine", True),
        (("--resume-or-start", "--out", "runs/mine"), "runs/mine", "or_start"),
        (("runs/mine/", "--resume", "--out", "runs/mine"), "runs/mine", True),
        (("runs/mine/state/last.pt", "--resume"), "runs/mine", True),
        (("runs/mine/last.safetensors", "--resume"), "runs/mine", True),
        (("runs/mine/config.yaml", "--resume"), "runs/mine", True),
        (("runs/mine", "--out", "runs/other"), "runs/other", False),
        (("runs/mine",), "runs/mine", False),
        (("runs/new", "--resume-or-start", "--out", "runs/mine"), None, None),
    ):
        assert run("train", *words) == (0 if out else 2), words
        if out:
            assert calls.pop() == (stored, Path(out), resume)
    assert run("train", "runs/mine", "train.steps=9", "--resume") == 0
    assert calls.pop()[0] == override(stored, ["train.steps=9"], "here")


NO_RUN = {
    (
        "runs/mien",
        "--resume",
    ): "--resume: no run in runs/mien (no such folder); the nearest: runs/mine; without --resume",
    ("runs", "--resume"): "--resume: no run in runs (the folder holds mine); the nearest: runs/mine; ",
    ("--resume", "--out", "runs/mien"): "--resume: no run in runs/mien (no such folder); the nearest: runs/mine",
    ("--resume",): "; see atrous train --help",
    (): "; see atrous train --help",
    (RECIPE, "--resume", "--out", "new"): "--resume: no run in new (no such folder); the nearest: runs/mine; ",
    ("synthetic/deeplab_v3plus_tny", "--resume"): "did you mean synthetic/deeplab_v3plus_tiny?",
}


@pytest.mark.parametrize("words", NO_RUN)
def test_resuming_without_a_run_is_refused_in_one_line(
    finished: RunFolder,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
) -> None:
    copied(finished, tmp_path / "runs" / "mine")
    monkeypatch.chdir(tmp_path)
    assert NO_RUN[words] in failure(capsys, "train", *words)
    assert {path.name for path in tmp_path.iterdir()} == {"runs"}
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"mine"}


def test_changed_data_is_accepted_on_request(
    folder_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "run")
    common = ("--workers", "0", "--device", "cpu")
    assert run("train", RECIPE, *FOLDER, f"data.root={folder_data}", "--out", out, *common) == 0
    for folder in ("images", "masks"):
        (folder_data / folder / "train" / "5.png").unlink()
    assert "train: 1 removed (5); add --accept-changed-data" in failure(capsys, "train", out, "--resume", *common)
    assert run("train", out, "--resume", "--accept-changed-data", *common) == 0
    assert "train: 1 removed (5)" in capsys.readouterr().out


def test_settings_of_a_prediction_are_distinguished_from_images(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    create("deeplab_v3", num_classes=2).save(Path("m.safetensors"))
    save(Path("a.png"), np.zeros((9, 9, 3), np.uint8))
    for arguments, reason in (
        (("a.png", "train.steps=1"), "train: only settings of evaluate and decode apply to a prediction"),
        (("a.png", "evaluate.flop=1"), "did you mean evaluate.flip?"),
        (
            ("evaluate.flip=true",),
            "expected an image, folder or pattern after the model, got only the setting evaluate.flip=true",
        ),
    ):
        assert reason in failure(capsys, "predict", "m.safetensors", *arguments, "--out", "out")
        assert not Path("out").exists()


def test_a_file_that_looks_like_a_setting_is_an_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    create("deeplab_v3", num_classes=2, output_stride=32).save(Path("m.safetensors"))
    save(Path("scene.t=5.png"), np.zeros((9, 9, 3), np.uint8))
    assert run("predict", "m.safetensors", "scene.t=5.png", "--out", "out", "--device", "cpu") == 0
    assert Path("out/masks/scene.t=5.png").exists()


def test_an_unreadable_image_is_named_and_the_others_are_predicted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    create("deeplab_v3", num_classes=2, output_stride=32).save(Path("m.safetensors"))
    for name in ("a.png", "b.png"):
        save(Path(name), np.zeros((9, 9, 3), np.uint8))
    Path("broken.png").write_bytes(Path("a.png").read_bytes()[:40])
    failed = "atrous: cannot read image broken.png: not an image, or its header is damaged\n"
    for images, printed, error in (
        (("a.png", "b.png"), "2 images: out/masks, out/overlays\n", ""),
        (("a.png",), "1 image: out/masks/a.png, out/overlays/a.jpg\n", ""),
        (("broken.png", "a.png", "b.png"), "2 images: out/masks, out/overlays\n", f"{failed}{named('1 of 3')}"),
        (("a.png", "broken.png"), "1 image: out/masks/a.png, out/overlays/a.jpg\n", f"{failed}{named('1 of 2')}"),
        (("broken.png",), "", failed),
    ):
        shutil.rmtree("out", ignore_errors=True)
        for out in (printed, "nothing was left to do\n" if printed else ""):
            assert run("predict", "m.safetensors", *images, "--out", "out", "--device", "cpu") == bool(error)
            captured = capsys.readouterr()
            assert (captured.out[-len(out) :] if out else captured.out, captured.err) == (out, error)


def named(count: str) -> str:
    return f"atrous: {count} failed, each named above\n"


def test_a_prediction_without_out_says_where_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    create("deeplab_v3", num_classes=2, output_stride=32).save(Path("runs/mine/best.safetensors"))
    save(Path("a.png"), np.zeros((9, 9, 3), np.uint8))
    assert run("predict", "runs/mine", "a.png", "--device", "cpu") == 0
    assert capsys.readouterr().out == "1 image: predictions/masks/a.png, predictions/overlays/a.jpg\n"
    assert Path("predictions/masks/a.png").is_file()


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        (("a.png", "m.safetensors"), "the model comes first: atrous predict m.safetensors a.png"),
        (("my photos", "m.safetensors"), "the model comes first: atrous predict m.safetensors 'my photos'"),
        (("*.png", "runs/mine"), "the model comes first: atrous predict runs/mine '*.png'"),
        (("a.png",), "the model comes first: atrous predict MODEL a.png"),
        (("a.png", "a.png"), "the model comes first: atrous predict MODEL a.png a.png"),
        (("m.safetensors",), "expected an image, folder or pattern after the model"),
        (("net.tflite", "a.png"), "convert it first: atrous convert net.tflite --out net.safetensors"),
        (("my photos", "a.png"), "my photos: a folder without best.safetensors"),
    ],
)
def test_a_prediction_in_the_wrong_order_is_answered_with_the_right_one(
    arguments: tuple[str, ...],
    answer: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    create("deeplab_v3", num_classes=2, output_stride=32).save(Path("m.safetensors"))
    Path("runs/mine").mkdir(parents=True)
    Path("runs/mine/best.safetensors").symlink_to(tmp_path / "m.safetensors")
    Path("net.tflite").touch()
    save(Path("a.png"), np.zeros((9, 9, 3), np.uint8))
    save(Path("my photos/b.png"), np.zeros((9, 9, 3), np.uint8))
    assert answer in failure(capsys, "predict", *arguments)
    assert not Path("predictions").exists()


@pytest.mark.slow
def test_ctrl_c_says_how_many_images_are_done(tmp_path: Path) -> None:
    create("deeplab_v3", num_classes=2, output_stride=32).save(tmp_path / "m.safetensors")
    for index in range(400):
        save(tmp_path / "p" / f"{index}.png", np.zeros((200, 200, 3), np.uint8))
    command = [sys.executable, "-m", "atrous", "predict", "m.safetensors", "p", "--out", "o", "--device", "cpu"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, cwd=tmp_path, text=True)
    while process.poll() is None and len(list(tmp_path.glob("o/overlays/*"))) < 3:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    count = re.fullmatch(r"atrous: interrupted; (\d+) of 400 images are done\n", error)
    assert count and 2 <= int(count[1]) < 400, error
    left = [path for path in (tmp_path / "o").rglob(".*") if path.name != ".atrous"]
    assert not left
    assert int(count[1]) <= len(list(tmp_path.glob("o/overlays/*"))) <= int(count[1]) + 1


def test_evaluate_checks_first_whether_it_can_write(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for option in ("--json", "--report"):
        message = failure(capsys, "evaluate", "/nowhere.safetensors", option, "/proc/nowhere/page")
        assert "output folder /proc/nowhere" in message
        assert f"cannot write {tmp_path}" in failure(capsys, "evaluate", "/nowhere.safetensors", option, str(tmp_path))


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


def test_processes_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        options, "os", SimpleNamespace(sched_getaffinity=lambda _: {0, 1, 2, 3, 4, 9}, environ=os.environ)
    )
    for processes, cores in (("1", 6), ("2", 3), ("16", 1)):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)
        assert options.own_cores() == cores


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


CAMVID = SHARED / "data" / "camvid"


@pytest.mark.skipif(not CAMVID.is_dir(), reason="no ../shared/data/camvid here")
def test_real_street_scenes_are_trained_on(tmp_path: Path) -> None:
    for split, count in (("train", 4), ("val", 2)):
        for folder in (split, f"{split}annot"):
            (tmp_path / "camvid" / folder).mkdir(parents=True)
            for path in sorted((CAMVID / folder).iterdir())[:count]:
                (tmp_path / "camvid" / folder / path.name).symlink_to(path)
    small = ["train.steps=1", "train.batch=2", "augment.crop=65,97", "model.backbone.depth_multiplier=0.1"]
    small += ["model.pretrained=none"]
    arguments = ["camvid/deeplab_v3plus_mobilenet_v2", f"data.root={tmp_path / 'camvid'}", *small]
    assert run("train", *arguments, "--out", str(tmp_path / "run"), "--workers", "0") == 0
    row = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert len(row["classes"]) == 11


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


@pytest.mark.parametrize("names", ["left, right", "'road [dirt]', '[/red]'"])
def test_white_masks_train_with_the_setting_that_the_refusal_ends_with(
    names: str, folder_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder_data / "classes.yaml").write_text(f"names: [{names}]\n")
    for path in (folder_data / "masks").rglob("*.png"):
        save(path, np.asarray(PIL.Image.open(path)) * np.uint8(255))
    out = ("--out", str(tmp_path / "run"), "--workers", "0", "--device", "cpu")
    arguments = ("train", RECIPE, *FOLDER, f"data.root={folder_data}", *out)
    line = failure(capsys, *arguments)
    assert not (tmp_path / "run").exists()
    (setting,) = shlex.split(line.partition("; if the values 0, 255 are the classes, set ")[2])
    assert run(*arguments, setting) == 0
    assert json.loads((tmp_path / "run" / "data.json").read_text())["train"]["ignored"] == 0


def test_overlays_have_a_legend_on_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = create("deeplab_v3", num_classes=2, output_stride=32)
    space = model.label_space.model_copy(update={"colors": ((9, 9, 9), (200, 0, 0))})
    model.with_header(label_space=space).save(Path("m.safetensors"))
    save(Path("a.png"), np.zeros((30, 30, 3), np.uint8))
    assert run("predict", "m.safetensors", "a.png", "--out", "plain", "--device", "cpu") == 0
    assert run("predict", "m.safetensors", "a.png", "--out", "out", "--legend", "--device", "cpu") == 0
    with Image.open("plain/overlays/a.jpg") as plain, Image.open("out/overlays/a.jpg") as explained:
        assert plain.size == (30, 30)
        assert explained.height > 30


def test_the_size_of_a_report_is_that_of_a_run() -> None:
    assert inspect.signature(evaluate.evaluate).parameters["report_size"].default == report.MAX_BYTES / 1e6
