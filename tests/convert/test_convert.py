"""`convert` of arrays by name: what it accepts, what it makes, and what it refuses."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

import atrous
from atrous.convert import convert
from atrous.convert.run import conversion
from atrous.data import ade20k, cityscapes, voc
from atrous.data.label_space import LabelSpace, numbered_names
from atrous.segmenter import Segmenter
from tests.convert.conftest import assert_refused, empty_arrays
from tests.reference.tf_deeplab import Shapes, seeded, variable_lists

Arrays = dict[str, NDArray[Any]]


@pytest.fixture(scope="module")
def arrays() -> Arrays:
    """MobileNetV3 small with LR-ASPP, the smallest of the original's networks."""
    return {name: seeded(name, shape) for name, shape in variable_lists()["mnv3_small"].items()}


def logits(segmenter: Segmenter) -> Tensor:
    images = torch.arange(3 * 33 * 49, dtype=torch.uint8).view(1, 3, 33, 49)
    with torch.no_grad():
        outputs: Tensor = segmenter.model(images).semantic
    return outputs


# ---- the segmenter


def test_the_segmenter_can_predict_and_be_saved(arrays: Arrays, tmp_path: Path) -> None:
    segmenter = convert(arrays, options={"output_stride": 32})
    assert not segmenter.model.training
    image = np.zeros((40, 50, 3), np.uint8)
    segmenter.save(tmp_path / "model.safetensors")
    loaded = atrous.load(tmp_path / "model.safetensors")
    assert np.array_equal(loaded.predict(image).semantic, segmenter.predict(image).semantic)
    assert torch.equal(logits(loaded), logits(segmenter))
    assert loaded.header.origin == segmenter.header.origin


def test_the_conversion_reports_what_it_used_and_assumed(arrays: Arrays) -> None:
    done = conversion({**arrays, "global_step": np.array(7)}, options={"output_stride": 32})
    assert (done.system, done.num_used, done.unused) == ("tf_deeplab", len(arrays), ["global_step"])
    origin = done.segmenter.header.origin
    assert origin["source"] == "the arrays"
    assert origin["options"] == {"output_stride": "32"}
    assert origin["unused"] == ["global_step"]
    assert origin["assumptions"] == done.assumptions != []


def test_the_system_may_be_named(arrays: Arrays) -> None:
    assert torch.equal(logits(convert(arrays, system="tf_deeplab")), logits(convert(arrays)))


def test_the_model_can_be_trained_on(arrays: Arrays) -> None:
    model = convert(arrays).model.train()
    assert all(parameter.requires_grad for parameter in model.parameters())
    torch.autograd.backward(model(torch.zeros(2, 3, 33, 33)).semantic.sum())
    assert int(model.get_buffer("backbone.stem.norm.num_batches_tracked")) == 1


def test_the_arrays_are_copied(arrays: Arrays) -> None:
    copies = {name: array.copy() for name, array in arrays.items()}
    segmenter = convert(copies)
    expected = logits(segmenter)
    for array in copies.values():
        array.fill(0)
    assert torch.equal(logits(segmenter), expected)
    with torch.no_grad():
        for tensor in segmenter.model.state_dict().values():
            tensor.fill_(7)
    assert not any(array.any() for array in copies.values())


def test_read_only_and_strided_arrays_are_accepted(arrays: Arrays) -> None:
    strided = {name: np.asfortranarray(array) for name, array in arrays.items()}
    for array in strided.values():
        array.flags.writeable = False
    assert torch.equal(logits(convert(strided)), logits(convert(arrays)))


def test_floats_of_any_size_become_float32(arrays: Arrays) -> None:
    expected = logits(convert(arrays))
    for kind, tolerance in (("<f8", 0.0), ("<f2", 0.01), (">f4", 0.0)):
        segmenter = convert({name: array.astype(kind) for name, array in arrays.items()})
        assert {parameter.dtype for parameter in segmenter.model.parameters()} == {torch.float32}
        assert float((logits(segmenter) - expected).abs().max()) <= tolerance * float(expected.abs().max())


CLASSES: list[tuple[int, str | None, LabelSpace | None]] = [
    (21, None, voc.VOC),
    (19, None, cityscapes.CITYSCAPES),
    (151, None, ade20k.WITH_OTHER),
    (21, "pascal_voc_seg", voc.VOC),
    (21, "imagenet", None),
    (7, None, None),
    (2, None, None),
]


def test_classes_have_the_names_of_their_dataset() -> None:
    for num_classes, dataset, expected in CLASSES:
        done = conversion(empty_arrays(with_classes(num_classes)), options={"dataset": dataset})
        assert done.segmenter.label_space == (expected or LabelSpace(names=numbered_names(num_classes)))
        is_assumed = any("classes are those of" in text for text in done.assumptions)
        assert is_assumed == (dataset is None and expected is not None), (num_classes, dataset)


def with_classes(count: int) -> Shapes:
    logits: Shapes = {"logits/semantic/weights": (1, 1, 256, count), "logits/semantic/biases": (count,)}
    return variable_lists()["mnv2_v3"] | logits


# ---- refused


def test_weights_of_no_known_system_are_refused(arrays: Arrays) -> None:
    assert_refused({}, "^the arrays: it holds no weights of a network's layers")
    assert_refused({}, "its variables are none$", system="tf_deeplab")
    assert_refused({"bert/kernel": np.ones(3)}, r"no known system \(bert/kernel\)")
    assert_refused({"bert/kernel": np.ones(3)}, "its variables are bert/kernel$", system="tf_deeplab")
    assert_refused(arrays, "system=tf_deeplap: no such system; did you mean tf_deeplab", system="tf_deeplap")
    assert_refused(arrays, "system=caffe: no such system; known: tf_deeplab, deeplab2, csail, semseg, ", system="caffe")


NOT_NUMBERS = (
    np.array([None] * 128, object),
    np.array(["a"] * 128),
    np.array([b"a"] * 128),
    np.ones(128, complex),
    np.ones(128, "datetime64[s]"),
    np.ones(128, [("x", "f4")]),
    "gamma",
)


def test_arrays_of_anything_but_numbers_are_refused(arrays: Arrays) -> None:
    for array in NOT_NUMBERS:
        assert_refused(
            {**arrays, "aspp0/BatchNorm/gamma": array}, "aspp0/BatchNorm/gamma must hold numbers, but its type"
        )
