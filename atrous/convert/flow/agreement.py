"""Where a graph and a model differ, layer by layer."""

from collections.abc import Callable, Iterator, Mapping
from typing import Literal, NamedTuple

import numpy as np

from atrous.convert.flow.operations import MAXIMUM, MEAN_OF_OTHERS, REVERSED, SOFTMAX
from atrous.convert.flow.outputs import refused_behind
from atrous.convert.flow.values import (
    Flow,
    Layer,
    Resize,
    Value,
    described,
    joined,
    once,
    outputs_of,
    scope_of,
    times,
    value,
)
from atrous.layers.resize import scale_dimension
from atrous.types import Size

EPSILON_DIFFERS = 0.01  # as a part of it: TensorFlow raises 1e-5 to 1.001e-5
NOT_KNOWN = "a size that it computes"


class Passes(NamedTuple):
    """How a network sees an image several times: at several scales, or flipped."""

    number: int = 1
    joined: Literal["max of logits", "mean of logits", "mean of probabilities"] = "mean of probabilities"
    is_flipped: bool = False
    scales: tuple[float, ...] = (1.0,)


ONCE = Passes()


class Expectation(NamedTuple):
    """What a model computes, under the names that its weights have in the graph."""

    flow: Flow
    logits: Value
    convention: str  # by which the logits are resized to the image's size
    epsilons: Mapping[str, float]  # of batch norms, by the name of their variance
    scaled: tuple[Flow, ...] = ()  # the same, of the image at other scales
    num_classes: int | None = None


def disagreements(graph: Flow, model: Expectation, passes: Passes = ONCE) -> list[str]:
    """One text for each difference: what of which layer the graph has, and what the model has."""
    return [
        *_layers(graph, model),
        *_epsilons(graph, model),
        *_outputs(graph, model),
        *_resizes(graph, model),
        *_joins(graph, model.logits, passes),
        *_behind(graph, model, passes),
    ]


# ---- layers


def _layers(graph: Flow, model: Expectation) -> Iterator[str]:
    for name, (expected, *_) in model.flow.layers.items():
        runs = graph.layers.get(name)
        if runs is None:
            yield f"{scope_of(name)} is in no convolution of the graph"
        others = [flow.layers[name][0] for flow in model.scaled]
        for layer in runs or ():
            is_only = runs is not None and len(runs) == 1
            texts = [list(_differences(scope_of(name), layer, one, is_only=is_only)) for one in (expected, *others)]
            yield from texts[0] if all(texts) else ()


FACTS: tuple[tuple[str, Callable[[Layer], object]], ...] = (
    ("kernel {}", lambda layer: times(layer.kernel)),
    ("stride {}", lambda layer: once(layer.stride)),
    ("rate {}", lambda layer: once(layer.rate)),
    ("the input {}", lambda layer: layer.input.key),
)


def _differences(scope: str, layer: Layer, expected: Layer, *, is_only: bool) -> Iterator[str]:
    """The first of them, for one causes others. Of several runs, some are of smaller images."""
    for what, fact in FACTS:
        if fact(layer) != fact(expected):
            has, needs = (_told(what, fact(one), one) for one in (layer, expected))
            yield f"{scope} has {has}, the model {needs}"
            return
    sizes = (layer.input.size, expected.input.size)
    if sizes[0] == sizes[1] or sizes[0] is None:
        if layer.pads and not _pads_alike(layer, expected):
            yield f"{scope} has {_padding(layer)}, the model {_padding(expected)}"
    elif is_only and sizes[1]:
        yield f"{scope} has an input of {times(sizes[0])}, the model of {times(sizes[1])}"


def _told(what: str, fact: object, layer: Layer) -> str:
    return what.format(described(layer.input) if fact == layer.input.key else fact)


def _pads_alike(layer: Layer, expected: Layer) -> bool:
    """Zeros after the last window don't matter."""
    same_size = layer._replace(input=expected.input)
    return _first_zeros(layer) == _first_zeros(expected) and outputs_of(same_size) == outputs_of(expected)


def _first_zeros(layer: Layer) -> list[int]:
    return [before for before, _ in layer.pads or ()]


def _padding(layer: Layer) -> str:
    """`padding (0, 1) x (0, 1)`: before and after the height, and the width."""
    return "padding " + " x ".join(map(str, layer.pads or ()))


# ---- batch norms, logits


