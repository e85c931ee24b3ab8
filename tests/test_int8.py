"""`atrous export --int8`: what is in the file, what is printed, and what is refused."""

from pathlib import Path

import numpy as np
import pytest

import atrous
from atrous import artefact, cli, int8, train
from atrous.runtimes import RUNTIMES
from atrous.segmenter import Segmenter
from tests.conftest import noise, save, small_segmenter, tiny_config, write_folder_data
from tests.runs import QUIET

TARGETS = [name for name, row in RUNTIMES.items() if row.int8]
SMALL = ("model.backbone.depth_multiplier=0.25", "augment.crop=33,49", "train.steps=2", "train.eval_every=2")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, images to calibrate on, and a dataset of its classes."""
    folder = tmp_path_factory.mktemp("int8")
    small_segmenter().save(folder / "model.safetensors")
    for number, size in enumerate([(61, 90), (33, 49), (70, 50)]):
        save(folder / f"images/{number}.png", noise(*size))
    write_folder_data(folder / "mydata")
    return folder


def run(place: Path, *words: str) -> int:
    return cli.run(["export", str(place / "model.safetensors"), *words])


def calibrated(place: Path, target: str, *words: str) -> tuple[int, Path]:
    out = place / f"int8{RUNTIMES[target].suffix}"
    return run(place, "--to", target, "--int8", "--calibrate", str(place / "images"), "--out", str(out), *words), out


@pytest.mark.parametrize("target", TARGETS)
def test_a_file_of_integers_predicts_nearly_what_floats_do(
    target: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, path = calibrated(place, target)
    output = capsys.readouterr().out
    assert code == 0
    assert "calibrated on 3 images (minmax)" in output
    assert "of labels are those of floats, on the 3 images of the calibration" in output
    floats, integers = atrous.load(place / "model.safetensors"), atrous.load(path)
    image = noise(61, 90)
    one, two = (model.predict(image, probabilities=True) for model in (floats, integers))
    assert (one.semantic == two.semantic).mean() > 0.95
    assert not np.array_equal(one.probabilities, two.probabilities)  # type: ignore[arg-type]
    assert integers.label_space == floats.label_space


def test_convolutions_of_an_onnx_file_are_those_of_integers(place: Path) -> None:
    """With weights in bytes, and an input between a pair of operators that ONNX Runtime makes integer arithmetic of."""
    onnx = pytest.importorskip("onnx")
    _, path = calibrated(place, "onnx")
    graph = onnx.load(path).graph
    makers = {name: node.op_type for node in graph.node for name in node.output}
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    assert convolutions
    assert {makers.get(name) for node in convolutions for name in node.input} == {"DequantizeLinear"}
    assert not [node for node in graph.node if node.op_type == "BatchNormalization"]
    bytes_of = {kind: onnx.TensorProto.DataType.Name(kind) for kind in {one.data_type for one in graph.initializer}}
    assert "INT8" in bytes_of.values()
    floats = max(np.prod(one.dims) for one in graph.initializer if one.data_type == onnx.TensorProto.FLOAT)
    assert floats <= 1280  # steps of channels, but no weights


@pytest.mark.parametrize("method", ["percentile", "entropy"])
def test_other_methods_give_other_ranges(method: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, path = calibrated(place, "onnx")
    before = path.read_bytes()
    code, path = calibrated(place, "onnx", "--calibration", method)
    assert code == 0
    assert f"({method})" in capsys.readouterr().out
    assert path.read_bytes() != before


def test_equal_calls_give_equal_files(place: Path) -> None:
    _, path = calibrated(place, "onnx")
    before = path.read_bytes()
    _, path = calibrated(place, "onnx")
    assert path.read_bytes() == before


def test_at_one_size(place: Path) -> None:
    code, path = calibrated(place, "onnx", "--size", "65,65")
    assert code == 0
    assert atrous.load(path).network.facts.size == (65, 65)


# ---- ranges of a training, and the loss on data


@pytest.fixture(scope="module")
def learnt(place: Path) -> Path:
    config = tiny_config("data.format=folder", f"data.root={place / 'mydata'}", "train.quantize_after=1")
    return train.train(config, place / "run", console=QUIET).best


def test_ranges_of_a_training_need_no_images(learnt: Path, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = place / "learnt.onnx"
    assert cli.run(["export", str(learnt), "--to", "onnx", "--int8", "--out", str(out)]) == 0
    assert "the ranges of 8-bit integers are those of the training" in capsys.readouterr().out
    image = noise(61, 90)
    one, two = (atrous.load(path).predict(image, probabilities=True).probabilities for path in (learnt, out))
    assert np.allclose(one, two, atol=0.05)  # type: ignore[arg-type]
    assert cli.run(["export", str(learnt), "--to", "onnx", "--int8", "--calibrate", str(place / "images")]) == 2
    assert "has learnt its ranges" in capsys.readouterr().err


def test_without_the_option_it_is_exported_in_floats(learnt: Path, place: Path) -> None:
    onnx = pytest.importorskip("onnx")
    out = place / "floats.onnx"
    assert cli.run(["export", str(learnt), "--to", "onnx", "--out", str(out)]) == 0
    assert not [node for node in onnx.load(out).graph.node if "Quantize" in node.op_type]


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


def test_an_image_that_can_not_be_read_is_said_and_left_out(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(place / "some/a.png", noise(33, 49))
    (place / "some/b.png").write_bytes(b"\x89PNG no")
    assert run(place, "--to", "onnx", "--int8", "--calibrate", str(place / "some"), "--out", str(place / "x.onnx")) == 0
    output = capsys.readouterr().out
    assert "not calibrated on: " in output
    assert "b.png" in output
    assert "calibrated on 1 images" in output or "calibrated on 1 image" in output


REFUSED = {
    "no images": (["--to", "onnx", "--int8"], "--int8 needs images to calibrate on: add --calibrate IMAGES"),
    "an empty folder": (["--to", "onnx", "--int8", "--calibrate", "EMPTY"], "empty: no image"),
    "a missing folder": (["--to", "onnx", "--int8", "--calibrate", "gone"], "gone: "),
    "no readable image": (["--to", "onnx", "--int8", "--calibrate", "BROKEN"], "none of the 1 images to calibrate on"),
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


@pytest.mark.parametrize("target", [name for name, row in RUNTIMES.items() if row.write and not row.int8])
def test_a_target_without_integers_is_refused(target: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    suffix = RUNTIMES[target].suffix
    words = ["--to", target, "--int8", "--calibrate", str(place / "images"), "--out", str(place / f"no{suffix}")]
    assert run(place, *words) == 2
    error = capsys.readouterr().err
    assert f"--int8 with --to {target}: it has no integer convolutions" in error
    assert not (place / f"no{suffix}").exists()


def test_too_few_equal_labels_are_a_failure(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(int8, "agreement", lambda *_: 0.9)
    out = place / "wrong.onnx"
    assert run(place, "--to", "onnx", "--int8", "--calibrate", str(place / "images"), "--out", str(out)) == 1
    assert "only 90.00% of labels are those of floats" in capsys.readouterr().err
    assert not out.exists()


def test_agreement_is_the_share_of_equal_labels(small: Segmenter, place: Path) -> None:
    _, path = calibrated(place, "onnx")
    network, image = atrous.load(path).network, noise(61, 90)
    own = artefact.in_floats(small.model)
    expected = np.mean(
        small.with_inference(artefact.protocol_of(network)).predict(image).semantic == labels(network, image)
    )  # type: ignore[arg-type]
    assert int8.agreement(own, network, image) == pytest.approx(expected)  # type: ignore[arg-type]


def labels(network: object, image: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
    return network.outputs(image[None])["labels"][0].numpy()  # type: ignore[attr-defined,no-any-return]


def test_at_most_a_hundred_images_are_taken_from_first_to_last() -> None:
    readers = [(str(number), lambda: noise()) for number in range(1001)]
    names = [name for name, _ in int8.spread(readers)]
    assert (len(names), names[0], names[-1]) == (100, "0", "1000")
    assert [name for name, _ in int8.spread(readers[:3])] == ["0", "1", "2"]
