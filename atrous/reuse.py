"""`train.init=FILE train.reuse=...`: a training that begins with the weights of another model."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from torch import Tensor

from atrous import convert, segmenter
from atrous.models import Model

Reuse = Literal["all", "all_but_logits", "backbone"]
NORMALIZATION = ("shift", "scale")  # belong to the backbone's weights
LISTED = 3


class Reused(NamedTuple):
    """Names of weights, as in a model file."""

    source: str
    reused: list[str]
    fresh: list[str]  # of the model, left as they were drawn
    unused: list[str]  # of the source

    def describe(self) -> str:
        fresh = f"fresh: {_parts(self.fresh)}" if self.fresh else "nothing is fresh"
        unused = f"; not used of it: {_parts(self.unused)}" if self.unused else ""
        return f"begun with {len(self.reused)} weights of {self.source} ({_parts(self.reused)}); {fresh}{unused}"

    def to_tree(self) -> dict[str, Any]:
        return self._asdict()


def reuse(model: Model, source: str, what: Reuse) -> Reused:
    """Copy weights of a model file, or of whatever `atrous convert` reads, into `model`.

    Raises FileNotFoundError, or ValueError where a weight that is to be reused is missing or has another shape.
    """
    given = _weights(source)
    state = model.state_dict()
    wanted = [name for name in state if _is_wanted(name, what, model.logit_modules)]
    _require_fit(wanted, state, given, source, what)
    model.load_state_dict({**state, **{name: given[name] for name in wanted}})
    chosen = set(wanted)
    return Reused(source, wanted, [name for name in state if name not in chosen], sorted(given.keys() - chosen))


def _weights(source: str) -> dict[str, Tensor]:
    path = Path(source)
    loaded = segmenter.load(path) if path.suffix == ".safetensors" else convert.convert(source)
    return loaded.model.state_dict()


def _is_wanted(name: str, what: Reuse, logit_modules: Sequence[str]) -> bool:
    part = name.partition(".")[0]
    if what == "backbone":
        return part == "backbone" or name in NORMALIZATION
    return what == "all" or part not in logit_modules


def _require_fit(
    wanted: Sequence[str], state: dict[str, Tensor], given: dict[str, Tensor], source: str, what: Reuse
) -> None:
    missing = [name for name in wanted if name not in given]
    other = [name for name in wanted if name in given and given[name].shape != state[name].shape]
    if not missing and not other:
        return
    lines = [
        f"{len(names)} weights {how}: {', '.join(names[:LISTED])}"
        for how, names in (("are missing", missing), ("have another shape", other))
        if names
    ]
    raise ValueError(f"train.init={source}, train.reuse={what}: {'; '.join(lines)}{_advice(what, missing + other)}")


def _advice(what: Reuse, names: Sequence[str]) -> str:
    """The next mode that would leave out all that doesn't fit."""
    if what == "backbone" or any(name.startswith("backbone.") for name in names):
        return "; the backbones differ: model.backbone and its settings must be those of the file"
    return (
        "; train.reuse=all_but_logits or train.reuse=backbone takes less"
        if what == "all"
        else ("; train.reuse=backbone takes less")
    )


def _parts(names: Sequence[str]) -> str:
    """`backbone, aspp`: the parts of a model that the names are of."""
    return ", ".join(dict.fromkeys(name.partition(".")[0] for name in names)) or "none"
