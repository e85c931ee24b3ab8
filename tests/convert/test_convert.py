"""`convert` of a mapping of arrays: what it takes, what comes out, and what it refuses."""

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
from tests.reference.tf_deeplab import Shapes, empty_variables, seeded, variable_lists

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


def refused(arrays: Any, reason: str, **settings: Any) -> None:  # noqa: ANN401
    with pytest.raises(ValueError, match=reason) as error:
        convert(arrays, **settings)
    assert "\n" not in str(error.value)


# ---- what comes out


def test_a_segmenter_ready_to_predict_and_to_be_saved(arrays: Arrays, tmp_path: Path) -> None:
    segmenter = convert(arrays, options={"output_stride": 32})
    assert not segmenter.model.training
    image = np.zeros((40, 50, 3), np.uint8)
    segmenter.save(tmp_path / "model.safetensors")
    loaded = atrous.load(tmp_path / "model.safetensors")
    assert np.array_equal(loaded.predict(image).semantic, segmenter.predict(image).semantic)
    assert torch.equal(logits(loaded), logits(segmenter))
    assert loaded.results["converted"] == segmenter.results["converted"]


def test_the_conversion_tells_what_it_did(arrays: Arrays) -> None:
    done = conversion({**arrays, "global_step": np.array(7)}, options={"output_stride": 32})
    assert (done.system, done.used, done.ignored) == ("tf_deeplab", len(arrays), ["global_step"])
    kept = done.segmenter.results["converted"]
    assert kept["source"] == "the given variables"
    assert kept["options"] == {"output_stride": "32"}
    assert kept["not_used"] == ["global_step"]
    assert kept["taken_for_granted"] == done.notes != []


def test_the_system_may_be_named(arrays: Arrays) -> None:
    assert torch.equal(logits(convert(arrays, system="tf_deeplab")), logits(convert(arrays)))


def test_the_model_can_be_trained_on(arrays: Arrays) -> None:
    model = convert(arrays).model.train()
    assert all(parameter.requires_grad for parameter in model.parameters())
    torch.autograd.backward(model(torch.zeros(2, 3, 33, 33)).semantic.sum())
    assert int(model.get_buffer("backbone.stem.norm.num_batches_tracked")) == 1


def test_the_arrays_are_copied(arrays: Arrays) -> None:
    given = {name: array.copy() for name, array in arrays.items()}
    segmenter = convert(given)
    expected = logits(segmenter)
    for array in given.values():
        array.fill(0)
    assert torch.equal(logits(segmenter), expected)
    with torch.no_grad():
        for tensor in segmenter.model.state_dict().values():
            tensor.fill_(7)
    assert not any(array.any() for array in given.values())


def test_read_only_and_strided_arrays_are_taken(arrays: Arrays) -> None:
    given = {name: np.asfortranarray(array) for name, array in arrays.items()}
    for array in given.values():
        array.flags.writeable = False
    assert torch.equal(logits(convert(given)), logits(convert(arrays)))


@pytest.mark.parametrize(("kind", "tolerance"), [(np.float64, 0.0), (np.float16, 0.01), (">f4", 0.0)])
def test_floats_of_any_size_become_float32(arrays: Arrays, kind: Any, tolerance: float) -> None:  # noqa: ANN401
    segmenter = convert({name: array.astype(kind) for name, array in arrays.items()})
    assert {parameter.dtype for parameter in segmenter.model.parameters()} == {torch.float32}
    expected = logits(convert(arrays))
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


@pytest.mark.parametrize(("num_classes", "dataset", "expected"), CLASSES)
def test_classes_have_the_names_of_their_data_set(
    num_classes: int, dataset: str | None, expected: LabelSpace | None
) -> None:
    done = conversion(empty_variables(with_classes(num_classes)), options={"dataset": dataset})
    assert done.segmenter.label_space == (expected or LabelSpace(names=numbered_names(num_classes)))
    assert any("classes are those of" in note for note in done.notes) == (dataset is None and expected is not None)


def with_classes(count: int) -> Shapes:
    logits: Shapes = {"logits/semantic/weights": (1, 1, 256, count), "logits/semantic/biases": (count,)}
    return variable_lists()["mnv2_v3"] | logits


# ---- what is refused


def test_variables_of_nothing_known_are_refused(arrays: Arrays) -> None:
    refused({}, r"^the given variables: variables of no known system \(none \.\.\.\); known: .*tf_deeplab")
    refused({}, "its variables are none at all$", system="tf_deeplab")
    refused({"bert/kernel": np.ones(3)}, r"no known system \(bert/kernel")
    refused({"bert/kernel": np.ones(3)}, "its variables are bert/kernel$", system="tf_deeplab")
    refused(arrays, "system=tf_deeplap: unknown; known: tf_deeplab, semseg, ", system="tf_deeplap")


@pytest.mark.parametrize(
    "array",
    [
        np.array([None] * 128, object),
        np.array(["a"] * 128),
        np.array([b"a"] * 128),
        np.ones(128, complex),
        np.ones(128, "datetime64[s]"),
        np.ones(128, [("x", "f4")]),
        "gamma",
    ],
    ids=lambda array: str(getattr(array, "dtype", "text")),
)
def test_what_is_no_array_of_numbers_is_refused(arrays: Arrays, array: object) -> None:
    refused({**arrays, "aspp0/BatchNorm/gamma": array}, "aspp0/BatchNorm/gamma is no array of numbers")
