"""`atrous convert` from end to end: files and archives in, a model file out."""

import functools
import http.server
import json
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

import atrous
from atrous import cli
from atrous.convert import convert
from atrous.convert.run import conversion
from atrous.convert.zoo import ZOO
from atrous.models import build
from atrous.models.deeplab_v3 import DeepLabV3
from tests.conftest import SHARED, save
from tests.convert.readers.writers import constant, node, tensor, write_checkpoint
from tests.reference.tf_deeplab import listing, seeded

REAL = SHARED / "goldens" / "tf_deeplab" / "checkpoint"
HALF = "mobilenetv2_dm05_coco_voc_trainaug"
needs_real = pytest.mark.skipif(not REAL.exists(), reason=f"no real checkpoint at {REAL}")

Arrays = dict[str, NDArray[np.float32]]


@functools.cache
def half_width() -> Arrays:
    """The variables of the zoo's smallest model."""
    config = DeepLabV3.Config(backbone="mobilenet_v2", depth_multiplier=0.5, rates=())
    with torch.device("meta"):
        model = build(config, 21)
    return {name: seeded(name, shape) for name, shape in listing(model).items()}


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


def trained(arrays: Arrays) -> dict[str, NDArray[np.generic]]:
    """With what a training leaves beside the model."""
    slots = {f"{name}/Momentum": np.zeros_like(array) for name, array in arrays.items() if name.endswith("weights")}
    return {**arrays, **slots, "global_step": np.array(30_000, np.int64)}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """The prefix of a checkpoint as `Saver` leaves it in a training's folder."""
    folder = tmp_path / "train_logdir"
    folder.mkdir()
    write_checkpoint(folder / "model.ckpt-30000", trained(half_width()))
    (folder / "checkpoint").write_text('model_checkpoint_path: "model.ckpt-30000"\n')
    return folder / "model.ckpt-30000"


@pytest.fixture
def archive(checkpoint: Path, tmp_path: Path) -> Path:
    path = tmp_path / "site" / f"{ZOO[HALF].archive}.tar.gz"
    path.parent.mkdir()
    with tarfile.open(path, "w:gz", compresslevel=1) as tar:
        for file in sorted(checkpoint.parent.iterdir()):
            tar.add(file, f"deeplabv3_mnv2_dm05/{file.name}")
    return path


def run(*arguments: str | Path) -> int:
    return cli.run([str(argument) for argument in arguments])


def line(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """The one line of a wrong call."""
    assert run("convert", *arguments) == 2
    said = capsys.readouterr().err
    assert said.startswith("atrous: ")
    assert said.count("\n") == 1, said
    return said


# ---- every way in


@pytest.mark.parametrize("form", ["prefix", "index", "folder"])
def test_a_checkpoint(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], form: str) -> None:
    source = {
        "prefix": checkpoint,
        "index": checkpoint.with_name(f"{checkpoint.name}.index"),
        "folder": checkpoint.parent,
    }[form]
    assert run("convert", source, "--out", tmp_path / "m.safetensors") == 0
    said = capsys.readouterr().out
    assert "deeplab_v3, mobilenet_v2, output stride 16, 21 classes, 0.70 M parameters" in said
    assert "272 variables used" in said
    assert "Momentum, global_step" in said
    assert "taken for granted: output_stride=16" in said
    assert_same_logits(tmp_path / "m.safetensors")


def test_a_frozen_graph(tmp_path: Path) -> None:
    path = tmp_path / "frozen_inference_graph.pb"
    graph = b"".join(constant(name, tensor(array)) for name, array in half_width().items())
    path.write_bytes(graph + node("ImageTensor", "Placeholder"))
    assert run("convert", path, "--out", tmp_path / "m.safetensors") == 0
    assert_same_logits(tmp_path / "m.safetensors")


