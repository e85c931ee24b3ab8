"""The values that cross from one part of Atrous to another.

The letters of every shape comment: B batch, C classes, K channels, H W image pixels (height, width), h w pixels of the
network's own output grid. Coordinates are (y, x), sizes (height, width), images RGB in 0..255.
"""

from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, get_args, get_origin

import numpy as np
import yaml
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, model_validator
from torch import Tensor

Image: TypeAlias = NDArray[np.uint8]  # [H, W, 3]
LabelMap: TypeAlias = NDArray[np.integer[Any]]  # [H, W]


class Sample(NamedTuple):
    """One image with what is known of it, on the CPU, as read from disk or augmented."""

    name: str  # unique in its split; names the mask that is written for it
    image: Image  # [H, W, 3]
    semantic: NDArray[np.uint8] | None = None  # [H, W] train ids, or the label space's ignore value
    instance: NDArray[np.int32] | None = None  # [H, W] 0: no thing, 1..: things, numbered over all classes


class Batch(NamedTuple):
    names: tuple[str, ...]
    images: Tensor  # [B, 3, H, W] uint8
    semantic: Tensor  # [B, H, W] uint8
    instance: Tensor | None = None  # [B, H, W] int32


class Outputs(NamedTuple):
    """What every model returns, in training or not, at its own output grid."""

    semantic: Tensor  # [B, C, h, w] logits
    auxiliary: Tensor | None = None  # [B, C, h', w'] logits of a second head (PSPNet, PSANet)
    center: Tensor | None = None  # [B, 1, h, w]
    offset: Tensor | None = None  # [B, 2, h, w] (dy, dx), in pixels of the image
    pyramid: tuple[Tensor, ...] | None = None  # [B, C, h, w] each: what `semantic` was merged from
    cascade: tuple[Tensor, ...] | None = None  # of each coarser level [B, C, h', w'], coarsest first, what was refined
    presence: Tensor | None = None  # [B, C] logits of which classes the image has at all


class Settings(BaseModel):
    """A frozen section of the configuration: unknown keys are refused, text is read as the field's type."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _read_texts(cls, tree: Any) -> Any:  # noqa: ANN401
        if not isinstance(tree, dict):
            return tree
        fields = {name: field.annotation for name, field in cls.model_fields.items()}
        return {name: _read(value, fields[name]) if name in fields else value for name, value in tree.items()}


def _read(value: Any, annotation: Any) -> Any:  # noqa: ANN401
    value = _from_text(value, annotation) if isinstance(value, str) else value
    if isinstance(value, bool) and bool not in _members(annotation):
        return str(value).lower()  # pydantic would take `true` for 1
    return value


def _members(annotation: Any) -> set[Any]:  # noqa: ANN401
    """A type with all that its unions, tuples and literals are made of."""
    outer = get_origin(annotation) or (annotation if isinstance(annotation, type) else type(annotation))
    return {outer}.union(*(_members(part) for part in get_args(annotation)))


def _from_text(text: str, annotation: Any) -> Any:  # noqa: ANN401
    """`16` for a Literal[8, 16], `513,513` for a tuple; a field that may hold text keeps it as it is."""
    members = _members(annotation)
    is_bracketed = text.startswith(("[", "{"))
    if {tuple, dict} & members and (is_bracketed or "," in text):
        return _parse(text if is_bracketed else f"[{text}]", text)
    return text if {str, Path} & members else _parse(text, text)


class _Loader(yaml.SafeLoader):
    """YAML in which 010 is ten, not eight; what is no decimal number (0x10, 1:30) is no whole number."""

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        return int(self.construct_scalar(node))


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)


def _parse(text: str, original: str) -> Any:  # noqa: ANN401
    """What is no YAML stays the text that it was: pydantic says what would be right."""
    try:
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError):  # ValueError: 0x10, or a date such as 2024-99-99
        return original
