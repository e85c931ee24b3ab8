"""The fully connected CRF against mean field over all pairs of pixels, the published program, and cases by hand."""

import re
from typing import Any, get_args

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from atrous.errors import ConfigError, DataError
from atrous.postprocess import CRF, CRFS, CRFName, refine
from atrous.types import Image
from tests.reference.mean_field import mean_field

SMALL = CRF(bilateral_weight=1.5, bilateral_xy=8, bilateral_rgb=20, spatial_weight=0.5, spatial_xy=2)

# What Kraehenbuehl's program (densecrf 2, in pydensecrf's repository) computes for class 0 of `_formula(4, 6)` with its
# first kernel alone: weight 3, standard deviations 3.3 pixels and 13.7 grey levels, 10 iterations
PUBLISHED = (
    (0.001590, 0.005731, 0.041539, 0.110835, 0.975983, 0.963341),
    (0.059059, 0.877059, 0.034568, 0.860781, 0.007675, 0.922420),
    (0.929517, 0.058987, 0.007052, 0.017115, 0.848555, 0.407958),
    (0.006233, 0.020271, 0.001676, 0.019295, 0.006811, 0.016290),
)


def _formula(height: int, width: int) -> tuple[Tensor, Image]:
    y, x, k = np.mgrid[:height, :width, :3]
    image = (37 * y * y + 59 * x + 83 * k + 11 * x * y) % 64 + 96 * (x >= width // 2)
    c, y, x = np.mgrid[:3, :height, :width]
    logits = torch.from_numpy((7 * c + 5 * y * y + 3 * x * y + 2 * x) % 11 / 2)
    return logits.float().softmax(0), image.astype(np.uint8)


def _scene(height: int = 20, width: int = 24, classes: int = 3, seed: int = 0) -> tuple[Tensor, Image]:
    """Noisy probabilities, and an image of two halves with grain."""
    rng = np.random.default_rng(seed)
    right = np.arange(width) >= width // 2  # [W]
    image = np.where(right[:, None], (125, 105, 90), (95, 100, 110)) + rng.normal(0, 6, (height, width, 3))
    logits = rng.normal(0, 1, (classes, height, width))
    logits[0] += 1.5 * ~right
    logits[-1] += 1.5 * right
    return torch.from_numpy(logits).float().softmax(0), image.clip(0, 255).astype(np.uint8)


def test_mean_field_is_that_of_exact_kernels() -> None:
    for seed in range(3):
        probabilities, image = _scene(seed=seed)
        refined, exact = refine(probabilities, image, SMALL).double(), mean_field(probabilities, image, SMALL)
        assert (refined.argmax(0) == exact.argmax(0)).double().mean() > 0.99
        assert (refined - exact).abs().mean() < 0.006
        assert (refined - exact).abs().max() < 0.08


def test_one_step_is_close_to_that_of_exact_kernels() -> None:
    crf = SMALL.model_copy(update={"iterations": 1})
    refined, exact = (method(*_scene(), crf).double() for method in (refine, mean_field))
    torch.testing.assert_close(refined, exact, rtol=0, atol=0.04)


def test_the_smoothness_kernel_is_exact() -> None:
    for deviation in (0.7, 3.0, 50.0):
        crf = SMALL.model_copy(update={"bilateral_weight": 0.0, "spatial_xy": deviation})
        refined, exact = (method(*_scene(17, 45), crf).double() for method in (refine, mean_field))
        torch.testing.assert_close(refined, exact, rtol=0, atol=2e-5)


def test_the_appearance_kernel_is_the_published_programs() -> None:
    crf = CRF(bilateral_weight=3, bilateral_xy=3.3, bilateral_rgb=13.7, spatial_weight=0, spatial_xy=1)
    torch.testing.assert_close(refine(*_formula(4, 6), crf)[0], torch.tensor(PUBLISHED), rtol=0, atol=2e-6)


def test_a_flipped_image_gives_the_flipped_result() -> None:
    probabilities, image = _scene(30, 40)
    refined = refine(probabilities, image, SMALL)
    for axis in (0, 1):
        flipped = refine(probabilities.flip(axis + 1), np.flip(image, axis), SMALL).flip(axis + 1)
        assert (refined.argmax(0) == flipped.argmax(0)).double().mean() > 0.99
        assert (refined - flipped).abs().mean() < 0.004
        assert (refined - flipped).abs().max() < 0.08


def test_classes_in_another_order_give_the_same_in_that_order() -> None:
    probabilities, image = _scene(classes=37)
    order = torch.randperm(37, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(refine(probabilities[order], image, SMALL), refine(probabilities, image, SMALL)[order])


def test_edges_of_the_image_are_found_in_noise() -> None:
    y, x = np.mgrid[:60, :80]
    disc = (y - 28) ** 2 + (x - 42) ** 2 < 20**2
    image = np.where(disc[..., None], (200, 60, 40), (40, 90, 160)).astype(np.uint8)
    rng = np.random.default_rng(0)
    blob = (y - 26) ** 2 + (x - 39) ** 2 < 20**2  # the network is some pixels off, and unsure
    logits = torch.from_numpy(np.where(blob, 0.8, -0.8) + rng.normal(0, 1, disc.shape)).float()
    probabilities = torch.stack([(-logits).sigmoid(), logits.sigmoid()])
    assert (_labels(probabilities) != disc).mean() > 0.15
    names: tuple[CRFName, ...] = ("v1_large_fov", "v2_resnet101")
    for name in names:
        assert (_labels(refine(probabilities, image, CRFS[name])) != disc).mean() < 0.001, name


def _labels(probabilities: Tensor) -> NDArray[np.bool_]:
    labels: NDArray[np.bool_] = probabilities.argmax(0).bool().numpy()
    return labels


def test_without_iterations_probabilities_stay() -> None:
    probabilities, image = _scene()
    crf = SMALL.model_copy(update={"iterations": 0})
    torch.testing.assert_close(refine(probabilities, image, crf), probabilities)


def test_the_smallest_images_have_probabilities() -> None:
    for classes, size in ((3, (1, 1)), (1, (5, 7)), (1, (1, 1)), (9, (1, 13)), (2, (13, 1))):
        probabilities, image = _scene(*size, classes=classes)
        refined = refine(probabilities, image, SMALL)
        assert refined.shape == (classes, *size)
        torch.testing.assert_close(refined.sum(0), torch.ones(size))


def test_a_single_pixel_sharpens_by_its_message_to_itself() -> None:
    probabilities, image = torch.tensor([0.6, 0.4]).view(2, 1, 1), np.zeros((1, 1, 3), np.uint8)
    crf = SMALL.model_copy(update={"iterations": 1})
    expected = (probabilities.log() + 2 * probabilities).softmax(0)  # both kernels are one
    torch.testing.assert_close(refine(probabilities, image, crf), expected)


def test_zeros_are_clipped_and_an_impossible_class_stays_impossible() -> None:
    probabilities, image = _scene()
    probabilities[1] = 0
    probabilities[:, 3, 4] = 0  # unknown: its neighbours decide
    refined = refine(probabilities, image, SMALL)
    assert refined.isfinite().all()
    assert refined[:, 3, 4].argmax() == refined[:, 3, 5].argmax()
    known = refined.clone()
    known[:, 3, 4] = 0
    assert known[1].max() < 1e-12


def test_a_constant_image_is_smoothed_only() -> None:
    probabilities, _ = _scene()
    image = np.full((20, 24, 3), 255, np.uint8)
    refined, exact = refine(probabilities, image, SMALL).double(), mean_field(probabilities, image, SMALL)
    assert (refined.argmax(0) == exact.argmax(0)).double().mean() > 0.99


def test_the_input_is_left_alone_and_needs_no_gradient() -> None:
    probabilities, image = _scene()
    image.setflags(write=False)
    before = probabilities.clone()
    refined = refine(probabilities.double().requires_grad_(), image, SMALL)
    assert refined.dtype == torch.float32
    assert not refined.requires_grad
    with torch.inference_mode():
        assert refine(probabilities, image, SMALL).equal(refined)
    assert probabilities.equal(before)


def test_rows_are_named_and_have_the_papers_values() -> None:
    assert tuple(CRFS) == get_args(CRFName)
    assert tuple(CRFS["v1_large_fov"].model_dump().values()) == (4, 121, 5, 3, 3, 10)
    assert tuple(CRFS["v2_resnet101"].model_dump().values()) == (4, 67, 3, 3, 1, 10)


def test_probabilities_and_images_that_do_not_fit_are_refused() -> None:
    cases: tuple[tuple[tuple[int, ...], NDArray[Any], str], ...] = (
        ((3, 4, 5), np.zeros((5, 4, 3), np.uint8), "at the size of the image, [5, 4], got [3, 4, 5]"),
        ((4, 5), np.zeros((4, 5, 3), np.uint8), "probabilities must be [C, H, W]"),
        ((0, 4, 5), np.zeros((4, 5, 3), np.uint8), "got [0, 4, 5]"),
        ((3, 0, 5), np.zeros((0, 5, 3), np.uint8), "got [3, 0, 5]"),
        ((3, 4, 5), np.zeros((4, 5), np.uint8), "the image must be uint8 [H, W, 3], got uint8 [4, 5]"),
        ((3, 4, 5), np.zeros((4, 5, 3), np.float32), "the image must be uint8 [H, W, 3], got float32 [4, 5, 3]"),
    )
    for shape, image, message in cases:
        with pytest.raises(DataError, match=re.escape(message)):
            refine(torch.full(shape, 0.3), image, SMALL)


def test_logits_and_numbers_that_are_not_finite_are_refused() -> None:
    for value in (-0.5, float("nan"), float("inf")):
        probabilities, image = _scene()
        probabilities[0, 2, 3] = value
        with pytest.raises(DataError, match=r"must be finite and not negative, got .*; are they logits\?"):
            refine(probabilities, image, SMALL)


def test_parameters_have_their_ranges() -> None:
    for name, value in (
        ("bilateral_weight", -1),
        ("spatial_weight", -0.1),
        ("bilateral_xy", 0),
        ("spatial_xy", -3),
        ("iterations", -1),
    ):
        with pytest.raises(ValueError, match=f"(?s){name}.*greater than"):
            CRF.model_validate({**SMALL.model_dump(), name: value})


def test_standard_deviations_that_are_too_small_are_refused() -> None:
    crf = SMALL.model_copy(update={"bilateral_xy": 1e-6, "bilateral_rgb": 1e-6})
    with pytest.raises(ConfigError, match="use larger deviations"):
        refine(*_scene(), crf)
