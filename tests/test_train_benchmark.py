"""The benchmark of the training step: its own step is a training's, and its ratios are of one round."""

import pytest

from benchmarks import train as benchmark
from benchmarks.train import Case, Figures

CASE = Case("mobilenet_v2", 3, "bf16", 2, 1, "cpu", is_compiled=False)


def test_a_step_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    small = benchmark.NETWORKS["mobilenet_v2"]._replace(size=33)
    monkeypatch.setitem(benchmark.NETWORKS, "mobilenet_v2", small)
    figures = benchmark.measure(CASE, "atrous")
    assert 0 < figures.seconds < 600
    assert figures.core_seconds > 0
    assert figures.mebibytes > 100


def test_a_row_has_medians_and_the_median_of_the_ratios() -> None:
    """Ratios 0.5, 2 and 0.5, although the medians are equal."""
    ours = [Figures(1, 1, 100), Figures(4, 4, 400), Figures(2, 2, 200)]
    theirs = [Figures(2, 2, 200), Figures(2, 2, 200), Figures(4, 4, 400)]
    cells = benchmark.row(CASE, ours, theirs).strip("| ").split(" | ")
    assert cells[:4] == ["DeepLab v3+ MobileNetV2", "3", "bf16", "smp"]
    assert cells[4:] == ["2.00", "2.00", "**0.50**"] * 2 + ["200", "200", "**0.50**"]
    assert len(cells) == benchmark.HEAD.splitlines()[0].count(" | ") + 1
