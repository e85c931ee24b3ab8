"""Colours, blur and noise on the device: against one image after another, and whatever batch an image is in."""

from functools import partial
from itertools import islice

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from atrous.data.augment_config import AugmentConfig
from atrous.data.batch_transforms import kernels, mixed, noise, varied, vary, vary_sample
from atrous.data.choices import choose, variation_of
from atrous.data.colors import BINOMIAL
from atrous.data.loader import Stream, training_batches
from atrous.data.transforms import augment
from atrous.types import Batch, Sample
from tests.data.conftest import FILL, IGNORE, max_difference, noise_image
from tests.reference.batch_transforms import gaussian, varied_by_definition

BUSY = AugmentConfig(
    crop=(12, 15),
    brightness=0.4,
    contrast=0.4,
    saturation=0.5,
    hue=0.1,
    grayscale=0.1,
    blur=0.5,
    blur_radius=(0.5, 1.2),
    noise=7,
    colors_on="device",
)
ON_CPU = BUSY.model_copy(update={"colors_on": "cpu"})

seeds = st.integers(0, 2**32 - 1)


def batch_of(count: int, seed: int = 0, config: AugmentConfig = BUSY) -> tuple[Tensor, Tensor]:
    """Images [B, 3, H, W] and their variations [B, 6]."""
    images = np.stack([noise_image(12, 15, seed + number) for number in range(count)])
    choices = [choose(config, np.random.default_rng([seed, number])) for number in range(count)]
    return torch.from_numpy(images).permute(0, 3, 1, 2), torch.from_numpy(np.stack(list(map(variation_of, choices))))


def samples(count: int = 9) -> list[Sample]:
    return [
        Sample(str(number), noise_image(20, 18, number), noise_image(20, 18, number)[..., 0] % 5)
        for number in range(count)
    ]


def batches(stream: Stream, count: int, config: AugmentConfig = BUSY) -> list[Batch]:
    change = partial(augment, config=config, fill=FILL, ignore=IGNORE)
    loaded = training_batches(samples(), change, stream, workers=0, skip_errors=False)
    return [vary(batch, config) for batch, _ in islice(loaded, count)]


# One image after another


@pytest.mark.parametrize("kernel", ["gaussian", "binomial"])
def test_a_batch_equals_one_image_after_another(kernel: str) -> None:
    config = BUSY.model_copy(update={"blur_kernel": kernel})
    images, variations = batch_of(5, config=config)
    grain = config.noise * noise(images.float(), variations[:, 5]).double().permute(0, 2, 3, 1).numpy()
    out = varied(images, variations, config).permute(0, 2, 3, 1).numpy()
    for number, variation in enumerate(variations.numpy()):
        taps = [tap / 16 for tap in BINOMIAL] if kernel == "binomial" else gaussian(max(variation[4], 0.01), reach=4)
        image = images[number].permute(1, 2, 0).numpy()
        expected = varied_by_definition(image, variation, taps, grain[number]).clip(0, 255)
        assert np.abs(out[number] - expected).max() <= 0.5 + 1e-3
    assert {bool(variation[4]) for variation in variations.numpy()} == {True, False}


