"""Trainings with each kind of augmentation, and the picture that shows what a training sees."""

from itertools import islice
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from torch import Tensor

from atrous import cli, train
from atrous.config import Config
from atrous.data import label_space, samples
from atrous.data.batch_transforms import vary
from atrous.distributed import World
from atrous.interrupt import Interrupted
from atrous.models import build
from atrous.run_folder import RunFolder
from atrous.training.augmentation import SHOWN_IN_A_ROW
from atrous.training.data import training_batches_from
from atrous.training.learner import Standing
from atrous.types import Image
from tests.conftest import RECIPE, TINY, save, tiny_config, write_folder_data
from tests.runs import QUIET, assert_same, losses, stop_after, weights

COLORS = ("augment.brightness=0.4", "augment.hue=0.1", "augment.blur=0.5", "augment.noise=9")
ON_DEVICE = (*COLORS, "augment.colors_on=device")
STYLES = {
    "tf_deeplab": (),
    "deeplab2": ("augment.padding=random", "augment.autoaugment=0.2"),
    "semseg": ("augment.padding=around", "augment.rotate=10", "augment.blur=0.5", "augment.blur_kernel=binomial"),
    "forma": ("augment.affine=0.05", "augment.hue=0.08", "augment.contrast=0.3", "augment.noise=0.01"),
}


def trained(config: Config, out: Path, *, resume: bool = False) -> RunFolder:
    return train.train(config, out, resume=resume, device="cpu", console=QUIET)


def first_images(config: Config) -> Tensor:
    """Of the first batch, as the network sees them: [B, 3, H, W]."""
    space, world = label_space(config.data), World(0, 1, torch.device("cpu"))
    model, training = build(config.model, space.num_classes), samples(config.data, config.data.train)
    batches = training_batches_from(Standing(), training, model, config, space, world, workers=0)
    batch, _ = next(islice(batches, 1))
    return vary(batch, config.augment).images


# Training


@pytest.mark.slow
def test_a_resumed_run_with_colours_on_the_device_is_the_uninterrupted_one(tmp_path: Path) -> None:
    whole = trained(tiny_config(*ON_DEVICE), tmp_path / "whole")
    with pytest.MonkeyPatch.context() as patch:
        stop_after(2, patch)
        with pytest.raises(Interrupted):
            trained(tiny_config(*ON_DEVICE), tmp_path / "half")
    resumed = trained(tiny_config(*ON_DEVICE), tmp_path / "half", resume=True)
    assert_same(weights(whole), weights(resumed))
    plain = trained(tiny_config(), tmp_path / "plain")
    assert losses(plain)[0]["loss"] != losses(whole)[0]["loss"]


def test_passes_of_half_the_size_see_the_same_images() -> None:
    one, two = tiny_config(*ON_DEVICE, "train.batch=4"), tiny_config(*ON_DEVICE, "train.batch=2")
    assert torch.equal(first_images(one)[:2], first_images(two))


@pytest.mark.parametrize("style", STYLES)
def test_each_style_trains(style: str, tmp_path: Path) -> None:
    config = tiny_config(f"augment.style={style}", *STYLES[style], "train.steps=1", "train.eval_every=1")
    run = trained(config, tmp_path / style)
    assert run.report.exists()
    assert np.isfinite(losses(run)[0]["loss"])


# The picture


def picture_of(path: Path) -> Image:
    with PIL.Image.open(path) as picture:
        return np.array(picture.convert("RGB"))


def shown(config: Config, path: Path) -> list[Image]:
    """The panels of the first row."""
    train.show_augmentation(config, path, console=QUIET)
    sheet, (height, width) = picture_of(path), config.augment.crop
    lefts = [12 + number * (width + 12) for number in range(SHOWN_IN_A_ROW)]
    return [sheet[12 + 23 :][:height, left : left + width] for left in lefts]


