"""A runtime opens a model file as a `Network`."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import torch

from atrous.models import ModelConfig
from atrous.types import Network

Arithmetic = Literal["fp32", "bf16"]
Precision = Literal["auto", "fp32", "bf16"]  # auto: bf16 where it is faster and its labels agree with those of fp32
PRECISIONS: tuple[str, ...] = get_args(Precision)


class Speed(NamedTuple):
    """How a network that isn't being trained is prepared for its device."""

    precision: Precision = "auto"
    compile: bool = False  # by `torch.compile`


class Runtime(NamedTuple):
    """A row of RUNTIMES. Both functions raise ModelFileError, with the path, for a file that is damaged or foreign."""

    suffix: str  # of the files that it opens
    read_metadata: Callable[[Path], Mapping[str, str]]  # what `model_file.Header` is stored as
    open: Callable[[Path, ModelConfig, int, torch.device], Network]  # the header's model and number of classes
