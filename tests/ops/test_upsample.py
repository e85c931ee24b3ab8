"""The tiled kernels against the plain ones, against TensorFlow, and against small cases by hand."""

import json
import math
import os
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck
from torch.nn import functional as F

from atrous.ops import (
    tiles,
    upsample,
    upsample_argmax,
    upsample_argmax_reference,
    upsample_cells,
    upsample_cross_entropy,
    upsample_cross_entropy_reference,
)
from tests.ops.upsample_cases import (
    WEIGHTS,
    LargestTensor,
    one_thread,
    random_labels,
    random_logits,
    random_pixel_weights,
    small_tiles,
    with_gradient,
)

GOLDENS = Path(__file__).parents[1] / "goldens" / "tf_deeplab"
CPU = torch.device("cpu")
EXAMPLES = 3 if os.environ.get("TRITON_INTERPRET") else 40  # Triton's interpreter takes a second for each

small = pytest.fixture(autouse=True, scope="module")(small_tiles)
alone = pytest.fixture(autouse=True)(one_thread)


@pytest.fixture(params=["tiled", "triton"])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> torch.device:
    """Where to compute, after choosing the implementation. `test_upsample_triton` runs the second without a GPU."""
    if request.param == "tiled":
        return torch.device("cpu")
    if torch.cuda.is_available():
        assert upsample.kernels_for(torch.device("cuda")) is not upsample.TILED
        return torch.device("cuda")
    if os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("Triton needs a GPU, or TRITON_INTERPRET=1 from the start")
    from atrous.ops import upsample_triton

    for name, value in {"PIXELS": 64, "SMALL_PIXELS": 8, "CLASSES": 8}.items():
        monkeypatch.setattr(upsample_triton, name, value)  # several programs in each direction
    kernels = upsample.Kernels(upsample_triton.losses, upsample_triton.argmax)
    monkeypatch.setattr(upsample, "kernels_for", lambda _: kernels)
    return torch.device("cpu")


def _on(device: torch.device, options: dict[str, Any]) -> dict[str, Any]:
    return {name: one.to(device) if isinstance(one, Tensor) else one for name, one in options.items()}


def _assert_like_reference(logits: Tensor, labels: Tensor, options: dict[str, Any], device: torch.device = CPU) -> None:
    logits, labels, options = logits.to(device), labels.to(device), _on(device, options)
    fast = with_gradient(upsample_cross_entropy, logits, labels, options)
    torch.testing.assert_close(fast, with_gradient(upsample_cross_entropy_reference, logits, labels, options))


OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "half-pixel corners": {"align_corners": False},
    "weights": {"class_weights": WEIGHTS},
    "a class ignored": {"ignore": 0},
    "nothing ignored": {"ignore": -1},
    "hard pixels": {"hard_pixels": 0.3},
    "hard pixels of nearly all": {"hard_pixels": 0.97},
    "hard pixels, weights": {"hard_pixels": 0.25, "class_weights": WEIGHTS, "align_corners": False},
    "hard pixels, normalizer": {"hard_pixels": 0.25, "normalizer": 7.0},
    "normalizer": {"normalizer": torch.tensor(1000), "class_weights": WEIGHTS},
    "label smoothing": {"label_smoothing": 0.1},
    "label smoothing, weights": {"label_smoothing": 0.3, "class_weights": WEIGHTS, "align_corners": False},
    "focal": {"focal": 2.0},
    "focal below 1": {"focal": 0.5, "align_corners": False},
    "focal, label smoothing": {"focal": 1.5, "label_smoothing": 0.2, "ignore": 0},
    "all at once": {"focal": 2, "label_smoothing": 0.1, "hard_pixels": 0.4, "class_weights": WEIGHTS, "normalizer": 9},
}

SIZES = {
    "up": (4, 5, 13, 11),
    "from one": (1, 1, 6, 7),
    "line": (1, 4, 1, 9),
    "same": (6, 7, 6, 7),
    "down": (9, 9, 4, 3),
    "by three": (3, 3, 9, 9),
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES.keys())
def test_loss_and_gradient_are_the_reference(
    options: dict[str, Any], sizes: tuple[int, int, int, int], device: torch.device
) -> None:
    _assert_like_reference(random_logits(2, 5, *sizes[:2]), random_labels(2, *sizes[2:]), options, device)


