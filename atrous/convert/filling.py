"""What every system does alike: options read, a model made without random weights and filled, or one line: why not."""

from collections.abc import Collection, Mapping
from typing import Any, TypeVar

import numpy as np
import torch
from pydantic import BaseModel, ValidationError
from torch import Tensor

from atrous import models
from atrous.config import nearest
from atrous.convert.contract import Array
from atrous.data import ade20k, cityscapes, voc
from atrous.data.label_space import LabelSpace, numbered_names
from atrous.models import Model, ModelConfig, format_1

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]  # of variables, as the original orders their axes
M = TypeVar("M", bound=BaseModel)

LISTED = 5  # names in a message
PUBLISHED = {  # by the number of classes
    21: ("PASCAL VOC 2012", voc.VOC),
    19: ("Cityscapes", cityscapes.CITYSCAPES),
    150: ("ADE20K", ade20k.ADE20K),
}


def require_known(options: Mapping[str, Any], known: Collection[str], label: str) -> None:
    for name in options:
        if name not in known:
            raise ValueError(f"{label}: {name} is no flag that a model depends on{nearest(str(name), list(known))}")


def validated(kind: type[M], settings: Mapping[str, Any], label: str) -> M:
    """Raises ValueError in one line: the first field that is wrong."""
    try:
        if issubclass(kind, ModelConfig):
            settings = format_1.upgraded({"name": kind.model_fields["name"].default, **settings})
        return kind.model_validate(dict(settings))
    except ValidationError as error:
        first = error.errors()[0]
        reason = first.get("ctx", {}).get("error", first["msg"])
        name = ".".join(str(part) for part in first["loc"])
        what = f"{name}={first['input']!r}: " if name else ""
        raise ValueError(f"{label}: {what}{reason}") from None


def blank_model(config: ModelConfig) -> Model:
    """The model with all weights yet to be given; what is not a weight of the original's is there."""
    assert config.num_classes is not None
    with torch.device("meta"):
        model = models.build(config, config.num_classes)
    model.shift, model.scale = (
        torch.tensor(color).view(3, 1, 1) for color in (model.backbone.mean, model.backbone.std)
    )
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.num_batches_tracked = torch.tensor(0)
    return model


def published_classes(
    num_classes: int, known: Mapping[int, tuple[str, LabelSpace]] = PUBLISHED
) -> tuple[LabelSpace, list[str]]:
    """The data set with so many classes, with a note that it is taken for granted; numbers where there is none."""
    if num_classes not in known:
        return LabelSpace(names=numbered_names(num_classes)), []
    name, space = known[num_classes]
    return space, [f"the {num_classes} classes are those of {name}"]


def as_float32(array: Array) -> Tensor:
    """With memory of its own."""
    with np.errstate(over="ignore"):  # infinity then tells it
        return torch.from_numpy(np.array(array, dtype=np.float32, order="C"))


def assign(model: Model, state: Mapping[str, Tensor], names: Mapping[str, str], label: str) -> None:
    """Make these tensors the model's weights; `names` are what the original calls them. Raises ValueError for NaN."""
    broken = [names[key] for key, tensor in state.items() if not tensor.isfinite().all()]
    if broken:
        raise ValueError(f"{label}: {len(broken)} variables hold what is no finite float32: {listed(broken)}")
    kept = {key: value for key, value in model.state_dict().items() if key not in state}
    model.load_state_dict(dict(state) | kept, assign=True)


def require_all(wanted: Shapes, found: Shapes, label: str) -> None:
    missing = sorted(wanted.keys() - found.keys())
    if missing:
        raise ValueError(f"{label}: {len(missing)} variables of the model are missing: {listed(missing)}")
    require_shapes(wanted, found, label)


def require_shapes(wanted: Shapes, found: Shapes, label: str) -> None:
    """Raises ValueError with the names of those that are there in another shape."""
    other = [
        f"{name} is {list(found[name])}, not {list(shape)}"
        for name, shape in wanted.items()
        if found.get(name, shape) != shape
    ]
    if other:
        raise ValueError(f"{label}: {len(other)} variables have another shape than the model's: {listed(other)}")


def require_no_model_left(names: list[str], label: str) -> None:
    if names:
        raise ValueError(
            f"{label}: {len(names)} variables have no place in the model that was recognised, or that the options "
            f"describe: {listed(names)}"
        )


def listed(lines: list[str]) -> str:
    more = f" and {len(lines) - LISTED} more" if len(lines) > LISTED else ""
    return ", ".join(lines[:LISTED]) + more
