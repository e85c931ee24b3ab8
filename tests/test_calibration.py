"""The ranges of 8-bit integers, chosen from histograms whose best range is known."""

import copy

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from atrous import calibration
from atrous.calibration import BINS, Histogram, calibrated, entropy, percentile
from atrous.inference import InferenceConfig
from atrous.layers import quantization
from atrous.segmenter import Segmenter
from tests.conftest import noise, small_segmenter
from tests.reference import entropy as reference

RANDOM = np.random.default_rng(0)
NORMAL = RANDOM.normal(size=200_000)


def histogram(values: NDArray[np.float64]) -> Histogram:
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    return Histogram(low, high, np.histogram(values, BINS, (low, high))[0].astype(float))


def test_a_percentile_leaves_out_the_rarest_values_on_either_side() -> None:
    low, high = percentile(histogram(NORMAL))
    outside = float(((low > NORMAL) | (high < NORMAL)).mean())
    assert outside == pytest.approx(1e-4, rel=0.2)
    assert -low == pytest.approx(high, rel=0.1)


@pytest.mark.parametrize("method", [percentile, entropy])
def test_one_value_far_away_does_not_widen_the_range(method: calibration.Choice) -> None:
    low, high = method(histogram(np.append(NORMAL, 30.0)))
    assert low < -3
    assert 3 < high < 8


@pytest.mark.parametrize("method", [percentile, entropy])
def test_even_values_keep_their_range(method: calibration.Choice) -> None:
    assert method(histogram(np.linspace(-1, 3, 100_000))) == pytest.approx((-1, 3), abs=0.01)


@pytest.mark.parametrize("method", [percentile, entropy])
def test_many_zeros_do_not_narrow_the_range(method: calibration.Choice) -> None:
    low, high = method(histogram(np.maximum(NORMAL, 0)))
    assert low == 0
    assert high > 3


@pytest.mark.parametrize("method", [percentile, entropy])
@pytest.mark.parametrize("values", [[0.0], [2.0], [-2.0], [-1.0, 1.0], [0.0, 5.0]])
def test_few_values_are_within_the_range(values: list[float], method: calibration.Choice) -> None:
    low, high = method(histogram(np.array(values)))
    assert low <= min(values) + 1e-2
    assert high >= max(values) - 1e-2
    assert low <= 0 <= high


AMOUNTS = np.linspace(0, 1, BINS)
POSITIVE = {  # values of each bin, of which none is empty
    "half of a normal distribution": np.exp(-((AMOUNTS * 5) ** 2)),
    "exponential": np.exp(-AMOUNTS * 12),
    "a long tail": 1 / (1e-3 + AMOUNTS) ** 2,
    "mostly zeros": np.where(AMOUNTS == 0, 1e3, np.exp(-AMOUNTS * 7)),
    "with an upper end": np.where(AMOUNTS == 1, 50, np.exp(-AMOUNTS * 2)),
}


@pytest.mark.parametrize("kind", POSITIVE)
def test_entropy_chooses_what_nvidias_does(kind: str) -> None:
    one = Histogram(0.0, 8.0, (POSITIVE[kind] * 1e8).round() + 1)
    low, high = entropy(one)
    assert low == 0
    assert high == pytest.approx(reference.amax(one.counts, one.high, calibration.FINEST))


@pytest.fixture(scope="module")
def small() -> Segmenter:
    return small_segmenter()


@pytest.mark.parametrize("method", ["minmax", "percentile", "entropy"])
def test_a_calibrated_model_predicts_nearly_the_same(small: Segmenter, method: calibration.Method) -> None:
    before = copy.deepcopy(small.model.state_dict())
    images = [noise(61, 90), noise(33, 49)]
    model = calibrated(small.model, lambda: images, InferenceConfig(), method)
    assert quantization.rounds(model)
    assert all(
        torch.equal(one, two) for one, two in zip(before.values(), small.model.state_dict().values(), strict=True)
    )
    pixels = torch.from_numpy(images[0]).permute(2, 0, 1)[None]
    floats, integers = (one(pixels).semantic for one in (small.model, model))
    assert not torch.equal(floats, integers)
    assert (floats.argmax(1) == integers.argmax(1)).double().mean() > 0.9


def test_minmax_has_all_values(small: Segmenter) -> None:
    images = [noise(33, 49), noise(33, 49) // 2 + 40]
    name = next(name for name, part in small.model.named_modules() if part is quantization.convolutions(small.model)[0])
    values: list[torch.Tensor] = []
    handle = small.model.get_submodule(name).register_forward_pre_hook(lambda _, inputs: values.append(inputs[0]))
    with torch.no_grad():
        for image in images:
            small.model(torch.from_numpy(image).permute(2, 0, 1)[None])
    handle.remove()
    first = dict(quantization.ranges(calibrated(small.model, lambda: images, InferenceConfig())))[name]
    assert float(first.low) == min(0.0, *(float(one.min()) for one in values))
    assert float(first.high) == max(float(one.max()) for one in values)


def test_images_are_seen_as_in_a_prediction(small: Segmenter) -> None:
    """A larger image fits a canvas; its values there differ from those of the image itself."""
    images = [noise(97, 129)]
    whole, canvas = (
        calibrated(small.model, lambda: images, protocol)
        for protocol in (InferenceConfig(), InferenceConfig(mode="canvas", window=(33, 33)))
    )
    one, two = (torch.stack([x.high for _, x in quantization.ranges(model)]) for model in (whole, canvas))
    assert not torch.equal(one, two)
