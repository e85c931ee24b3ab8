"""The settings that a training begins with."""

import pytest
import torch

from atrous.distributed import World
from atrous.training.settings import in_steps
from tests.conftest import tiny_config


@pytest.mark.parametrize(
    ("epochs", "steps"),
    [(1.0, 6), (0.5, 3), (1.1, 7), (0.01, 1)],  # of 12 images in batches of 2
)
def test_epochs_are_steps_that_complete_the_last_one(epochs: float, steps: int) -> None:
    config = in_steps(tiny_config(f"train.epochs={epochs}"), World(0, 1, torch.device("cpu")))
    assert (config.train.steps, config.train.epochs) == (steps, None)
    four = in_steps(tiny_config("train.epochs=1", "train.accumulate=2"), World(0, 3, torch.device("cpu")))
    assert four.train.steps == 1
