"""Exported programs behind `torch.compile`: compared with the graph itself, in integers where there are some."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.fx import GraphModule

from atrous import artefact, segmenter
from atrous.calibration import calibrated
from atrous.errors import Mismatch
from atrous.inference import InferenceConfig
from atrous.layers import integer_kernels
from atrous.runtimes import pt2
from tests.conftest import noise, small_segmenter
from tests.layers.test_integer_kernels import IMAGES, rounding

FILE, SIZE = Path("m.pt2"), (33, 49)


def compiled(graph: GraphModule) -> pt2.Compute:
    return pt2._compiled(FILE, lambda names: graph, ("logits",))


def instead(compute: Callable[[GraphModule, Tensor], Sequence[Tensor]]) -> Callable[..., pt2.Compute]:
    """In place of `torch.compile`."""
    return lambda graph, **_: lambda images: compute(graph, images)


@pytest.mark.parametrize("error", [0.0, 0.01, 0.2, float("nan")])
def test_the_first_images_are_compared_with_the_graph_itself(error: float, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = rounding()
    (expected,) = graph(IMAGES)
    largest = expected.abs().max()
    monkeypatch.setattr(torch, "compile", instead(lambda graph, images: [graph(images)[0] + error * largest]))
    if error < pt2.CLOSE:
        assert torch.allclose(compiled(graph)(IMAGES)[0], expected + error * largest)
        return
    compute = compiled(graph)
    for _ in range(2):  # nor later
        with pytest.raises(Mismatch, match=r"^compile: what torch.compile makes of m.pt2 computes something else .*%"):
            compute(IMAGES)


def test_without_units_for_integers_it_is_floats(monkeypatch: pytest.MonkeyPatch) -> None:
    names: list[str] = []

    def note(graph: GraphModule, images: Tensor) -> Sequence[Tensor]:
        names.extend(str(node.target) for node in graph.graph.nodes)
        outputs: Sequence[Tensor] = graph(images)
        return outputs

    monkeypatch.setattr(torch, "compile", instead(note))
    for has_units in (False, True):
        monkeypatch.setattr(integer_kernels, "has_units", lambda has_units=has_units: has_units)
        compiled(rounding())(IMAGES)
        assert any("quantized_decomposed" in name for name in names) == has_units


@pytest.mark.slow
def test_a_file_of_one_size_is_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small, path, calls = small_segmenter(), tmp_path / "one.pt2", list[torch.Size]()

    def note(graph: GraphModule, images: Tensor) -> Sequence[Tensor]:
        calls.append(images.shape)
        outputs: Sequence[Tensor] = graph(images)
        return outputs

    monkeypatch.setattr(torch, "compile", instead(note))
    model = calibrated(small.model, lambda: [noise(*SIZE)], InferenceConfig())
    pt2.write(artefact.deployment_of(model, small.header, artefact.Export("pt2", SIZE, int8=True)), path)
    opened = segmenter.load(path).with_inference(InferenceConfig())
    expected = opened.predict(noise(*SIZE)).semantic
    assert not calls
    assert (opened.with_speed(compile=True).predict(noise(*SIZE)).semantic == expected).mean() > 0.99
    assert calls == [(1, *SIZE, 3)]


@pytest.mark.slow
@pytest.mark.skipif(
    not integer_kernels.has_units() or shutil.which("g++") is None,
    reason="the processor has no units for 8-bit integers, or there is no C++ compiler",
)
def test_the_compiler_makes_integer_convolutions_of_it() -> None:
    from torch._dynamo.utils import counters

    graph = rounding()
    (expected,) = graph(IMAGES)
    counters.clear()
    with torch.inference_mode():
        (output,) = compiled(graph)(IMAGES)
    assert counters["inductor"]["qconv_unary_lower_count"] == 2
    torch.testing.assert_close(output, expected, atol=1e-5, rtol=1e-5)
