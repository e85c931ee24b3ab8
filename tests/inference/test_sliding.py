"""semseg's testing protocol against a slow reference, and windows without a base size."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from atrous import models
from atrous.config import load
from atrous.inference import InferenceConfig, sliding
from atrous.inference.look import predict_labels, predict_probabilities
from atrous.inference.maps import resized
from atrous.inference.sliding import scaled_size
from atrous.inference.windows import window_starts
from atrous.models import Model
from tests.conftest import SMALL_MODEL, spread_classes
from tests.reference import sliding as reference

SEMSEG = InferenceConfig(mode="sliding", window=(33, 41), base_size=70, flip=True)


@pytest.fixture(scope="module")
def model() -> Model:
    """Five classes, each the likeliest somewhere."""
    torch.manual_seed(0)
    net = models.build(load("synthetic/deeplab_v3plus_tiny", [*SMALL_MODEL, "model.output_stride=8"]).model, 5).eval()
    spread_classes(net, images(49, 65))
    return net


def images(height: int, width: int, batch: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(height * width)
    coarse = torch.randint(0, 256, (batch, 3, height // 8 + 2, width // 8 + 2), generator=generator).float()
    return torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear").to(torch.uint8)


# ---- the protocol


@pytest.mark.parametrize("scales", [(1.0,), (0.5, 0.75, 1.5)])
@pytest.mark.parametrize(
    "size",
    [
        (40, 60),  # 47 x 70: 2 x 3 windows
        (60, 40),
        (70, 70),
        (12, 90),  # 9 x 70: lower than a window
        (7, 5),
        (150, 190),  # shrunk
    ],
)
def test_probabilities_equal_the_slow_references(
    model: Model, size: tuple[int, int], scales: tuple[float, ...]
) -> None:
    config = SEMSEG.model_copy(update={"scales": scales})
    expected = reference.predict_probabilities(model, images(*size), config)
    torch.testing.assert_close(predict_probabilities(model, images(*size), config), expected, atol=2e-5, rtol=1e-4)


def test_the_reference_can_tell_the_protocols_apart(model: Model) -> None:
    """Each part of the protocol moves probabilities by a hundred times the tolerance above, or more."""
    batch = images(12, 90)
    expected = reference.predict_probabilities(model, batch, SEMSEG)
    for change in ({"flip": False}, {"base_size": 72}, {"overlap": 0.5}, {"window": (41, 41)}, {"base_size": None}):
        other = predict_probabilities(model, batch, SEMSEG.model_copy(update=change))
        assert float((other - expected).abs().max()) > 2e-3, change


@pytest.mark.parametrize("pixels", [1, 33 * 41, 3 * 33 * 41, 2**30])
def test_the_result_does_not_depend_on_how_many_windows_one_pass_has(
    model: Model, pixels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = images(60, 80, batch=2)
    passes: list[int] = []
    hook = model.register_forward_pre_hook(lambda _, inputs: passes.append(len(inputs[0])))
    expected = torch.cat([predict_probabilities(model, one[None], SEMSEG) for one in batch])
    passes.clear()
    monkeypatch.setattr(sliding, "WINDOW_PIXELS", pixels)
    probabilities = predict_probabilities(model, batch, SEMSEG)
    hook.remove()
    torch.testing.assert_close(probabilities, expected, atol=1e-5, rtol=1e-4)
    windows = 2 * 2 * 2 * 3  # images, flipped or not, rows, columns
    at_once = {1: 2, 33 * 41: 2, 3 * 33 * 41: 2, 2**30: windows}[pixels]
    assert sum(passes) == windows
    assert max(passes) == at_once


def test_labels_are_the_most_probable_classes_at_the_images_size(model: Model) -> None:
    batch = images(25, 33, batch=2)
    labels = predict_labels(model, batch, SEMSEG)
    assert labels.shape == (2, 25, 33)
    assert torch.equal(labels, predict_probabilities(model, batch, SEMSEG).argmax(1))


@pytest.mark.parametrize("size", [(40, 60), (5, 8)])
def test_the_network_sees_windows_of_one_size_only(model: Model, size: tuple[int, int]) -> None:
    sizes: list[tuple[int, ...]] = []
    hook = model.register_forward_pre_hook(lambda _, inputs: sizes.append(tuple(inputs[0].shape[-2:])))
    predict_probabilities(model, images(*size), SEMSEG.model_copy(update={"scales": (0.25, 1.0, 1.75)}))
    hook.remove()
    assert set(sizes) == {(33, 41)}


def test_an_odd_pixel_is_padded_at_the_bottom_and_right(model: Model) -> None:
    inputs: list[Tensor] = []
    hook = model.register_forward_pre_hook(lambda _, arguments: inputs.append(arguments[0].clone()))
    config = SEMSEG.model_copy(update={"base_size": 20, "flip": False})
    predict_probabilities(model, images(10, 20), config)
    hook.remove()
    expected = torch.tensor(model.mean).view(1, 3, 1, 1).repeat(1, 1, 33, 41)
    expected[..., 11:21, 10:30] = images(10, 20).float()
    torch.testing.assert_close(inputs[0], expected, atol=1e-4, rtol=0)


# ---- without a base size


@pytest.mark.parametrize("size", [(50, 70), (20, 70), (20, 30)])
@pytest.mark.parametrize("scales", [(1.0,), (0.5, 1.5)])
def test_without_a_base_size_scales_are_of_the_image_and_nothing_is_padded_to_a_window(
    model: Model, size: tuple[int, int], scales: tuple[float, ...]
) -> None:
    config = InferenceConfig(mode="sliding", window=(33, 41), flip=True, scales=scales)
    expected = torch.zeros(1, 5, *size)
    for scale in scales:
        view = resized(images(*size).float(), (round(size[0] * scale), round(size[1] * scale)))
        total, count = torch.zeros(1, 5, *view.shape[-2:]), torch.zeros(view.shape[-2:])
        for y in window_starts(view.shape[-2], 33, 1 / 3):
            for x in window_starts(view.shape[-1], 41, 1 / 3):
                part = (..., slice(y, y + 33), slice(x, x + 41))
                total[part] += predict_probabilities(model, view[part], InferenceConfig())
                total[part] += predict_probabilities(model, view[part].flip(-1), InferenceConfig()).flip(-1)
                count[part] += 2
        expected += resized(total / count, size) / len(scales)
    torch.testing.assert_close(predict_probabilities(model, images(*size), config), expected, atol=1e-5, rtol=1e-4)


# ---- sizes and positions


def test_the_longer_side_becomes_the_base_size() -> None:
    for size, scale, base, expected in (
        ((1024, 2048), 1.0, 2048, (1024, 2048)),
        ((512, 683), 1.0, 512, (384, 512)),  # 383.81
        ((683, 512), 0.5, 512, (256, 192)),
        ((375, 500), 1.25, 512, (480, 640)),
        ((1, 4000), 0.5, 512, (1, 256)),
        ((300, 400), 0.001, 512, (1, 1)),
    ):
        assert scaled_size(size, scale, base) == expected


@given(height=st.integers(1, 3000), width=st.integers(1, 3000), base=st.integers(1, 3000))
@settings(max_examples=200)
def test_the_longer_side_is_met_exactly(height: int, width: int, base: int) -> None:
    size = scaled_size((height, width), 1.0, base)
    assert max(size) == base
    short = min(height, width) * base / max(height, width)
    assert abs(min(size) - max(short, 1)) <= 0.5 + 1e-9


def test_the_protocol_says_its_base_size() -> None:
    assert SEMSEG.describe() == {
        "image": "longer side 70, windows of 33 x 41, 33% overlap",
        "scales": "1",
        "flipped too": "yes",
    }
    assert not SEMSEG.is_single


# ---- bands


@pytest.mark.parametrize("pixels", [1, 3 * 33 * 41, 2**30])
@pytest.mark.parametrize("size", [(12, 90), (70, 50), (150, 60)])
def test_labels_of_bands_are_those_of_whole_maps(
    model: Model, size: tuple[int, int], pixels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sliding, "WINDOW_PIXELS", pixels)
    config = InferenceConfig(mode="sliding", window=(33, 41), flip=True)
    batch = images(*size, batch=2)
    whole = predict_probabilities(model, batch, config).argmax(1)
    assert torch.equal(predict_labels(model, batch, config).long(), whole)


@pytest.mark.parametrize("blend", ["equal", "smooth"])
def test_patches_cover_the_image_once_and_are_no_larger_than_a_window(
    model: Model, blend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sliding, "WINDOW_PIXELS", 1)
    config = InferenceConfig.model_validate({"mode": "sliding", "window": (33, 41), "blend": blend})
    patches = list(sliding.patches_of(model, sliding.in_memory(images(150, 60)), config))
    covered = torch.zeros(150, 60)
    for rows, columns, maps in patches:
        covered[rows, columns] += 1
        assert maps.shape[2] <= 33 and maps.shape[3] <= 41
        assert torch.allclose(maps.sum(1), torch.ones(1), atol=1e-5)
    assert (covered == 1).all()
    assert [patch.rows.start for patch in patches] == sorted(patch.rows.start for patch in patches)
