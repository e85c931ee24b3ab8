"""One file holds a whole model; a damaged or foreign file is refused with its name, an old one is read."""

import json
import os
import random
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

import atrous
from atrous import model_file, segmenter
from atrous.convert.sources import ARCHIVES, READERS
from atrous.errors import AtrousWarning, ModelFileError
from atrous.inference import InferenceConfig
from atrous.models import MODELS
from atrous.runtimes import pytorch
from atrous.runtimes.pytorch import checksum
from atrous.segmenter import Segmenter
from tests.conftest import noise
from tests.runs import assert_same


@pytest.fixture
def saved(small: Segmenter, tmp_path: Path) -> Path:
    small.save(tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def metadata_of(path: Path) -> dict[str, str]:
    with safe_open(path, framework="pt") as file:
        metadata: dict[str, str] = file.metadata()
        return metadata


def rewrite(
    path: Path,
    *,
    header: dict[str, str] | None = None,
    change: Callable[[dict[str, Tensor]], dict[str, Tensor]] = dict,
) -> None:
    """Save the file again with something about it changed; the checksums are those of the new content."""
    weights = change(load_file(path))
    metadata = {**metadata_of(path), "checksum": checksum(weights), **(header or {})}
    save_file(weights, path, {**metadata, "header_checksum": model_file.header_checksum(metadata)})


# ---- whole


def test_a_saved_and_loaded_model_is_the_same(small: Segmenter, saved: Path) -> None:
    loaded = atrous.load(saved)
    assert loaded.header == small.header
    assert loaded.header.decode == type(loaded.task.decoding()).model_validate({})
    assert_same(small.model.state_dict(), loaded.model.state_dict())
    assert not loaded.model.training
    assert np.array_equal(small.predict(noise()).semantic, loaded.predict(noise()).semantic)


def test_a_header_survives_its_metadata(small: Segmenter) -> None:
    bare = small.header.model_copy(update={"training": None, "results": {}, "origin": {}})
    for header in (small.header, bare):
        metadata = {"atrous_format": model_file.FORMAT, **header.to_metadata()}
        assert model_file.parse(metadata, Path("m.safetensors")) == header
        assert ("training" in metadata) == (header.training is not None)


def test_a_model_with_lists_of_lists_is_saved_whole(tmp_path: Path) -> None:
    tree: dict[str, Any] = {
        "backbone": {"name": "mobilenet_v2", "depth_multiplier": 0.1},
        "cell": ({"kernel": 1}, {"op": "pyramid_pooling", "grid_size": (2, 4), "input": 0}),
        "cell_channels": 4,
        "image_pyramid": (0.5, 1),
    }
    config = MODELS["dense_prediction_cell"].Config.model_validate(tree)
    protocol = InferenceConfig(mode="canvas", window=(33, 49), crf="v2_vgg16")
    created = segmenter.create(config, num_classes=3).with_header(inference=protocol)
    created.save(tmp_path / "model.safetensors")
    loaded = atrous.load(tmp_path / "model.safetensors")
    assert loaded.model.config == created.model.config == config.model_copy(update={"num_classes": 3})
    assert loaded.inference == protocol
    assert loaded.predict(noise()).semantic.shape == (40, 50)


def test_an_unreadable_folder_keeps_the_old_file(small: Segmenter, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OSError, match=r"cannot write .*file/model\.safetensors"):
        small.save(tmp_path / "file" / "model.safetensors")
    assert (tmp_path / "file").read_text() == "mine"


def test_results_do_not_depend_on_where_the_file_has_its_weights(small: Segmenter, tmp_path: Path) -> None:
    """The length of the header moves the weights; .safetensors aligns them to 8 bytes, vector instructions want 64."""
    images = torch.from_numpy(noise()).permute(2, 0, 1)[None]
    with torch.no_grad():
        expected = small.model(images).semantic
    offsets = set()
    for length in (*range(17), *range(24, 64, 8)):
        path = tmp_path / f"{length}.safetensors"
        small.with_header(origin={"source": "x" * length}).save(path)
        offsets.add(int.from_bytes(path.read_bytes()[:8], "little") % 64)
        with torch.no_grad():
            assert torch.equal(atrous.load(path).model(images).semantic, expected), length
    assert len(offsets) == 8


def test_equal_models_are_equal_files(small: Segmenter, saved: Path, tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.safetensors" for number in range(8)]
    for path in paths[:4]:
        small.save(path)
    for path in paths[4:]:
        atrous.load(saved).save(path)
    assert {path.read_bytes() for path in paths} == {saved.read_bytes()}


@pytest.mark.slow
@pytest.mark.parametrize("seed", ["0", "77"])
def test_another_process_writes_the_same_file(saved: Path, tmp_path: Path, seed: str) -> None:
    """One that orders sets and hashes otherwise."""
    program = "import sys, atrous; atrous.load(sys.argv[1]).save(sys.argv[2])"
    command = [sys.executable, "-c", program, str(saved), str(tmp_path / "again.safetensors")]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONHASHSEED": seed})
    assert (tmp_path / "again.safetensors").read_bytes() == saved.read_bytes()


def test_another_reader_of_safetensors_reads_the_same(small: Segmenter, saved: Path) -> None:
    assert_same(load_file(saved), dict(small.model.state_dict()))
    assert list(metadata_of(saved)) and metadata_of(saved)["label_space"] == small.label_space.model_dump_json()


# ---- format 1


def flat_model() -> dict[str, Any]:
    """The tiny recipe's model as format 1 has it."""
    return {
        "name": "deeplab_v3plus",
        "backbone": "mobilenet_v2",
        "output_stride": 16,
        "num_classes": None,
        "depth_multiplier": 0.1,
        "divisible_by": None,
        "multi_grid": None,
        "bounded": False,
        "classification_head": False,
        "remove_stride_32": False,
        "drop_path": 0.0,
        "align_corners": True,
        "image_pyramid": [1.0],
        "merge": "max",
        "decoder_strides": [4],
        "low_level_channels": 4,
        "decoder_channels": 8,
        "decoder_separable": None,
        "decoder_merge": "concat",
        "decoder_logits": False,
        "rates": [2, 4, 6],
        "aspp_channels": 8,
        "separable": True,
        "dropout": 0.1,
        "image_level": True,
        "pooling_window": None,
        "pooling_stride": [1, 1],
        "projection": True,
        "squeeze": "none",
        "norm_eps": 0.00001001,
    }


def format_1(small: Segmenter) -> dict[str, str]:
    """A file's metadata in format 1: flat settings, no `decode`, no checksum, a conversion's origin in the results."""
    assert small.training is not None
    loss = {"labels": "image", "class_weights": None, "hard_pixels": 1.0, "hard_pixels_step": 0}
    training = {
        **{name: section for name, section in small.training.model_dump(mode="json").items() if name != "decode"},
        "model": flat_model(),
        "loss": {**loss, "auxiliary": 0.4, "cascade": [0.16, 0.5], "presence": 0.2},
    }
    return {
        "atrous_format": "1",
        "model": json.dumps(flat_model()),
        "label_space": small.label_space.model_dump_json(),
        "inference": small.inference.model_dump_json(),
        "results": json.dumps({"miou": 0.5, "converted": {"source": "model.pth"}}),
        "training": json.dumps(training),
    }


def test_a_file_of_format_1_is_read(small: Segmenter, tmp_path: Path) -> None:
    path = tmp_path / "old.safetensors"
    save_file(dict(small.model.state_dict()), path, format_1(small))
    with pytest.warns(AtrousWarning, match=r"old\.safetensors: of format 1, without a checksum: damage is not noticed"):
        loaded = atrous.load(path)
    assert loaded.header.model == small.model.config
    assert (loaded.label_space, loaded.inference) == (small.label_space, small.inference)
    assert (loaded.results, loaded.header.origin) == ({"miou": 0.5}, {"source": "model.pth"})
    assert small.training is not None and loaded.training is not None
    assert loaded.training.model == small.training.model
    assert loaded.training.loss.model_dump()["weights"] == {"cascade_1": 0.5}
    assert_same(small.model.state_dict(), loaded.model.state_dict())
    assert np.array_equal(small.predict(noise()).semantic, loaded.predict(noise()).semantic)


def test_a_file_of_format_1_without_an_experiment_is_read_and_saved_in_the_new_format(
    small: Segmenter, tmp_path: Path
) -> None:
    metadata = {name: text for name, text in format_1(small).items() if name not in ("training", "results")}
    save_file(dict(small.model.state_dict()), tmp_path / "old.safetensors", metadata)
    with pytest.warns(AtrousWarning):
        loaded = atrous.load(tmp_path / "old.safetensors")
    assert (loaded.training, loaded.results, loaded.header.origin) == (None, {}, {})
    loaded.save(tmp_path / "new.safetensors")
    assert metadata_of(tmp_path / "new.safetensors")["atrous_format"] == model_file.FORMAT
    assert atrous.load(tmp_path / "new.safetensors").header == loaded.header


# ---- damaged or foreign


def test_a_truncated_file_is_refused(saved: Path) -> None:
    content = saved.read_bytes()
    for length in (4, 100, 5000, -1):
        saved.write_bytes(content[:length])
        with pytest.raises(ModelFileError, match=r"model\.safetensors: not a complete \.safetensors file"):
            atrous.load(saved)


def test_a_flipped_bit_is_told_wherever_it_is(saved: Path) -> None:
    """63 anywhere, and 40 in the length, the metadata, the table of weights and the padding before them."""
    content, rng = saved.read_bytes(), random.Random(0)
    end = 8 + int.from_bytes(content[:8], "little")
    assert content[:end].endswith(b" ")  # padding
    places = [rng.randrange(len(content)) for _ in range(63)] + [rng.randrange(end) for _ in range(40)]
    for place in (*places, *range(8), end - 1, end, len(content) - 1):
        damaged = bytearray(content)
        damaged[place] ^= 1 << rng.randrange(8)
        saved.write_bytes(damaged)
        with pytest.raises(ModelFileError, match=r"^\S+model\.safetensors: .+$"):
            atrous.load(saved)


def test_a_flipped_bit_in_the_weights_is_refused(saved: Path) -> None:
    content = bytearray(saved.read_bytes())
    content[-1] ^= 1
    saved.write_bytes(content)
    with pytest.raises(ModelFileError, match=r"model\.safetensors: its weights do not match their checksum"):
        atrous.load(saved)


def test_a_header_without_its_checksums_is_refused(saved: Path) -> None:
    whole, content = saved.read_bytes(), saved.read_bytes()
    for key in (b'"header_checksum"', b'"checksum"'):
        content = whole.replace(key, key.replace(b"s", b"z"), 1)
        assert content != whole
        saved.write_bytes(content)
        with pytest.raises(ModelFileError, match=r"model\.safetensors: its header"):
            atrous.load(saved)


def test_a_flipped_bit_in_the_header_is_refused(saved: Path) -> None:
    content = saved.read_bytes()
    for text, damaged in ((b"sky", b"ski"), (b'"inference"', b'"inferenbe"')):  # the name of a class, a section
        assert text in content
        saved.write_bytes(content.replace(text, damaged, 1))
        with pytest.raises(ModelFileError, match=r"model\.safetensors: its header does not match its checksum"):
            atrous.load(saved)


def test_a_foreign_file_is_refused(tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(3)}, tmp_path / "foreign.safetensors")
    with pytest.raises(ModelFileError, match=r"foreign\.safetensors: not a model of Atrous"):
        atrous.load(tmp_path / "foreign.safetensors")
    torch.save({"weight": torch.zeros(3)}, tmp_path / "foreign.pth")
    with pytest.raises(ModelFileError, match=r"foreign\.pth: a model of another program"):
        atrous.load(tmp_path / "foreign.pth")
    with pytest.raises(FileNotFoundError, match="no such model file"):
        atrous.load(tmp_path / "nowhere.safetensors")


@pytest.mark.timeout(20)
def test_what_is_no_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"a folder without best\.safetensors"):
        atrous.load(tmp_path)
    os.mkfifo(tmp_path / "pipe.safetensors")
    with pytest.raises(ModelFileError, match=r"pipe\.safetensors: a pipe or a device"):
        atrous.load(tmp_path / "pipe.safetensors")


