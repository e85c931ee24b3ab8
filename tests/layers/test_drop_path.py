import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from atrous.layers.drop_path import DropPath


def _of_ones(drop: float, progress: float, batch: int) -> torch.Tensor:
    torch.manual_seed(0)
    layer = DropPath(drop)
    layer.progress = progress
    y: torch.Tensor = layer(torch.ones(batch, 2, 3, 3))
    return y


def test_whole_images_are_dropped_and_the_rest_is_scaled_up() -> None:
    y = _of_ones(0.75, 1.0, 64)
    first = y[:, 0, 0, 0]
    assert torch.equal(y, first.view(-1, 1, 1, 1).expand_as(y))
    assert set(first.tolist()) == {0.0, 4.0}


@pytest.mark.parametrize(("drop", "progress"), [(0.2, 1.0), (0.4, 0.5), (0.8, 0.25)])
def test_the_share_grows_with_the_progress(drop: float, progress: float) -> None:
    y = _of_ones(drop, progress, 20_000)[:, 0, 0, 0]
    assert float((y == 0).float().mean()) == pytest.approx(0.2, abs=0.01)
    assert float(y.mean()) == pytest.approx(1, abs=0.02)


@settings(max_examples=20, deadline=None)
@given(drop=st.floats(0, 0.99), progress=st.floats(0, 1))
def test_the_rest_is_divided_by_the_probability_of_not_being_dropped(drop: float, progress: float) -> None:
    y = _of_ones(drop, progress, 50)
    rest = y[y > 0]
    torch.testing.assert_close(rest, torch.full_like(rest, 1 / (1 - drop * progress)))


def test_progress_is_1_by_default() -> None:
    assert DropPath(0.5).progress == 1.0


@pytest.mark.parametrize(("drop", "progress", "training"), [(0.9, 1.0, False), (0.0, 1.0, True), (0.9, 0.0, True)])
def test_nothing_is_dropped_in_evaluation_or_at_a_share_of_0(drop: float, progress: float, training: bool) -> None:
    layer = DropPath(drop).train(training)
    layer.progress = progress
    x = torch.rand(8, 2, 3, 3)
    assert layer(x) is x


def test_the_gradient_is_that_of_the_images_that_are_not_dropped() -> None:
    torch.manual_seed(0)
    x = torch.ones(32, 1, 1, 1, requires_grad=True)
    y = DropPath(0.5)(x)
    y.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, y)
    assert 0 < int((y == 0).sum()) < 32