@settings(max_examples=25, deadline=None)
@given(seeds)
def test_the_device_does_what_the_cpu_does(seed: int) -> None:
    """But for the grain, and Pillow's rounding of each step to bytes."""
    plain = {"noise": 0.0, "blur": 0.0}
    whole = Sample("noise", noise_image(20, 18, seed % 50) // 2 + 60)
    device, cpu = (
        augment(whole, each.model_copy(update=plain), np.random.default_rng(seed), fill=FILL, ignore=IGNORE)
        for each in (BUSY, ON_CPU)
    )
    assert max_difference(vary_sample(device, BUSY.model_copy(update=plain)).image, cpu.image) <= 1


def test_only_the_colours_are_left_to_the_device() -> None:
    whole = samples(1)[0]
    device, cpu = (augment(whole, each, np.random.default_rng(4), fill=FILL, ignore=IGNORE) for each in (BUSY, ON_CPU))
    plain = augment(whole, AugmentConfig(crop=(12, 15)), np.random.default_rng(4), fill=FILL, ignore=IGNORE)
    np.testing.assert_array_equal(device.semantic, cpu.semantic)
    np.testing.assert_array_equal(device.image, plain.image)
    assert cpu.variation is plain.variation is None
    assert vary_sample(device, BUSY).variation is None
    assert vary_sample(plain, BUSY) is plain


def test_off_it_changes_nothing() -> None:
    off = AugmentConfig(crop=(12, 15), colors_on="device")
    images, variations = batch_of(3, config=off)
    assert torch.equal(varied(images, variations, off), images)
    batch = Batch(("a",), images)
    assert vary(batch, off) is batch


# Whatever batch an image is in


@settings(max_examples=20, deadline=None)
@given(seeds, st.integers(1, 5))
def test_a_batch_may_be_split_anywhere(seed: int, at: int) -> None:
    images, variations = batch_of(6, seed % 1000)
    together = varied(images, variations, BUSY)
    apart = [varied(images[part], variations[part], BUSY) for part in (slice(0, at), slice(at, 6))]
    assert torch.equal(together, torch.cat(apart))
    channels_last = varied(images.to(memory_format=torch.channels_last), variations, BUSY)
    assert torch.equal(together, channels_last)


def test_two_processes_see_what_one_with_twice_the_batch_sees() -> None:
    together = batches(Stream(seed=3, batch=4), 5)
    apart = [batches(Stream(seed=3, batch=2, rank=rank, processes=2), 5) for rank in (0, 1)]
    for whole, left, right in zip(together, *apart, strict=True):
        assert whole.names == left.names + right.names
        assert torch.equal(whole.images, torch.cat([left.images, right.images]))


def test_a_resumed_stream_sees_the_same() -> None:
    whole, rest = batches(Stream(seed=3, batch=2), 6), batches(Stream(seed=3, batch=2, start=8), 2)
    for one, other in zip(whole[4:], rest, strict=True):
        assert torch.equal(one.images, other.images)
    assert not torch.equal(whole[0].images, batches(Stream(seed=4, batch=2), 1)[0].images)


def test_each_image_and_each_epoch_has_its_own_numbers() -> None:
    images, variations = batch_of(40)
    assert len(np.unique(variations.numpy(), axis=0)) == 40
    grain = noise(images[:2].float(), variations[:2, 5])
    assert abs(float(torch.corrcoef(grain.reshape(2, -1))[0, 1])) < 0.2


# What comes out


@settings(max_examples=20, deadline=None)
@given(seeds)
def test_images_stay_bytes(seed: int) -> None:
    images, variations = batch_of(3, seed % 1000)
    out = varied(images, variations, BUSY)
    assert (out.dtype, out.shape) == (torch.uint8, images.shape)


def test_extreme_colours_are_clipped_and_not_wrapped() -> None:
    white, black = (torch.full((1, 3, 2, 2), value, dtype=torch.uint8) for value in (250, 5))
    bright = torch.tensor([[2.0, 1.0, 1.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
    assert set(varied(white, bright, AugmentConfig()).flatten().tolist()) == {255}
    sharp = torch.tensor([[1.0, 2.0, 1.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
    both = torch.cat([white, black], 3)
    assert set(varied(both, sharp, AugmentConfig()).flatten().tolist()) == {0, 255}


def test_noise_is_normal_and_differs_between_colours_and_places() -> None:
    grain = noise(torch.zeros(1, 3, 100, 100), torch.tensor([7.0], dtype=torch.float64))[0]
    assert abs(float(grain.mean())) < 0.02
    assert float(grain.std()) == pytest.approx(1, abs=0.02)
    assert float((grain.abs() < 1).double().mean()) == pytest.approx(0.6827, abs=0.01)
    assert float((grain.abs() < 2).double().mean()) == pytest.approx(0.9545, abs=0.005)
    channels = torch.corrcoef(grain.reshape(3, -1))
    assert float((channels - torch.eye(3)).abs().max()) < 0.05
    neighbours = torch.corrcoef(torch.stack([grain[0, :, :-1].flatten(), grain[0, :, 1:].flatten()]))
    assert abs(float(neighbours[0, 1])) < 0.05


def test_bits_are_mixed_as_published() -> None:
    """fmix32 of MurmurHash3, in Python's whole numbers."""

    def published(bits: int) -> int:
        bits = (bits ^ bits >> 16) * 0x85EBCA6B % 2**32
        bits = (bits ^ bits >> 13) * 0xC2B2AE35 % 2**32
        return bits ^ bits >> 16

    values = [0, 1, 2, 12345, 2**31 - 1, 2**31, 2**32 - 1]
    signed = torch.tensor([value - 2**32 if value >= 2**31 else value for value in values], dtype=torch.int32)
    assert [value % 2**32 for value in mixed(signed).tolist()] == [published(value) for value in values]
    assert published(1) == 0x514E28B7


def test_kernels_have_the_sum_one_and_their_width() -> None:
    weights = kernels(torch.tensor([0.0, 0.5, 1.2], dtype=torch.float64), BUSY)
    assert weights.shape == (3, 9)
    torch.testing.assert_close(weights.sum(1), torch.ones(3))
    assert weights[0].tolist() == [0, 0, 0, 0, 1, 0, 0, 0, 0]
    spread = (weights[2] * (torch.arange(9) - 4) ** 2).sum().sqrt()
    assert float(spread) == pytest.approx(1.2, abs=0.03)
    tiny = BUSY.model_copy(update={"blur_radius": (0.0, 0.0)})
    assert kernels(torch.zeros(1, dtype=torch.float64), tiny).tolist() == [[0, 1, 0]]


def test_nothing_waits_for_the_device() -> None:
    """On PyTorch's device without memory, whatever would read a value back fails."""
    images, variations = (tensor.to("meta") for tensor in batch_of(3))
    for kernel in ("gaussian", "binomial"):
        assert varied(images, variations, BUSY.model_copy(update={"blur_kernel": kernel})).device.type == "meta"
