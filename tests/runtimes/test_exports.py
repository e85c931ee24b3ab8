"""What holds for every runtime that writes files: the same labels as the model, with the header in the file."""

from pathlib import Path

import numpy as np
import pytest

import atrous
from atrous import artefact
from atrous.artefact import Export
from atrous.inference import InferenceConfig
from atrous.runtimes import RUNTIMES
from atrous.segmenter import Segmenter
from tests.conftest import noise, small_segmenter

TARGETS = [name for name, row in RUNTIMES.items() if row.write is not None]
PROTOCOLS = {
    "whole": InferenceConfig(),
    "flipped": InferenceConfig(flip=True),
    "scales": InferenceConfig(scales=(0.5, 1.5), flip=True),
    "sliding": InferenceConfig(mode="sliding", window=(33, 33)),
    "canvas": InferenceConfig(mode="canvas", window=(65, 65)),
}


@pytest.fixture(scope="module")
def small() -> Segmenter:
    return small_segmenter()


@pytest.fixture(scope="module", params=TARGETS)
def exported(request: pytest.FixtureRequest, small: Segmenter, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp(request.param) / f"model{RUNTIMES[request.param].suffix}"
    artefact.write(small.model, small.header, path, Export(request.param, probabilities=True))
    return path


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_an_exported_file_predicts_what_the_model_does(exported: Path, small: Segmenter, protocol: str) -> None:
    ours, theirs = (one.with_inference(PROTOCOLS[protocol]) for one in (small, atrous.load(exported)))
    image = noise(61, 90)  # 65 x 97 on the grid, and 33 x 49 at half the size
    assert np.array_equal(ours.predict(image).semantic, theirs.predict(image).semantic)
    probabilities = [one.predict(image, probabilities=True).probabilities for one in (ours, theirs)]
    assert np.allclose(*probabilities, atol=1e-5)


def test_the_header_is_in_the_file(exported: Path, small: Segmenter) -> None:
    header = atrous.load(exported).header
    assert header == small.header
