"""What a file is, by its content; names of classes; the original beside the model; files that are no model."""

import os
import shutil
import sys
import time
import zipfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import atrous
from atrous.convert import convert
from atrous.convert.comparison import THRESHOLD, Agreement, percent, ties, total
from atrous.convert.filling import BYTES, SIGNED, UNIT, blank_model, range_of
from atrous.convert.kinds import kind_of
from atrous.convert.originals import require_program
from atrous.errors import ConfigError
from atrous.models.deeplab_v3 import DeepLabV3
from atrous.types import Convention
from tests.conftest import SHARED, noise
from tests.convert import graphs
from tests.convert.conftest import error_line, run
from tests.convert.graphs import changed, half_width_steps
from tests.convert.readers import writers
from tests.convert.sources import FIELDS, folded_half_width, half_width, semseg_shapes, write_pth, write_training

NAMES = [f"thing {index}" for index in range(21)]


@pytest.fixture
def lite(tmp_path: Path) -> Path:
    path = tmp_path / "model.tflite"
    path.write_bytes(graphs.lite(half_width_steps(), folded_half_width()))
    return path


def write_frozen(path: Path) -> None:
    path.write_bytes(graphs.frozen(half_width_steps(), half_width()))


# ---- kinds


def test_content_tells_the_kind_whatever_the_name(lite: Path, tmp_path: Path) -> None:
    write_frozen(tmp_path / "graph.pb")
    write_pth(tmp_path / "a.pth", semseg_shapes())
    prefix = write_training(tmp_path / "logs")
    files = {"tflite": lite, "graph": tmp_path / "graph.pb", "pytorch": tmp_path / "a.pth"}
    files["index"] = Path(f"{prefix}.index")
    assert {kind: kind_of(path) for kind, path in files.items()} == {kind: kind for kind in files}
    assert kind_of(Path(f"{prefix}.data-00000-of-00001")) is None


@pytest.mark.parametrize(
    "name", ["model.lite", "MODEL.TFLITE", "model.pb", "model", "model.ckpt", "model.pth", "m.tar"]
)
def test_a_renamed_model_is_converted(name: str, lite: Path) -> None:
    assert convert(lite.rename(lite.with_name(name))).model.num_classes == 21


@pytest.mark.parametrize("name", ["graph.tflite", "frozen", "graph.ckpt"])
def test_a_renamed_graph_is_converted(name: str, tmp_path: Path) -> None:
    write_frozen(tmp_path / name)
    assert convert(tmp_path / name).model.num_classes == 21


def test_a_saved_model_is_read_from_its_variables_or_its_graph(tmp_path: Path) -> None:
    training = write_training(tmp_path / "logs")
    folder = tmp_path / "saved"
    (folder / "variables").mkdir(parents=True)
    for end in ("index", "data-00000-of-00001"):
        shutil.copy(f"{training}.{end}", folder / "variables" / f"variables.{end}")
    graph = graphs.frozen(half_width_steps(), half_width())
    (folder / "saved_model.pb").write_bytes(writers.message((1, 1), (2, writers.message((2, graph)))))
    for source in (folder, folder / "saved_model.pb"):
        assert convert(source).model.num_classes == 21
    shutil.rmtree(folder / "variables")
    for source in (folder, folder / "saved_model.pb"):
        assert convert(source).model.num_classes == 21


def test_the_index_of_a_checkpoint_under_another_name_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(f"{write_training(tmp_path / 'logs')}.index", tmp_path / "model.ckpt")
    assert "the index of a TensorFlow checkpoint" in error_line(
        capsys, tmp_path / "model.ckpt", "--out", "m.safetensors"
    )


