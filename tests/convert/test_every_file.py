"""Every published and made file beside its original: LiteRT, TensorFlow's labels, a float run of 8-bit graphs."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from atrous.convert.comparison import compare, ties, total
from atrous.convert.originals import open_original
from atrous.convert.readers.tflite import read_tflite
from atrous.convert.run import conversion
from atrous.errors import ConversionError
from atrous.inference.frames import as_batch, on_canvas
from atrous.inference.look import predict_labels
from atrous.layers.resize import image_size
from atrous.segmenter import Segmenter, read_image
from tests.conftest import SHARED
from tests.reference import tflite

MODELS = SHARED / "models"
PHOTOS = sorted((SHARED / "photos").glob("*.*"))
FLOATS = (
    "deeplabv3_257_mv_gpu",
    *(f"more/{name}" for name in ("made_batch4", "made_float16", "made_float_argmax", "portrait_float_grappler")),
)
BYTES = {  # the share of LiteRT's labels, whose rounding differs; some are of photos that a network wasn't made for
    "deeplabv3_mnv2_pascal_quant": 0.98,
    "more/dm05_pascal_quant_older": 0.9,
    "more/edgetpu_slim_cityscapes_quant": 0.7,
    "more/made_int8_argmax_uint8_input": 0.99,
}
MOST_TIES = 5  # of the 263169 labels of a photo
GRAPHS = ("made_frozen_noalign", "made_frozen_norate", "portrait_frozen_flattened_atrous")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not MODELS.exists(), reason=f"no published models at {MODELS}"),
]


def pixels(segmenter: Segmenter, photo: Path) -> torch.Tensor:  # [1, 3, H, W] whole numbers
    image = as_batch(read_image(photo), torch.device("cpu"))
    return on_canvas(image, segmenter.model, segmenter.inference.window).images.float().round()


def labels(segmenter: Segmenter, images: torch.Tensor) -> NDArray[np.integer]:
    return predict_labels(segmenter.model, images, segmenter.inference)[0].numpy()


@torch.no_grad()
def assert_equal_but_for_ties(segmenter: Segmenter, images: torch.Tensor, expected: torch.Tensor) -> None:
    """All labels, but for the few where two classes tie."""
    model, ours = segmenter.model, torch.from_numpy(labels(segmenter, images))
    num_ties = ties(model(images).semantic, image_size(images), model.facts.convention, ours, expected)
    assert int((ours != expected).sum()) == num_ties <= MOST_TIES


@pytest.mark.parametrize("name", FLOATS)
def test_the_labels_of_floats_are_those_of_litert(name: str) -> None:
    pytest.importorskip("ai_edge_litert", reason="LiteRT is not installed: pip install '.[litert]'")
    path = MODELS / f"{name}.tflite"
    done = conversion(path)
    assert not done.source.is_rounded
    whole = total(compare(done, open_original(path), PHOTOS))
    assert whole.share == 1
    assert whole.num_ties <= len(PHOTOS) * MOST_TIES


@pytest.mark.parametrize("name", [*BYTES, "more/made_dynamic_range"])
def test_the_labels_of_8_bits_are_those_of_the_same_graph_in_floats(name: str) -> None:
    path = MODELS / f"{name}.tflite"
    done, graph = conversion(path), read_tflite(path)
    assert done.source.is_rounded
    for photo in PHOTOS:
        images = pixels(done.segmenter, photo)
        if graph.tensors[graph.inputs[0]].scale.size:
            own = tflite.real_numbers(graph, images[0].permute(1, 2, 0).numpy())
        else:
            own = done.segmenter.model.normalized(images)
        assert_equal_but_for_ties(done.segmenter, images, tflite.labels(graph, own))


@pytest.mark.parametrize("name", BYTES)
def test_the_labels_of_8_bits_differ_from_litert_by_rounding(name: str) -> None:
    pytest.importorskip("ai_edge_litert", reason="LiteRT is not installed: pip install '.[litert]'")
    path = MODELS / f"{name}.tflite"
    assert total(compare(conversion(path), open_original(path), PHOTOS)).share >= BYTES[name]


@pytest.mark.parametrize("name", GRAPHS)
def test_the_labels_of_frozen_graphs_are_tensorflows(name: str) -> None:
    """Also those of networks that other rates, or TensorFlow 1's resizing, make of the same weights."""
    segmenter = conversion(MODELS / "more" / f"{name}.pb").segmenter
    with np.load(MODELS / "more" / f"{name}.npz") as expected:
        for photo in PHOTOS:
            theirs = torch.from_numpy(expected[photo.stem].astype(np.int64))
            assert_equal_but_for_ties(segmenter, pixels(segmenter, photo), theirs)


def test_a_file_for_the_edge_tpu_is_refused_with_the_one_to_take() -> None:
    with pytest.raises(ConversionError, match=r"compiled for the Edge TPU, .* \(dm05_pascal_quant\.tflite\)"):
        conversion(MODELS / "more" / "dm05_pascal_quant_edgetpu.tflite")
