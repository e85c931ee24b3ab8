"""`atrous export --int8`: what is in the file, what is printed, and what is refused."""

import copy
import io
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

import atrous
from atrous import artefact, calibration, cli, evaluate, export, int8, segmenter, train
from atrous.data.label_space import LabelSpace
from atrous.deployed import Deployment
from atrous.errors import Mismatch
from atrous.inference import InferenceConfig
from atrous.layers import quantization
from atrous.runtimes import RUNTIMES
from atrous.runtimes.contract import Opened
from atrous.segmenter import Segmenter
from tests.conftest import noise, save, tiny_config, write_folder_data
from tests.models.conftest import small as small_model
from tests.runs import QUIET

TARGETS = [name for name, row in RUNTIMES.items() if row.write]
SIZE, WHOLE = (33, 49), InferenceConfig()


def tiny() -> Segmenter:
    """Shortcuts and few convolutions: what writes files takes time for each. Each class is likely somewhere."""
    model = small_model("fcn", 3).eval()
    torch.nn.init.normal_(model.get_parameter("head.classify.weight"), generator=torch.Generator().manual_seed(0))
    return segmenter.of_model(model, LabelSpace(names=("sky", "road", "car")))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, images to calibrate on, and a dataset of its classes."""
    folder = tmp_path_factory.mktemp("int8")
    tiny().save(folder / "model.safetensors")
    for number, size in enumerate([(61, 90), (33, 49), (70, 50)]):
        save(folder / f"images/{number}.png", noise(*size))
    write_folder_data(folder / "mydata")
    return folder


def run(place: Path, *words: str) -> int:
    return cli.run(["export", str(place / "model.safetensors"), *words])


@pytest.fixture(scope="module", params=TARGETS)
def exported(request: pytest.FixtureRequest, place: Path) -> tuple[Path, str]:
    """A file of integers, for any size where there is such, and what was printed."""
    target, console = request.param, Console(record=True, width=200, file=io.StringIO())
    out, asked = place / f"int8{RUNTIMES[target].suffix}", int8.Request([str(place / "images")])
    size = SIZE if RUNTIMES[target].has_one_size else None
    export.run(place / "model.safetensors", target, out=out, size=size, integers=asked, console=console)
    return out, console.export_text()


def test_a_file_of_integers_predicts_nearly_what_floats_do(exported: tuple[Path, str], place: Path) -> None:
    path, output = exported
    assert "calibrated on 3 images (minmax): few; " in output
    assert "of labels are those of floats, on the 3 images of the calibration" in output
    floats, integers = (atrous.load(one).with_inference(WHOLE) for one in (place / "model.safetensors", path))
    image = noise(*SIZE)
    one, two = (model.predict(image, probabilities=True) for model in (floats, integers))
    assert (one.semantic == two.semantic).mean() > 0.95
    assert not np.array_equal(one.probabilities, two.probabilities)  # type: ignore[arg-type]
    assert integers.label_space == floats.label_space
    assert integers.network.facts.size == (SIZE if path.suffix == ".tflite" else None)
    assert evaluate.runtime_of(integers)["convolutions"] == "8-bit integers"
    assert "convolutions" not in evaluate.runtime_of(floats)


def test_it_computes_what_the_graph_of_integers_does(exported: tuple[Path, str]) -> None:
    """To the last bits, but for images with a value that falls on another side of an edge between two levels."""
    differences = [float(text) for text in re.findall(r"outputs within (\S+) of the largest", exported[1])]
    assert len(differences) == (2 if exported[0].suffix == ".tflite" else 4)
    assert min(differences) < 1e-6
    assert max(differences) < 0.02


def test_agreement_is_the_share_of_equal_labels(exported: tuple[Path, str], place: Path) -> None:
    network, image = atrous.load(exported[0]).network, noise(*SIZE)
    floats = atrous.load(place / "model.safetensors")
    assert isinstance(network, Opened)
    labels = floats.with_inference(artefact.protocol_of(network)).predict(image).semantic
    expected = np.mean(labels == network.outputs(image[None])["labels"][0].numpy())
    assert int8.agreement(floats.model, network, image) == pytest.approx(expected)


def test_most_weights_are_bytes(exported: tuple[Path, str]) -> None:
    path, _ = exported
    if path.suffix != ".onnx":
        pytest.skip("of ONNX")
    onnx = pytest.importorskip("onnx")
    counts = Counter[int]()
    for one in onnx.load(path).graph.initializer:
        counts[one.data_type] += int(np.prod(one.dims))
    assert counts[onnx.TensorProto.INT8] > 0.8 * sum(one.numel() for one in tiny().model.parameters())
    assert counts[onnx.TensorProto.INT8] > counts[onnx.TensorProto.FLOAT]


def test_convolutions_of_an_onnx_file_are_those_of_integers(exported: tuple[Path, str]) -> None:
    """With weights in bytes, and an input between a pair of operators that ONNX Runtime makes integer arithmetic of."""
    path, _ = exported
    if path.suffix != ".onnx":
        pytest.skip("of ONNX")
    onnx = pytest.importorskip("onnx")
    graph = onnx.load(path).graph
    makers = {name: node.op_type for node in graph.node for name in node.output}
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    makers_of = [{makers.get(name) for name in node.input} for node in convolutions]
    assert "DequantizeLinear" not in makers_of[0]
    assert makers_of.count({"DequantizeLinear"}) > 0.7 * len(convolutions)
    assert not [node for node in graph.node if node.op_type == "BatchNormalization"]


def test_convolutions_of_openvino_compute_in_integers(exported: tuple[Path, str]) -> None:
    path, _ = exported
    if path.suffix != ".xml":
        pytest.skip("of OpenVINO")
    openvino = pytest.importorskip("openvino")
    compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    facts = [part.get_rt_info() for part in compiled.get_runtime_model().get_ops()]
    kinds = [one["primitiveType"].astype(str) for one in facts if one["layerType"].astype(str) == "Convolution"]
    assert sum("I8" in kind.upper() for kind in kinds) > len(kinds) / 2


@pytest.mark.parametrize("method", ["minmax", "percentile", "entropy"])
def test_a_method_is_named_and_used(method: str, place: Path) -> None:
    console = Console(record=True, width=200, file=io.StringIO())
    asked = int8.Request([str(place / "images")], method)
    model, readers = int8.integer_model(atrous.load(place / "model.safetensors"), asked, console)
    assert quantization.rounds(model.model)
    assert len(readers) == 3
    assert f"calibrated on 3 images ({method})" in console.export_text()


def test_convolutions_of_litert_take_bytes_and_give_bytes(exported: tuple[Path, str]) -> None:
    """All but the one that sees the image."""
    path, _ = exported
    if path.suffix != ".tflite":
        pytest.skip("of LiteRT")
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0)
    (graph,) = model.subgraphs
    codes = {schema.BuiltinOperator.CONV_2D, schema.BuiltinOperator.DEPTHWISE_CONV_2D}
    convolutions = [one for one in graph.operators if model.operatorCodes[one.opcodeIndex].builtinCode in codes]
    floats, *integers = ([graph.tensors[place].type for place in (*one.inputs, *one.outputs)] for one in convolutions)
    assert set(floats) == {schema.TensorType.FLOAT32}
    assert len(integers) > 5
    byte, long = schema.TensorType.INT8, schema.TensorType.INT32
    assert all(types == [byte, byte, long, byte] for types in integers)


@pytest.mark.slow
def test_equal_calls_give_equal_files(place: Path) -> None:
    out = [place / "one.tflite", place / "two.tflite"]
    words = ["--to", "litert", "--int8", "--calibrate", str(place / "images"), "--size", "33,49"]
    assert [run(place, *words, "--out", str(path)) for path in out] == [0, 0]
    assert out[0].read_bytes() == out[1].read_bytes()


@pytest.mark.parametrize("target", TARGETS)
def test_a_file_that_computes_something_else_is_not_written(
    target: str, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a part of the logits, and in one class only."""
    model = calibration.calibrated(tiny().model, lambda: iter([noise(*SIZE)]), WHOLE, results=True)
    row, path = RUNTIMES[target], tmp_path / f"other{RUNTIMES[target].suffix}"

    def other(deployment: Deployment, path: Path) -> None:
        changed = deployment._replace(module=copy.deepcopy(deployment.module), program=None)
        last = changed.module.network.get_submodule("head.classify")
        assert isinstance(last, quantization.Int8Conv)
        last.bias[1] += int(0.5 / last.bias_step[1])
        row.write(changed if row.as_rounded is None else row.as_rounded(changed), path)  # type: ignore[misc]

    monkeypatch.setitem(RUNTIMES, target, row._replace(write=other))
    with pytest.raises(Mismatch, match="what was exported computes something else than the model"):
        artefact.write(model, tiny().header, path, artefact.Export(target, SIZE, int8=True))
    assert not path.exists()


