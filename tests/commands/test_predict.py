"""`atrous predict`: what it takes for an image, what for a setting, and what it prints."""

import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from atrous import create
from tests.command_line import failure, run
from tests.conftest import save


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
        (("net.tflite", "a.png"), "net.tflite: the file is empty"),
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
