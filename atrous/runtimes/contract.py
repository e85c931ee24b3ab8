"""A runtime opens a model file as a `Network`."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch

from atrous.models import ModelConfig
from atrous.types import Network


class Runtime(NamedTuple):
    """A row of RUNTIMES. Both functions raise ModelFileError, with the path, for a file that is damaged or foreign."""

    suffix: str  # of the files that it opens
    read_metadata: Callable[[Path], Mapping[str, str]]  # what `model_file.Header` is stored as
    open: Callable[[Path, ModelConfig, int, torch.device], Network]  # the header's model and number of classes
