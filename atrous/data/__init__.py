"""Labelled images on disk, by layout: a row of FORMATS is a file of this folder."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Union

from pydantic import Discriminator, Tag

from atrous.data import camvid, folder, synthetic, voc
from atrous.data.contract import DataConfig, Layout
from atrous.data.label_space import LabelSpace
from atrous.types import Sample

FORMATS: dict[str, Layout] = {
    "camvid": Layout(camvid.Config, camvid.samples, camvid.label_space),
    "folder": Layout(folder.Config, folder.samples, folder.label_space),
    "synthetic": Layout(synthetic.Config, synthetic.samples, synthetic.label_space),
    "voc": Layout(voc.Config, voc.samples, voc.label_space),
}


def _format(config: object) -> object:
    return config.get("format") if isinstance(config, dict) else getattr(config, "format", None)


if TYPE_CHECKING:
    AnyDataConfig = DataConfig
else:
    AnyDataConfig = Annotated[
        Union[tuple(Annotated[row.config, Tag(name)] for name, row in FORMATS.items())],  # noqa: UP007 - from the table
        Discriminator(_format),  # a function, as pydantic wants no "before" validator on a field that tells kinds apart
    ]


def samples(config: DataConfig, split: str) -> Sequence[Sample]:
    """One split, listed now and read when asked. Raises ValueError or FileNotFoundError, in one line, on bad input."""
    return FORMATS[config.format].samples(config, split)


def label_space(config: DataConfig) -> LabelSpace:
    """What the label maps of `samples` mean. Raises as it does."""
    return FORMATS[config.format].label_space(config)
