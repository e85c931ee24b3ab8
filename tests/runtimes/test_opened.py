"""Networks of exported files, without a library: their own labels, both precisions, what is refused."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from atrous.deployed import Deployed
from atrous.errors import ConfigError, ModelFileError
from atrous.inference import InferenceConfig
from atrous.runtimes.contract import Labelled, Run
from atrous.runtimes.pytorch import has_bf16
from atrous.segmenter import Segmenter
from tests.conftest import noise

NAMES = ("labels", "logits")


def compute(module: Deployed, seen: list[str], images: NDArray[Any], names: Sequence[str]) -> list[NDArray[Any]]:
    """In place of a library: the graph itself, in PyTorch."""
    seen.append(images.dtype.name)
    with torch.inference_mode():
        outputs = dict(zip(module.names, module(torch.from_numpy(images)), strict=True))
    return [outputs[name].numpy() for name in names]


def exported(small: Segmenter, run: Run, lowered: Run | None = None) -> Segmenter:
    network = Labelled(Path("m.xml"), small.network.facts, NAMES, True, False, run, lowered)
    return replace(small.with_inference(InferenceConfig()), network=network, runtime="openvino").with_speed("fp32")


@pytest.mark.parametrize("size", [(49, 65), (50, 70), (33, 97), (5, 3)])
def test_labels_are_those_of_the_model_and_bytes_go_in(small: Segmenter, size: tuple[int, int]) -> None:
    seen: list[str] = []
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    opened = exported(small, partial(compute, Deployed(small.model).eval(), seen))
    expected = small.with_inference(InferenceConfig()).predict(image).semantic
    assert (opened.predict(image).semantic == expected).mean() > 0.999
    assert seen == ["uint8"]


def test_other_protocols_go_through_the_logits(small: Segmenter) -> None:
    seen: list[str] = []
    opened = exported(small, partial(compute, Deployed(small.model).eval(), seen))
    flipped = opened.with_inference(InferenceConfig(flip=True))
    expected = small.with_inference(InferenceConfig(flip=True)).predict(noise()).semantic
    assert (flipped.predict(noise()).semantic == expected).mean() > 0.999
    assert set(seen) == {"float32"}


def test_logits_that_are_not_finite_are_refused(small: Segmenter) -> None:
    def run(images: NDArray[Any], names: Sequence[str]) -> list[NDArray[Any]]:
        return [np.full((1, 3, 13, 17), np.nan, np.float32)]

    with pytest.raises(ModelFileError, match=r"^m.xml: the network's output is NaN or infinite"):
        exported(small, run).predict(noise())


@pytest.mark.skipif(not has_bf16(torch.device("cpu")), reason="the processor has no bfloat16")
def test_bf16_runs_what_was_lowered(small: Segmenter) -> None:
    runs: list[str] = []
    run = partial(compute, Deployed(small.model).eval())
    opened = exported(small, partial(run, []), partial(run, runs)).with_speed("bf16")
    opened.predict(noise())
    assert opened.precision == "bf16" and runs == ["uint8"]


def test_torch_compile_is_for_files_of_one_size(small: Segmenter) -> None:
    ways: list[str] = []
    run, faster = (partial(compute, Deployed(small.model).eval(), part) for part in (list[str](), ways))
    with pytest.raises(ConfigError, match=r"^compile: .*; got m.xml$"):
        exported(small, run).with_speed(compile=True)
    network = Labelled(Path("m.pt2"), small.network.facts, NAMES, True, False, run)
    opened = replace(exported(small, run), network=network, runtime="pt2")
    with pytest.raises(
        ConfigError, match=r"^compile: .*\.pt2 files of one size .*; got m.pt2, for images of any size$"
    ):
        opened.with_speed(compile=True)
    opened = replace(opened, network=network._replace(by_compiler=faster))
    opened.predict(noise())
    assert not ways
    compiled = opened.with_speed(compile=True)
    compiled.settled([noise()])[0].predict(noise())
    assert ways == ["uint8"]
    compiled.with_speed().predict(noise())
    assert ways == ["uint8"]
