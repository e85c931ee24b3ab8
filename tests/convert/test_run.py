"""`atrous convert` from end to end: files and archives in, a model file out."""

import functools
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor

import atrous
from atrous import cli
from atrous.convert import convert
from atrous.convert.run import conversion
from atrous.errors import ConversionError
from tests.conftest import SHARED, save
from tests.convert.conftest import assert_close, error_line, run
from tests.convert.readers.writers import write_checkpoint
from tests.convert.sources import (
    HALF,
    archive_name,
    half_width,
    semseg_shapes,
    serve,
    write_archive,
    write_graph,
    write_tflite,
    write_training,
)

REAL = SHARED / "goldens" / "tf_deeplab" / "checkpoint"
needs_real = pytest.mark.skipif(not REAL.exists(), reason=f"no real checkpoint at {REAL}")


@functools.cache
def image() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (49, 65, 3), dtype=np.uint8)


def batch() -> Tensor:
    return torch.from_numpy(image()).permute(2, 0, 1)[None]


@functools.cache
def expected() -> Tensor:
    with torch.no_grad():
        logits: Tensor = convert(half_width()).model(batch()).semantic
    return logits


def assert_same_logits(path: Path) -> None:
    with torch.no_grad():
        assert torch.equal(atrous.load(path).model(batch()).semantic, expected())


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """The prefix of a checkpoint in a training's folder."""
    return write_training(tmp_path / "train_logdir")


@pytest.fixture
def archive(checkpoint: Path, tmp_path: Path) -> Path:
    path = tmp_path / "site" / archive_name()
    path.parent.mkdir()
    write_archive(path, checkpoint.parent)
    return path


# ---- every kind of source


@pytest.mark.parametrize("form", ["prefix", "index", "folder"])
def test_a_checkpoint_is_converted(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], form: str
) -> None:
    source = {
        "prefix": checkpoint,
        "index": checkpoint.with_name(f"{checkpoint.name}.index"),
        "folder": checkpoint.parent,
    }[form]
    assert run(source, "--out", tmp_path / "m.safetensors") == 0
    printed = capsys.readouterr().out
    assert "deeplab_v3, mobilenet_v2, output stride 16, 21 classes, 0.70 M parameters" in printed
    assert "272 weights used" in printed
    assert "Momentum, global_step" in printed
    assert "assumed: output_stride=16" in printed
    assert_same_logits(tmp_path / "m.safetensors")


def test_a_frozen_graph_is_converted(tmp_path: Path) -> None:
    path = tmp_path / "frozen_inference_graph.pb"
    write_graph(path)
    assert run(path, "--out", tmp_path / "m.safetensors") == 0
    assert_same_logits(tmp_path / "m.safetensors")


def test_a_tflite_model_is_converted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_tflite(tmp_path / "model.tflite")
    assert run(tmp_path / "model.tflite", "--out", tmp_path / "m.safetensors") == 0
    assert "batch norms are folded" in capsys.readouterr().out
    loaded = atrous.load(tmp_path / "m.safetensors")
    assert loaded.inference.window == (65, 65)
    with torch.no_grad():
        assert_close(loaded.model(batch()).semantic, expected(), 1e-5)


def test_an_archive_is_converted(archive: Path, tmp_path: Path) -> None:
    assert run(archive, "--out", tmp_path / "m.safetensors") == 0
    assert_same_logits(tmp_path / "m.safetensors")


