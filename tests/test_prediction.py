"""What a network makes of one image: labels, probabilities, pictures and files."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from atrous.data.label_space import LabelSpace, numbered_names
from atrous.prediction import Prediction
from atrous.segmenter import Segmenter
from atrous.tasks import TASKS
from atrous.tasks.contract import Labels
from tests.conftest import noise


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
