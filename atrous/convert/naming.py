"""What programs in PyTorch call our weights: tables of rules from our modules to theirs, and models filled by them."""

import re
from collections.abc import Iterator, Mapping

from atrous.convert.contract import Array
from atrous.convert.filling import Shape, Shapes, as_float32, assign, listed, require_all, require_no_model_left
from atrous.models import Model

Rules = tuple[tuple[str, str], ...]  # (pattern of a module's whole path, its name there)

COUNTER = "num_batches_tracked"
CLASSIFIER = "fc.weight"  # ImageNet's, which is a matrix there and a 1x1 convolution here


def stages(prefix: str = "") -> Rules:
    """Of a ResNet, in the names of torchvision's."""
    return tuple(
        (rf"backbone\.c{stage + 1}\.(\d+)\.{ours}", rf"{prefix}layer{stage}.\1.{theirs}")
        for stage in range(1, 5)
        for ours, theirs in (
            (r"conv(\d)\.conv", r"conv\2"),
            (r"conv(\d)\.norm", r"bn\2"),
            (r"shortcut\.conv", "downsample.0"),
            (r"shortcut\.norm", "downsample.1"),
        )
    )


def names(model: Model, rules: Rules) -> dict[str, str]:
    """Their key for each entry of the state dict that is learnt or counted (not `shift`, `scale`)."""
    return dict(_named(model, rules))


def _named(model: Model, rules: Rules) -> Iterator[tuple[str, str]]:
    for key in model.state_dict():
        path, _, leaf = key.rpartition(".")
        if path and leaf != COUNTER:
            yield key, f"{_name(path, rules)}.{leaf}"


def _name(path: str, rules: Rules) -> str:
    found = next((re.sub(pattern, name, path) for pattern, name in rules if re.fullmatch(pattern, path)), None)
    assert found is not None, f"no rule names {path}"
    return found


def their_shapes(model: Model, rules: Rules) -> dict[str, Shape]:
    """Each weight that the model is made of, by their key."""
    state = model.state_dict()
    shapes = {name: tuple(state[key].shape) for key, name in names(model, rules).items()}
    return {name: shape[:2] if name == CLASSIFIER else shape for name, shape in shapes.items()}


def fill(model: Model, rules: Rules, arrays: Mapping[str, Array], label: str) -> list[str]:
    """Give the model its weights; returns those of no use, all of them counters of batches.

    Raises ValueError with the names of what is missing, of another shape, not finite, or has no place in the model.
    """
    ours, state, wanted = names(model, rules), model.state_dict(), their_shapes(model, rules)
    require_all(wanted, {name: array.shape for name, array in arrays.items()}, label)
    ignored = sorted(arrays.keys() - wanted.keys())
    require_no_model_left([name for name in ignored if name.rpartition(".")[2] != COUNTER], label)
    assign(model, {key: as_float32(arrays[name]).view(state[key].shape) for key, name in ours.items()}, ours, label)
    return ignored


def require_shape(shapes: Shapes, name: str, program: str, label: str) -> Shape:
    """The shape of a weight that the network can't be told without."""
    shape = shapes.get(name)
    if not shape:
        raise ValueError(f"{label}: no network of {program}: it has no {name}, but {listed(list(shapes))}")
    return shape


def count_modules(shapes: Shapes, prefix: str) -> int:
    """How many modules are numbered behind `prefix`."""
    return len({name[len(prefix) :].partition(".")[0] for name in shapes if name.startswith(prefix)})


def require_agreement(given: Mapping[str, object], found: Mapping[str, object], label: str) -> None:
    """Raises ValueError where an option says otherwise than the weights; None says nothing."""
    for name, value in found.items():
        if given[name] not in (None, value):
            raise ValueError(f"{label}: {name}={given[name]}, but its weights are those of {name}={value}")
