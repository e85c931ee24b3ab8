"""Any size in, the same size out; windows, scales and mirrors are averaged as a slow reference says."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from atrous import models
from atrous.config import load
from atrous.inference import InferenceConfig, pad_to_grid, predict_labels, predict_probabilities, window_starts
from atrous.models.contract import Model

TINY = ["model.depth_multiplier=0.1", "model.aspp_channels=8", "model.decoder_channels=8", "model.low_level_channels=4"]


@pytest.fixture(scope="module")
def model() -> Model:
    torch.manual_seed(0)
    net = models.build(load("synthetic/deeplab_v3plus_tiny", TINY).model, 5).eval()
    torch.nn.init.normal_(list(net.parameters())[-2], std=1.0)  # the last layer: let classes differ
    return net


def images(height: int, width: int, batch: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(height * width)
    return torch.randint(0, 256, (batch, 3, height, width), generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize(
    "config", [InferenceConfig(), InferenceConfig(mode="sliding", window=(33, 33), flip=True, scales=(0.5, 1))]
)
@pytest.mark.parametrize("size", [(33, 47), (64, 80), (1, 1), (20, 7)])
def test_labels_have_the_size_of_the_image(model: Model, size: tuple[int, int], config: InferenceConfig) -> None:
    labels = predict_labels(model, images(*size, batch=2), config)
    assert labels.shape == (2, *size)
    assert int(labels.max()) < 5


@pytest.mark.parametrize("size", [(33, 47), (64, 80)])
def test_labels_are_the_most_probable_classes(model: Model, size: tuple[int, int]) -> None:
    probabilities = predict_probabilities(model, images(*size), InferenceConfig())
    torch.testing.assert_close(probabilities.sum(1), torch.ones(1, *size))
    best_two = probabilities.topk(2, dim=1).values
    is_clear = (best_two[:, 0] - best_two[:, 1]) > 1e-4
    labels = predict_labels(model, images(*size), InferenceConfig())
    assert torch.equal(labels[is_clear].long(), probabilities.argmax(1)[is_clear])


def test_padding_is_to_the_grid_with_the_mean_colour(model: Model) -> None:
    padded = pad_to_grid(images(30, 49), model)
    assert padded.shape[-2:] == (33, 49)
    assert torch.equal(padded[..., :30, :], images(30, 49).float())
    assert torch.equal(padded[0, :, 32, 0], torch.tensor(model.mean))
    whole = images(33, 49)
    assert pad_to_grid(whole, model) is whole


def test_flip_and_scales_are_the_mean_of_single_passes(model: Model) -> None:
    batch = images(49, 65)
    expected = []
    for scale in (0.5, 1.0, 1.5):
        size = (round(49 * scale), round(65 * scale))
        view = batch.float() if scale == 1 else F.interpolate(batch.float(), size, mode="bilinear", align_corners=False)
        for is_mirrored in (False, True):
            seen = predict_probabilities(model, view.flip(-1) if is_mirrored else view, InferenceConfig())
            seen = seen.flip(-1) if is_mirrored else seen
            expected.append(F.interpolate(seen, (49, 65), mode="bilinear", align_corners=False))
    found = predict_probabilities(model, batch, InferenceConfig(scales=(0.5, 1.0, 1.5), flip=True))
    torch.testing.assert_close(found, torch.stack(expected).mean(0), atol=1e-5, rtol=1e-5)


def test_sliding_windows_are_averaged_where_they_overlap(model: Model) -> None:
    batch = images(50, 70)
    config = InferenceConfig(mode="sliding", window=(33, 33), overlap=0.4)
    total, count = torch.zeros(1, 5, 50, 70), torch.zeros(50, 70)
    for y in window_starts(50, 33, 0.4):
        for x in window_starts(70, 33, 0.4):
            total[..., y : y + 33, x : x + 33] += predict_probabilities(
                model, batch[..., y : y + 33, x : x + 33], InferenceConfig()
            )
            count[y : y + 33, x : x + 33] += 1
    torch.testing.assert_close(predict_probabilities(model, batch, config), total / count, atol=1e-5, rtol=1e-5)


@given(length=st.integers(1, 300), window=st.integers(1, 200), overlap=st.floats(0, 0.9))
@settings(max_examples=60, deadline=None)
def test_windows_cover_every_pixel_and_stay_inside(length: int, window: int, overlap: float) -> None:
    starts = window_starts(length, window, overlap)
    covered = {pixel for start in starts for pixel in range(start, min(start + window, length))}
    assert covered == set(range(length))
    assert len(set(starts)) == len(starts)
    assert all(start == 0 or start + window <= length for start in starts)