@pytest.mark.parametrize("hard_pixels", [1.0, 0.4])
@pytest.mark.parametrize("more", [{}, {"focal": 2.0, "label_smoothing": 0.1}])
def test_pixels_may_have_weights(hard_pixels: float, more: dict[str, Any], device: torch.device) -> None:
    pixel_weights = random_pixel_weights(2, 13, 11)
    options = {"pixel_weights": pixel_weights, "class_weights": WEIGHTS, "hard_pixels": hard_pixels, **more}
    _assert_like_reference(random_logits(2, 5, 4, 5), random_labels(2, 13, 11), options, device)


@pytest.mark.parametrize("classes", [1, 2, 150])
@pytest.mark.parametrize("options", [{}, {"focal": 2.0, "label_smoothing": 0.1}])
def test_any_number_of_classes_will_do(classes: int, options: dict[str, Any], device: torch.device) -> None:
    labels = random_labels(1, 5, 6, classes=classes)
    _assert_like_reference(random_logits(1, classes, 2, 3), labels, options, device)


def test_maps_need_not_be_contiguous(device: torch.device) -> None:
    logits = random_logits(3, 4, 2, 5).permute(2, 3, 0, 1)[:, :, :, ::2]  # [2, 5, 3, 2]
    labels = random_labels(2, 14, 9).transpose(1, 2)[:, :, ::2]
    options = {"pixel_weights": random_pixel_weights(2, 14, 9).transpose(1, 2)[:, :, ::2], "focal": 1.0}
    _assert_like_reference(logits, labels, options, device)
    classes = upsample_argmax(logits.to(device), (7, 8))
    assert classes.equal(upsample_argmax_reference(logits.to(device), (7, 8)))


def test_a_pixel_weight_multiplies_the_loss_but_not_the_count() -> None:
    loss = upsample_cross_entropy(
        torch.zeros(1, 2, 1, 1), torch.tensor([[[0, 1]]]), pixel_weights=torch.tensor([[[3.0, 0.0]]])
    )
    assert loss == pytest.approx(3 * math.log(2) / 2)


ANY = settings(
    max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)  # all examples share the implementation


@ANY
@given(data=st.data())
def test_loss_is_the_reference_for_any_size(data: st.DataObject, device: torch.device) -> None:
    batch, classes, h, w = (data.draw(st.integers(1, most)) for most in (3, 6, 7, 7))
    height, width = (data.draw(st.integers(1, 20)) for _ in "HW")
    options = {
        "align_corners": data.draw(st.booleans()),
        "hard_pixels": data.draw(st.sampled_from([1.0, 0.5])),
        "focal": data.draw(st.sampled_from([0.0, 0.7, 2.0])),
        "label_smoothing": data.draw(st.sampled_from([0.0, 0.1])),
    }
    seed = data.draw(st.integers(0, 99))
    labels = random_labels(batch, height, width, classes=classes, seed=seed).to(torch.uint8)
    _assert_like_reference(random_logits(batch, classes, h, w, seed=seed), labels, options, device)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"class_weights": WEIGHTS.double(), "hard_pixels": 0.4, "align_corners": False},
        {"focal": 1.5, "label_smoothing": 0.2},
    ],
)
def test_the_gradient_is_the_numerical_one(options: dict[str, Any]) -> None:
    loss = partial(upsample_cross_entropy, labels=random_labels(2, 7, 9), **options)
    assert gradcheck(loss, (random_logits(2, 5, 3, 4).requires_grad_(),))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("plain", {}),
        ("label_weights[.1,.5,1,2,3]", {"class_weights": WEIGHTS}),
        ("topk0.25_step0", {"hard_pixels": 0.25}),
        ("topk0.25_mining100_at50", {"hard_pixels": 0.625}),
        ("topk0.25_weights", {"hard_pixels": 0.25, "class_weights": WEIGHTS}),
        ("topk0.95_step0", {"hard_pixels": 0.95}),
    ],
)
@pytest.mark.parametrize("loss", [upsample_cross_entropy, upsample_cross_entropy_reference])
def test_the_loss_is_that_of_tensorflow(loss: Callable[..., Tensor], name: str, options: dict[str, Any]) -> None:
    logits, labels = _tensorflow_case()
    assert float(loss(logits, labels, **options)) == pytest.approx(_tensorflow_loss(name), rel=1e-5)


