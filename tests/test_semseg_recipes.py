"""The recipes of PSPNet and PSANet say what semseg's configuration files say."""

import math

import pytest
import torch

from atrous import models, optim
from atrous.config import Config, load, recipes
from atrous.losses.semantic import LossConfig, head_weight
from atrous.models.psanet import PSANet

NAMES = [name for name in recipes() if name.rpartition("/")[2].startswith(("pspnet", "psanet"))]
PUBLISHED = [name for name in NAMES if not name.startswith("camvid/")]
CLASSES = {"voc": 21, "ade20k": 150, "cityscapes": 19, "camvid": 11}
EPOCHS = {"voc": (50, 661), "ade20k": (100, 1263), "cityscapes": (200, 186)}  # their number, steps of 16 images in each


def recipe(name: str) -> Config:
    return load(name, ["data.root=somewhere"])


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_recipe_opens_with_the_reference_figures(name: str) -> None:
    text = " ".join(line.removeprefix("# ") for line in recipes()[name].read_text().splitlines()[:7])
    figures = text.partition("mIoU ")[2].partition(" on val")[0].replace("mAcc ", "").replace("pixel accuracy ", "")
    miou, mean_accuracy, pixel_accuracy = (float(figure) for figure in figures.split(" / "))
    assert 40 < miou < mean_accuracy < pixel_accuracy < 97


@pytest.mark.parametrize("name", PUBLISHED)
def test_steps_are_the_originals_epochs(name: str) -> None:
    settings = recipe(name).train
    assert (settings.batch, settings.steps) == (16, math.prod(EPOCHS[name.split("/")[0]]))


@pytest.mark.parametrize("name", NAMES)
def test_crops_are_what_the_network_was_made_for(name: str) -> None:
    config = recipe(name)
    shrink = config.model.shrink_factor if isinstance(config.model, PSANet.Config) else 1
    for side in config.augment.crop:
        assert (side - 1) % (8 * shrink) == 0
    if isinstance(config.model, PSANet.Config):
        grid = [(side - 1) // (8 * shrink) + 1 for side in config.augment.crop]
        assert config.model.mask == tuple(2 * side - 1 for side in grid)
    if config.evaluate.mode == "sliding":
        assert config.evaluate.window == config.augment.crop
        assert (config.evaluate.flip, config.evaluate.overlap) == (True, 1 / 3)
        assert config.evaluate.base_size == (2048 if name.startswith("cityscapes") else 512)


@pytest.mark.parametrize("name", ["voc/pspnet50", "cityscapes/psanet50", "ade20k/pspnet101"])
def test_heads_learn_ten_times_as_fast_and_everything_decays(name: str) -> None:
    config = recipe(name)
    with torch.device("meta"):
        model = models.build(config.model, CLASSES[name.split("/")[0]])
    groups = optim.parameter_groups(model, config.optim, model.logit_modules)
    assert [(group["lr"], group["weight_decay"]) for group in groups] == [(0.01, 1e-4), (pytest.approx(0.1), 1e-4)]
    backbone = sum(parameter.numel() for parameter in model.backbone.parameters())
    assert sum(parameter.numel() for parameter in groups[0]["params"]) == backbone  # type: ignore[attr-defined]
    assert isinstance(config.loss, LossConfig)
    assert head_weight(config.loss, "auxiliary") == 0.4


def test_the_rate_falls_with_every_step() -> None:
    config = recipe("voc/pspnet50")
    steps = config.train.steps
    found = [optim.learning_rate(config.optim, step, steps) for step in (0, 1, steps // 2, steps - 1)]
    assert found == pytest.approx([0.01 * (1 - step / steps) ** 0.9 for step in (0, 1, steps // 2, steps - 1)])
