"""Every model, exported to LiteRT at one size, computes what PyTorch does."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from atrous import artefact, segmenter
from atrous.artefact import Export
from atrous.calibration import calibrated
from atrous.data.label_space import LabelSpace, numbered_names
from atrous.inference import InferenceConfig
from atrous.models import Model
from tests.conftest import noise
from tests.models.conftest import VARIANTS, small

FAST = ("deeplab_v3", "panoptic_deeplab")
SIZE = (50, 66)  # off the grid: it is padded


def model_of(variant: str) -> Model:
    """With batch norms and attentions that do something."""
    name, settings = VARIANTS[variant]
    model, generator = small(name, 5, **settings).eval(), torch.Generator().manual_seed(3)
    for key, parameter in model.named_parameters():
        if key.endswith((".gamma", ".output.weight")):
            nn.init.normal_(parameter, generator=generator)
    for key, buffer in model.named_buffers():
        if key.endswith("running_var"):
            buffer.uniform_(0.5, 2, generator=generator)
    return model


@pytest.mark.parametrize(
    "variant", [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in VARIANTS]
)
def test_a_model_computes_the_same_in_litert(variant: str, tmp_path: Path) -> None:
    pytest.importorskip("ai_edge_litert", reason="LiteRT is not installed: pip install '.[litert]'")
    model = model_of(variant)
    header = segmenter.of_model(model, LabelSpace(names=numbered_names(5))).header
    comparisons = artefact.write(model, header, tmp_path / "m.tflite", Export("litert", SIZE))
    assert len(comparisons) == 2
    assert max(one.difference for one in comparisons) < 1e-4
    assert np.mean([one.equal for one in comparisons]) > 0.999


@pytest.mark.slow
@pytest.mark.parametrize("name", ["deeplab_v3plus", "panoptic_deeplab", "image_classifier"])
def test_a_model_of_integers_computes_what_its_graph_does(name: str, tmp_path: Path) -> None:
    """With joined branches, shortcuts, several heads, and no map at all."""
    pytest.importorskip("ai_edge_litert", reason="LiteRT is not installed: pip install '.[litert]'")
    model = model_of(name)
    header = segmenter.of_model(model, LabelSpace(names=numbered_names(5))).header
    rounded = calibrated(model, lambda: iter([noise(60, 70), noise(50, 66)]), InferenceConfig(), results=True)
    more = {f"pixels {row} rows down": np.roll(noise(*SIZE), row, axis=0) for row in range(10, 50, 10)}
    # In some images a value lies at the edge between two levels.
    comparisons = artefact.write(rounded, header, tmp_path / "m.tflite", Export("litert", SIZE, int8=True), more)
    assert min(one.difference for one in comparisons) < 1e-6
    assert (tmp_path / "m.tflite").stat().st_size < 0.55 * sum(4 * one.numel() for one in model.parameters())
