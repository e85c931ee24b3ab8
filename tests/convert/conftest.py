"""What the tests of several systems share: images, weights without memory, comparisons, errors in one line."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from atrous import cli
from atrous.convert import convert
from atrous.convert.arrays import Shapes
from atrous.convert.conversion import deduced_config
from atrous.convert.options import read_options
from atrous.convert.system import Evidence, System
from atrous.models import Model, ModelConfig, build


def random_image(height: int, width: int, batch: int = 1) -> Tensor:  # [B, 3, H, W] uint8
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (batch, 3, height, width), dtype=torch.uint8, generator=generator)


def empty_arrays(shapes: Shapes) -> dict[str, NDArray[np.float32]]:
    """Zeros that take no memory."""
    return {name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes.items()}


def config_of(system: System[Any], shapes: Shapes, **options: object) -> ModelConfig:
    """The model that has these weights, without making it."""
    return deduced_config(system, Evidence(shapes, read_options(system, options, "weights"), "weights"))


def meta_model(config: ModelConfig, num_classes: int | None = None) -> Model:
    """A model whose weights have shapes but no values."""
    count = num_classes or config.num_classes
    assert count is not None
    with torch.device("meta"):
        return build(config, count)


def assert_close(actual: Tensor, expected: Tensor | None, tolerance: float = 1e-4) -> None:
    """Within `tolerance` of the largest expected value."""
    assert expected is not None
    assert actual.shape == expected.shape
    assert float((actual - expected).abs().max()) <= tolerance * float(expected.abs().max())


def assert_refused(
    arrays: Mapping[str, Any], reason: str, options: Mapping[str, Any] | None = None, system: str | None = None
) -> None:
    """`convert` says why it refuses, in one line."""
    with pytest.raises((ValueError, FileNotFoundError), match=reason) as error:
        convert(arrays, system=system, options=options)
    assert "\n" not in str(error.value)


# ---- the command line


def run(*arguments: str | Path) -> int:
    return cli.run(["convert", *map(str, arguments)])


def error_line(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """The single line that a wrong call of `convert` prints."""
    assert run(*arguments) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("atrous: ")
    assert printed.count("\n") == 1, printed
    return printed
