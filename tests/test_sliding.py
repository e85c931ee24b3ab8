"""semseg's testing protocol against a slow reference: one window, one mirror image, one pixel of the grid at a time."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from atrous import inference, models
from atrous.config import load
from atrous.inference import InferenceConfig, predict_labels, predict_probabilities, scaled_size, window_starts
from atrous.models.contract import Model

Floats = NDArray[np.float64]
TINY = [
    "model.depth_multiplier=0.1",
    "model.aspp_channels=8",
    "model.decoder_channels=8",
    "model.low_level_channels=4",
    "model.output_stride=8",
]
SEMSEG = InferenceConfig(mode="sliding", window=(33, 41), base_size=70, flip=True)


@pytest.fixture(scope="module")
def model() -> Model:
    """Five classes, each the likeliest somewhere."""
    torch.manual_seed(0)
    net = models.build(load("synthetic/deeplab_v3plus_tiny", TINY).model, 5).eval()
    torch.nn.init.normal_(net.get_parameter("classify.weight"))
    with torch.no_grad():
        logits = net(images(49, 65)).semantic
        deviation, mean = torch.std_mean(logits, (0, 2, 3))
        net.get_parameter("classify.weight").div_(deviation.view(5, 1, 1, 1))
        net.get_parameter("classify.bias").copy_(-mean / deviation)
    return net


def images(height: int, width: int, batch: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(height * width)
    coarse = torch.randint(0, 256, (batch, 3, height // 8 + 2, width // 8 + 2), generator=generator).float()
    return torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear").to(torch.uint8)


# ---- the slow, obvious way


def mixing(old: int, new: int, *, aligned: bool) -> Floats:  # [new, old]
    """What of each old pixel is in each new one: linear between the two nearest."""
    matrix = np.zeros((new, old))
    for index in range(new):
        place = index * (old - 1) / max(new - 1, 1) if aligned else (index + 0.5) * old / new - 0.5
        place = min(max(place, 0.0), old - 1.0)
        low = min(int(place), old - 1)
        matrix[index, low] += 1 - (place - low)
        matrix[index, min(low + 1, old - 1)] += place - low
    return matrix


def bilinear(x: Floats, size: tuple[int, int], *, aligned: bool = False) -> Floats:  # [K, h, w] -> [K, *size]
    rows, columns = (mixing(old, new, aligned=aligned) for old, new in zip(x.shape[1:], size, strict=True))
    return np.asarray(rows @ x @ columns.T)


def softmax(logits: Floats) -> Floats:
    likely = np.exp(logits - logits.max(0))
    return np.asarray(likely / likely.sum(0))


def of_window(model: Model, window: Floats) -> Floats:
    with torch.no_grad():
        logits = model(torch.from_numpy(window.copy()).float()[None]).semantic[0].double().numpy()
    height, width = window.shape[1:]
    return softmax(bilinear(logits, (height, width), aligned=True))


def of_window_and_mirror(model: Model, window: Floats) -> Floats:
    return np.asarray((of_window(model, window) + of_window(model, window[..., ::-1])[..., ::-1]) / 2)


def at_scale(model: Model, image: Floats, crop: tuple[int, int], longest: int) -> Floats:
    """[3, H, W] -> [C, H, W]: resized, padded, in windows, averaged by visits, cut, and resized back."""
    height, width = image.shape[1:]
    new_height = longest if height >= width else round(longest / width * height)
    new_width = longest if width >= height else round(longest / height * width)
    small = bilinear(image, (new_height, new_width))
    top, left = max(crop[0] - new_height, 0) // 2, max(crop[1] - new_width, 0) // 2
    padded = np.tile(np.array(model.mean)[:, None, None], (1, max(crop[0], new_height), max(crop[1], new_width)))
    padded[:, top : top + new_height, left : left + new_width] = small
    total, visits = np.zeros((model.num_classes, *padded.shape[1:])), np.zeros(padded.shape[1:])
    strides = [math.ceil(side * 2 / 3) for side in crop]
    for row in range(math.ceil((padded.shape[1] - crop[0]) / strides[0]) + 1):
        for column in range(math.ceil((padded.shape[2] - crop[1]) / strides[1]) + 1):
            bottom = min(row * strides[0] + crop[0], padded.shape[1])
            right = min(column * strides[1] + crop[1], padded.shape[2])
            part = (slice(None), slice(bottom - crop[0], bottom), slice(right - crop[1], right))
            total[part] += of_window_and_mirror(model, padded[part])
            visits[part[1:]] += 1
    found = (total / visits)[:, top : top + new_height, left : left + new_width]
    return bilinear(found, (height, width))


def reference(model: Model, image: Tensor, config: InferenceConfig) -> Tensor:
    assert config.base_size is not None
    pixels = image[0].double().numpy()
    views = [at_scale(model, pixels, config.window, round(scale * config.base_size)) for scale in config.scales]
    return torch.from_numpy(np.mean(views, 0))[None].float()


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
def test_probabilities_are_the_slow_references(model: Model, size: tuple[int, int], scales: tuple[float, ...]) -> None:
    config = SEMSEG.model_copy(update={"scales": scales})
    found = predict_probabilities(model, images(*size), config)
    torch.testing.assert_close(found, reference(model, images(*size), config), atol=2e-5, rtol=1e-4)


def test_the_reference_can_tell_the_protocols_apart(model: Model) -> None:
    """Each part of the protocol moves probabilities by a hundred times the tolerance above, or more."""
    batch = images(12, 90)
    expected = reference(model, batch, SEMSEG)
    for change in ({"flip": False}, {"base_size": 72}, {"overlap": 0.5}, {"window": (41, 41)}, {"base_size": None}):
        found = predict_probabilities(model, batch, SEMSEG.model_copy(update=change))
        assert float((found - expected).abs().max()) > 2e-3, change


@pytest.mark.parametrize("pixels", [1, 33 * 41, 3 * 33 * 41, 2**30])
def test_however_many_windows_go_at_once_the_result_is_the_same(
    model: Model, pixels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = images(60, 80, batch=2)
    passes: list[int] = []
    hook = model.register_forward_pre_hook(lambda _, inputs: passes.append(len(inputs[0])))
    expected = torch.cat([predict_probabilities(model, one[None], SEMSEG) for one in batch])
    passes.clear()
    monkeypatch.setattr(inference, "WINDOW_PIXELS", pixels)
    found = predict_probabilities(model, batch, SEMSEG)
    hook.remove()
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    windows = 2 * 2 * 2 * 3  # images, mirrored or not, rows, columns
    at_once = {1: 2, 33 * 41: 2, 3 * 33 * 41: 2, 2**30: windows}[pixels]
    assert sum(passes) == windows
    assert max(passes) == at_once


def test_labels_are_the_likeliest_classes_at_the_images_size(model: Model) -> None:
    batch = images(25, 33, batch=2)
    labels = predict_labels(model, batch, SEMSEG)
    assert labels.shape == (2, 25, 33)
    assert torch.equal(labels, predict_probabilities(model, batch, SEMSEG).argmax(1))


@pytest.mark.parametrize("size", [(40, 60), (5, 8)])
def test_the_network_sees_windows_of_one_size_only(model: Model, size: tuple[int, int]) -> None:
    seen: list[tuple[int, ...]] = []
    hook = model.register_forward_pre_hook(lambda _, inputs: seen.append(tuple(inputs[0].shape[-2:])))
    predict_probabilities(model, images(*size), SEMSEG.model_copy(update={"scales": (0.25, 1.0, 1.75)}))
    hook.remove()
    assert set(seen) == {(33, 41)}


def test_an_odd_pixel_is_padded_at_the_bottom_and_right(model: Model) -> None:
    seen: list[Tensor] = []
    hook = model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))
    config = SEMSEG.model_copy(update={"base_size": 20, "flip": False})
    predict_probabilities(model, images(10, 20), config)
    hook.remove()
    expected = torch.tensor(model.mean).view(1, 3, 1, 1).repeat(1, 1, 33, 41)
    expected[..., 11:21, 10:30] = images(10, 20).float()
    torch.testing.assert_close(seen[0], expected, atol=1e-4, rtol=0)


# ---- without a base size


@pytest.mark.parametrize("size", [(50, 70), (20, 70), (20, 30)])
@pytest.mark.parametrize("scales", [(1.0,), (0.5, 1.5)])
def test_without_a_base_size_scales_are_of_the_image_and_nothing_is_padded_to_a_window(
    model: Model, size: tuple[int, int], scales: tuple[float, ...]
) -> None:
    config = InferenceConfig(mode="sliding", window=(33, 41), flip=True, scales=scales)
    expected = torch.zeros(1, 5, *size)
    for scale in scales:
        view = inference._resize(images(*size).float(), (round(size[0] * scale), round(size[1] * scale)))
        total, count = torch.zeros(1, 5, *view.shape[-2:]), torch.zeros(view.shape[-2:])
        for y in window_starts(view.shape[-2], 33, 1 / 3):
            for x in window_starts(view.shape[-1], 41, 1 / 3):
                part = (..., slice(y, y + 33), slice(x, x + 41))
                total[part] += predict_probabilities(model, view[part], InferenceConfig())
                total[part] += predict_probabilities(model, view[part].flip(-1), InferenceConfig()).flip(-1)
                count[part] += 2
        expected += inference._resize(total / count, size) / len(scales)
    torch.testing.assert_close(predict_probabilities(model, images(*size), config), expected, atol=1e-5, rtol=1e-4)


# ---- sizes and places


@pytest.mark.parametrize(
    ("size", "scale", "expected"),
    [
        ((1024, 2048), 1.0, (1024, 2048)),
        ((512, 683), 1.0, (384, 512)),  # 383.81
        ((683, 512), 0.5, (256, 192)),
        ((375, 500), 1.25, (480, 640)),
        ((1, 4000), 0.5, (1, 256)),
        ((300, 400), 0.001, (1, 1)),
    ],
)
def test_the_longer_side_becomes_the_base_size(size: tuple[int, int], scale: float, expected: tuple[int, int]) -> None:
    assert scaled_size(size, scale, 2048 if max(size) == 2048 else 512) == expected


@given(height=st.integers(1, 3000), width=st.integers(1, 3000), base=st.integers(1, 3000))
@settings(max_examples=200, deadline=None)
def test_the_longer_side_is_met_exactly(height: int, width: int, base: int) -> None:
    found = scaled_size((height, width), 1.0, base)
    assert max(found) == base
    short = min(height, width) * base / max(height, width)
    assert abs(min(found) - max(short, 1)) <= 0.5 + 1e-9


@given(window=st.integers(1, 1500))
@settings(max_examples=300, deadline=None)
def test_a_third_of_overlap_is_a_stride_of_two_thirds(window: int) -> None:
    """In whole numbers: 465 * (1 - 1 / 3) is a little more than 310."""
    starts = window_starts(10 * window, window, InferenceConfig().overlap)
    assert starts[1] == -(-2 * window // 3)
    assert len(starts) == math.ceil(9 * window / starts[1]) + 1


@pytest.mark.parametrize(
    ("length", "window", "expected"),
    [
        (2048, 713, [0, 476, 952, 1335]),
        (1024, 713, [0, 311]),
        (512, 473, [0, 39]),
        (473, 473, [0]),
        (512, 465, [0, 47]),
    ],
)
def test_windows_of_the_published_protocols(length: int, window: int, expected: list[int]) -> None:
    assert window_starts(length, window, 1 / 3) == expected


def test_the_protocol_says_its_base_size() -> None:
    assert SEMSEG.describe() == {
        "image": "longer side 70, windows of 33 x 41, 33% overlap",
        "scales": "1",
        "mirrored too": "yes",
    }
    assert not SEMSEG.is_single
