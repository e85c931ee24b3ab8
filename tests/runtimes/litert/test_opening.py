"""Files that Atrous wrote, opened again: the labels, the header, and what is damaged, stripped or foreign."""

import json
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import atrous
from atrous import artefact, cli, export
from atrous.artefact import Export
from atrous.errors import AtrousError, AtrousWarning, ConfigError, ModelFileError
from atrous.inference import InferenceConfig
from atrous.runtimes.litert import flatbuffer
from atrous.segmenter import Segmenter
from tests.conftest import noise, small_segmenter

SIZE = (49, 65)  # on the grid


@pytest.fixture(scope="module")
def small() -> Segmenter:
    return small_segmenter().with_inference(InferenceConfig())


@pytest.fixture(scope="module")
def path(small: Segmenter, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("litert") / "model.tflite"
    artefact.write(small.model, small.header, path, Export("litert", SIZE, probabilities=True))
    return path


def rewritten(path: Path, change: Callable[[Any], object]) -> Path:
    """The file as another program writes it again."""
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0)
    model.buffers = [
        flatbuffer._buffer(schema, b"" if buffer.data is None else bytes(buffer.data)) for buffer in model.buffers
    ]
    change(model)
    other = path.with_name("other.tflite")
    other.write_bytes(flatbuffer._packed(model))
    return other


def strip(model: Any) -> None:  # noqa: ANN401
    model.metadata = []


def test_an_image_of_the_files_size_has_the_models_labels(path: Path, small: Segmenter) -> None:
    segmenter = atrous.load(path)
    image = noise(*SIZE)
    assert np.array_equal(segmenter.predict(image).semantic, small.predict(image).semantic)
    ours, theirs = (one.predict(image, probabilities=True).probabilities for one in (small, segmenter))
    assert ours is not None
    assert theirs is not None
    assert np.allclose(ours, theirs, atol=1e-5)
    assert segmenter.header.label_space == small.header.label_space
    assert segmenter.header.training == small.header.training


@pytest.mark.parametrize("size", [(30, 40), (97, 130)])
def test_other_images_lie_on_a_canvas_of_the_files_size(path: Path, small: Segmenter, size: tuple[int, int]) -> None:
    segmenter = atrous.load(path)
    assert segmenter.inference.mode == "canvas"
    assert segmenter.inference.window == SIZE
    image = noise(*size)
    same = small.with_inference(segmenter.inference)
    assert np.array_equal(segmenter.predict(image).semantic, same.predict(image).semantic)


def test_windows_and_flips_work(path: Path, small: Segmenter) -> None:
    protocol = InferenceConfig(mode="sliding", window=SIZE, flip=True)
    image = noise(80, 100)
    ours, theirs = (one.with_inference(protocol).predict(image).semantic for one in (small, atrous.load(path)))
    assert np.array_equal(ours, theirs)


def test_many_images_at_once(path: Path, small: Segmenter) -> None:
    images = [noise(*SIZE), noise(*SIZE)[::-1].copy()]
    for one, other in zip(atrous.load(path).predict(images), small.predict(images), strict=True):
        assert np.array_equal(one.semantic, other.semantic)


def test_other_programs_find_bytes_in_and_labels_out(path: Path, small: Segmenter) -> None:
    from ai_edge_litert.interpreter import Interpreter

    runner = Interpreter(str(path)).get_signature_runner("serving_default")
    image = noise(*SIZE)
    outputs = runner(images=image[None])
    assert outputs["labels"].dtype == np.uint8
    assert np.array_equal(outputs["labels"][0], small.predict(image).semantic)
    assert outputs["logits"].shape[-1] == outputs["probabilities"].shape[-1] == 3
    assert outputs["probabilities"].shape == (1, *SIZE, 3)


def test_constants_are_aligned(path: Path) -> None:
    from ai_edge_litert import schema_py_generated as schema

    content = path.read_bytes()
    model = schema.Model.GetRootAs(content, 0)
    whole = np.frombuffer(content, np.uint8)
    for place in range(model.BuffersLength()):
        if model.Buffers(place).DataLength():
            data = model.Buffers(place).DataAsNumpy()
            assert (data.__array_interface__["data"][0] - whole.__array_interface__["data"][0]) % 16 == 0


# ---- sizes


