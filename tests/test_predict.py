"""Files, folders and patterns in; masks, overlays and probabilities out."""

import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from atrous import __version__, cli, errors, predict, segmenter
from atrous.errors import ConfigError, ModelFileError
from atrous.files import write_atomically
from atrous.interrupt import Interrupted
from atrous.predicting.images import find_images
from atrous.prediction_folder import recorded_folders
from atrous.runtimes import pytorch
from atrous.segmenter import Segmenter
from tests.conftest import noise, save
from tests.runs import QUIET


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    segmenter.create("deeplab_v3", num_classes=3, output_stride=32).save(path)
    return path


@pytest.fixture
def images(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name, size in (("a.png", (30, 50)), ("deep/b.jpg", (41, 33)), ("deep/c.bmp", (20, 20))):
        save(tmp_path / "images" / name, rng.integers(0, 256, (*size, 3), dtype=np.uint8))
    (tmp_path / "images" / "notes.txt").write_text("not an image")
    (tmp_path / "images" / "._a.png").write_text("not an image either")
    return tmp_path / "images"


def test_a_folder_is_searched_recursively(model: Path, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    summary = predict.run(model, [str(images)], out, console=QUIET)
    assert (summary.images, summary.failures, summary.folders) == (3, (), (out / "masks", out / "overlays"))
    masks = sorted(
        path.relative_to(tmp_path / "out" / "masks").as_posix() for path in (tmp_path / "out" / "masks").rglob("*.png")
    )
    assert masks == ["a.png", "deep/b.png", "deep/c.png"]
    with (
        Image.open(tmp_path / "out" / "masks" / "deep" / "b.png") as mask,
        Image.open(tmp_path / "out" / "overlays" / "a.jpg") as overlay,
    ):
        assert (mask.mode, mask.size) == ("P", (33, 41))
        assert overlay.size == (50, 30)


def test_patterns_and_files(model: Path, images: Path, tmp_path: Path) -> None:
    sources = [f"{images}/deep/*", str(images / "a.png")]
    summary = predict.run(model, sources, tmp_path / "out", overlays=False, console=QUIET)
    assert (summary.images, summary.failures, summary.folders) == (3, (), (tmp_path / "out" / "masks",))
    assert not (tmp_path / "out" / "overlays").exists()


def test_probabilities_on_request(model: Path, images: Path, tmp_path: Path) -> None:
    predict.run(
        model, [str(images / "a.png")], tmp_path / "out", ["evaluate.flip=true"], probabilities=True, console=QUIET
    )
    with np.load(tmp_path / "out" / "probabilities" / "a.npz") as arrays:
        probabilities = arrays["probabilities"]
    assert probabilities.shape == (3, 30, 50)
    assert np.allclose(probabilities.astype(np.float32).sum(0), 1, atol=1e-2)


def test_a_broken_image_is_named_and_the_others_are_done(model: Path, images: Path, tmp_path: Path) -> None:
    (images / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and then nothing")
    summary = predict.run(model, [str(images)], tmp_path / "out", console=QUIET)
    assert summary.images == 3
    assert len(summary.failures) == 1
    assert "broken.png" in summary.failures[0]
    assert not (tmp_path / "out" / "masks" / "broken.png").exists()


def test_whatever_cannot_be_read_is_named_in_a_line_of_its_own(model: Path, images: Path, tmp_path: Path) -> None:
    os.mkfifo(images / "pipe.png")
    (images / "dangling.png").symlink_to("nowhere")
    (images / "loop.png").symlink_to("loop.png")
    (images / "empty.png").touch()
    Image.fromarray(np.ones((5, 5), np.float32)).save(images / "floats.tif")
    said: list[str] = []
    summary = predict.run(model, [str(images)], tmp_path / "out", console=QUIET, say=said.append)
    assert summary.images == 3
    assert tuple(said) == summary.failures
    for name, line in zip(("dangling", "empty", "floats", "loop", "pipe"), said, strict=True):
        assert str(images / name) in line
        assert "\n" not in line


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_an_image_too_large_for_the_memory_is_named(
    model: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    predict_one = Segmenter.predict

    def full(self: Segmenter, image: np.ndarray[Any, np.dtype[np.uint8]], **options: bool) -> object:
        if image.shape[:2] == (30, 50):
            raise error
        return predict_one(self, image, **options)

    monkeypatch.setattr(Segmenter, "predict", full)
    for mode, advice in (("whole", "evaluate.mode=sliding"), ("sliding", "a smaller evaluate.window")):
        summary = predict.run(model, [str(images)], tmp_path / mode, [f"evaluate.mode={mode}"], console=QUIET)
        assert summary.images == 2
        expected = f"{images / 'a.png'}: too large for the memory of the CPU; {advice} needs less"
        assert summary.failures == (expected,)


def test_an_image_for_which_the_output_is_not_finite_is_named(
    model: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predict_one = Segmenter.predict

    def broken(self: Segmenter, image: np.ndarray[Any, np.dtype[np.uint8]], **options: bool) -> object:
        if image.shape[:2] == (30, 50):
            raise ModelFileError("the network's output is NaN")
        return predict_one(self, image, **options)

    monkeypatch.setattr(Segmenter, "predict", broken)
    summary = predict.run(model, [str(images)], tmp_path / "out", console=QUIET)
    assert summary.images == 2
    assert summary.failures == (f"{images / 'a.png'}: the network's output is NaN",)


def test_an_overlay_too_large_for_a_jpeg_is_a_png(
    model: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("atrous.prediction.JPEG_SIDE", 45)
    assert predict.run(model, [str(images)], tmp_path / "out", console=QUIET).images == 3
    overlays = sorted(path.name for path in (tmp_path / "out" / "overlays").rglob("*.*"))
    assert overlays == ["a.png", "b.jpg", "c.jpg"]  # 50, 33 and 20 pixels wide


def test_names_as_long_as_a_disk_allows(model: Path, images: Path, tmp_path: Path) -> None:
    name = "ä" * 125  # 250 bytes
    save(images / f"{name}.png", np.zeros((9, 9, 3), np.uint8))
    assert predict.run(model, [str(images)], tmp_path / "out", console=QUIET).images == 4
    assert (tmp_path / "out" / "masks" / f"{name}.png").is_file()


def test_a_result_whose_name_is_too_long_is_named(images: Path, tmp_path: Path) -> None:
    path = tmp_path / "classifier.safetensors"
    segmenter.create("image_classifier", backbone="mobilenet_v2", num_classes=3).save(path)
    save(images / f"{'x' * 251}.png", np.zeros((9, 9, 3), np.uint8))  # .json is one longer
    summary = predict.run(path, [str(images)], tmp_path / "out", console=QUIET)
    assert summary.images == 3
    assert [line[-19:] for line in summary.failures] == [": File name too long"[1:]]


def test_a_place_that_is_taken_is_of_one_image_only(model: Path, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    predict.run(model, [str(images / "a.png")], out, console=QUIET)
    (out / "masks" / "a.png").unlink()
    (out / "masks" / "a.png").mkdir()
    summary = predict.run(model, [str(images)], out, console=QUIET)
    assert summary.images == 2
    assert summary.failures == (f"{images / 'a.png'}: cannot write {out / 'masks' / 'a.png'}: Is a directory",)


def test_a_full_disk_stops_and_says_how_far(
    model: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, content: bytes) -> None:
        if path.name.startswith("b"):
            raise OSError(errno.ENOSPC, f"cannot write {path}: No space left on device")

    monkeypatch.setattr("atrous.predicting.one_image.write_atomically", full)
    with pytest.raises(OSError, match=r"cannot write .*b\.png: No space left on device; 1 of 3 images are done"):
        predict.run(model, [str(images)], tmp_path / "out", console=QUIET)


def test_an_output_folder_that_is_no_longer_writable_stops(model: Path, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "overlays").touch()
    with pytest.raises(OSError, match=r"cannot write into the output folder .*overlays.*; 0 of 3 images are done"):
        predict.run(model, [str(images)], out, console=QUIET)


def test_an_interruption_says_how_far(
    model: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:

    def interrupted(path: Path, content: bytes) -> None:
        if path.name == "c.jpg":
            raise KeyboardInterrupt
        write_atomically(path, content)

    monkeypatch.setattr("atrous.predicting.one_image.write_atomically", interrupted)
    with pytest.raises(Interrupted, match=r"^interrupted; 2 of 3 images are done$"):
        predict.run(model, [str(images)], tmp_path / "out", console=QUIET)


def test_a_bug_is_not_reported_as_an_unreadable_image(
    model: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: object, **options: object) -> None:
        raise ValueError("shapes do not match")

    monkeypatch.setattr(Segmenter, "predict", broken)
    with pytest.raises(ValueError, match="shapes do not match"):
        predict.run(model, [str(images)], tmp_path / "out", console=QUIET)


def test_a_protocol_that_is_not_for_the_network_is_not_the_fault_of_each_image(images: Path, tmp_path: Path) -> None:
    path = tmp_path / "classifier.safetensors"
    segmenter.create("image_classifier", backbone="mobilenet_v2", num_classes=3).save(path)
    with pytest.raises(ConfigError, match="a classification network has no class map"):
        predict.run(path, [str(images)], tmp_path / "out", ["evaluate.flip=true"], console=QUIET)


def test_nothing_to_predict_is_an_error(model: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for source, reason in (
        ("nowhere.png", "no such file, folder or pattern"),
        ("nowhere/*.png", "no image has a name of this pattern"),
        (str(tmp_path / "empty"), "no image"),
    ):
        with pytest.raises(FileNotFoundError, match=reason):
            predict.run(model, [source], tmp_path / "out", console=QUIET)
        assert not (tmp_path / "out").exists()


def test_its_own_results_are_not_segmented(model: Path, images: Path) -> None:
    (images / "deep" / "c.bmp").unlink()
    for source in (str(images), f"{images}/**/*.*"):
        for _ in range(2):
            summary = predict.run(model, [source], images, console=QUIET)
            assert summary.images + summary.earlier == 2, source
        assert len(list((images / "masks").rglob("*.png"))) == 2
        for folder in ("masks", "overlays"):
            shutil.rmtree(images / folder)


def test_results_of_earlier_predictions_are_left_out_and_said(
    model: Path, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, overlays in (("one", True), ("two", False), ("deep/three", True)):
        summary = predict.run(model, [str(images)], images / name, overlays=overlays, console=Console(width=40))
        assert summary.images == 3, name
    printed = capsys.readouterr().out
    assert printed.splitlines() == [
        f"left out: results of earlier predictions in {images / 'one'}",
        f"left out: results of earlier predictions in {images / 'one'}, {images / 'two'}",
    ]
    shutil.move(images / "two", images / "moved")  # with its record
    (images / "one" / "atrous.json").unlink()  # masks and overlays of the same names tell it
    assert len(find_images([str(images)]).images) == 3


def test_a_persons_own_folders_are_no_results(images: Path) -> None:
    save(images / "masks" / "a.png", np.zeros((9, 9), np.uint8))
    save(images / "overlays" / "other.png", np.zeros((9, 9), np.uint8))
    (images / "atrous.json").write_text('["masks"]')
    names = [image.name.as_posix() for image in find_images([str(images)]).images]
    assert names == ["a", "deep/b", "deep/c", "masks/a", "overlays/other"]


def test_files_that_no_prediction_wrote_are_not_overwritten(model: Path, tmp_path: Path) -> None:
    truth = np.full((9, 9), 2, np.uint8)
    save(tmp_path / "images" / "a.png", np.zeros((9, 9, 3), np.uint8))
    save(tmp_path / "masks" / "a.png", truth)
    with pytest.raises(ConfigError, match=rf"--out {tmp_path}: .*masks holds files that no prediction wrote"):
        predict.run(model, [str(tmp_path / "images")], tmp_path, console=QUIET)
    with Image.open(tmp_path / "masks" / "a.png") as mask:
        assert np.array_equal(np.asarray(mask), truth)


def test_a_record_says_what_wrote_the_results(model: Path, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    predict.run(model, [str(images)], out, ["evaluate.flip=true"], overlays=False, console=QUIET)
    predict.run(model, [str(images)], out, ["evaluate.flip=true"], console=QUIET)
    record = json.loads((out / "atrous.json").read_text())
    assert record["atrous"] == __version__
    assert record["model"] == str(model)
    assert record["evaluate"]["flip"] is True
    assert record["folders"] == ["masks", "overlays"]
    assert recorded_folders(out) == {"masks", "overlays"}
    for content in ("", "{", "[]", "7", '{"atrous": 1}', '{"atrous": 1, "folders": 7}', "\udcff", "[" * 10**5):
        (out / "atrous.json").write_text(content, errors="surrogateescape")
        assert recorded_folders(out) == frozenset()


def test_names_that_the_disk_takes_for_one_are_refused(
    model: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(images / "A.png", np.zeros((9, 9, 3), np.uint8))
    assert predict.run(model, [str(images)], tmp_path / "out", console=QUIET).images == 4
    assert [path.name for path in (tmp_path / "out").glob(".*")] == [".atrous"]
    monkeypatch.setattr("atrous.predicting.output.is_one_file", lambda folder, one, other: True)
    with pytest.raises(ConfigError, match=r"A\.png would both be written as|a\.png and .*A\.png would both be written"):
        predict.run(model, [str(images)], tmp_path / "out", console=QUIET)


def test_a_result_named_by_itself_is_refused(model: Path, images: Path) -> None:
    predict.run(model, [str(images / "a.png")], images, console=QUIET)
    mask = images / "masks" / "a.png"
    before = mask.read_bytes()
    with pytest.raises(FileNotFoundError, match="a result of an earlier prediction"):
        predict.run(model, [str(mask)], images, console=QUIET)
    assert mask.read_bytes() == before


def test_images_of_one_name_do_not_overwrite_each_other(model: Path, images: Path, tmp_path: Path) -> None:
    save(tmp_path / "other" / "a.png", np.zeros((9, 9, 3), np.uint8))
    with pytest.raises(ConfigError, match=r"would both be written as a;"):
        predict.run(model, [str(images / "a.png"), str(tmp_path / "other" / "a.png")], tmp_path / "out", console=QUIET)


def test_wrong_settings_are_explained(model: Path, images: Path, tmp_path: Path) -> None:
    for override, reason in (
        ("evaluate.flop=true", "did you mean evaluate.flip"),
        ("train.steps=3", "train: only settings of evaluate and decode apply to a prediction"),
    ):
        with pytest.raises(ConfigError, match=reason):
            predict.run(model, [str(images)], tmp_path / "out", [override], console=QUIET)


# ---- images of many kinds


def test_a_note_about_images_is_one_line_and_comes_once(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(errors, "_warned", set())
    (tmp_path / "images").mkdir()
    for name in ("a", "b"):
        Image.fromarray(np.full((20, 30), 4000, np.uint16)).save(tmp_path / "images" / f"{name}.png")
    assert (
        cli.run(["predict", str(model), str(tmp_path / "images"), "--out", str(tmp_path / "out"), "--device", "cpu"])
        == 0
    )
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(
        f"atrous: warning: {tmp_path}/images/a.png: its values, at most 4000, are read as 12-bit ones"
    )


def test_a_folder_is_computed_in_bf16_where_labels_agree_and_says_so(
    small: Segmenter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(pytorch, "has_bf16", lambda device: True)
    small.model.get_parameter("classify.weight").detach().zero_()
    small.save(tmp_path / "model.safetensors")
    for index in range(9):
        save(tmp_path / f"photos/{index}.png", noise(256, 256) if index == 4 else noise())
    (tmp_path / "photos/0.png").write_bytes(b"broken")
    arguments = ["predict", str(tmp_path / "model.safetensors"), str(tmp_path / "photos")]
    assert cli.run([*arguments, "--out", str(tmp_path / "out")]) == 1  # one image can't be read
    line = "computing in bfloat16: 100.00% of the labels of a first image are the same in bfloat16 as in float32"
    assert line in capsys.readouterr().out
    assert cli.run([*arguments, "--out", str(tmp_path / "out"), "--precision", "bf16"]) == 1
    assert "done already, by this model with these settings: 8 of 9 images" in capsys.readouterr().out
    assert cli.run([*arguments, "--out", str(tmp_path / "out"), "--precision", "fp32"]) == 1
    assert "done already" not in capsys.readouterr().out
    assert cli.run([*arguments, "--out", str(tmp_path / "none"), "--precision", "fp16"]) == 2
    assert capsys.readouterr().err == "atrous: --precision fp16: expected auto, fp32, bf16\n"
    assert not (tmp_path / "none").exists()
