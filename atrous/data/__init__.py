"""Datasets by their layout: a row of FORMATS is a file, or a folder, next to this one."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Union

from pydantic import Field

from atrous.data import ade20k, camvid, cityscapes, folder, synthetic, voc
from atrous.data import list as list_files
from atrous.data.contract import DataConfig, Layout
from atrous.data.label_space import LabelSpace
from atrous.types import Sample

FORMATS: dict[str, Layout] = {
    "ade20k": Layout(ade20k.Config, ade20k.samples, ade20k.label_space),
    "camvid": Layout(camvid.Config, camvid.samples, camvid.label_space),
    "cityscapes": Layout(cityscapes.Config, cityscapes.samples, cityscapes.label_space),
    "folder": Layout(folder.Config, folder.samples, folder.label_space),
    "list": Layout(list_files.Config, list_files.samples, list_files.label_space),
    "synthetic": Layout(synthetic.Config, synthetic.samples, synthetic.label_space),
    "voc": Layout(voc.Config, voc.samples, voc.label_space),
}


if TYPE_CHECKING:
    AnyDataConfig = DataConfig
else:
    AnyDataConfig = Annotated[
        Union[tuple(layout.config for layout in FORMATS.values())],  # noqa: UP007 - built from the table
        Field(discriminator="format"),
    ]


def samples(config: DataConfig, split: str) -> Sequence[Sample]:
    """One split: its files are listed now, and read when a sample is requested.

    Raises ConfigError, DataError or OSError in one line; so does reading a sample.
    """
    return FORMATS[config.format].samples(config, split)


def label_space(config: DataConfig) -> LabelSpace:
    """What the label maps of `samples` mean. Raises the same errors."""
    return FORMATS[config.format].label_space(config)
