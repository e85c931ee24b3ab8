"""A family is one file and one line: settings, checks, schema and models follow from the table."""

import shutil
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "atrous"
FAMILY = """
from typing import Literal

from pydantic import PositiveInt
from torch import Tensor, nn

from atrous.backbones.contract import Backbone, BackboneConfig, strides_at


class Throwaway(Backbone):
    mean, std = (127.5, 127.5, 127.5), (127.5, 127.5, 127.5)

    class Config(BackboneConfig):
        name: Literal["throwaway"]
        width: PositiveInt = 4

    def __init__(self, config: Config, output_stride: int) -> None:
        super().__init__(config, output_stride)
        self.channels = {f"c{stage}": config.width for stage in (1, 2, 3, 4, 5)}
        self.strides = strides_at(output_stride, self.channels)
        self.conv = nn.Conv2d(3, config.width, 1)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {name: self.conv(images)[..., ::stride, ::stride] for name, stride in self.strides.items()}
"""
USE = """
import json
import torch
from atrous.config import load, schema
from atrous.errors import ConfigError
from atrous.models import build

RECIPE = ["synthetic/deeplab_v3plus_tiny", ["model.name=fcn", "model.backbone=throwaway", "model.backbone.width=8"]]
config = load(*RECIPE)
assert build(config.model, 5)(torch.zeros(2, 3, 33, 33)).semantic.shape[:2] == (2, 5)
assert "throwaway" in json.dumps(schema())
try:
    load(RECIPE[0], [*RECIPE[1], "model.backbone.widht=8"])
except ConfigError as error:
    assert "did you mean model.backbone.width?" in str(error)
else:
    raise AssertionError("a wrong setting was accepted")
"""


def test_one_file_and_one_line_are_enough(tmp_path: Path) -> None:
    shutil.copytree(PACKAGE, tmp_path / "atrous", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "atrous" / "backbones" / "throwaway.py").write_text(FAMILY)
    table = tmp_path / "atrous" / "backbones" / "__init__.py"
    text = table.read_text()
    line = '    "vgg": VGG,\n'
    assert line in text
    text = text.replace(line, f'{line}    "throwaway": Throwaway,\n')
    table.write_text(text.replace("FAMILIES:", "from atrous.backbones.throwaway import Throwaway\n\nFAMILIES:", 1))
    done = subprocess.run(
        [sys.executable, "-c", USE], cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)}, text=True, capture_output=True
    )
    assert done.returncode == 0, done.stderr
