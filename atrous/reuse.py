"""`train.init=FILE train.reuse=...`: initialises a training from the weights of another model."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from rich.console import Console
from torch import Tensor

from atrous import segmenter
from atrous.convert.readers.safetensors import is_foreign
from atrous.convert.recalibrate import misleads_training, recalibrate
from atrous.convert.run import conversion
from atrous.errors import ModelFileError, listing
from atrous.files import user_path
from atrous.layers.quantization import without_ranges
from atrous.models import Model
from atrous.run_folder import RunFolder
from atrous.segmenter import Segmenter
from atrous.types import Image

Part = Literal["all", "all_but_logits", "backbone", "matching"]
NORMALIZATION = ("shift", "scale")  # of the images: they belong to the backbone's weights
NUM_LISTED = 3


class Donor(NamedTuple):
    """Weights to take, and the settings that named them."""

    source: str  # the file, for people
    settings: str  # in messages
    weights: Mapping[str, Tensor]
    num_measured: int = 0  # training images on which its folded batch norms were measured


class Reused(NamedTuple):
    """Names of weights, as in a model file."""

    source: str  # "": all weights are random
    reused: list[str]
    fresh: list[str]  # of the model, still random
    unused: list[str]  # of the source
    num_measured: int = 0  # images on which batch norms of the source were measured

    def describe(self) -> str:
        if not self.source:
            return "begins with random weights"
        fresh = f"random: {_parts(self.fresh, self.reused)}" if self.fresh else "none is random"
        unused = f"; unused: {_parts(self.unused, self.reused)}" if self.unused else ""
        measured = f"; its folded batch norms were measured on {self.num_measured} training images"
        line = f"initialised from {self.source}: {len(self.reused)} weights ({_parts(self.reused)}); {fresh}{unused}"
        return f"{line}{measured if self.num_measured else ''}"

    def to_tree(self) -> dict[str, Any]:
        return self._asdict()


def reuse(
    model: Model,
    source: str,
    part: Part,
    images: Callable[[], Iterable[Image]] = tuple,
    *,
    setting: str = "train.init",
    console: Console | None = None,
) -> Reused:
    """Copy weights of a model file, or of anything that `atrous convert` reads, into `model`.

    Batch norms that are folded in the source are measured on `images` first: a training would normalise by other
    statistics than the weights expect. Raises FileNotFoundError, or ModelFileError if a weight that should be reused is
    missing, has another shape or isn't finite, and if there is something to measure, but no image.
    """
    settings = f"{setting}={source}" + (f", train.reuse={part}" if setting == "train.init" else "")
    segmenter_of_source = _opened(source, console)
    num_measured = _measured(segmenter_of_source, images, settings)
    weights = without_ranges(segmenter_of_source.model.state_dict())
    return copied(model, Donor(source, settings, weights, num_measured), part)


def copied(model: Model, donor: Donor, part: Part) -> Reused:
    """Copy weights into `model`, which stays as it is if they don't fit."""
    state, weights = model.state_dict(), donor.weights
    names = PARTS[part](state, weights, model.logit_modules)
    _require_fit(names, state, donor, part)
    _require_finite(names, donor)
    model.load_state_dict({**state, **{name: weights[name] for name in names}})
    reused = set(names)
    fresh = [name for name in state if name not in reused]
    return Reused(donor.source, names, fresh, sorted(weights.keys() - reused), donor.num_measured)


# ---- the source


def _opened(source: str, console: Console | None) -> Segmenter:
    path = user_path(source)
    is_ours = (path.suffix == ".safetensors" and not is_foreign(path)) or RunFolder(path).best.is_file()
    return segmenter.load(path) if is_ours else conversion(source, console=console).segmenter


def _measured(donor: Segmenter, images: Callable[[], Iterable[Image]], settings: str) -> int:
    """Give its folded batch norms statistics; the number of images."""
    if not misleads_training(donor.model):
        return 0
    views = list(images())
    if not views:
        advice = "convert it with --recalibrate IMAGES first"
        raise ModelFileError(f"{settings}: its batch norms are folded, which would mislead a training; {advice}")
    recalibrate(donor.model, donor.inference, views, lambda image: image)
    return len(views)


# ---- which weights

Weights = Mapping[str, Tensor]


def _all(state: Weights, weights: Weights, logit_modules: Sequence[str]) -> list[str]:
    return list(state)


def _all_but_logits(state: Weights, weights: Weights, logit_modules: Sequence[str]) -> list[str]:
    return [name for name in state if _module(name) not in logit_modules]


def _backbone(state: Weights, weights: Weights, logit_modules: Sequence[str]) -> list[str]:
    return [name for name in state if _module(name) == "backbone" or name in NORMALIZATION]


def _matching(state: Weights, weights: Weights, logit_modules: Sequence[str]) -> list[str]:
    """Those of the same name and shape; the normalisation of images only with weights of the backbone."""
    same = [name for name, tensor in state.items() if name in weights and weights[name].shape == tensor.shape]
    has_backbone = any(_module(name) == "backbone" for name in same)
    return [name for name in same if has_backbone or name not in NORMALIZATION]


PARTS: Mapping[Part, Callable[[Weights, Weights, Sequence[str]], list[str]]] = {
    "all": _all,
    "all_but_logits": _all_but_logits,
    "backbone": _backbone,
    "matching": _matching,
}


def _module(name: str) -> str:
    return name.partition(".")[0]


# ---- what doesn't fit


def _require_fit(names: Sequence[str], state: Weights, donor: Donor, part: Part) -> None:
    weights = donor.weights
    missing = [name for name in names if name not in weights]
    other = [name for name in names if name in weights and weights[name].shape != state[name].shape]
    if not names:
        raise ModelFileError(f"{donor.settings}: no weight has the name and shape of one of this model's")
    if not missing and not other:
        return
    lines = [
        f"{len(some)} weights {what}: {', '.join(some[:NUM_LISTED])}"
        for what, some in (("are missing", missing), ("have another shape", other))
        if some
    ]
    raise ModelFileError(f"{donor.settings}: {'; '.join(lines)}{_advice(part, missing + other)}")


def _require_finite(names: Sequence[str], donor: Donor) -> None:
    broken = [name for name in names if not donor.weights[name].isfinite().all()]
    if broken:
        what = f"{len(broken)} weight{'s'[: len(broken) - 1]} with NaN or infinity: {listing(broken, NUM_LISTED)}"
        raise ModelFileError(f"{donor.settings}: {what}; the training that they are from broke down: take others")


def _advice(part: Part, names: Sequence[str]) -> str:
    """The settings that would leave out everything that does not fit."""
    if part == "backbone" or any(name.startswith("backbone.") for name in names):
        return "; the backbones differ: set model.backbone to the file's, with its settings"
    smaller = "train.reuse=all_but_logits or train.reuse=backbone" if part == "all" else "train.reuse=backbone"
    return f"; {smaller} reuses less"


def _parts(names: Sequence[str], others: Sequence[str] = ()) -> str:
    """`backbone, aspp (3 of 20)`: the parts of a model that the names belong to, and of which `others` have some."""
    counts, rest = Counter(map(_module, names)), Counter(map(_module, others))
    texts = (f"{part} ({n} of {n + rest[part]})" if rest[part] else part for part, n in counts.items())
    return ", ".join(texts) or "none"