# ---- ranges of a training, and the loss on data


@pytest.fixture(scope="module")
def learnt(place: Path) -> Path:
    config = tiny_config("data.format=folder", f"data.root={place / 'mydata'}", "train.quantize_after=1")
    return train.train(config, place / "run", console=QUIET).best


@pytest.mark.slow
def test_ranges_of_a_training_need_no_images(learnt: Path, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = place / "learnt.onnx"
    assert cli.run(["export", str(learnt), "--to", "onnx", "--int8", "--size", "65,97", "--out", str(out)]) == 0
    assert "the ranges of 8-bit integers are those of the training" in capsys.readouterr().out
    network, model = atrous.load(out).network, atrous.load(learnt)
    assert network.facts.int8 and isinstance(network, Opened)
    settings = artefact.Export("onnx", (65, 97), int8=True)
    module, image = artefact.deployment_of(model.model, model.header, settings).module, noise(65, 97)[None]
    expected = dict(zip(module.names, module(torch.from_numpy(image)), strict=True))["logits"]
    torch.testing.assert_close(network.outputs(image)["logits"], expected, atol=1e-6, rtol=1e-5)
    assert cli.run(["export", str(learnt), "--to", "onnx", "--int8", "--calibrate", str(place / "images")]) == 2
    assert "has learnt its ranges" in capsys.readouterr().err


@pytest.mark.slow
def test_litert_measures_what_a_training_did_not_learn(learnt: Path, place: Path) -> None:
    """Ranges of results; without images, those convolutions compute in floats."""
    sizes = []
    for words in ([], ["--calibrate", str(place / "images")]):
        out = place / "learnt.tflite"
        asked = ["--to", "litert", "--int8", "--size", "33,49", "--out", str(out), *words]
        assert cli.run(["export", str(learnt), *asked]) == 0
        sizes.append(out.stat().st_size)
    assert sizes[1] < sizes[0]


@pytest.mark.slow
def test_without_the_option_it_is_exported_in_floats(learnt: Path, place: Path) -> None:
    onnx = pytest.importorskip("onnx")
    out = place / "floats.onnx"
    assert cli.run(["export", str(learnt), "--to", "onnx", "--out", str(out)]) == 0
    assert not [node for node in onnx.load(out).graph.node if "Quantize" in node.op_type]


@pytest.mark.slow
def test_the_loss_is_measured_on_data(learnt: Path, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain = train.train(
        tiny_config("data.format=folder", f"data.root={place / 'mydata'}", "train.steps=1"),
        place / "plain",
        console=QUIET,
    )
    words = ["export", str(plain.best), f"data.root={place / 'mydata'}", "--to", "onnx", "--int8"]
    assert cli.run([*words, "--out", str(place / "plain.onnx")]) == 0
    output = capsys.readouterr().out
    assert "calibrated on 6 images (minmax)" in output
    assert "in floats: mIoU " in output
    assert "; in 8-bit integers: mIoU " in output
    assert "points" in output


# ---- bad input


def test_an_image_that_can_not_be_read_is_said_and_left_out(place: Path) -> None:
    save(place / "some/a.png", noise(33, 49))
    (place / "some/b.png").write_bytes(b"\x89PNG no")
    save(place / "some/black.png", np.zeros((33, 49, 3), np.uint8))
    save(place / "some/pixel.png", noise(1, 1))
    console = Console(record=True, width=200, file=io.StringIO())
    model = atrous.load(place / "model.safetensors")
    readers = int8.readable(int8.images_of(model, int8.Request([str(place / "some")])), console)
    assert [Path(name).name for name, _ in readers] == ["a.png"]
    output = console.export_text()
    assert output.count("not calibrated on: ") == 3
    assert "b.png" in output
    assert "black.png: all of one colour" in output


REFUSED = {
    "no images": (["--to", "onnx", "--int8"], "--int8 needs images to calibrate on: add --calibrate IMAGES"),
    "an empty folder": (["--to", "onnx", "--int8", "--calibrate", "EMPTY"], "empty: no image"),
    "a missing folder": (["--to", "onnx", "--int8", "--calibrate", "gone"], "gone: "),
    "no readable image": (
        ["--to", "onnx", "--int8", "--calibrate", "BROKEN"],
        "no usable image to calibrate on among 1: ",
    ),
    "an unknown method": (
        ["--to", "onnx", "--int8", "--calibrate", "IMAGES", "--calibration", "kl"],
        "--calibration kl: expected minmax, percentile, entropy",
    ),
    "no --int8": (["--to", "onnx", "--calibrate", "IMAGES"], "--calibrate: an export needs it with --int8 only"),
    "a method alone": (["--to", "onnx", "--calibration", "minmax"], "--calibration: an export needs it with --int8"),
    "settings alone": (["data.root=x", "--to", "onnx"], "data.root=x: an export needs it with --int8 only"),
    "other settings": (["train.steps=3", "--to", "onnx", "--int8"], "only settings of data, evaluate and decode"),
    "a dataset that isn't there": (["data.root=gone", "data.format=voc", "--to", "onnx", "--int8"], "gone"),
    "PyTorch": (["--to", "pytorch", "--int8", "--calibrate", "IMAGES"], "--to pytorch: expected"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_can_not_be_is_refused_in_one_line(
    kind: str, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/a.jpg").write_bytes(b"nothing")
    words, message = REFUSED[kind]
    names = {"EMPTY": "empty", "BROKEN": "broken", "IMAGES": str(place / "images")}
    out = tmp_path / "out.onnx"
    assert run(place, *(names.get(word, word) for word in words), "--out", str(out)) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not out.exists()


@pytest.mark.parametrize(("share", "is_enough"), [(0.949, False), (0.951, True)])
def test_too_few_equal_labels_are_a_failure(share: float, is_enough: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int8, "agreement", lambda *_: share)
    network: Any = None
    readers: list[int8.Reader] = [("a", noise), ("b", noise)]
    if is_enough:
        int8.require_agreement(network, network, readers, None, QUIET)
        return
    with pytest.raises(Mismatch, match=r"only 94.90% of labels are those of floats, on the 2 images .*, less than 95%"):
        int8.require_agreement(network, network, readers, None, QUIET)


def test_at_most_a_hundred_images_are_taken_from_first_to_last() -> None:
    readers = [(str(number), lambda: noise()) for number in range(1001)]
    names = [name for name, _ in int8.spread(readers)]
    assert (len(names), names[0], names[-1]) == (100, "0", "1000")
    assert [name for name, _ in int8.spread(readers[:3])] == ["0", "1", "2"]