def _epsilons(graph: Flow, model: Expectation) -> Iterator[str]:
    for name, epsilon in graph.epsilons.items():
        expected = model.epsilons.get(name, epsilon)
        if not np.isclose(epsilon, expected, rtol=EPSILON_DIFFERS, atol=0):
            yield f"{name.rpartition('/')[0]} has epsilon {epsilon:.4g}, the model {expected:.4g}"


def _outputs(graph: Flow, model: Expectation) -> Iterator[str]:
    if model.logits.key not in graph.keys:
        yield f"the logits of the model are {described(model.logits)}, which the graph doesn't compute"


def num_passes(graph: Flow) -> int:
    return max((len(runs) for runs in graph.layers.values()), default=1)


def sizes_of_images(graph: Flow) -> list[Size | None]:
    """As the first layer takes them, one for each pass."""
    runs = ([layer.input for layer in layers] for layers in graph.layers.values())
    return next(([x.size for x in inputs] for inputs in runs if inputs[0].kind == "image"), [])


def _joins(graph: Flow, logits: Value, passes: Passes) -> Iterator[str]:
    """Whoever has a graph of one pass may still ask for more."""
    if num_passes(graph) > 1 and _joined(logits, passes).key not in graph.keys:
        flipped = ", of flipped images, too" if passes.is_flipped else ""
        yield f"its {num_passes(graph)} passes are not joined by the {passes.joined}{flipped}, as the options have it"
    sizes, height, width = set(sizes_of_images(graph)), *graph.size
    expected = {(scale_dimension(height, one), scale_dimension(width, one)) for one in passes.scales}
    if num_passes(graph) > 1 and None not in sizes and sizes != expected:
        seen, asked = (", ".join(sorted(times(one) for one in several if one)) for several in (sizes, expected))
        yield f"its passes see images of {seen}, those of the options {asked}"


def _joined(logits: Value, passes: Passes) -> Value:
    views = [logits, value(REVERSED, logits)] if passes.is_flipped else [logits]
    maps = views * (passes.number // len(views))
    if passes.joined == "mean of probabilities":
        maps = [value(SOFTMAX, one) for one in maps]
    return value(MAXIMUM if passes.joined == "max of logits" else MEAN_OF_OTHERS, joined(*maps))


def _behind(graph: Flow, model: Expectation, passes: Passes) -> Iterator[str]:
    """Of several passes, what follows where they are joined."""
    last = _joined(model.logits, passes) if num_passes(graph) > 1 else model.logits
    return refused_behind(graph.runs, last.key, model.num_classes)


# ---- resizing


def changes(resize: Resize) -> bool:
    """Whether the convention matters: not where a map keeps its size, or is one pixel."""
    return resize.input.size is None or resize.input.size not in ((1, 1), resize.size)


def _resizes(graph: Flow, model: Expectation) -> Iterator[str]:
    last = Resize("", model.logits, model.convention, graph.size)
    expected: dict[str, list[Resize]] = {}
    for one in (*model.flow.resizes, *(one for flow in model.scaled for one in flow.resizes), last):
        if changes(one):
            expected.setdefault(one.input.key, []).append(one)
    actual = [one for one in graph.resizes if one.input.kind == "feature" and changes(one)]
    for resize in actual:
        if resize.input.key in model.flow.keys:
            yield from _resize_differences(resize, expected.get(resize.input.key, []))
    yield from _not_resized({one.input.key for one in actual}, expected, model.logits)


def _not_resized(resized: set[str], expected: Mapping[str, list[Resize]], logits: Value) -> Iterator[str]:
    """Whoever takes a graph's logits may resize them."""
    for key, (one, *_) in expected.items():
        if key not in resized and key != logits.key:
            yield f"{described(one.input)} is not resized in the graph, but to {_target(one)} in the model"


def _resize_differences(resize: Resize, expected: list[Resize]) -> Iterator[str]:
    what = f"{resize.name} resizes {described(resize.input)} to {_target(resize)}"
    sizes = {one.size for one in expected if resize.input.size == one.input.size}
    if not expected:
        if None not in (resize.size, resize.input.size):
            yield f"{what}, the model doesn't"
    elif resize.convention != expected[0].convention:
        yield f"{what} by {resize.convention}, the model by {expected[0].convention}"
    elif sizes and resize.size is not None and resize.size not in sizes:
        yield f"{what}, the model to {_target(expected[0])}"


def _target(resize: Resize) -> str:
    return times(resize.size) if resize.size else NOT_KNOWN
