"""Recalibrated batch norms: the model computes the same, and has the statistics that training needs."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from atrous import create
from atrous.convert.recalibrate import has_folded_norms, recalibrate, set_statistics
from atrous.distributed import World
from atrous.models.deeplab_v3 import DeepLabV3
from atrous.segmenter import Segmenter, read_image
from tests.conftest import save
from tests.processes import answers_of


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    rng = np.random.default_rng(0)
    paths = [tmp_path / f"{index}.png" for index in range(4)]
    for path in paths:
        save(path, rng.integers(0, 256, (65, 65, 3), dtype=np.uint8))
    return paths


def segmenter() -> Segmenter:
    """All batch norms as folding leaves them: mean 0, variance 1, whatever their input is."""
    backbone = {"name": "mobilenet_v2", "depth_multiplier": 0.1}
    config = DeepLabV3.Config.model_validate({"backbone": backbone, "aspp": {"channels": 8, "dropout": 0}})
    folded = create(config, num_classes=3)
    torch.manual_seed(1)
    for module in folded.model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -1, 1)
    return folded


def images(photos: list[Path]) -> torch.Tensor:
    return torch.stack([torch.from_numpy(read_image(path)).permute(2, 0, 1) for path in photos])


def measure(segmenter: Segmenter, photos: list[Path]) -> None:
    recalibrate(segmenter.model, segmenter.inference, photos, read_image)


@torch.no_grad()
def test_logits_stay_and_those_of_training_mode_approach_them(photos: list[Path]) -> None:
    folded = segmenter()
    batch = images(photos)
    before = folded.model.eval()(batch).semantic
    off_before = (folded.model.train()(batch).semantic - before).abs().mean()
    folded = segmenter()
    assert has_folded_norms(folded.model)
    measure(folded, photos)
    assert not has_folded_norms(folded.model)
    after = folded.model.eval()(batch).semantic
    torch.testing.assert_close(after, before, rtol=1e-3, atol=1e-5)
    off_after = (folded.model.train()(batch).semantic - before).abs().mean()
    assert off_after < 0.02 * off_before


def test_statistics_are_those_of_the_input() -> None:
    norm = nn.BatchNorm2d(3, eps=1e-3).eval()
    x = torch.randn(4, 3, 5, 6, generator=torch.Generator().manual_seed(0)) * 3 + 2
    before = norm(x)
    set_statistics(norm, x.double().mean((0, 2, 3)), x.double().var((0, 2, 3), correction=0))
    torch.testing.assert_close(norm(x), before)
    torch.testing.assert_close(norm.running_mean, x.mean((0, 2, 3)))
    torch.testing.assert_close(norm.train()(x), before)


def test_an_unreadable_image_leaves_the_model_as_it_was(tmp_path: Path, photos: list[Path]) -> None:
    folded = segmenter()
    before = {name: value.clone() for name, value in folded.model.state_dict().items()}
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"broken\.png"):
        measure(folded, [*photos, tmp_path / "broken.png"])
    assert all(torch.equal(value, before[name]) for name, value in folded.model.state_dict().items())
    assert not any(module._forward_pre_hooks for module in folded.model.modules())


def measured_by(world: World, photos: list[Path]) -> dict[str, bytes]:
    own = segmenter()
    recalibrate(own.model, own.inference, photos, read_image, world)
    return {name: value.numpy().tobytes() for name, value in own.model.state_dict().items()}


@pytest.mark.slow
def test_statistics_have_the_same_bits_however_many_processes_share_the_images(
    tmp_path: Path, photos: list[Path]
) -> None:
    """Four images: three processes have uneven shares, and one of five has none."""
    alone = measured_by(World(0, 1, torch.device("cpu")), photos)
    for size in (2, 3, 5):
        assert answers_of(size, tmp_path, measured_by, photos) == [alone] * size