@pytest.mark.parametrize("settings", [(), ON_DEVICE, ("augment.style=tf_deeplab",)])
def test_the_picture_shows_what_the_training_sees(settings: tuple[str, ...], tmp_path: Path) -> None:
    config = tiny_config(*settings)
    panels = shown(config, tmp_path / "seen.png")
    for number, image in enumerate(first_images(config)):
        np.testing.assert_array_equal(panels[2 * number], image.permute(1, 2, 0).numpy())
        assert (panels[2 * number + 1] != panels[2 * number]).mean() > 0.2  # under the colours of its labels
    assert len(picture_of(tmp_path / "seen.png")) == 4 * (12 + 23 + 49 + 12)  # 12 samples, 3 in a row


def test_another_seed_shows_others(tmp_path: Path) -> None:
    one, other = (shown(tiny_config(f"train.seed={seed}"), tmp_path / "seen.png") for seed in (0, 1))
    assert (one[0] != other[0]).any()


def run_cli(*arguments: object) -> int:
    return cli.run(["train", *map(str, arguments)])


@pytest.mark.parametrize("name", ["seen.png", "new/folder/seen.jpg", "seen.WEBP"])
def test_the_verb_writes_a_picture_and_no_run(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_cli(RECIPE, *TINY, "--show-augmentation", name) == 0
    assert capsys.readouterr().out == f"{name}: 12 crops as step 1 on sees them, each with its labels\n"
    assert picture_of(Path(name)).shape[1] == 12 + 6 * (65 + 12)
    assert not Path("runs").exists()


def test_a_picture_of_a_large_crop_is_small(tmp_path: Path) -> None:
    config = tiny_config("augment.crop=900,600")
    train.show_augmentation(config, tmp_path / "seen.png", number=2, console=QUIET)
    assert picture_of(tmp_path / "seen.png").shape == (12 + 23 + 400 + 12, 12 + 4 * (267 + 12), 3)


def test_a_wrong_name_is_refused_before_any_image_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "folder.png").mkdir()
    cases = {
        "seen.gif": "the name of a picture ends in .png, .jpg, .jpeg, .webp",
        "seen": "the name of a picture ends in",
        "folder.png": "it is a folder",
    }
    for name, message in cases.items():
        arguments = ("folder/deeplab_v3plus", "data.root=/nowhere", "--show-augmentation", tmp_path / name)
        assert run_cli(*arguments) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1


def test_an_unreadable_image_is_named_or_skipped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_folder_data(tmp_path / "data")
    first = sorted((root / "images" / "train").iterdir())[0]
    first.write_bytes(b"no image")
    arguments = ("folder/deeplab_v3plus", f"data.root={root}", "augment.crop=33,33")
    picture = tmp_path / "seen.png"
    assert run_cli(*arguments, "--show-augmentation", picture) == 2
    error = capsys.readouterr().err
    assert first.name in error
    assert error.count("\n") == 1
    assert not picture.exists()
    assert run_cli(*arguments, "data.on_error=skip", "--show-augmentation", picture) == 0
    assert first.name in capsys.readouterr().out
    assert picture.exists()


def test_a_setting_that_the_style_lacks_ends_in_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    picture = tmp_path / "seen.png"
    assert run_cli(RECIPE, *TINY, "augment.style=tf_deeplab", "augment.rotate=5", "--show-augmentation", picture) == 2
    expected = "atrous: augment: style=tf_deeplab needs augment.rotate=0; or set style=atrous (on the command line)\n"
    assert capsys.readouterr().err == expected
    assert not picture.exists()


def test_a_data_set_smaller_than_the_picture_is_shown_again_in_later_epochs(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    root = tmp_path / "data"
    for split in ("train", "val"):
        save(root / "images" / split / "one.png", rng.integers(0, 256, (40, 50, 3), np.uint8))
        save(root / "masks" / split / "one.png", rng.integers(0, 2, (40, 50), np.uint8))
    (root / "classes.yaml").write_text("names: [a, b]\n")
    config = tiny_config("data.format=folder", f"data.root={root}")
    panels = shown(config, tmp_path / "seen.png")
    assert (panels[0] != panels[2]).any()
