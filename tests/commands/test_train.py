"""`atrous train`: which run it is, and what it says of bad data."""

import json
import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from atrous.config import Config, load, override
from atrous.run_folder import RunFolder
from tests.command_line import RECIPE, failure, run
from tests.conftest import SHARED, SMALL_MODEL, save
from tests.runs import copied

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