def test_the_loss_on_sub_sampled_labels_is_that_of_tensorflow() -> None:
    logits, labels = _tensorflow_case()
    loss = float(upsample_cross_entropy(logits, labels[:, ::4, ::4]))
    assert loss == pytest.approx(_tensorflow_loss("no_upsample"), rel=1e-5)


def _tensorflow_case() -> tuple[Tensor, Tensor]:
    with np.load(GOLDENS / "ops.npz") as arrays:
        return torch.from_numpy(arrays["loss_logits"]).permute(0, 3, 1, 2), torch.from_numpy(arrays["loss_labels"])[
            ..., 0
        ]


def _tensorflow_loss(name: str) -> float:
    return float(json.loads((GOLDENS / "ops.json").read_text())["loss"][name])


def test_uniform_logits_cost_the_logarithm_of_the_classes() -> None:
    labels = torch.tensor([[[0, 1, 2, 255]]])
    assert float(upsample_cross_entropy(torch.zeros(1, 3, 1, 2), labels)) == pytest.approx(math.log(3))


def test_weights_are_not_in_the_divisor() -> None:
    loss = upsample_cross_entropy(
        torch.zeros(1, 2, 1, 1), torch.tensor([[[0, 1]]]), class_weights=torch.tensor([0.0, 3.0])
    )
    assert float(loss) == pytest.approx(1.5 * math.log(2))


def test_hard_pixels_divides_by_the_losses_that_are_not_zero() -> None:
    labels = torch.tensor([[[0, 1, 255, 255]]])  # the three hardest of four pixels, one of them with a loss
    loss = upsample_cross_entropy(
        torch.zeros(1, 2, 1, 1), labels, class_weights=torch.tensor([0.0, 1.0]), hard_pixels=0.75
    )
    assert float(loss) == pytest.approx(math.log(2))


def test_without_a_pixel_that_counts_loss_and_gradient_are_zero(device: torch.device) -> None:
    logits, labels = random_logits(1, 3, 2, 2).to(device), torch.full((1, 5, 5), 255, device=device)
    options: tuple[dict[str, Any], ...] = (
        {},
        {"hard_pixels": 0.5},
        {"normalizer": 0.0},
        {"focal": 0.5, "label_smoothing": 0.1},
    )
    for option in options:
        value, gradient = with_gradient(upsample_cross_entropy, logits, labels, option)
        assert value == 0
        assert not gradient.any()


def test_a_label_that_is_not_a_class_is_ignored(device: torch.device) -> None:
    logits, labels = (
        random_logits(1, 3, 2, 2).to(device),
        torch.tensor([[[0, 1, 2], [7, -5, 2], [254, 255, 10**9]]], device=device),
    )
    ignored = labels.where((labels >= 0) & (labels < 3), 255)
    tiled = with_gradient(upsample_cross_entropy, logits, labels, {})
    torch.testing.assert_close(tiled, with_gradient(upsample_cross_entropy_reference, logits, ignored, {}))


def test_bytes_do_not_wrap_around_with_more_than_256_classes(device: torch.device) -> None:
    logits, labels = random_logits(1, 300, 2, 2).to(device), torch.tensor([[[0, 100], [254, 44]]], device=device)
    expected = upsample_cross_entropy_reference(logits, labels, ignore=300)
    torch.testing.assert_close(upsample_cross_entropy(logits, labels.to(torch.uint8), ignore=300), expected)


def test_a_normalizer_may_be_below_one() -> None:
    loss = upsample_cross_entropy(torch.zeros(1, 2, 1, 1), torch.tensor([[[0, 255]]]), normalizer=0.25)
    assert float(loss) == pytest.approx(4 * math.log(2))


def test_a_normalizer_lets_steps_add_up() -> None:
    logits, labels = random_logits(3, 5, 4, 4), random_labels(3, 9, 9)
    pixels = (labels != 255).sum()
    parts = [upsample_cross_entropy(logits[part], labels[part], normalizer=pixels) for part in (slice(1), slice(1, 3))]
    torch.testing.assert_close(parts[0] + parts[1], upsample_cross_entropy(logits, labels))


def test_half_precision_is_computed_in_full_precision(device: torch.device) -> None:
    for dtype in (torch.float16, torch.bfloat16):
        logits, labels = random_logits(1, 5, 3, 3).to(device).to(dtype), random_labels(1, 9, 9).to(device)
        value, gradient = with_gradient(upsample_cross_entropy, logits, labels, {})
        expected, slope = with_gradient(upsample_cross_entropy_reference, logits.float(), labels, {})
        torch.testing.assert_close(value, expected)
        torch.testing.assert_close(gradient, slope.to(dtype))


