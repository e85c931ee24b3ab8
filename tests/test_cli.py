"""The command line from end to end: what it prints, writes and exits with."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from atrous import cli
from tests.conftest import SHARED, TINY, save

RECIPE = "synthetic/deeplab_v3plus_tiny"


def run(*arguments: str) -> int:
    return cli.run([str(argument) for argument in arguments])


def failure(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 2) -> str:
    """The one line that a wrong call prints."""
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
    assert 0 <= json.loads((tmp_path / "r.json").read_text())["miou"] <= 1
    save(tmp_path / "image.png", np.zeros((20, 30, 3), np.uint8))
    predicted = run(
        "predict",
        str(out / "best.safetensors"),
        str(tmp_path / "image.png"),
        "evaluate.flip=true",
        "--out",
        str(tmp_path / "p"),
    )
    assert predicted == 0
    assert (tmp_path / "p" / "masks" / "image.png").exists()


def test_recipes_are_listed_printed_and_described(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("recipes") == 0
    assert "camvid/deeplab_v3plus_mobilenet_v2" in capsys.readouterr().out
    assert run("recipes", RECIPE) == 0
    assert "depth_multiplier" in capsys.readouterr().out
    assert run("recipes", "--schema", str(tmp_path / "schema.json")) == 0
    assert "properties" in json.loads((tmp_path / "schema.json").read_text())


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["train", RECIPE, "train.stepz=3"], "did you mean train.steps?"),
        (["train", "synthetic/deeplab_v3plus_tinny"], "did you mean synthetic/deeplab_v3plus_tiny?"),
        (["train", "camvid/deeplab_v3plus_mobilenet_v2", "data.root=/nowhere"], "data.root: no such folder: /nowhere"),
        (["train", "camvid/deeplab_v3plus_mobilenet_v2"], "data.root"),
        (["train", RECIPE, "--device", "cuda:99"], "cuda:99"),
        (["train", RECIPE, "--device", "tpux"], "tpux"),
        (["train", RECIPE, "--out", "/proc/nowhere/run"], "output folder /proc/nowhere/run"),
        (["train", RECIPE, "--wurkers", "2"], "--wurkers"),
        (["train"], "Missing argument 'recipe'"),
        (["evaluate", "/nowhere.safetensors"], "no such model file: /nowhere.safetensors"),
        (["predict", "/nowhere.safetensors", "x.png", "--out", "/tmp/never"], "no such file"),
        (["recipes", "nothing/here"], "no such recipe"),
        (["fly"], "fly"),
    ],
)
def test_a_wrong_call_is_one_line_and_exit_code_2(
    arguments: list[str],
    reason: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert reason in failure(capsys, *arguments)
    assert list(tmp_path.iterdir()) == []


def test_a_model_of_other_classes_is_refused(
    folder_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from atrous import create

    create("deeplab_v3", num_classes=5).save(tmp_path / "m.safetensors")
    message = failure(
        capsys, "evaluate", str(tmp_path / "m.safetensors"), "data.format=folder", f"data.root={folder_data}"
    )
    assert "is 5, but the label space has 2 classes" in message


def test_the_two_line_start_of_the_readme(folder_data: Path, tmp_path: Path) -> None:
    small = ["train.steps=2", "train.batch=2", "augment.crop=33,49", "train.eval_every=2"]
    assert (
        run(
            "train",
            "folder/deeplab_v3plus",
            f"data.root={folder_data}",
            *small,
            "--out",
            str(tmp_path / "run"),
            "--workers",
            "0",
        )
        == 0
    )
    assert (tmp_path / "run" / "report.html").exists()


def test_help_does_not_wait_for_torch() -> None:
    code = "import sys; from atrous import cli; cli.run(['--help']); sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


@pytest.mark.slow
def test_ctrl_c_exits_130_and_says_how_to_go_on(tmp_path: Path) -> None:
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
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the workers, too
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert error.count("\n") == 1
    assert f"--out {out} --resume" in error


CAMVID = SHARED / "data" / "camvid"


@pytest.mark.skipif(not CAMVID.is_dir(), reason="no ../shared/data/camvid here")
def test_real_street_scenes_are_trained_on(tmp_path: Path) -> None:
    for split, count in (("train", 4), ("val", 2)):
        for folder in (split, f"{split}annot"):
            (tmp_path / "camvid" / folder).mkdir(parents=True)
            for path in sorted((CAMVID / folder).iterdir())[:count]:
                (tmp_path / "camvid" / folder / path.name).symlink_to(path)
    small = ["train.steps=1", "train.batch=2", "augment.crop=65,97", "model.depth_multiplier=0.1"]
    arguments = ["camvid/deeplab_v3plus_mobilenet_v2", f"data.root={tmp_path / 'camvid'}", *small]
    assert run("train", *arguments, "--out", str(tmp_path / "run"), "--workers", "0") == 0
    figures = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert len(figures["per_class"]) == 11
