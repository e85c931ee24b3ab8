"""ADE20K: 150 classes, or 151 as TensorFlow DeepLab counts them, on real and drawn files."""

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

REAL = SHARED / "data" / "ade20k_samples"


def draw(root: Path, name: str = "ADE_train_00000001", split: str = "training") -> Config:
    """An image of one row, the label of which holds every value from 0 to 150."""
    for folder, kind in (("images", "jpg"), ("annotations", "png")):
        (root / folder / split).mkdir(parents=True, exist_ok=True)
        values = np.arange(151, dtype=np.uint8)[None]
        PIL.Image.fromarray(values).save(root / folder / split / f"{name}.{kind}")
    return Config(root=root)


def labels(config: Config) -> list[int]:
    (sample,) = atrous.data.samples(config, config.train)
    found: list[int] = np.asarray(sample.semantic)[0].tolist()
    return found


@pytest.mark.skipif(not REAL.is_dir(), reason=f"no ADE20K in {REAL}")
def test_real_images_show_what_their_names_say(tmp_path: Path) -> None:
    """The samples beside the repository lie in one folder; the benchmark has one for each split."""
    for folder in ("images", "annotations"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "validation").symlink_to(REAL / folder)
    first, *others = atrous.data.samples(Config(root=tmp_path), "validation")
    assert (first.name, first.image.shape, len(others)) == ("ADE_val_00000001", (512, 683, 3), 2)
    semantic = np.asarray(first.semantic)
    shown = {ADE20K.names[index] for index in np.unique(semantic) if index != 255}
    assert shown == {"wall", "building", "sky", "tree", "road", "grass", "plant"}
    sky, grass = (np.argwhere(semantic == ADE20K.names.index(name))[:, 0].mean() for name in ("sky", "grass"))
    assert sky < grass  # the sky is above


def test_values_are_classes_plus_one(tmp_path: Path) -> None:
    assert labels(draw(tmp_path)) == [255, *range(150)]


def test_with_the_class_other_values_are_classes(tmp_path: Path) -> None:
    config = draw(tmp_path).model_copy(update={"other_class": True})
    assert labels(config) == [255, *range(1, 151)]
    assert ade20k.label_space(config).names[:3] == ("other", "wall", "building")


def test_names_and_colors_are_the_benchmarks() -> None:
    assert (ADE20K.num_classes, WITH_OTHER.num_classes) == (150, 151)
    assert [ADE20K.names[index] for index in (0, 2, 20, 149)] == ["wall", "sky", "car", "flag"]
    assert ADE20K.colors == WITH_OTHER.colors[1:]
    assert dict(zip(ADE20K.names, ADE20K.colors, strict=True))["sky"] == (6, 230, 230)


def test_other_costs_nothing_and_counts_only_where_it_is_predicted() -> None:
    truth = torch.tensor([[[255, 1, 1, 1]]])
    logits = torch.zeros(1, 151, 1, 4)
    logits[0, 1, 0, 2:] = 9
    logits[0, 0, 0, :2] = 9  # the second pixel is taken for "other"
    whole = upsample_cross_entropy(logits, truth)
    assert float(whole) == pytest.approx(float(upsample_cross_entropy(logits[..., 1:], truth[..., 1:])))
    scores = confusion.report(confusion.statistic(logits.argmax(1), truth, 151))
    assert scores.iou[:3] == pytest.approx((0, 2 / 3, None))
    assert scores.miou == pytest.approx(1 / 3)


def test_the_splits_are_training_and_validation(tmp_path: Path) -> None:
    draw(tmp_path)
    config = draw(tmp_path, "ADE_val_00000001", "validation")
    found = [[sample.name for sample in atrous.data.samples(config, split)] for split in (config.train, config.val)]
    assert found == [["ADE_train_00000001"], ["ADE_val_00000001"]]
    with pytest.raises(ValueError, match=r"no split 'val': .*; splits found: training, validation"):
        atrous.data.samples(config, "val")


def test_images_and_labels_without_each_other(tmp_path: Path) -> None:
    config = draw(tmp_path)
    (tmp_path / "annotations/training/ADE_train_00000001.png").rename(tmp_path / "annotations/training/b.png")
    with pytest.raises(
        ValueError, match=r"1 of the images in .*/images/training have no label in .*: ADE_train_00000001"
    ):
        atrous.data.samples(config, "training")


def test_a_root_that_is_something_else(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=f"images: no such folder: {tmp_path / 'images'}"):
        atrous.data.samples(Config(root=tmp_path), "training")


def test_some_classes_alone(tmp_path: Path) -> None:
    config = draw(tmp_path).model_copy(update={"names": {13: "person", 1: "wall"}})
    assert labels(config) == [255, 0, *[255] * 11, 1, *[255] * 137]
    assert ade20k.label_space(config).colors == ((120, 120, 120), (150, 5, 61))


def test_a_value_that_is_none_is_refused(tmp_path: Path) -> None:
    config = draw(tmp_path)
    path = tmp_path / "annotations/training/ADE_train_00000001.png"
    PIL.Image.fromarray(np.full((1, 151), 151, np.uint8)).save(path)
    with pytest.raises(ValueError, match=f"{path}: .*151"):
        list(atrous.data.samples(config, "training"))