def test_autocast_changes_nothing(device: torch.device) -> None:
    logits, labels = random_logits(1, 5, 3, 3).to(device).float(), random_labels(1, 9, 9).to(device)
    with torch.autocast(device.type, torch.bfloat16):
        loss, classes = upsample_cross_entropy(logits, labels), upsample_argmax(logits, (9, 9))
    assert loss == upsample_cross_entropy(logits, labels)
    assert classes.equal(upsample_argmax(logits, (9, 9)))


def test_logits_far_apart_neither_overflow_nor_vanish(device: torch.device) -> None:
    logits = torch.tensor(
        [[[[1e4, 0.0]], [[0.0, 1e4]]]], device=device
    )  # the wrong class leads by 10 000, then trails by as much
    value, gradient = with_gradient(upsample_cross_entropy, logits, torch.tensor([[[1, 1, 1]]], device=device), {})
    assert float(value) == pytest.approx((1e4 + math.log(2)) / 3)
    assert gradient.isfinite().all()


def test_a_gradient_is_computed_only_if_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upsample, "fold_tile", None)
    logits, labels = random_logits(1, 5, 3, 3).requires_grad_(), random_labels(1, 9, 9)
    with torch.no_grad():
        assert not upsample_cross_entropy(logits, labels, hard_pixels=0.5).requires_grad
    assert not upsample_cross_entropy(logits.detach(), labels).requires_grad
    with pytest.raises(TypeError):
        upsample_cross_entropy(logits, labels)


def test_a_retained_graph_gives_the_same_gradient_twice() -> None:
    logits = random_logits(1, 5, 3, 3).requires_grad_()
    loss = upsample_cross_entropy(logits, random_labels(1, 9, 9))
    first, second = (torch.autograd.grad(loss, logits, retain_graph=True)[0] for _ in range(2))
    assert first.equal(second)


def test_the_large_map_is_never_in_memory() -> None:
    logits, labels = random_logits(2, 40, 8, 8).requires_grad_(), random_labels(2, 32, 32)
    with LargestTensor() as largest:  # type: ignore[no-untyped-call]
        upsample_cross_entropy(logits, labels, hard_pixels=0.5).backward()  # type: ignore[no-untyped-call]
        upsample_argmax(logits, (32, 32))
    assert largest.elements == logits.numel()
    with LargestTensor() as plain:  # type: ignore[no-untyped-call]
        upsample_cross_entropy_reference(logits, labels)
    assert plain.elements == 2 * 40 * 32 * 32


def test_threads_change_nothing() -> None:
    logits, labels = random_logits(2, 5, 4, 4), random_labels(2, 17, 19)
    alone = with_gradient(upsample_cross_entropy, logits, labels, {"hard_pixels": 0.5})
    torch.set_num_threads(2)
    shared = with_gradient(upsample_cross_entropy, logits, labels, {"hard_pixels": 0.5})
    assert torch.get_num_threads() == 2
    assert all(a.equal(b) for a, b in zip(alone, shared, strict=True))


def test_each_thread_computes_alone_and_others_are_unchanged() -> None:
    torch.set_num_threads(2)
    workers = tiles._workers(2, -1)
    assert list(workers.map(lambda _: torch.get_num_threads(), range(4))) == [1] * 4
    with ThreadPoolExecutor(1) as other:
        assert other.submit(torch.get_num_threads).result() == 2


def test_threads_work_in_inference_mode() -> None:
    torch.set_num_threads(2)
    with torch.inference_mode():
        logits = random_logits(1, 5, 4, 4) * 1
        assert upsample_argmax(logits, (9, 9)).equal(upsample_argmax_reference(logits, (9, 9)))
        loss = upsample_cross_entropy(logits, random_labels(1, 9, 9))
        torch.testing.assert_close(loss, upsample_cross_entropy_reference(logits, random_labels(1, 9, 9)))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_forked_process_has_threads_of_its_own() -> None:
    torch.set_num_threads(2)
    logits = random_logits(1, 5, 4, 4)
    expected = upsample_argmax(logits, (9, 9))
    child = os.fork()
    if child == 0:
        signal.alarm(20)  # end rather than wait for ever
        os._exit(0 if upsample_argmax(logits, (9, 9)).equal(expected) else 1)
    assert os.waitpid(child, 0)[1] == 0


