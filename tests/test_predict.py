"""Files, folders and patterns in; masks, overlays and probabilities out."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from atrous import cli, errors, predict, segmenter
from atrous.errors import ConfigError
from atrous.segmenter import Segmenter
from tests.conftest import save
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
    assert summary == predict.Summary(3, (), (out / "masks", out / "overlays"))
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
    assert summary == predict.Summary(3, (), (tmp_path / "out" / "masks",))
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
        ("nowhere/*.png", "no such file"),
        (str(tmp_path / "empty"), "no image"),
    ):
        with pytest.raises(FileNotFoundError, match=reason):
            predict.run(model, [source], tmp_path / "out", console=QUIET)
        assert not (tmp_path / "out").exists()


def test_its_own_results_are_not_segmented(model: Path, images: Path) -> None:
    (images / "deep" / "c.bmp").unlink()
    for source in (str(images), f"{images}/**/*.*"):
        for _ in range(2):
            assert predict.run(model, [source], images, console=QUIET).images == 2, source
        assert len(list((images / "masks").rglob("*.png"))) == 2
        for folder in ("masks", "overlays"):
            shutil.rmtree(images / folder)


def test_a_result_named_by_itself_is_refused(model: Path, images: Path) -> None:
    predict.run(model, [str(images / "a.png")], images, console=QUIET)
    mask = images / "masks" / "a.png"
    before = mask.read_bytes()
    with pytest.raises(FileNotFoundError, match="a result of an earlier prediction"):
        predict.run(model, [str(mask)], images, console=QUIET)
    assert mask.read_bytes() == before


def test_images_of_one_name_do_not_overwrite_each_other(model: Path, images: Path, tmp_path: Path) -> None:
    save(tmp_path / "other" / "a.png", np.zeros((9, 9, 3), np.uint8))
    with pytest.raises(ConfigError, match="would both be written as a"):
        predict.run(model, [str(images / "a.png"), str(tmp_path / "other" / "a.png")], tmp_path / "out", console=QUIET)


def test_wrong_settings_are_explained(model: Path, images: Path, tmp_path: Path) -> None:
    for override, reason in (
        ("evaluate.flop=true", "did you mean evaluate.flip"),
        ("train.steps=3", "train: only settings of evaluate apply to a prediction"),
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