def test_a_header_of_any_length_is_no_other_kind_of_file(small: Segmenter, tmp_path: Path) -> None:
    """The length comes first, and may begin as a pickle (0x80) or a web page (<) does."""
    path, first = tmp_path / "model.safetensors", set()
    for length in range(0, 256, 8):
        small.with_header(origin={"source": "x" * length}).save(path)
        first.add(path.read_bytes()[:1])
        model_file.parse(pytorch.read_metadata(path), path)
    assert b"\x80" in first


FILES_OF_OTHERS = [
    (b"hello, this is not a model", ""),
    (b"PK\x03\x04" + bytes(100), "a zip archive, as PyTorch writes"),
    (b"\x80\x02}q\x00.", "a Python pickle"),
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "`git lfs pull` fetches the file itself"),
    (b"<!DOCTYPE html><html></html>", "a web page"),
    (bytes(100), ""),
    ((2).to_bytes(8, "little") + b"{}", "not a model of Atrous"),
    ((2**40).to_bytes(8, "little") + b"{}", ""),
    ((10**8).to_bytes(8, "little") + b"{" + b" " * 10**8, "its header has 100000000 bytes, more than 16777216"),
    ((9).to_bytes(8, "little") + b'{"a": "b"', ""),
]


@pytest.mark.parametrize(("content", "reason"), FILES_OF_OTHERS, ids=range(len(FILES_OF_OTHERS)))
def test_a_file_of_another_kind_is_refused_by_its_kind(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(ModelFileError) as error:
        atrous.load(path)
    assert reason in str(error.value)
    assert str(error.value).startswith(f"{path}: not a ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite_are_named(saved: Path, value: float) -> None:
    def damage(weights: dict[str, Tensor]) -> dict[str, Tensor]:
        weights["classify.bias"][1] = value
        return weights

    rewrite(saved, change=damage)
    with pytest.raises(ModelFileError, match=r"NaN or infinite weights in classify\.bias"):
        atrous.load(saved)


def test_weights_whose_sum_is_too_large_are_finite(saved: Path) -> None:
    rewrite(saved, change=lambda weights: {**weights, "shift": torch.full((3, 1, 1), 3e38)})
    assert float(atrous.load(saved).model.shift.max()) == pytest.approx(3e38)


@pytest.mark.parametrize(
    ("kind", "name"), [(torch.int32, "int32"), (torch.float16, "float16"), (torch.float64, "float64")]
)
def test_weights_of_another_type_are_named(saved: Path, kind: torch.dtype, name: str) -> None:
    rewrite(saved, change=lambda weights: {**weights, "classify.bias": weights["classify.bias"].to(kind)})
    with pytest.raises(ModelFileError, match=rf"classify\.bias is {name} where the model has float32"):
        atrous.load(saved)


def test_weights_of_another_network_are_named(saved: Path) -> None:
    name = next(name for name in load_file(saved) if name.endswith("running_mean"))
    whole = saved.read_bytes()
    for change, reason in (
        (lambda weights: {key: x for key, x in weights.items() if key != name}, rf"1 missing \({name}\)"),
        (lambda weights: {**weights, "mine": torch.zeros(1)}, r"1 unknown \(mine\)"),
        (lambda weights: {**weights, name: weights[name][:1].clone()}, rf"{name} is \[1\] where .* disagree"),
    ):
        saved.write_bytes(whole)
        rewrite(saved, change=change)
        with pytest.raises(ModelFileError, match=reason):
            atrous.load(saved)


def test_a_number_of_classes_that_contradicts_the_label_space_is_refused(small: Segmenter, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    small.with_header(model=small.header.model.model_copy(update={"num_classes": 5})).save(path)
    with pytest.raises(ModelFileError, match=r"safetensors: num_classes is 5, but the label space has 3 classes"):
        atrous.load(path)


HEADERS = (
    ({"label_space": json.dumps({"names": ["a", "b"]})}, "the weights and the header (num_classes?) disagree"),
    ({"atrous_format": "99"}, "made by a newer Atrous, in format 99; this version reads formats up to 2: upgrade"),
    ({"atrous_format": "two"}, "its header is damaged: no format 'two'; there are 1 and 2"),
    ({"atrous_format": "9" * 9999}, "its header is damaged: no format '99999999999999999999'"),
    ({"label_space": "{"}, "its header is damaged"),
    ({"model": json.dumps({"name": "deeplab_v77"})}, "model.name=deeplab_v77: unknown model; did you mean deeplab_v3?"),
    ({"model": json.dumps(flat_model())}, "its header is damaged: model."),  # format 1 in a file of format 2
    ({"inference": json.dumps({"flop": True})}, "its header is damaged: inference.flop: unknown key"),
    ({"atrous_format": "1", "model": "[]"}, "its header is damaged: model is a list, not a mapping"),
    ({"atrous_format": "1", "results": "5"}, "its header is damaged: results is a number, not a mapping"),
    ({"training": "[" * 100_000}, "its header is damaged"),
)


def test_a_header_that_does_not_fit_is_refused(saved: Path) -> None:
    whole = saved.read_bytes()
    for header, reason in HEADERS:
        saved.write_bytes(whole)
        rewrite(saved, header=header)
        with pytest.raises(ModelFileError) as error:
            atrous.load(saved)
        assert reason in str(error.value)
        assert str(saved) in str(error.value)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        *(
            (f"net.v2{suffix}", "--out net.safetensors")
            for suffixes in (*READERS, ARCHIVES)
            for suffix in suffixes
            if suffix not in (".safetensors", ".onnx", ".pkl", ".pickle", ".tflite")
        ),
        ("net.PTH", "convert it first: atrous convert {path} --out net.safetensors"),
        ("my net.h5", "convert it first: atrous convert '{path}' --out 'my net.safetensors'"),
        ("net.tflite", "not a complete TensorFlow Lite file (truncated, damaged"),
        ("net.mlmodel", "an exported model"),
        ("net.pkl", "a pickle, which could run code"),
        ("net.onnx", "not a complete ONNX file"),
        ("street.JPG", "an image, not a model file"),
    ],
)
def test_a_file_of_another_kind_is_answered_with_what_to_do(name: str, answer: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"x" * 99)
    with pytest.raises(ModelFileError, match=re.escape(answer.format(path=tmp_path / name))):
        atrous.load(tmp_path / name)


@pytest.mark.parametrize("suffix", [".safetensors", ".onnx", ".xml", ".tflite", ".pt2", ".pth", ".h5"])
def test_an_empty_file_is_called_empty_and_no_model_of_another_program(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"net{suffix}"
    path.touch()
    with pytest.raises(ModelFileError, match=re.escape(f"{path}: the file is empty") + "$"):
        atrous.load(path)


def test_a_model_is_read_whatever_its_name(small: Segmenter, saved: Path) -> None:
    assert atrous.load(saved.rename(saved.with_name("model.pth"))).header == small.header


def test_what_is_no_file_but_can_be_converted_is_answered_with_the_command(tmp_path: Path) -> None:
    (tmp_path / "model.ckpt.index").touch()
    with pytest.raises(ModelFileError, match=rf"atrous convert {tmp_path}/model.ckpt --out model.safetensors"):
        atrous.load(tmp_path / "model.ckpt")
    with pytest.raises(ModelFileError, match=r"atrous convert zoo:xception --out xception\.safetensors"):
        atrous.load("zoo:xception")