@ANY
@given(data=st.data())
def test_argmax_is_the_reference_for_any_size(data: st.DataObject, device: torch.device) -> None:
    shape = [data.draw(st.integers(1, most)) for most in (3, 6, 7, 7)]
    size = (data.draw(st.integers(1, 20)), data.draw(st.integers(1, 20)))
    align_corners, logits = (
        data.draw(st.booleans()),
        random_logits(*shape, seed=data.draw(st.integers(0, 99))).to(device),
    )
    expected = upsample_argmax_reference(logits, size, align_corners=align_corners)
    assert upsample_argmax(logits, size, align_corners=align_corners).equal(expected)


def by_cells(logits: Tensor, size: tuple[int, int], *, align_corners: bool = True) -> Tensor:
    """However many borders there are."""
    classes = torch.full((len(logits), *size), 99, dtype=torch.uint8)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"MOST_BORDERS": 1, "BAND_BYTES": 300, "CHUNK_BYTES": 200}.items():
            patch.setattr(upsample_cells, name, value)
        assert upsample_cells.argmax(logits, classes, align_corners)
    return classes


@ANY
@given(data=st.data())
def test_argmax_by_cells_is_the_reference_for_any_size(data: st.DataObject) -> None:
    shape = [data.draw(st.integers(1, most)) for most in (3, 9, 7, 7)]
    size = (data.draw(st.integers(1, 20)), data.draw(st.integers(1, 20)))
    logits, align_corners = random_logits(*shape, seed=data.draw(st.integers(0, 99))), data.draw(st.booleans())
    logits = logits * data.draw(st.sampled_from([1.0, 0.01]))
    expected = upsample_argmax_reference(logits, size, align_corners=align_corners)
    assert by_cells(logits, size, align_corners=align_corners).equal(expected)


@ANY
@given(data=st.data())
def test_ties_by_cells_go_to_the_lowest_class(data: st.DataObject) -> None:
    """Whole numbers at strides of two to a power: nothing is rounded."""
    height, width, stride = (
        data.draw(st.integers(1, 6)),
        data.draw(st.integers(1, 6)),
        2 ** data.draw(st.integers(0, 3)),
    )
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    logits = torch.randint(0, 3, (1, 5, height, width), generator=generator).float()
    size = ((height - 1) * stride + 1, (width - 1) * stride + 1)
    assert by_cells(logits, size).equal(upsample_argmax_reference(logits, size))


def test_a_class_may_win_between_corners_where_others_do() -> None:
    logits = torch.tensor([[3.0, 0.0], [0.0, 3.0], [2.0, 2.0]])[None, :, None]  # the third is second at both
    assert by_cells(logits, (1, 5)).tolist() == [[[0, 0, 2, 1, 1]]]


def test_where_borders_are_everywhere_all_is_interpolated() -> None:
    logits, classes = random_logits(1, 5, 9, 9), torch.zeros(1, 17, 17, dtype=torch.uint8)
    assert not upsample_cells.argmax(logits, classes, True)
    assert not classes.any()
    assert upsample_argmax(logits, (17, 17)).equal(upsample_argmax_reference(logits, (17, 17)))


def test_smooth_maps_and_infinite_logits_are_predicted_by_cells() -> None:
    smooth = F.interpolate(random_logits(2, 30, 4, 5).float(), (33, 41), mode="bicubic")
    for logits in (smooth, smooth.to(torch.bfloat16), smooth.masked_fill(smooth < -4, -1e30)):
        classes = torch.zeros(2, 129, 161, dtype=torch.uint8)
        assert upsample_cells.argmax(logits.float(), classes, True)
        expected = upsample_argmax_reference(logits, (129, 161))
        assert (classes == expected).double().mean() > 0.9999  # of nearly equal logits either may win


@pytest.mark.parametrize("excluded", [0, 3, 6])
def test_a_class_that_is_infinitely_unlikely_leaves_the_others_as_they_are(excluded: int) -> None:
    logits = F.interpolate(random_logits(1, 7, 4, 5).float(), (33, 41), mode="bicubic")
    logits[:, excluded] = -torch.inf
    classes = torch.zeros(1, 129, 161, dtype=torch.uint8)
    assert upsample_cells.argmax(logits, classes, True)
    others = torch.cat([logits[:, :excluded], logits[:, excluded + 1 :]], 1)
    expected = upsample_argmax_reference(others, (129, 161))
    assert (classes == expected + (expected >= excluded)).double().mean() > 0.9999


