"""The tiled kernels against the plain ones, against TensorFlow, and against small cases by hand."""

import json
import math
import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck
from torch.utils._python_dispatch import TorchDispatchMode

from atrous.ops import (
    upsample,
    upsample_argmax,
    upsample_argmax_reference,
    upsample_cross_entropy,
    upsample_cross_entropy_reference,
)

GOLDENS = Path(__file__).parents[1] / "goldens" / "tf_deeplab"
WEIGHTS = torch.tensor([0.1, 0.5, 1, 2, 3])


@pytest.fixture(autouse=True, scope="module")
def small_tiles() -> Iterator[None]:
    """Tiles of a few pixels, so that small maps have several in both directions."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(upsample, "CPU_TILE_BYTES", 800)
        patch.setattr(upsample, "TILE_COLUMNS", 5)
        yield


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class LargestTensor(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records the number of elements of the largest tensor that any operation returns."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self.elements = max(self.elements, result.numel())
        return result


def _logits(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 3


def _labels(*shape: int, classes: int = 5, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, shape, generator=generator)
    return labels.where(torch.rand(shape, generator=generator) > 0.2, 255)


def _with_gradient(
    loss: Callable[..., Tensor], logits: Tensor, labels: Tensor, options: dict[str, Any]
) -> list[Tensor]:
    leaf = logits.clone().requires_grad_()
    value = loss(leaf, labels, **options)
    return [value.detach(), *torch.autograd.grad(value * 3, leaf)]


def _assert_like_reference(logits: Tensor, labels: Tensor, options: dict[str, Any]) -> None:
    tiled = _with_gradient(upsample_cross_entropy, logits, labels, options)
    torch.testing.assert_close(tiled, _with_gradient(upsample_cross_entropy_reference, logits, labels, options))


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
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
@pytest.mark.parametrize(
    "sizes", [(4, 5, 13, 11), (1, 1, 6, 7), (1, 4, 1, 9), (6, 7, 6, 7), (9, 8, 4, 3), (3, 3, 9, 9)]
)
def test_loss_and_gradient_are_the_reference(options: dict[str, Any], sizes: tuple[int, int, int, int]) -> None:
    _assert_like_reference(_logits(2, 5, *sizes[:2]), _labels(2, *sizes[2:]), options)


@pytest.mark.parametrize("hard_pixels", [1.0, 0.4])
def test_pixels_may_have_weights(hard_pixels: float) -> None:
    pixel_weights = torch.randint(0, 4, (2, 13, 11), generator=torch.Generator().manual_seed(1))
    options = {"pixel_weights": pixel_weights, "class_weights": WEIGHTS, "hard_pixels": hard_pixels}
    _assert_like_reference(_logits(2, 5, 4, 5), _labels(2, 13, 11), options)


def test_a_pixel_weight_multiplies_the_loss_but_not_the_count() -> None:
    loss = upsample_cross_entropy(
        torch.zeros(1, 2, 1, 1), torch.tensor([[[0, 1]]]), pixel_weights=torch.tensor([[[3.0, 0.0]]])
    )
    assert loss == pytest.approx(3 * math.log(2) / 2)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_loss_is_the_reference_for_any_size(data: st.DataObject) -> None:
    batch, classes, h, w = (data.draw(st.integers(1, most)) for most in (3, 6, 7, 7))
    height, width = (data.draw(st.integers(1, 20)) for _ in "HW")
    options = {"align_corners": data.draw(st.booleans()), "hard_pixels": data.draw(st.sampled_from([1.0, 0.5]))}
    seed = data.draw(st.integers(0, 99))
    labels = _labels(batch, height, width, classes=classes, seed=seed).to(torch.uint8)
    _assert_like_reference(_logits(batch, classes, h, w, seed=seed), labels, options)


@pytest.mark.parametrize(
    "options", [{}, {"class_weights": WEIGHTS.double(), "hard_pixels": 0.4, "align_corners": False}]
)
def test_the_gradient_is_the_numerical_one(options: dict[str, Any]) -> None:
    loss = partial(upsample_cross_entropy, labels=_labels(2, 7, 9), **options)
    assert gradcheck(loss, (_logits(2, 5, 3, 4).requires_grad_(),))


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


def test_without_a_pixel_that_counts_loss_and_gradient_are_zero() -> None:
    logits, labels = _logits(1, 3, 2, 2), torch.full((1, 5, 5), 255)
    options: tuple[dict[str, Any], ...] = ({}, {"hard_pixels": 0.5}, {"normalizer": 0.0})
    for option in options:
        value, gradient = _with_gradient(upsample_cross_entropy, logits, labels, option)
        assert value == 0
        assert not gradient.any()


def test_a_label_that_is_not_a_class_is_ignored() -> None:
    logits, labels = _logits(1, 3, 2, 2), torch.tensor([[[0, 1, 2], [7, -5, 2], [254, 255, 10**9]]])
    ignored = labels.where((labels >= 0) & (labels < 3), 255)
    tiled = _with_gradient(upsample_cross_entropy, logits, labels, {})
    torch.testing.assert_close(tiled, _with_gradient(upsample_cross_entropy_reference, logits, ignored, {}))


def test_bytes_do_not_wrap_around_with_more_than_256_classes() -> None:
    logits, labels = _logits(1, 300, 2, 2), torch.tensor([[[0, 100], [254, 44]]])
    expected = upsample_cross_entropy_reference(logits, labels, ignore=300)
    torch.testing.assert_close(upsample_cross_entropy(logits, labels.to(torch.uint8), ignore=300), expected)


def test_a_normalizer_may_be_below_one() -> None:
    loss = upsample_cross_entropy(torch.zeros(1, 2, 1, 1), torch.tensor([[[0, 255]]]), normalizer=0.25)
    assert float(loss) == pytest.approx(4 * math.log(2))


def test_a_normalizer_lets_steps_add_up() -> None:
    logits, labels = _logits(3, 5, 4, 4), _labels(3, 9, 9)
    pixels = (labels != 255).sum()
    parts = [upsample_cross_entropy(logits[part], labels[part], normalizer=pixels) for part in (slice(1), slice(1, 3))]
    torch.testing.assert_close(parts[0] + parts[1], upsample_cross_entropy(logits, labels))


def test_half_precision_is_computed_in_full_precision() -> None:
    for dtype in (torch.float16, torch.bfloat16):
        logits, labels = _logits(1, 5, 3, 3).to(dtype), _labels(1, 9, 9)
        value, gradient = _with_gradient(upsample_cross_entropy, logits, labels, {})
        expected, slope = _with_gradient(upsample_cross_entropy_reference, logits.float(), labels, {})
        torch.testing.assert_close(value, expected)
        torch.testing.assert_close(gradient, slope.to(dtype))


def test_autocast_changes_nothing() -> None:
    logits, labels = _logits(1, 5, 3, 3).float(), _labels(1, 9, 9)
    with torch.autocast("cpu", torch.bfloat16):
        loss, classes = upsample_cross_entropy(logits, labels), upsample_argmax(logits, (9, 9))
    assert loss == upsample_cross_entropy(logits, labels)
    assert classes.equal(upsample_argmax(logits, (9, 9)))


def test_logits_far_apart_neither_overflow_nor_vanish() -> None:
    logits = torch.tensor([[[[1e4, 0.0]], [[0.0, 1e4]]]])  # the wrong class leads by 10 000, then trails by as much
    value, gradient = _with_gradient(upsample_cross_entropy, logits, torch.tensor([[[1, 1, 1]]]), {})
    assert float(value) == pytest.approx((1e4 + math.log(2)) / 3)
    assert gradient.isfinite().all()


def test_a_gradient_is_computed_only_if_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upsample, "_fold", None)
    logits, labels = _logits(1, 5, 3, 3).requires_grad_(), _labels(1, 9, 9)
    with torch.no_grad():
        assert not upsample_cross_entropy(logits, labels, hard_pixels=0.5).requires_grad
    assert not upsample_cross_entropy(logits.detach(), labels).requires_grad
    with pytest.raises(TypeError):
        upsample_cross_entropy(logits, labels)


def test_a_retained_graph_gives_the_same_gradient_twice() -> None:
    logits = _logits(1, 5, 3, 3).requires_grad_()
    loss = upsample_cross_entropy(logits, _labels(1, 9, 9))
    first, second = (torch.autograd.grad(loss, logits, retain_graph=True)[0] for _ in range(2))
    assert first.equal(second)


def test_the_large_map_is_never_in_memory() -> None:
    logits, labels = _logits(2, 40, 8, 8).requires_grad_(), _labels(2, 32, 32)
    with LargestTensor() as largest:  # type: ignore[no-untyped-call]
        upsample_cross_entropy(logits, labels, hard_pixels=0.5).backward()  # type: ignore[no-untyped-call]
        upsample_argmax(logits, (32, 32))
    assert largest.elements == logits.numel()
    with LargestTensor() as plain:  # type: ignore[no-untyped-call]
        upsample_cross_entropy_reference(logits, labels)
    assert plain.elements == 2 * 40 * 32 * 32


def test_threads_change_nothing() -> None:
    logits, labels = _logits(2, 5, 4, 4), _labels(2, 17, 19)
    alone = _with_gradient(upsample_cross_entropy, logits, labels, {"hard_pixels": 0.5})
    torch.set_num_threads(2)
    shared = _with_gradient(upsample_cross_entropy, logits, labels, {"hard_pixels": 0.5})
    assert torch.get_num_threads() == 2
    assert all(a.equal(b) for a, b in zip(alone, shared, strict=True))


def test_each_thread_computes_alone_and_others_are_unchanged() -> None:
    torch.set_num_threads(2)
    workers = upsample._workers(2, -1)
    assert list(workers.map(lambda _: torch.get_num_threads(), range(4))) == [1] * 4
    with ThreadPoolExecutor(1) as other:
        assert other.submit(torch.get_num_threads).result() == 2


def test_threads_work_in_inference_mode() -> None:
    torch.set_num_threads(2)
    with torch.inference_mode():
        logits = _logits(1, 5, 4, 4) * 1
        assert upsample_argmax(logits, (9, 9)).equal(upsample_argmax_reference(logits, (9, 9)))
        loss = upsample_cross_entropy(logits, _labels(1, 9, 9))
        torch.testing.assert_close(loss, upsample_cross_entropy_reference(logits, _labels(1, 9, 9)))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_forked_process_has_threads_of_its_own() -> None:
    torch.set_num_threads(2)
    logits = _logits(1, 5, 4, 4)
    expected = upsample_argmax(logits, (9, 9))
    child = os.fork()
    if child == 0:
        signal.alarm(20)  # end rather than wait for ever
        os._exit(0 if upsample_argmax(logits, (9, 9)).equal(expected) else 1)
    assert os.waitpid(child, 0)[1] == 0


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_argmax_is_the_reference_for_any_size(data: st.DataObject) -> None:
    shape = [data.draw(st.integers(1, most)) for most in (3, 6, 7, 7)]
    size = (data.draw(st.integers(1, 20)), data.draw(st.integers(1, 20)))
    align_corners, logits = data.draw(st.booleans()), _logits(*shape, seed=data.draw(st.integers(0, 99)))
    expected = upsample_argmax_reference(logits, size, align_corners=align_corners)
    assert upsample_argmax(logits, size, align_corners=align_corners).equal(expected)


def test_among_equal_logits_the_lowest_class_wins() -> None:
    logits = torch.tensor([[1.0, 3.0, 2.0], [1.0, 2.0, 2.0], [0.0, 3.0, 1.0], [1.0, 0.0, 2.0]])  # [C, 3]
    assert upsample_argmax(logits[None, :, None], (1, 3)).tolist() == [[[0, 0, 0]]]
    assert upsample_argmax(logits.flip(0)[None, :, None], (1, 3)).tolist() == [[[0, 1, 0]]]


def test_the_type_of_classes_is_the_narrowest_possible() -> None:
    for classes, dtype in ((256, torch.uint8), (257, torch.int32)):
        logits = torch.zeros(1, classes, 2, 2)
        logits[:, -1] = 1
        for function in (upsample_argmax, upsample_argmax_reference):
            winner = function(logits, (3, 3))
            assert winner.dtype == dtype
            assert (winner == classes - 1).all()


def test_arguments_that_do_not_fit_are_refused() -> None:
    shapes = r"must be \[B, C, h, w\] and \[B, H, W\], got "
    fitting = ((2, 3, 4, 4), (2, 8, 8))
    cases: list[tuple[tuple[tuple[int, ...], tuple[int, ...]], dict[str, Any], str]] = [
        (((2, 3, 4, 4), (1, 8, 8)), {}, shapes + r"\(2, 3, 4, 4\) and \(1, 8, 8\)"),
        (((2, 3, 4, 4), (2, 1, 8, 8)), {}, shapes),
        (fitting, {"class_weights": WEIGHTS}, r"class_weights must have one value for each of 3 classes, got \(5,\)"),
        (fitting, {"hard_pixels": 0.0}, r"hard_pixels must be a share above 0 and at most 1, got 0\.0"),
        (fitting, {"hard_pixels": 25}, r"hard_pixels must be a share above 0 and at most 1, got 25"),
    ]
    for (logits, labels), options, message in cases:
        for loss in (upsample_cross_entropy, upsample_cross_entropy_reference):
            with pytest.raises(ValueError, match=message):
                loss(torch.zeros(logits), torch.zeros(labels, dtype=torch.uint8), **options)
