"""What several tests share: a model small enough to train in a second, and data sets drawn on disk."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from atrous.config import Config, load, override

SHARED = Path(__file__).parents[2] / "shared"
RECIPE = "synthetic/deeplab_v3plus_tiny"
TINY = (
    "model.backbone.depth_multiplier=0.1",
    "model.aspp.channels=8",
    "model.decoder.channels=8",
    "model.decoder.low_level_channels=4",
    "data.size=64,96",
    "data.num_train=12",
    "data.num_val=3",
    "augment.crop=49,65",
    "optim.warmup_steps=0",
    "train.batch=2",
    "train.steps=4",
    "train.eval_every=4",
    "train.save_every=2",
    "train.log_every=1",
)


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """The tests' tensors are small: a second thread costs more than it brings, and sums come out the same each time."""
    torch.set_num_threads(1)


@pytest.fixture
def tiny() -> Callable[..., Config]:
    """The tiny recipe, smaller still, with overrides."""

    def config(*overrides: str) -> Config:
        return override(load(RECIPE, TINY), overrides, RECIPE)

    return config


@pytest.fixture
def folder_data(tmp_path: Path) -> Path:
    """A data set of the `folder` layout: 6 + 2 images of two classes, the right half of each brighter."""
    root = tmp_path / "mydata"
    rng = np.random.default_rng(0)
    for split, count in (("train", 6), ("val", 2)):
        for index in range(count):
            mask = np.zeros((40, 60), np.uint8)
            mask[:, 30:] = 1
            noise = rng.integers(0, 80, (40, 60, 3), dtype=np.uint8)
            save(root / "images" / split / f"{index}.png", noise + mask[..., None] * np.uint8(150))
            save(root / "masks" / split / f"{index}.png", mask)
    (root / "classes.yaml").write_text("names: [left, right]\n")
    return root


def save(path: Path, pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