def test_among_equal_logits_the_lowest_class_wins(device: torch.device) -> None:
    logits = torch.tensor([[1.0, 3.0, 2.0], [1.0, 2.0, 2.0], [0.0, 3.0, 1.0], [1.0, 0.0, 2.0]])  # [C, 3]
    logits = logits.to(device)
    assert upsample_argmax(logits[None, :, None], (1, 3)).tolist() == [[[0, 0, 0]]]
    assert upsample_argmax(logits.flip(0)[None, :, None], (1, 3)).tolist() == [[[0, 1, 0]]]


def test_the_type_of_classes_is_the_narrowest_possible(device: torch.device) -> None:
    for classes, dtype in ((256, torch.uint8), (257, torch.int32)):
        logits = torch.zeros(1, classes, 2, 2, device=device)
        logits[:, -1] = 1
        for function in (upsample_argmax, upsample_argmax_reference):
            winner = function(logits, (3, 3))
            assert winner.dtype == dtype
            assert (winner == classes - 1).all()


def test_label_smoothing_spreads_its_share_over_all_classes() -> None:
    """PyTorch's definition, where no class weighs more than another."""
    logits, labels = random_logits(1, 5, 4, 4), random_labels(1, 4, 4)
    expected = F.cross_entropy(logits, labels, ignore_index=255, label_smoothing=0.2)
    torch.testing.assert_close(upsample_cross_entropy(logits, labels, label_smoothing=0.2), expected)


def test_the_focal_factor_by_hand() -> None:
    """The label has a probability of 0.8: (1 - 0.8)^2 * -log 0.8."""
    logits = torch.tensor([0.8, 0.2]).log()[None, :, None, None]
    loss = upsample_cross_entropy(logits, torch.zeros(1, 1, 1, dtype=torch.long), focal=2)
    assert float(loss) == pytest.approx(0.04 * -math.log(0.8))


def test_a_pixel_without_doubt_has_a_focal_loss_and_gradient_of_zero(device: torch.device) -> None:
    logits, labels = torch.tensor([[[[200.0]], [[0.0]]]], device=device), torch.zeros(1, 2, 2, device=device).long()
    for focal in (0.5, 1.0, 2.0):
        value, gradient = with_gradient(upsample_cross_entropy, logits, labels, {"focal": focal})
        assert value == 0
        assert not gradient.any()


def test_arguments_that_do_not_fit_are_refused() -> None:
    shapes = r"must be \[B, C, h, w\] and \[B, H, W\], got "
    fitting = ((2, 3, 4, 4), (2, 8, 8))
    cases: list[tuple[tuple[tuple[int, ...], tuple[int, ...]], dict[str, Any], str]] = [
        (((2, 3, 4, 4), (1, 8, 8)), {}, shapes + r"\(2, 3, 4, 4\) and \(1, 8, 8\)"),
        (((2, 3, 4, 4), (2, 1, 8, 8)), {}, shapes),
        (fitting, {"class_weights": WEIGHTS}, r"class_weights must have one value for each of 3 classes, got \(5,\)"),
        (fitting, {"hard_pixels": 0.0}, r"hard_pixels must be a share above 0 and at most 1, got 0\.0"),
        (
            fitting,
            {"pixel_weights": torch.ones(2, 4, 4)},
            r"pixel_weights must have the shape of the labels, \(2, 8, 8\)",
        ),
        (fitting, {"label_smoothing": 1.0}, r"label_smoothing must be a share from 0 up to, but below, 1, got 1\.0"),
        (fitting, {"label_smoothing": -0.1}, r"label_smoothing must be a share .*, got -0\.1"),
        (fitting, {"focal": -1.0}, r"focal must be an exponent of 0 or more, got -1\.0"),
        (fitting, {"focal": math.inf}, r"focal must be an exponent of 0 or more, got inf"),
        (fitting, {"focal": math.nan}, r"focal must be an exponent of 0 or more, got nan"),
        (fitting, {"hard_pixels": 25}, r"hard_pixels must be a share above 0 and at most 1, got 25"),
    ]
    for (logits, labels), options, message in cases:
        for loss in (upsample_cross_entropy, upsample_cross_entropy_reference):
            with pytest.raises(ValueError, match=message):
                loss(torch.zeros(logits), torch.zeros(labels, dtype=torch.uint8), **options)
