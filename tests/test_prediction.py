"""What a network makes of one image: labels, probabilities, pictures and files."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from atrous import errors
from atrous.data.label_space import LabelSpace, numbered_names
from atrous.errors import AtrousWarning, ConfigError
from atrous.prediction import Prediction
from atrous.segmenter import Segmenter
from atrous.tasks import TASKS
from atrous.tasks.contract import Labels
from tests.conftest import noise

SEMANTIC, CLASSES = TASKS["semantic"], TASKS["classification"]


def test_probabilities_are_there_on_request(small: Segmenter) -> None:
    prediction = small.predict(noise(), probabilities=True)
    assert prediction.probabilities is not None
    assert prediction.probabilities.shape == (3, 40, 50)
    assert np.allclose(prediction.probabilities.sum(0), 1, atol=1e-5)
    assert np.array_equal(prediction.probabilities.argmax(0), prediction.semantic)
    assert small.predict(noise()).probabilities is None


def test_masks_are_palette_pngs_and_overlays_have_the_size_of_the_image(small: Segmenter, tmp_path: Path) -> None:
    prediction = small.predict(noise())
    prediction.save(tmp_path / "mask.png")
    with Image.open(tmp_path / "mask.png") as mask:
        assert mask.mode == "P"
        assert np.array_equal(np.array(mask), prediction.semantic)
        assert np.array_equal(np.array(mask.convert("RGB")), small.label_space.palette()[prediction.semantic])
    assert prediction.overlay().size == (50, 40)
    assert np.array_equal(np.asarray(prediction.overlay(0)), noise())


def test_a_file_holds_what_its_suffix_promises(
    small: Segmenter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """JPEG would change labels: a .jpg is the picture for people, and says so; other formats are refused."""
    monkeypatch.setattr(errors, "_warned", set())
    monkeypatch.setenv("HOME", str(tmp_path))
    prediction = small.predict(noise())
    with pytest.warns(
        AtrousWarning, match=r"mask\.jpg: JPEG would change labels, so this is the overlay; labels need \.png"
    ):
        prediction.save(tmp_path / "mask.jpg")
    prediction.save("~/MASK.PNG")
    prediction.save(tmp_path / "again.JPEG")
    for name, kind in (("mask.jpg", "JPEG"), ("MASK.PNG", "PNG"), ("again.JPEG", "JPEG")):
        with Image.open(tmp_path / name) as picture:
            assert picture.format == kind and picture.size == (50, 40)
    for name in ("mask.tif", "mask.bmp", "mask.webp", "mask", "mask.npy"):
        with pytest.raises(ConfigError, match=rf"{name}: labels are written as \.png, the overlay as \.jpg"):
            prediction.save(tmp_path / name)
        assert not (tmp_path / name).exists()


def test_a_prediction_is_shown_in_one_line_and_as_a_picture(small: Segmenter) -> None:
    semantic = torch.zeros(40, 50, dtype=torch.uint8)
    semantic[:10] = 2
    prediction = Prediction(Labels(semantic), noise(), small.label_space, SEMANTIC)
    assert repr(prediction) == "Prediction(40 x 50: sky 75.0%, car 25.0%)"
    classes = Prediction(Labels(classes=torch.tensor([0.25, 0.75])), noise(), LabelSpace(names=("cat", "dog")), CLASSES)
    assert repr(classes) == "Prediction(40 x 50: dog 75.0%, cat 25.0%)"
    with Image.open(io.BytesIO(prediction._repr_png_())) as picture:
        assert np.array_equal(np.asarray(picture), np.asarray(prediction.overlay()))
    wide = Prediction(Labels(torch.zeros(10, 3000, dtype=torch.uint8)), noise(10, 3000), small.label_space, SEMANTIC)
    with Image.open(io.BytesIO(wide._repr_png_())) as picture:
        assert picture.width == 1024


def test_files_are_named_for_what_is_in_them(small: Segmenter) -> None:
    prediction = small.predict(noise(), probabilities=True)
    assert prediction.probabilities is not None
    assert prediction.files(overlays=False, probabilities=False).keys() == {("masks", ".png")}
    files = prediction.files(overlays=True, probabilities=True)
    assert files.keys() == {("masks", ".png"), ("overlays", ".jpg"), ("probabilities", ".npz")}
    with np.load(io.BytesIO(files["probabilities", ".npz"])) as arrays:
        assert arrays["probabilities"].dtype == np.float16
        np.testing.assert_allclose(arrays["probabilities"], prediction.probabilities, atol=1e-3)
    without = small.predict(noise()).files(overlays=False, probabilities=True)
    assert without.keys() == {("masks", ".png")}


def test_a_jpeg_has_at_most_65500_pixels_a_side() -> None:
    space, task = LabelSpace(names=("cat", "dog")), TASKS["semantic"]
    for width, suffix, form in ((65500, ".jpg", "JPEG"), (65501, ".png", "PNG")):
        labels = Labels(torch.zeros(2, width, dtype=torch.int64))
        files = Prediction(labels, noise(2, width), space, task).files(overlays=True, probabilities=False)
        with Image.open(io.BytesIO(files["overlays", suffix])) as overlay:
            assert (overlay.format, overlay.size) == (form, (width, 2))


def test_many_classes_are_wider_numbers() -> None:
    for count, kind in ((256, np.uint8), (257, np.int32)):
        space = LabelSpace(names=numbered_names(count))
        labels = torch.tensor([[0, count - 1]])
        prediction = Prediction(Labels(labels), noise(1, 2), space, TASKS["semantic"])
        assert prediction.semantic.dtype == kind
        assert prediction.semantic.tolist() == [[0, count - 1]]


def test_labels_of_another_task_are_missing_attributes() -> None:
    space = LabelSpace(names=("cat", "dog"))
    classes = Prediction(Labels(classes=torch.tensor([0.25, 0.75])), noise(), space, TASKS["classification"])
    assert classes.classes == {"cat": 0.25, "dog": 0.75}
    with pytest.raises(AttributeError, match="no class per pixel"):
        _ = classes.semantic
    pixels = Prediction(Labels(torch.zeros(40, 50, dtype=torch.int64)), noise(), space, TASKS["semantic"])
    with pytest.raises(AttributeError, match="no class for the whole image"):
        _ = pixels.classes


def test_an_overlay_has_a_legend_on_request(small: Segmenter) -> None:
    prediction = small.predict(noise())
    plain, explained = np.asarray(prediction.overlay()), np.asarray(prediction.overlay(legend=True))
    assert np.array_equal(explained[:40, :50], plain)
    assert explained.shape[0] > 40
    present = {small.label_space.names[index] for index in np.unique(prediction.semantic)}
    below = explained[40:].reshape(-1, 3)
    shown = {
        name
        for name, color in zip(small.label_space.names, small.label_space.colors, strict=True)
        if (below == color).all(-1).sum() > 100
    }
    assert shown == present
    (overlay,) = (
        content
        for (folder, _), content in prediction.files(overlays=True, probabilities=False, legend=True).items()
        if folder == "overlays"
    )
    assert Image.open(io.BytesIO(overlay)).height == explained.shape[0]


def test_a_legend_without_an_entry_leaves_the_overlay_as_it_is() -> None:
    space = LabelSpace(names=("background", "cat"))
    prediction = Prediction(Labels(torch.zeros(40, 50, dtype=torch.int64)), noise(), space, TASKS["semantic"])
    assert np.array_equal(np.asarray(prediction.overlay(legend=True)), noise())
