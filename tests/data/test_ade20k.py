"""ADE20K: 150 classes, or 151 as TensorFlow DeepLab counts them, on real and synthetic files."""

from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

import atrous.data
from atrous.data import ade20k
from atrous.data.ade20k import ADE20K, WITH_OTHER, Config
from atrous.metrics import confusion
from atrous.ops import upsample_cross_entropy
from tests.conftest import SHARED
from tests.data.conftest import complaint, first_rows, names, semantic, write_ade20k

REAL = SHARED / "data" / "ade20k_samples"


@pytest.mark.skipif(not REAL.is_dir(), reason=f"no ADE20K in {REAL}")
def test_real_images_show_the_classes_of_their_labels(tmp_path: Path) -> None:
    """The samples beside the repository lie in one folder; the benchmark has one for each split."""
    for folder in ("images", "annotations"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "validation").symlink_to(REAL / folder)
    first, *others = atrous.data.samples(Config(root=tmp_path), "validation")
    assert (first.name, first.image.shape, len(others)) == ("ADE_val_00000001", (512, 683, 3), 2)
    labels = semantic(first)
    shown = {ADE20K.names[index] for index in np.unique(labels) if index != 255}
    assert shown == {"wall", "building", "sky", "tree", "road", "grass", "plant"}
    sky, grass = (np.argwhere(labels == ADE20K.names.index(name))[:, 0].mean() for name in ("sky", "grass"))
    assert sky < grass  # the sky is above


def test_label_values_are_classes_plus_one(tmp_path: Path) -> None:
    assert first_rows(write_ade20k(tmp_path)) == [[255, *range(150)]]


def test_with_the_class_other_label_values_are_classes(tmp_path: Path) -> None:
    config = write_ade20k(tmp_path).model_copy(update={"other_class": True})
    assert first_rows(config) == [[255, *range(1, 151)]]
    assert ade20k.label_space(config).names[:3] == ("other", "wall", "building")


def test_names_and_colors_are_those_of_the_benchmark() -> None:
    assert (ADE20K.num_classes, WITH_OTHER.num_classes) == (150, 151)
    assert [ADE20K.names[index] for index in (0, 2, 20, 149)] == ["wall", "sky", "car", "flag"]
    assert ADE20K.colors == WITH_OTHER.colors[1:]
    assert dict(zip(ADE20K.names, ADE20K.colors, strict=True))["sky"] == (6, 230, 230)


def test_the_class_other_costs_nothing_and_counts_only_where_it_is_predicted() -> None:
    truth = torch.tensor([[[255, 1, 1, 1]]])
    logits = torch.zeros(1, 151, 1, 4)
    logits[0, 1, 0, 2:] = 9
    logits[0, 0, 0, :2] = 9  # the second pixel is predicted as "other"
    whole = upsample_cross_entropy(logits, truth)
    assert float(whole) == pytest.approx(float(upsample_cross_entropy(logits[..., 1:], truth[..., 1:])))
    scores = confusion.report(confusion.statistic(logits.argmax(1), truth, 151))
    assert scores.iou[:3] == pytest.approx((0, 2 / 3, None))
    assert scores.miou == pytest.approx(1 / 3)


def test_the_splits_are_training_and_validation(tmp_path: Path) -> None:
    write_ade20k(tmp_path)
    config = write_ade20k(tmp_path, "ADE_val_00000001", "validation")
    assert [names(config, split) for split in (config.train, config.val)] == [
        ["ADE_train_00000001"],
        ["ADE_val_00000001"],
    ]
    expected = (
        f"no split 'val': {tmp_path}/images/val does not exist; splits: training, validation; set data.val=validation"
    )
    assert complaint(config, "val") == expected


def test_an_image_without_a_label_is_refused(tmp_path: Path) -> None:
    config = write_ade20k(tmp_path)
    (tmp_path / "annotations/training/ADE_train_00000001.png").rename(tmp_path / "annotations/training/b.png")
    expected = (
        f"images in {tmp_path}/images/training without a label in {tmp_path}/annotations/training (1): ADE_train_"
    )
    assert complaint(config).startswith(expected)


def test_a_root_without_images_is_refused(tmp_path: Path) -> None:
    expected = f"data.root: {tmp_path} is not a dataset of data.format=ade20k, which has images/ and annotations/"
    assert complaint(Config(root=tmp_path)) == f"{expected}; it holds no folders"


def test_classes_can_be_chosen(tmp_path: Path) -> None:
    config = write_ade20k(tmp_path).model_copy(update={"names": {13: "person", 1: "wall"}})
    assert first_rows(config) == [[255, 0, *[255] * 11, 1, *[255] * 137]]
    assert ade20k.label_space(config).colors == ((120, 120, 120), (150, 5, 61))


def test_a_value_that_is_not_a_class_is_refused(tmp_path: Path) -> None:
    config = write_ade20k(tmp_path)
    path = tmp_path / "annotations/training/ADE_train_00000001.png"
    PIL.Image.fromarray(np.full((1, 151), 151, np.uint8)).save(path)
    assert complaint(config).startswith(f"{path}: value 151 (151 pixels): not a class; the 150 classes are 1, 2, 3, ")