@pytest.fixture
def zoo(archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A mirror of the zoo on this machine, with one archive."""
    with serve(archive.parent) as address:
        monkeypatch.setenv("ATROUS_ZOO", address)
        monkeypatch.setenv("ATROUS_CACHE", str(tmp_path / "cache"))
        yield


@pytest.mark.usefixtures("zoo")
def test_one_command_fetches_converts_and_the_next_predicts(tmp_path: Path) -> None:
    model, photo = tmp_path / "m.safetensors", tmp_path / "photo.png"
    assert run(f"zoo:{HALF}", "--out", model) == 0
    assert_same_logits(model)
    loaded = atrous.load(model)
    assert (loaded.inference.mode, loaded.inference.window) == ("canvas", (513, 513))
    assert loaded.label_space.names[15] == "person"
    save(photo, image())
    assert cli.run(["predict", str(model), str(photo), "--out", str(tmp_path / "p")]) == 0
    assert (tmp_path / "p" / "masks" / "photo.png").exists()
    assert run(f"zoo:{HALF}", "--out", model, "output_stride=8") == 0
    assert atrous.load(model).model.config.output_stride == 8


@pytest.mark.usefixtures("zoo")
def test_an_archive_that_the_mirror_lacks_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = error_line(capsys, "zoo:xception65_coco_voc_trainaug", "--out", tmp_path / "m.safetensors")
    assert "404" in message
    message = error_line(capsys, "zoo:mobilenetv2_coco", "--out", tmp_path / "m.safetensors")
    assert "mobilenetv2_coco_voc_trainaug" in message


# ---- origin and options


def test_the_model_file_records_its_origin(checkpoint: Path, tmp_path: Path) -> None:
    assert run(checkpoint, "dataset=pascal_voc_seg", "--out", tmp_path / "m.safetensors") == 0
    origin = atrous.load(tmp_path / "m.safetensors").header.origin
    assert origin["source"] == str(checkpoint)
    assert origin["system"] == "tf_deeplab"
    assert origin["options"] == {"dataset": "pascal_voc_seg"}
    assert "global_step" in origin["unused"]
    assert len(origin["unused"]) == 1 + sum(name.endswith("weights") for name in half_width())
    assert json.dumps(origin)


def test_options_reach_the_model(checkpoint: Path) -> None:
    done = conversion(checkpoint, options={"output_stride": "8", "crop_size": "97,97"})
    assert done.segmenter.model.config.output_stride == 8
    assert done.segmenter.inference.window == (97, 97)
    assert not any("output_stride" in text for text in done.assumptions)


# ---- refused


def test_wrong_calls_are_reported_in_one_line(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "m.safetensors"
    assert "no such checkpoint" in error_line(capsys, tmp_path / "none.ckpt", "--out", out)
    assert "an option must have the form flag=value" in error_line(capsys, checkpoint, "output_stride", "--out", out)
    assert "did you mean output_stride" in error_line(capsys, checkpoint, "output_strid=8", "--out", out)
    assert "output_stride" in error_line(capsys, checkpoint, "output_stride=7", "--out", out)
    assert "must end in .safetensors" in error_line(capsys, checkpoint, "--out", tmp_path / "m.pt")
    assert "system=caffe" in error_line(capsys, checkpoint, "--system", "caffe", "--out", out)
    assert not out.exists()


def test_a_model_of_another_program_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_checkpoint(tmp_path / "bert", {"bert/encoder/kernel": np.ones((2, 2), np.float32)})
    message = error_line(capsys, tmp_path / "bert", "--out", tmp_path / "m.safetensors")
    assert "weights of no known system (bert/encoder/kernel" in message
    assert not (tmp_path / "m.safetensors").exists()


def test_files_of_other_content_are_refused_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("weights.pth", "weights.pt", "model.h5", "model.safetensors", "model.pb", "model.tflite", "a.tar.gz"):
        (tmp_path / name).write_bytes(b"\x80\x02nothing of the kind" * 10)
        assert name in error_line(capsys, tmp_path / name, "--out", tmp_path / "m.safetensors")


def test_an_empty_folder_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    assert "empty" in error_line(capsys, tmp_path / "empty", "--out", tmp_path / "m.safetensors")


# ---- real files


@needs_real
@pytest.mark.parametrize("source", ["model.ckpt-30000", "", "frozen_inference_graph.pb"])
def test_a_real_checkpoint_and_its_frozen_graph_have_the_originals_logits(source: str) -> None:
    segmenter = convert(REAL / source if source else REAL)
    with np.load(REAL / "expected.npz") as golden:
        pixels, logits, labels = golden["image"], golden["logits"], golden["labels"]
    with torch.no_grad():
        ours = segmenter.model(torch.from_numpy(pixels).permute(0, 3, 1, 2)).semantic.permute(0, 2, 3, 1).numpy()
    assert np.abs(ours - logits).max() <= 1e-4 * np.abs(logits).max()
    assert np.array_equal(segmenter.predict(pixels[0]).semantic, labels[0])


@pytest.mark.skipif(not (SHARED / "models").exists(), reason="no real models in shared/models")
def test_an_imagenet_classifier_knows_a_cat() -> None:
    segmenter = convert(SHARED / "models" / "mobilenet_v2_1.0_224_quant.tflite")
    labels = (SHARED / "models" / "imagenet_labels.txt").read_text().splitlines()
    prediction = segmenter.predict(SHARED / "photos" / "chelsea.png")
    best = max(prediction.classes, key=lambda name: prediction.classes[name])
    assert "cat" in labels[list(prediction.classes).index(best)]
    assert sum(prediction.classes.values()) == pytest.approx(1)


def test_no_folder_is_made_for_a_missing_source(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no such checkpoint" in error_line(
        capsys, tmp_path / "none", "--out", tmp_path / "new" / "sub" / "m.safetensors"
    )
    assert not (tmp_path / "new").exists()


def test_messages_name_the_archive_not_a_temporary_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "readme.txt").write_text("nothing")
    path = tmp_path / "photos.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        tar.add(tmp_path / "readme.txt", "readme.txt")
    message = error_line(capsys, path, "--out", tmp_path / "m.safetensors")
    assert str(path) in message
    assert "/tmp/tmp" not in message


def test_recalibration_never_replaces_statistics_of_a_training(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path / "photo.png", image())
    out = tmp_path / "m.safetensors"
    message = error_line(capsys, checkpoint, "--out", out, "--recalibrate", tmp_path / "photo.png")
    assert "no batch norm is folded" in message
    assert not out.exists()


def test_flags_may_have_dashes_as_in_the_original(checkpoint: Path, tmp_path: Path) -> None:
    assert run(checkpoint, "--output_stride=8", "--crop_size=65", "--out", tmp_path / "m.safetensors") == 0
    loaded = atrous.load(tmp_path / "m.safetensors")
    assert loaded.model.config.output_stride == 8
    assert loaded.inference.window == (65, 65)


def test_the_file_that_names_the_newest_checkpoint_is_a_source(checkpoint: Path) -> None:
    done = conversion(checkpoint.with_name("checkpoint"), options={"multi_grid": "1,2,4"})
    assert "multi_grid has no effect on mobilenet_v2" in done.assumptions


def test_a_model_of_the_zoo_is_of_one_system(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = error_line(capsys, f"zoo:{HALF}", "--system", "semseg", "--out", tmp_path / "m.safetensors")
    assert f"{HALF} of the zoo is of tf_deeplab" in message


def test_a_model_never_takes_the_place_of_its_source(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Named itself, by its folder, or through a link: what can't be converted again must stay."""
    folder = tmp_path / "published"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    source, link = folder / "model.safetensors", tmp_path / "link.safetensors"
    save_file({name: torch.zeros(shape) for name, shape in semseg_shapes().items()}, source)
    link.symlink_to(source)
    before = source.read_bytes()
    for named, out in ((source, source), (folder, source), (source, link), (link, source)):
        assert "is the file that is converted: choose another name" in error_line(capsys, named, "--out", out)
        assert source.read_bytes() == before and link.is_symlink()


def test_weights_of_8_bits_without_a_scale_are_refused() -> None:
    rounded: dict[str, NDArray[Any]] = dict(half_width())
    rounded["logits/semantic/weights"] = rounded["logits/semantic/weights"].astype(np.int8)
    with pytest.raises(ConversionError, match="1 weight rounded to 8 bits, without a scale: logits/semantic/weights"):
        convert(rounded)
