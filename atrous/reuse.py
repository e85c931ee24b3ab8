"""`train.init=FILE train.reuse=...`: initialises a training from the weights of another model."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from torch import Tensor

from atrous import convert, segmenter
from atrous.errors import ModelFileError
from atrous.files import user_path
from atrous.models import Model
from atrous.run_folder import RunFolder

Part = Literal["all", "all_but_logits", "backbone"]
NORMALIZATION = ("shift", "scale")  # of the images: they belong to the backbone's weights
NUM_LISTED = 3


class Reused(NamedTuple):
    """Names of weights, as in a model file."""

    source: str
    reused: list[str]
    fresh: list[str]  # of the model, still random
    unused: list[str]  # of the source

    def describe(self) -> str:
        fresh = f"random: {_parts(self.fresh)}" if self.fresh else "none is random"
        unused = f"; unused: {_parts(self.unused)}" if self.unused else ""
        return f"initialised from {self.source}: {len(self.reused)} weights ({_parts(self.reused)}); {fresh}{unused}"

    def to_tree(self) -> dict[str, Any]:
        return self._asdict()


def reuse(model: Model, source: str, part: Part) -> Reused:
    """Copy weights of a model file, or of anything that `atrous convert` reads, into `model`.

    Raises FileNotFoundError, or ModelFileError if a weight that should be reused is missing or has another shape.
    """
    weights = _weights(source)
    state = model.state_dict()
    names = [name for name in state if _is_reused(name, part, model.logit_modules)]
    _require_fit(names, state, weights, source, part)
    model.load_state_dict({**state, **{name: weights[name] for name in names}})
    reused = set(names)
    return Reused(source, names, [name for name in state if name not in reused], sorted(weights.keys() - reused))


def _weights(source: str) -> Mapping[str, Tensor]:
    path = user_path(source)
    is_ours = path.suffix == ".safetensors" or RunFolder(path).best.is_file()
    donor = segmenter.load(path) if is_ours else convert.convert(source)
    return donor.model.state_dict()


def _is_reused(name: str, part: Part, logit_modules: Sequence[str]) -> bool:
    module = name.partition(".")[0]
    if part == "backbone":
        return module == "backbone" or name in NORMALIZATION
    return part == "all" or module not in logit_modules


def _require_fit(
    names: Sequence[str], state: Mapping[str, Tensor], weights: Mapping[str, Tensor], source: str, part: Part
) -> None:
    missing = [name for name in names if name not in weights]
    other = [name for name in names if name in weights and weights[name].shape != state[name].shape]
    if not missing and not other:
        return
    lines = [
        f"{len(some)} weights {what}: {', '.join(some[:NUM_LISTED])}"
        for what, some in (("are missing", missing), ("have another shape", other))
        if some
    ]
    raise ModelFileError(f"train.init={source}, train.reuse={part}: {'; '.join(lines)}{_advice(part, missing + other)}")


def _advice(part: Part, names: Sequence[str]) -> str:
    """The settings that would leave out everything that does not fit."""
    if part == "backbone" or any(name.startswith("backbone.") for name in names):
        return "; the backbones differ: set model.backbone to the file's, with its settings"
    smaller = "train.reuse=all_but_logits or train.reuse=backbone" if part == "all" else "train.reuse=backbone"
    return f"; {smaller} reuses less"


def _parts(names: Sequence[str]) -> str:
    """`backbone, aspp`: the parts of a model that the names belong to."""
    return ", ".join(dict.fromkeys(name.partition(".")[0] for name in names)) or "none"
