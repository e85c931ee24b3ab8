"""Files, folders and patterns in; masks, overlays and probabilities out."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from atrous import predict, segmenter
from tests.conftest import save

QUIET = Console(quiet=True)


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
    (tmp_path / "images" / "._a.png").write_text("not one either")
    return tmp_path / "images"


def test_a_folder_is_searched_to_the_bottom(model: Path, images: Path, tmp_path: Path) -> None:
    written = predict.run(model, [str(images)], tmp_path / "out", console=QUIET)
    assert written == predict.Written(3, ())
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
    assert predict.run(model, sources, tmp_path / "out", overlays=False, console=QUIET).images == 3
    assert not (tmp_path / "out" / "overlays").exists()


def test_probabilities_on_request(model: Path, images: Path, tmp_path: Path) -> None:
    predict.run(
        model, [str(images / "a.png")], tmp_path / "out", ["evaluate.flip=true"], probabilities=True, console=QUIET
    )
    found = np.load(tmp_path / "out" / "probabilities" / "a.npz")["probabilities"]
    assert found.shape == (3, 30, 50)
    assert np.allclose(found.astype(np.float32).sum(0), 1, atol=1e-2)


def test_a_broken_image_is_named_and_the_others_are_done(model: Path, images: Path, tmp_path: Path) -> None:
    (images / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and then nothing")
    written = predict.run(model, [str(images)], tmp_path / "out", console=QUIET)
    assert written.images == 3
    assert len(written.failures) == 1
    assert "broken.png" in written.failures[0]
    assert not (tmp_path / "out" / "masks" / "broken.png").exists()


@pytest.mark.parametrize(
    ("source", "reason"),
    [("nowhere.png", "no such file, folder or pattern"), ("nowhere/*.png", "no such file"), ("", "no image")],
)
def test_nothing_to_predict_is_an_error(model: Path, tmp_path: Path, source: str, reason: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=reason):
        predict.run(model, [source or str(tmp_path / "empty")], tmp_path / "out", console=QUIET)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("pattern", ["{folder}", "{folder}/**/*.*"])
def test_its_own_results_are_not_segmented(model: Path, images: Path, pattern: str) -> None:
    source = pattern.format(folder=images)
    (images / "deep" / "c.bmp").unlink()
    for _ in range(2):
        assert predict.run(model, [source], images, console=QUIET).images == 2
    assert len(list((images / "masks").rglob("*.png"))) == 2


def test_a_result_named_by_itself_is_refused(model: Path, images: Path) -> None:
    predict.run(model, [str(images / "a.png")], images, console=QUIET)
    mask = images / "masks" / "a.png"
    before = mask.read_bytes()
    with pytest.raises(FileNotFoundError, match="a result of an earlier prediction"):
        predict.run(model, [str(mask)], images, console=QUIET)
    assert mask.read_bytes() == before


def test_images_of_one_name_are_not_written_over_each_other(model: Path, images: Path, tmp_path: Path) -> None:
    save(tmp_path / "other" / "a.png", np.zeros((9, 9, 3), np.uint8))
    with pytest.raises(ValueError, match="would both be written as a"):
        predict.run(model, [str(images / "a.png"), str(tmp_path / "other" / "a.png")], tmp_path / "out", console=QUIET)


@pytest.mark.parametrize(
    ("override", "reason"),
    [("evaluate.flop=true", "did you mean evaluate.flip"), ("train.steps=3", "only the settings of evaluate")],
)
def test_wrong_settings_are_explained(model: Path, images: Path, tmp_path: Path, override: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        predict.run(model, [str(images)], tmp_path / "out", [override], console=QUIET)