def test_a_size_is_chosen_and_said(small: Segmenter, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small.save(tmp_path / "m.safetensors")
    export.run(tmp_path / "m.safetensors", "litert")
    height, width = small.header.training.augment.crop  # type: ignore[union-attr]
    assert f"--size {height},{width}" in capsys.readouterr().out
    assert atrous.load(tmp_path / "m.tflite").network.facts.size == (height, width)


def test_the_canvas_is_the_size_of_a_model_that_has_one(small: Segmenter) -> None:
    header = small.with_inference(InferenceConfig(mode="canvas", window=(33, 65))).header
    assert artefact.default_size(header) == (33, 65)
    assert artefact.default_size(header.model_copy(update={"training": None, "inference": InferenceConfig()})) == (
        513,
        513,
    )


def test_a_file_for_any_size_is_refused(small: Segmenter, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"take images of one size: say which, such as --size 513,513"):
        artefact.write(small.model, small.header, tmp_path / "m.tflite", Export("litert"))
    assert list(tmp_path.iterdir()) == []


# ---- bad files


def test_without_its_metadata_a_file_has_numbered_classes(path: Path, small: Segmenter) -> None:
    with pytest.warns(AtrousWarning, match="its metadata was stripped: classes are numbered"):
        segmenter = atrous.load(rewritten(path, strip))
    assert segmenter.classes == ("class_0", "class_1", "class_2")
    image = noise(*SIZE)
    assert np.array_equal(segmenter.predict(image).semantic, small.predict(image).semantic)
    with pytest.raises(ConfigError, match="exported for images of 49 x 65, got 20 x 30"):
        segmenter.predict(noise(20, 30))


def test_every_changed_byte_and_every_missing_end_is_told(path: Path) -> None:
    rng, whole, other = random.Random(0), path.read_bytes(), path.with_name("damaged.tflite")
    for number in range(200):
        damaged = bytearray(whole[: rng.randrange(len(whole))] if number % 4 == 0 else whole)
        if number % 4:
            place = rng.randrange(len(damaged))
            damaged[place] ^= rng.randrange(1, 256)
        other.write_bytes(damaged)
        with pytest.raises(ModelFileError) as error:
            atrous.load(other)
        assert "\n" not in str(error.value)


@pytest.mark.slow
def test_a_damaged_file_without_checksum_does_not_end_this_process(path: Path) -> None:
    """LiteRT follows offsets and divides by strides that it finds: it is tried in a process of its own first."""
    rng, refused = random.Random(1), 0
    whole = rewritten(path, strip).read_bytes()
    other = path.with_name("damaged.tflite")
    for _ in range(40):
        damaged = bytearray(whole)
        for place in rng.sample(range(min(len(whole), 6000)), 12):  # where operators and tensors are
            damaged[place] = rng.randrange(256)
        other.write_bytes(damaged)
        try:
            with pytest.warns(AtrousWarning):
                atrous.load(other).predict(noise(*SIZE))
        except AtrousError as error:
            refused += 1
            assert "\n" not in str(error)
        except pytest.fail.Exception:  # no warning: it was refused before
            refused += 1
    assert refused > 10


def newer(model: Any) -> None:  # noqa: ANN401
    """The header of a later Atrous, with a checksum that fits."""
    metadata = {entry.name.decode(): entry for entry in model.metadata}
    buffer = model.buffers[metadata[flatbuffer.HEADER].buffer]
    header: Mapping[str, str] = {**json.loads(buffer.content), "atrous_format": "3"}
    buffer.content = json.dumps(header).encode()
    model.buffers[metadata[flatbuffer.CHECKSUM].buffer].content = flatbuffer.MARK


def test_a_file_of_a_newer_atrous_is_refused(path: Path) -> None:
    other = rewritten(path, newer)
    other.write_bytes(flatbuffer.with_checksum(other.read_bytes()))
    with pytest.raises(ModelFileError, match="made by a newer Atrous, in format 3"):
        atrous.load(other)


def of_later_version(model: Any) -> None:  # noqa: ANN401
    strip(model)
    model.version = 4


def renamed(model: Any) -> None:  # noqa: ANN401
    strip(model)
    model.subgraphs[0].tensors[model.subgraphs[0].inputs[0]].name = "input"


@pytest.mark.parametrize("change", [of_later_version, renamed])
def test_models_of_other_programs_are_for_convert(path: Path, change: Callable[[Any], object]) -> None:
    with pytest.raises(ModelFileError, match="a model of another program; convert it first: atrous convert "):
        atrous.load(rewritten(path, change))


@pytest.mark.parametrize("content", [b"TFL3", b"\x1c\0\0\0TFL3", b"\xff" * 4 + b"TFL3" + b"\xff" * 64, b"x" * 99])
def test_what_is_no_model_is_refused_as_damaged_since_it_cannot_be_converted(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "m.tflite").write_bytes(content)
    with pytest.raises(ModelFileError, match="not a complete TensorFlow Lite file"):
        atrous.load(tmp_path / "m.tflite")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.8])
def test_a_file_that_is_cut_off_is_not_sent_to_convert(share: float, path: Path, tmp_path: Path) -> None:
    content = path.read_bytes()
    (tmp_path / "cut.tflite").write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ModelFileError, match="not a complete TensorFlow Lite file"):
        atrous.load(tmp_path / "cut.tflite")


def test_it_is_told_by_its_content(path: Path, tmp_path: Path) -> None:
    (tmp_path / "renamed.bin").write_bytes(path.read_bytes())
    assert len(atrous.load(tmp_path / "renamed.bin").classes) == 3


def test_without_litert_the_command_that_installs_it_is_named(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"needs ai_edge_litert: pip install 'atrous\[litert\]'"):
        atrous.load(path)


def test_the_command_line_exports_and_predicts(
    small: Segmenter, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from PIL import Image as PILImage

    small.save(tmp_path / "m.safetensors")
    PILImage.fromarray(noise(40, 50)).save(tmp_path / "a.png")
    images = ["--images", str(tmp_path / "a.png")]
    assert cli.run(["export", str(tmp_path / "m.safetensors"), "--to", "litert", "--size", "33,49", *images]) == 0
    assert cli.run(["predict", str(tmp_path / "m.tflite"), str(tmp_path / "a.png"), "--out", str(tmp_path / "p")]) == 0
    assert (tmp_path / "p" / "masks" / "a.png").is_file()
    assert "INFO" not in capfd.readouterr().err
