"""The fully connected CRF against mean field over all pairs of pixels, the published program, and drawn cases."""

from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import Tensor

from atrous.ops import gaussian_filter_reference
from atrous.postprocess import CRF, CRFS, CRFName, refine
from atrous.types import Image

SMALL = CRF(bilateral_weight=1.5, bilateral_xy=8, bilateral_rgb=20, spatial_weight=0.5, spatial_xy=2)

# What Kraehenbuehl's program (densecrf 2, as in pydensecrf's repository) gives class 0 of `_seeded(4, 6)` by its first
# kernel alone: weight 3, deviations 3.3 pixels and 13.7 grey levels, 10 iterations
PUBLISHED = (
    (0.001590, 0.005731, 0.041539, 0.110835, 0.975983, 0.963341),
    (0.059059, 0.877059, 0.034568, 0.860781, 0.007675, 0.922420),
    (0.929517, 0.058987, 0.007052, 0.017115, 0.848555, 0.407958),
    (0.006233, 0.020271, 0.001676, 0.019295, 0.006811, 0.016290),
)


def _seeded(height: int, width: int) -> tuple[Tensor, Image]:
    y, x, k = np.mgrid[:height, :width, :3]
    image = (37 * y * y + 59 * x + 83 * k + 11 * x * y) % 64 + 96 * (x >= width // 2)
    c, y, x = np.mgrid[:3, :height, :width]
    logits = torch.from_numpy((7 * c + 5 * y * y + 3 * x * y + 2 * x) % 11 / 2)
    return logits.float().softmax(0), image.astype(np.uint8)


def _scene(height: int = 20, width: int = 24, classes: int = 3, seed: int = 0) -> tuple[Tensor, Image]:
    """A photograph of sorts, two halves with grain, and what a poor network makes of it."""
    rng = np.random.default_rng(seed)
    right = np.arange(width) >= width // 2  # [W]
    image = np.where(right[:, None], (125, 105, 90), (95, 100, 110)) + rng.normal(0, 6, (height, width, 3))
    logits = rng.normal(0, 1, (classes, height, width))
    logits[0] += 1.5 * ~right
    logits[-1] += 1.5 * right
    return torch.from_numpy(logits).float().softmax(0), image.clip(0, 255).astype(np.uint8)


def _normalized(features: Tensor) -> Tensor:
    kernel = gaussian_filter_reference(features, torch.eye(len(features), dtype=torch.float64))
    norm = kernel.sum(1).rsqrt()
    return norm[:, None] * kernel * norm


def _brute_force(probabilities: Tensor, image: Image, crf: CRF) -> Tensor:
    """Mean field with exact kernels [H * W, H * W], in float64."""
    height, width = image.shape[:2]
    place = torch.cartesian_prod(*(torch.arange(size, dtype=torch.float64) for size in (height, width)))
    colors = torch.from_numpy(image.astype(np.float64)).flatten(0, 1)
    near_alike = _normalized(torch.cat([place / crf.bilateral_xy, colors / crf.bilateral_rgb], 1))
    kernel = crf.bilateral_weight * near_alike + crf.spatial_weight * _normalized(place / crf.spatial_xy)
    unary = probabilities.double().flatten(1).log()
    marginals = unary.softmax(0)
    for _ in range(crf.iterations):
        marginals = (unary + marginals @ kernel).softmax(0)
    return marginals.view_as(probabilities)


@pytest.mark.parametrize("seed", range(3))
def test_mean_field_is_that_of_exact_kernels(seed: int) -> None:
    probabilities, image = _scene(seed=seed)
    found, exact = refine(probabilities, image, SMALL).double(), _brute_force(probabilities, image, SMALL)
    assert (found.argmax(0) == exact.argmax(0)).double().mean() > 0.99
    assert (found - exact).abs().mean() < 0.006
    assert (found - exact).abs().max() < 0.08


def test_one_step_is_close_to_that_of_exact_kernels() -> None:
    crf = SMALL.model_copy(update={"iterations": 1})
    probabilities, image = _scene()
    torch.testing.assert_close(
        refine(probabilities, image, crf).double(), _brute_force(probabilities, image, crf), rtol=0, atol=0.04
    )


@pytest.mark.parametrize("deviation", [0.7, 3.0, 50.0])
def test_the_smoothness_kernel_is_exact(deviation: float) -> None:
    crf = SMALL.model_copy(update={"bilateral_weight": 0.0, "spatial_xy": deviation})
    probabilities, image = _scene(37, 45)
    torch.testing.assert_close(
        refine(probabilities, image, crf).double(), _brute_force(probabilities, image, crf), rtol=0, atol=2e-5
    )


def test_the_appearance_kernel_is_the_published_programs() -> None:
    crf = CRF(bilateral_weight=3, bilateral_xy=3.3, bilateral_rgb=13.7, spatial_weight=0, spatial_xy=1)
    torch.testing.assert_close(refine(*_seeded(4, 6), crf)[0], torch.tensor(PUBLISHED), rtol=0, atol=2e-6)


@pytest.mark.parametrize("axis", [0, 1])
def test_a_mirrored_image_gives_the_mirrored_result(axis: int) -> None:
    probabilities, image = _scene(30, 40)
    found = refine(probabilities, image, SMALL)
    mirrored = refine(probabilities.flip(axis + 1), np.flip(image, axis), SMALL).flip(axis + 1)
    assert (found.argmax(0) == mirrored.argmax(0)).double().mean() > 0.99
    assert (found - mirrored).abs().mean() < 0.004
    assert (found - mirrored).abs().max() < 0.08


def test_classes_in_another_order_give_the_same_in_that_order() -> None:
    probabilities, image = _scene(classes=37)
    order = torch.randperm(37, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(refine(probabilities[order], image, SMALL), refine(probabilities, image, SMALL)[order])


@pytest.mark.parametrize("name", ["v1_large_fov", "v2_resnet101"])
def test_edges_of_the_image_are_found_in_noise(name: CRFName) -> None:
    y, x = np.mgrid[:60, :80]
    disc = (y - 28) ** 2 + (x - 42) ** 2 < 20**2
    image = np.where(disc[..., None], (200, 60, 40), (40, 90, 160)).astype(np.uint8)
    rng = np.random.default_rng(0)
    blob = (y - 26) ** 2 + (x - 39) ** 2 < 20**2  # the network is some pixels off, and unsure
    logits = torch.from_numpy(np.where(blob, 0.8, -0.8) + rng.normal(0, 1, disc.shape)).float()
    probabilities = torch.stack([(-logits).sigmoid(), logits.sigmoid()])
    before, after = (
        each.argmax(0).bool().numpy() for each in (probabilities, refine(probabilities, image, CRFS[name]))
    )
    assert (before != disc).mean() > 0.15
    assert (after != disc).mean() < 0.001


def test_without_iterations_probabilities_stay() -> None:
    probabilities, image = _scene()
    crf = SMALL.model_copy(update={"iterations": 0})
    torch.testing.assert_close(refine(probabilities, image, crf), probabilities)


@pytest.mark.parametrize(("classes", "size"), [(3, (1, 1)), (1, (5, 7)), (1, (1, 1)), (9, (1, 13)), (2, (13, 1))])
def test_the_smallest_images_have_probabilities(classes: int, size: tuple[int, int]) -> None:
    probabilities, image = _scene(*size, classes=classes)
    found = refine(probabilities, image, SMALL)
    assert found.shape == (classes, *size)
    torch.testing.assert_close(found.sum(0), torch.ones(size))


def test_a_single_pixel_sharpens_by_its_message_to_itself() -> None:
    probabilities, image = torch.tensor([0.6, 0.4]).view(2, 1, 1), np.zeros((1, 1, 3), np.uint8)
    crf = SMALL.model_copy(update={"iterations": 1})
    expected = (probabilities.log() + 2 * probabilities).softmax(0)  # both kernels are one
    torch.testing.assert_close(refine(probabilities, image, crf), expected)


def test_zeros_are_clipped_and_a_class_that_is_nowhere_stays_so() -> None:
    probabilities, image = _scene()
    probabilities[1] = 0
    probabilities[:, 3, 4] = 0  # unknown: its neighbours decide
    found = refine(probabilities, image, SMALL)
    assert found.isfinite().all()
    assert found[:, 3, 4].argmax() == found[:, 3, 5].argmax()
    known = found.clone()
    known[:, 3, 4] = 0
    assert known[1].max() < 1e-12


def test_a_constant_image_is_smoothed_only() -> None:
    probabilities, _ = _scene()
    image = np.full((20, 24, 3), 255, np.uint8)
    found, exact = refine(probabilities, image, SMALL).double(), _brute_force(probabilities, image, SMALL)
    assert (found.argmax(0) == exact.argmax(0)).double().mean() > 0.99


def test_the_input_is_left_alone_and_needs_no_gradient() -> None:
    probabilities, image = _scene()
    image.setflags(write=False)
    before = probabilities.clone()
    found = refine(probabilities.double().requires_grad_(), image, SMALL)
    assert found.dtype == torch.float32
    assert not found.requires_grad
    with torch.inference_mode():
        assert refine(probabilities, image, SMALL).equal(found)
    assert probabilities.equal(before)


def test_rows_are_named_and_the_papers() -> None:
    assert tuple(CRFS) == get_args(CRFName)
    assert tuple(CRFS["v1_large_fov"].model_dump().values()) == (4, 121, 5, 3, 3, 10)
    assert tuple(CRFS["v2_resnet101"].model_dump().values()) == (4, 67, 3, 3, 1, 10)


@pytest.mark.parametrize(
    ("shape", "image", "message"),
    [
        ((3, 4, 5), np.zeros((5, 4, 3), np.uint8), r"probabilities \(3, 4, 5\) and an image of 5 x 4 pixels don't fit"),
        ((4, 5), np.zeros((4, 5, 3), np.uint8), r"must be \[C, H, W\]"),
        ((0, 4, 5), np.zeros((4, 5, 3), np.uint8), "don't fit"),
        ((3, 0, 5), np.zeros((0, 5, 3), np.uint8), "don't fit"),
        ((3, 4, 5), np.zeros((4, 5), np.uint8), r"the image is uint8 of shape \(4, 5\)"),
        ((3, 4, 5), np.zeros((4, 5, 3), np.float32), r"it must be uint8 of \[H, W, 3\]"),
    ],
)
def test_what_does_not_fit_is_refused(shape: tuple[int, ...], image: Image, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        refine(torch.full(shape, 0.3), image, SMALL)


@pytest.mark.parametrize("wrong", [-0.5, float("nan"), float("inf")])
def test_logits_and_broken_numbers_are_refused(wrong: float) -> None:
    probabilities, image = _scene()
    probabilities[0, 2, 3] = wrong
    with pytest.raises(ValueError, match="must be finite and not negative"):
        refine(probabilities, image, SMALL)


@pytest.mark.parametrize(
    "wrong",
    [{"bilateral_weight": -1}, {"spatial_weight": -0.1}, {"bilateral_xy": 0}, {"spatial_xy": -3}, {"iterations": -1}],
)
def test_parameters_have_their_ranges(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"(?s){next(iter(wrong))}.*greater than"):
        CRF.model_validate({**SMALL.model_dump(), **wrong})


def test_deviations_that_are_too_small_are_refused() -> None:
    crf = SMALL.model_copy(update={"bilateral_xy": 1e-6, "bilateral_rgb": 1e-6})
    with pytest.raises(ValueError, match="take larger deviations"):
        refine(*_scene(), crf)