def test_an_archive(archive: Path, tmp_path: Path) -> None:
    assert run("convert", archive, "--out", tmp_path / "m.safetensors") == 0
    assert_same_logits(tmp_path / "m.safetensors")


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def zoo(archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A mirror of the zoo on this machine, with one archive."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(archive.parent)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("ATROUS_ZOO", f"http://127.0.0.1:{server.server_port}/")
    monkeypatch.setenv("ATROUS_CACHE", str(tmp_path / "cache"))
    yield
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.usefixtures("zoo")
def test_one_command_fetches_converts_and_the_next_predicts(tmp_path: Path) -> None:
    model, photo = tmp_path / "m.safetensors", tmp_path / "photo.png"
    assert run("convert", f"zoo:{HALF}", "--out", model) == 0
    assert_same_logits(model)
    loaded = atrous.load(model)
    assert (loaded.inference.mode, loaded.inference.window) == ("canvas", (513, 513))
    assert loaded.label_space.names[15] == "person"
    save(photo, image())
    assert run("predict", model, photo, "--out", tmp_path / "p") == 0
    assert (tmp_path / "p" / "masks" / "photo.png").exists()
    assert run("convert", f"zoo:{HALF}", "--out", model, "output_stride=8") == 0
    assert atrous.load(model).model.config.output_stride == 8


@pytest.mark.usefixtures("zoo")
def test_what_the_mirror_lacks_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = line(capsys, "zoo:xception65_coco_voc_trainaug", "--out", tmp_path / "m.safetensors")
    assert "404" in said
    assert "mobilenetv2_coco_voc_trainaug" in line(capsys, "zoo:mobilenetv2", "--out", tmp_path / "m.safetensors")


# ---- what is kept


def test_the_file_knows_where_it_comes_from(checkpoint: Path, tmp_path: Path) -> None:
    assert run("convert", checkpoint, "dataset=pascal_voc_seg", "--out", tmp_path / "m.safetensors") == 0
    kept = atrous.load(tmp_path / "m.safetensors").results["converted"]
    assert kept["source"] == str(checkpoint)
    assert kept["system"] == "tf_deeplab"
    assert kept["options"] == {"dataset": "pascal_voc_seg"}
    assert "global_step" in kept["not_used"]
    assert len(kept["not_used"]) == 1 + sum(name.endswith("weights") for name in half_width())
    assert json.dumps(kept)


def test_options_reach_the_model(checkpoint: Path) -> None:
    done = conversion(checkpoint, options={"output_stride": "8", "crop_size": "97,97"})
    assert done.segmenter.model.config.output_stride == 8
    assert done.segmenter.inference.window == (97, 97)
    assert not any("output_stride" in note for note in done.notes)


# ---- what can't be


def test_wrong_calls(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "m.safetensors"
    assert "no such checkpoint" in line(capsys, tmp_path / "none.ckpt", "--out", out)
    assert "an option has the form flag=value" in line(capsys, checkpoint, "output_stride", "--out", out)
    assert "did you mean output_stride" in line(capsys, checkpoint, "output_strid=8", "--out", out)
    assert "output_stride" in line(capsys, checkpoint, "output_stride=7", "--out", out)
    assert "ends in .safetensors" in line(capsys, checkpoint, "--out", tmp_path / "m.pt")
    assert "system=caffe" in line(capsys, checkpoint, "--system", "caffe", "--out", out)
    assert not out.exists()


def test_a_model_of_another_program(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_checkpoint(tmp_path / "bert", {"bert/encoder/kernel": np.ones((2, 2), np.float32)})
    said = line(capsys, tmp_path / "bert", "--out", tmp_path / "m.safetensors")
    assert "variables of no known system (bert/encoder/kernel" in said
    assert not (tmp_path / "m.safetensors").exists()


@pytest.mark.parametrize(
    "name", ["weights.pth", "weights.pt", "model.h5", "model.safetensors", "model.pb", "model.tflite", "a.tar.gz"]
)
def test_files_that_are_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    (tmp_path / name).write_bytes(b"\x80\x02nothing of the kind" * 10)
    assert name in line(capsys, tmp_path / name, "--out", tmp_path / "m.safetensors")


def test_an_empty_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    assert "empty" in line(capsys, tmp_path / "empty", "--out", tmp_path / "m.safetensors")


# ---- real files


@needs_real
@pytest.mark.parametrize("source", ["model.ckpt-30000", "", "frozen_inference_graph.pb"])
def test_the_real_checkpoint_and_its_frozen_graph(source: str) -> None:
    segmenter = convert(REAL / source if source else REAL)
    with np.load(REAL / "expected.npz") as golden:
        pixels, logits, labels = golden["image"], golden["logits"], golden["labels"]
    with torch.no_grad():
        found = segmenter.model(torch.from_numpy(pixels).permute(0, 3, 1, 2)).semantic.permute(0, 2, 3, 1).numpy()
    assert np.abs(found - logits).max() <= 1e-4 * np.abs(logits).max()
    assert np.array_equal(segmenter.predict(pixels[0]).semantic, labels[0])


@pytest.mark.skipif(not (SHARED / "models").exists(), reason="no real models in shared/models")
def test_an_imagenet_classifier_knows_a_cat() -> None:
    segmenter = convert(SHARED / "models" / "mobilenet_v2_1.0_224_quant.tflite")
    labels = (SHARED / "models" / "imagenet_labels.txt").read_text().splitlines()
    prediction = segmenter.predict(SHARED / "photos" / "chelsea.png")
    assert "cat" in labels[int(prediction.semantic[0, 0])]
    assert len(np.unique(prediction.semantic)) == 1


# ---- found by trying


def test_nothing_is_made_for_a_source_that_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no such checkpoint" in line(capsys, tmp_path / "none", "--out", tmp_path / "new" / "sub" / "m.safetensors")
    assert not (tmp_path / "new").exists()


def test_a_wrong_archive_is_named_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "readme.txt").write_text("nothing")
    path = tmp_path / "photos.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        tar.add(tmp_path / "readme.txt", "readme.txt")
    said = line(capsys, path, "--out", tmp_path / "m.safetensors")
    assert str(path) in said
    assert "/tmp/tmp" not in said


def test_statistics_of_a_training_are_kept(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path / "photo.png", image())
    out = tmp_path / "m.safetensors"
    said = line(capsys, checkpoint, "--out", out, "--recalibrate", tmp_path / "photo.png")
    assert "no batch norm is folded" in said
    assert not out.exists()


def test_flags_with_dashes_as_the_original_has_them(checkpoint: Path, tmp_path: Path) -> None:
    assert run("convert", checkpoint, "--output_stride=8", "--crop_size=65", "--out", tmp_path / "m.safetensors") == 0
    loaded = atrous.load(tmp_path / "m.safetensors")
    assert loaded.model.config.output_stride == 8
    assert loaded.inference.window == (65, 65)


def test_the_file_that_names_the_newest_checkpoint(checkpoint: Path) -> None:
    done = conversion(checkpoint.with_name("checkpoint"), options={"multi_grid": "1,2,4"})
    assert "multi_grid does nothing: mobilenet_v2 has none" in done.notes


def test_the_zoo_has_one_system(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = line(capsys, f"zoo:{HALF}", "--system", "semseg", "--out", tmp_path / "m.safetensors")
    assert "all of tf_deeplab" in said