@pytest.mark.parametrize("name", ["a.tflite", "a.pb", "a.lite", "a", "a.pth", "a.safetensors", "a.tar.gz", "a.index"])
def test_a_gigabyte_of_nothing_is_refused_soon(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = tmp_path / name, tmp_path / "m.safetensors"
    with path.open("wb") as file:
        file.truncate(2**30)
    start = time.process_time()
    assert str(path) in error_line(capsys, path, "--out", out)
    assert time.process_time() - start < 5
    assert not out.exists()


@pytest.mark.parametrize("start", [b"\x1c\0\0\0TFL3", b"\n\x05\n\x03abc", b"PK\x03\x04", b"\x1f\x8b", b"\x80\x02"])
def test_a_beginning_is_not_enough(start: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "model"
    path.write_bytes(start + os.urandom(300))
    assert str(path) in error_line(capsys, path, "--out", tmp_path / "m.safetensors")


@pytest.mark.parametrize("name", ["m.tflite", "m.pb", "m.index"])
def test_noise_is_refused_unread(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By its first bytes, or its last."""
    path = tmp_path / name
    path.write_bytes(b"\x6e" + np.random.default_rng(0).bytes(4096))
    monkeypatch.setattr(Path, "read_bytes", lambda path: pytest.fail(f"{path} is read whole"))
    assert "cannot read" in error_line(capsys, path, "--out", tmp_path / "m.safetensors")


@pytest.mark.parametrize("source", ["", "  "])
def test_an_empty_path_is_refused(source: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "the path of what is converted is empty" in error_line(capsys, source, "--out", tmp_path / "m.safetensors")


# ---- names


def test_labels_name_the_classes(lite: Path, tmp_path: Path) -> None:
    labels, out = tmp_path / "labels.txt", tmp_path / "m.safetensors"
    labels.write_text("\n".join(NAMES) + "\n\n", encoding="utf-8-sig")
    assert run(lite, "--out", out, "--labels", labels) == 0
    assert list(atrous.load(out).label_space.names) == NAMES


WRONG: tuple[tuple[bytes, str], ...] = (
    ("\n".join(NAMES[:-1]).encode(), "20 names, but the model has 21 classes"),
    ("\n".join([*NAMES[:3], "", *NAMES[4:]]).encode(), "line 4 is empty"),
    (b"", "no text with the name of a class on each line"),
    (b"\xff\xfe\x00\x01" * 9, "no text with the name"),
    ("\n".join([*NAMES[:20], NAMES[0]]).encode(), "thing 0 is repeated"),
    ("\n".join([*NAMES[:20], "x" * 300]).encode(), "names"),
)


@pytest.mark.parametrize(("content", "reason"), WRONG)
def test_labels_that_do_not_fit_are_refused(
    content: bytes, reason: str, lite: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels, out = tmp_path / "labels.txt", tmp_path / "m.safetensors"
    labels.write_bytes(content)
    error = error_line(capsys, lite, "--out", out, "--labels", labels)
    assert f"--labels {labels}" in error and reason in error
    assert not out.exists()


def test_labels_that_are_not_there_or_a_folder_are_refused(
    lite: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for labels, reason in ((tmp_path / "none.txt", "no such file"), (tmp_path, "not a text file")):
        assert reason in error_line(capsys, lite, "--out", tmp_path / "m.safetensors", "--labels", labels)


def packed(lite: Path, names: list[str]) -> Path:
    with zipfile.ZipFile(lite, "a") as archive:
        archive.writestr("labelmap.txt", "\n".join(names))
    return lite


def test_names_packed_into_a_model_are_read(lite: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert list(convert(packed(lite, NAMES)).label_space.names) == NAMES


def test_packed_names_that_do_not_fit_are_said(lite: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(packed(lite, NAMES[:5]), "--out", tmp_path / "m.safetensors") == 0
    assert "5 names in its labelmap.txt, not one for each class" in capsys.readouterr().out


# ---- pixels


def test_the_numbers_of_a_normalisation_tell_the_range_of_pixels() -> None:
    model = blank_model(DeepLabV3.Config.model_validate({**FIELDS, "num_classes": 21}))
    ranges = {
        ((127.5,), (127.5,)): BYTES,
        ((0.5,), (0.5,)): UNIT,
        ((0.0,), (1.0,)): SIGNED,  # the backbone's own numbers come out
        ((127.5,), (1.0,)): BYTES,  # the scale is in the first layer
        ((123.7, 116.3, 103.5), (58.4, 57.1, 57.4)): BYTES,
        ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)): UNIT,
        ((-0.03, -0.09, -0.19), (0.458, 0.448, 0.45)): SIGNED,
    }
    assert {numbers: range_of(model, numbers) for numbers in ranges} == ranges


# ---- the original


def photo(folder: Path) -> Path:
    Image.fromarray(noise(65, 65)).save(folder / "photo.png")
    return folder / "photo.png"


@pytest.mark.skipif(find_spec("ai_edge_litert") is None, reason="LiteRT is not installed: pip install '.[litert]'")
def test_check_runs_the_original(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = SHARED / "models" / "deeplabv3_257_mv_gpu.tflite"
    if not source.exists():
        pytest.skip(f"no published model at {source}")
    assert run(source, "--out", tmp_path / "m.safetensors", "--check", photo(tmp_path)) == 0
    printed = capsys.readouterr().out
    assert "photo.png: 100.00 % of 4225 labels are the original's" in printed
    assert "all 1 images: 100.00 % of 4225 labels are the original's" in printed


def test_check_without_the_runtime_names_its_package(
    lite: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ai_edge_litert", None)
    monkeypatch.setattr("atrous.convert.originals.find_spec", lambda name: None)
    out, image = tmp_path / "m.safetensors", photo(tmp_path)
    error = error_line(capsys, lite, "--out", out, "--check", image)
    assert "--check needs LiteRT" in error and "pip install ai-edge-litert" in error
    write_frozen(tmp_path / "graph.pb")
    assert "pip install tensorflow" in error_line(capsys, tmp_path / "graph.pb", "--out", out, "--check", image)
    logs = write_training(tmp_path / "logs")
    assert "is no graph that a program could run" in error_line(capsys, logs, "--out", out, "--check", image)
    assert not out.exists()


@pytest.mark.parametrize(("is_rounded", "code", "shape"), [(False, 1, (1, 65, 65)), (True, 0, (1, 65 * 65))])
def test_a_share_below_the_threshold_fails_unless_the_original_rounds(
    is_rounded: bool,
    code: int,
    shape: tuple[int, ...],
    tmp_path: Path,
    lite: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from atrous.convert import run as verb
    from atrous.convert.originals import Original

    real = verb.conversion

    def conversion(*arguments: object, **settings: object) -> object:
        done = real(*arguments, **settings)  # type: ignore[arg-type]
        return done._replace(source=done.source._replace(is_rounded=is_rounded))

    zeros = Original(lambda image: [np.full(shape, 99)], takes_bytes=False)
    monkeypatch.setattr(verb, "require_program", lambda path: path)
    monkeypatch.setattr(verb, "open_original", lambda path: zeros)
    monkeypatch.setattr(verb, "conversion", conversion)
    out = tmp_path / "m.safetensors"
    assert run(lite, "--out", out, "--check", photo(tmp_path)) == code
    assert out.exists() == (code == 0)
    printed = capsys.readouterr()
    assert ("less than 99.90 %" in printed.err) == (code == 1)


def test_the_program_of_a_checkpoint_is_the_frozen_graph_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("atrous.convert.originals.find_spec", lambda name: name)
    prefix = write_training(tmp_path / "logs")
    sources = [prefix, prefix.with_name(f"{prefix.name}.index"), prefix.parent]
    for source in sources:
        with pytest.raises(ConfigError, match="is no graph that a program could run, and has none beside it"):
            require_program(source)
    write_frozen(prefix.parent / "frozen_inference_graph.pb")
    assert {require_program(source) for source in sources} == {prefix.parent / "frozen_inference_graph.pb"}
    (prefix.parent / "notes.pth").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"notes\.pth is no graph"):
        require_program(prefix.parent / "notes.pth")
    write_frozen(prefix.parent / "another.pb")
    with pytest.raises(ConfigError, match="has none beside it"):
        require_program(prefix)


@pytest.mark.parametrize("name", ["m.onnx", "m.pth", "m.pb", "m"])
def test_onnx_is_refused_with_what_to_convert_instead(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_bytes(b"\x08\x08\x12\x07pytorch\x1a\x052.13.0:" + bytes(600))
    line = error_line(capsys, tmp_path / name, "--out", tmp_path / "o.safetensors")
    assert "a model in ONNX" in line and "convert the file that it was exported from" in line
    assert not (tmp_path / "o.safetensors").exists()


CORE_ML = b"\x08\x03\x12\x2b\x0a\x29\x0a\x05image\x12\x1bInput image to be segmented\x1a\x02\x22\x00"


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("m.mlmodel", CORE_ML, "a model in Core ML"),
        ("m.onnx", CORE_ML, "a model in Core ML"),
        ("m.MLMODEL", b"text", "a model in Core ML"),
        ("m.param", b"7767517\n", "a model of ncnn"),
        ("m.xml", b"<?xml version='1.0'?>", "a model in OpenVINO's format"),
        ("m.rknn", b"RKNN", "compiled for a Rockchip NPU"),
        ("m.npy", b"\x93NUMPY", "a single array of NumPy"),
    ],
)
def test_models_of_other_programs_are_named(
    name: str, content: bytes, what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_bytes(content + bytes(600))
    line = error_line(capsys, tmp_path / name, "--out", tmp_path / "o.safetensors")
    assert (what in line and "that it was" in line) or "read from a .npz" in line
    assert not (tmp_path / "o.safetensors").exists()


@pytest.mark.parametrize("name", ["m.tflite", "m.pb", "m.pth", "m.h5", "m.npz", "m.safetensors", "m.tar.gz", "m"])
def test_what_a_download_left_in_place_of_a_model_is_told(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = b"\n\n<!DOCTYPE html>\n<html lang='en'>" + bytes(600)
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 2779264\n"
    for content, what in ((page, "it is a page of HTML"), (pointer, "it is a pointer of Git LFS: `git lfs pull`")):
        (tmp_path / name).write_bytes(content)
        assert what in error_line(capsys, tmp_path / name, "--out", tmp_path / "o.safetensors")


def test_a_folder_of_core_ml_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "DeepLab.mlpackage" / "Data").mkdir(parents=True)
    line = error_line(capsys, tmp_path / "DeepLab.mlpackage", "--out", tmp_path / "o.safetensors")
    assert "a model in Core ML" in line


@pytest.mark.parametrize("name", ["variables.npz", "variables"])
def test_arrays_by_name_are_read_from_numpys_archive(name: str, tmp_path: Path) -> None:
    """TensorFlow's names of tensors are those of variables with :0 behind them."""
    path = tmp_path / "saved.npz"
    save: Callable[..., None] = np.savez
    save(path, **{f"{variable}:0": array for variable, array in half_width().items()})
    path.rename(tmp_path / name)
    whole, plain = convert(tmp_path / name).model.state_dict(), convert(half_width()).model.state_dict()
    assert all(torch.equal(tensor, plain[key]) for key, tensor in whole.items())


def test_a_graph_whose_weights_lie_elsewhere_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "graph.pb").write_bytes(writers.node("image", "Placeholder") + writers.node("b", "Relu", "image"))
    line = error_line(capsys, tmp_path / "graph.pb", "--out", tmp_path / "o.safetensors")
    assert "it holds no weights of a network's layers; a graph may have them in a checkpoint" in line


def test_shares_by_hand() -> None:
    whole = total([Agreement("a", 9, 10), Agreement("b", 90, 90)])
    assert (whole.share, whole.name) == (0.99, "all 2 images")
    assert percent(0.99999) == "99.99 %"
    assert percent(1) == "100.00 %"
    assert 0.998 < THRESHOLD < 1


@pytest.mark.parametrize("convention", ["aligned_corners", "half_pixel", "legacy"])
def test_labels_may_differ_where_two_classes_tie(convention: Convention) -> None:
    """Class 0 is ahead of class 1 on the left, by rounding alone; on the right by far; class 9 doesn't exist."""
    logits = torch.zeros(1, 3, 2, 2)
    logits[0, 0] = torch.tensor([[1.0, 2.0], [1.0, 2.0]])
    logits[0, 1] = 1 - 1e-6
    ours, theirs = torch.zeros(4, 4, dtype=torch.uint8), torch.zeros(4, 4, dtype=torch.int64)
    assert ties(logits, (4, 4), convention, ours, theirs) == 0
    theirs[1, 0], theirs[3, 0], theirs[2, 3], theirs[0, 1], theirs[0, 0] = 1, 1, 1, 2, 9
    assert ties(logits, (4, 4), convention, ours, theirs) == 2
    agreement = Agreement("a", 13, 16, 2)
    assert agreement.share == 13 / 14
    assert agreement.line() == "a: 92.85 % of 16 labels are the original's, but for 2 where two classes tie"


def test_an_unknown_operator_in_the_middle_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "graph.pb"
    data = graphs.frozen(changed(half_width_steps(), "aspp0", activation="Tan"), half_width())
    path.write_bytes(data)
    assert "Tan(aspp0)" in error_line(capsys, path, "--out", tmp_path / "m.safetensors")
