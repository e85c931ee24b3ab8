"""The losses of the passes of an update."""

import pytest
import torch

from atrous.distributed import World
from atrous.training.passes import Losses, mean_terms, require_finite

CPU = torch.device("cpu")


def test_a_loss_that_is_not_finite_in_one_process_stops_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the first process, whose own loss is still finite, would save weights that are not."""
    finite = [Losses(1, ("a",), {"semantic": torch.tensor(1.0)}, 1.0)]
    broken = [*finite, Losses(2, ("b",), {"semantic": torch.tensor(float("inf"))}, 1.0)]
    world = World(0, 2, CPU)
    require_finite(finite, world)
    with pytest.raises(FloatingPointError, match=r"at step 2 \(semantic inf\) for b;"):
        require_finite(broken, world)
    monkeypatch.setattr("atrous.distributed.sum_over_processes", lambda count: count + 1)
    with pytest.raises(FloatingPointError, match="not finite in another process"):
        require_finite(finite, world)


def test_the_terms_of_all_passes_add_up_to_the_logged_loss() -> None:
    def row(step: int, value: float, factor: float) -> Losses:
        terms = {"semantic": torch.tensor(value), "auxiliary": torch.tensor(value / 2)}
        return Losses(step, ("a", "b"), terms, factor)

    rows = [row(1, 100.0, 0.5), row(2, 1.0, 0.5), row(2, 3.0, 0.5)]
    assert mean_terms(rows, World(0, 1, CPU)) == {"semantic": 2.0, "auxiliary": 1.0}
