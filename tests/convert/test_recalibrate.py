"""Batch norms measured anew: the same function, with the statistics that training wants."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from atrous import create
from atrous.convert.recalibrate import is_folded, recalibrate, set_statistics
from atrous.models.deeplab_v3 import DeepLabV3
from atrous.segmenter import Segmenter
from tests.conftest import save


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    rng = np.random.default_rng(0)
    paths = [tmp_path / f"{index}.png" for index in range(4)]
    for path in paths:
        save(path, rng.integers(0, 256, (65, 65, 3), dtype=np.uint8))
    return paths


def segmenter() -> Segmenter:
    """All batch norms as after folding: mean 0, variance 1, whatever their input is."""
    config = DeepLabV3.Config(backbone="mobilenet_v2", depth_multiplier=0.1, aspp_channels=8, dropout=0)
    made = create(config, num_classes=3)
    torch.manual_seed(1)
    for module in made.model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -1, 1)
    return made


def images(photos: list[Path]) -> torch.Tensor:
    from atrous.segmenter import read_image

    return torch.stack([torch.from_numpy(read_image(path)).permute(2, 0, 1) for path in photos])


@torch.no_grad()
def test_the_function_stays_and_training_mode_comes_near_it(photos: list[Path]) -> None:
    made = segmenter()
    batch = images(photos)
    before = made.model.eval()(batch).semantic
    off_before = (made.model.train()(batch).semantic - before).abs().mean()
    made = segmenter()
    assert is_folded(made.model)
    recalibrate(made, photos)
    assert not is_folded(made.model)
    after = made.model.eval()(batch).semantic
    torch.testing.assert_close(after, before, rtol=1e-3, atol=1e-5)
    off_after = (made.model.train()(batch).semantic - before).abs().mean()
    assert off_after < 0.02 * off_before


def test_statistics_are_those_of_the_input() -> None:
    norm = nn.BatchNorm2d(3, eps=1e-3).eval()
    x = torch.randn(4, 3, 5, 6, generator=torch.Generator().manual_seed(0)) * 3 + 2
    before = norm(x)
    set_statistics(norm, x.double().mean((0, 2, 3)), x.double().var((0, 2, 3), correction=0))
    torch.testing.assert_close(norm(x), before)
    torch.testing.assert_close(norm.running_mean, x.mean((0, 2, 3)))
    torch.testing.assert_close(norm.train()(x), before)


def test_an_image_that_can_not_be_read_leaves_the_model_as_it_was(tmp_path: Path, photos: list[Path]) -> None:
    made = segmenter()
    before = {name: value.clone() for name, value in made.model.state_dict().items()}
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"broken\.png"):
        recalibrate(made, [*photos, tmp_path / "broken.png"])
    assert all(torch.equal(value, before[name]) for name, value in made.model.state_dict().items())
    assert not any(module._forward_pre_hooks for module in made.model.modules())
