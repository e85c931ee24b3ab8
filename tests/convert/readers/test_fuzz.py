"""Damaged files of every format: a ConversionError or FileNotFoundError, soon, and in memory bounded by the file."""

import gzip
import shutil
import time
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch

from atrous.convert.class_names import packed_names, read_names
from atrous.convert.notes import noted
from atrous.convert.readers import checkpoint
from atrous.convert.readers.archive import extract, find_model
from atrous.convert.readers.checkpoint import read_checkpoint
from atrous.convert.readers.frozen_graph import read_graph
from atrous.convert.readers.tflite import dequantised, read_tflite
from atrous.convert.sources import read as read_source
from atrous.convert.system import ForeignWeights
from atrous.errors import ConfigError, ConversionError
from tests.conftest import SHARED
from tests.convert.readers import writers
from tests.convert.readers.test_archive import regular, tar
from tests.convert.readers.test_checkpoint import tensors
from tests.convert.readers.test_frozen_graph import LISTS
from tests.convert.readers.test_tflite import model

EXTREMES = [np.uint32(value).tobytes() for value in (0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**32 - 4)]
SECONDS = 1.0  # of processor time per file
GROWTH, SLACK = 64, 2**21  # Python's objects are larger than the bytes they are made from; an archive has 16 MB free
ARCHIVE_SLACK = 2**25


class Target(NamedTuple):
    """A file to damage, and how it is read in a folder that holds only the files of its model."""

    name: str
    read: Callable[[Path], object]
    make: Callable[[Path], object]  # writes the intact files


def read_lite(path: Path) -> None:
    for tensor in read_tflite(path).tensors:
        if tensor.data is not None:
            dequantised(tensor)


def read_archive(path: Path) -> None:
    """Nothing is written outside its folder."""
    beside = set(path.parent.iterdir())
    try:
        extract(path, path.parent / "out")
        find_model(path.parent / "out")
    finally:
        shutil.rmtree(path.parent / "out", ignore_errors=True)
        assert set(path.parent.iterdir()) == beside


def read_folder(path: Path) -> None:
    read_checkpoint(path.parent)


def make_checkpoint(folder: Path) -> None:
    writers.write_checkpoint(folder / "model.ckpt-7", tensors(), num_shards=2)
    (folder / "checkpoint").write_text('model_checkpoint_path: "/tmp/run/model.ckpt-7"\n')


def make_graph(folder: Path) -> None:
    strides = writers.message((1, writers.message((3, writers.varint(1) + writers.varint(2)))))
    shape = writers.message((7, writers.shape(1, -1, -1, 3)))
    nodes = writers.node("image", "Placeholder", shape=shape) + writers.node("conv", "Conv2D", "image", strides=strides)
    constants = b"".join(writers.constant(f"c{number}", tensor) for number, (tensor, _) in enumerate(LISTS))
    (folder / "graph.pb").write_bytes(nodes + constants)


def members(folder: Path) -> bytes:
    writers.write_checkpoint(folder / "x", {"x": np.ones(300, np.float32)})
    files = [regular(f"{'zoo/' * 30}{path.name}", path.read_bytes()) for path in sorted(folder.glob("x.*"))]
    for path in folder.glob("x.*"):
        path.unlink()
    return tar(*files)


def make_saved_model(folder: Path) -> None:
    make_graph(folder)
    graph = (folder / "graph.pb").read_bytes()
    (folder / "graph.pb").unlink()
    (folder / "saved_model.pb").write_bytes(writers.message((1, 1), (2, writers.message((2, graph)))))


def make_variables(folder: Path) -> None:
    make_saved_model(folder)
    (folder / "variables").mkdir(exist_ok=True)
    writers.write_checkpoint(folder / "variables" / "variables", tensors())


def make_halves(folder: Path) -> None:
    """The two files of a network of CSAILVision's, but for most of its weights."""
    halves = {"encoder": {"conv1.weight": torch.zeros(4, 3, 3, 3)}, "decoder": {"ppm.0.1.weight": torch.zeros(4, 4)}}
    for half, weights in halves.items():
        torch.save(weights, folder / f"{half}_epoch_20.pth")


def make_labelled(folder: Path) -> None:
    (folder / "m.tflite").write_bytes(writers.flatbuffer(model()))
    with zipfile.ZipFile(folder / "m.tflite", "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("labels.txt", LABELS)


def read_labelled(path: Path) -> None:
    packed_names(path)
    read_lite(path)


def read_labels(path: Path) -> None:
    try:
        read_names(path, LABELS.count("\n"))
    except ConfigError as error:  # the user's own file
        raise ConversionError(str(error)) from None


def read_notes(path: Path) -> None:
    """mmsegmentation's config, in the notes beside its weights."""
    weights = {"backbone.a": np.zeros(1), "decode_head.b": np.zeros(1)}
    text = path.read_bytes().decode(errors="surrogateescape")
    meta = {"cfg": text, "CLASSES": text.split("'"), "PALETTE": text}
    for said in noted(ForeignWeights(str(path), weights), {"meta": meta}).left_out:
        raise ConversionError(f"{path}: {said}")


LABELS = "".join(f"{number}\u00e4: class\n" for number in range(21))
CONFIG = """
norm_cfg = dict(type='SyncBN', requires_grad=True)
data_preprocessor = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True)
model = {'backbone': dict(type='ResNetV1c', strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4), norm_cfg=norm_cfg),
    'decode_head': dict(num_classes=19, dilations=(1, 12, 24, 36), align_corners=False)}
"""
PARTS = [  # of what is read in several steps, or from several files
    Target("saved_model.pb", lambda path: read_source(path.parent), make_saved_model),
    Target("variables/variables.index", lambda path: read_source(path.parents[1]), make_variables),
    Target("encoder_epoch_20.pth", read_source, make_halves),
    Target("decoder_epoch_20.pth", lambda path: read_source(path.with_name("encoder_epoch_20.pth")), make_halves),
    Target("labels.txt", read_labels, lambda folder: (folder / "labels.txt").write_text(LABELS, encoding="utf-8")),
    Target("m.tflite", read_labelled, make_labelled),
    Target("notes.txt", read_notes, lambda folder: (folder / "notes.txt").write_text(CONFIG)),
]

HAND_MADE = [
    Target("model.ckpt-7.index", read_folder, make_checkpoint),
    Target("model.ckpt-7.data-00001-of-00002", read_folder, make_checkpoint),
    Target("checkpoint", read_folder, make_checkpoint),
    Target("graph.pb", read_graph, make_graph),
    Target("m.tflite", read_lite, lambda folder: (folder / "m.tflite").write_bytes(writers.flatbuffer(model()))),
    Target("zoo.tar", read_archive, lambda folder: (folder / "zoo.tar").write_bytes(members(folder))),
    Target("zoo.tgz", read_archive, lambda folder: (folder / "zoo.tgz").write_bytes(gzip.compress(members(folder)))),
]


def copying(source: Path, pattern: str) -> Callable[[Path], object]:
    return lambda folder: [shutil.copyfile(path, folder / path.name) for path in source.glob(pattern)]


TF1, TF2, LITE = SHARED / "goldens/tf_deeplab/checkpoint", SHARED / "goldens/deeplab2/checkpoint", SHARED / "models"
REAL = [
    Target("model.ckpt-30000.index", read_folder, copying(TF1, "model.ckpt*")),
    Target("model.ckpt-30000.data-00000-of-00001", read_folder, copying(TF1, "model.ckpt*")),
    Target("ckpt-60000.index", read_folder, copying(TF2, "ckpt*")),
    Target("frozen_inference_graph.pb", read_graph, copying(TF1, "*.pb")),
    Target("deeplabv3_257_mv_gpu.tflite", read_lite, copying(LITE, "deeplabv3_257*")),
    Target("deeplabv3_mnv2_pascal_quant.tflite", read_lite, copying(LITE, "deeplabv3_mnv2*")),
]


def damaged(data: bytes, rng: np.random.Generator) -> bytes:
    """Bits flipped, four bytes set to an extreme, a part removed or repeated, or the end cut off."""
    out, kind = bytearray(data), rng.integers(5)
    at = place(len(data), rng)
    if kind == 0:
        for _ in range(rng.integers(1, 9)):
            out[place(len(data), rng)] ^= 1 << int(rng.integers(8))
    elif kind == 1:
        out[at : at + 4] = EXTREMES[rng.integers(len(EXTREMES))]
    elif kind == 2:
        del out[at : at + int(rng.integers(1, 65))]
    elif kind == 3:
        out[at:at] = out[at : at + int(rng.integers(1, 65))]
    else:
        del out[at:]
    return bytes(out)


def place(size: int, rng: np.random.Generator) -> int:
    """Half of the time near the beginning or the end, where formats keep their structure."""
    near = int(rng.integers(min(size, 4096)))
    return int([near, size - 1 - near, *rng.integers(size, size=2)][rng.integers(4)])


def fuzz(target: Target, folder: Path, count: int, seed: int, *, measured: bool) -> int:
    """Read `count` damaged versions of a file, and return how many were refused."""
    target.make(folder)
    path = folder / target.name
    intact, refused = path.read_bytes(), 0
    target.read(path)
    for case in range(count):
        data = damaged(intact, np.random.default_rng([seed, case]))
        path.write_bytes(data)
        refused += refuses(target, path, f"{target.name}, seed {seed}, case {case}", measured=measured)
    return refused


def refuses(target: Target, path: Path, case: str, *, measured: bool) -> bool:
    if measured:
        tracemalloc.start()
    start, error = time.process_time(), None
    try:
        target.read(path)
    except (ConversionError, FileNotFoundError) as raised:
        error = raised
    seconds = time.process_time() - start
    if measured:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        free = ARCHIVE_SLACK if target.read is read_archive else SLACK
        size = sum(file.stat().st_size for file in path.parent.iterdir())
        assert peak <= GROWTH * size + free, f"{case}: {peak} bytes"
    assert measured or seconds < SECONDS, f"{case}: {seconds:.1f} s"
    assert error is None or type(error) in (ConversionError, FileNotFoundError), f"{case}: {error!r}"
    assert error is None or (str(path.parent) in str(error) and "\n" not in str(error)), f"{case}: {error!r}"
    return error is not None


def unchecked(data: object, expected: int, what: str) -> None:
    """In place of the checksums, so that the code behind them is tested, too."""


@pytest.fixture(params=["checksums", "none"])
def checksums(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    is_checked: bool = request.param == "checksums"
    if not is_checked:
        monkeypatch.setattr(checkpoint, "_require_checksum", unchecked)
    return is_checked


def name(target: Target) -> str:
    return target.name


@pytest.mark.parametrize("target", HAND_MADE, ids=name)
def test_damaged_files_are_read_or_refused(target: Target, tmp_path: Path, checksums: bool) -> None:
    refused = fuzz(target, tmp_path, 30, 0, measured=False)
    assert refused > 5
    if checksums and target.name.endswith((".index", ".data-00001-of-00002", ".tgz")):
        assert refused >= 28  # nothing checks padding


@pytest.mark.parametrize("target", HAND_MADE, ids=name)
def test_damaged_files_take_little_memory(target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "_require_checksum", unchecked)
    fuzz(target, tmp_path, 10, 1, measured=True)


@pytest.mark.parametrize("target", PARTS, ids=name)
@pytest.mark.filterwarnings("ignore:invalid escape sequence")
def test_damaged_parts_are_read_or_refused(target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "_require_checksum", unchecked)
    assert fuzz(target, tmp_path, 40, 5, measured=False) > 0
    fuzz(target, tmp_path, 5, 6, measured=True)


@pytest.mark.slow
@pytest.mark.parametrize("target", HAND_MADE, ids=name)
def test_many_damaged_files_are_read_or_refused(target: Target, tmp_path: Path, checksums: bool) -> None:
    fuzz(target, tmp_path, 80, 2, measured=False)


@pytest.mark.slow
@pytest.mark.parametrize("target", REAL, ids=name)
def test_damaged_real_files_are_read_or_refused(target: Target, tmp_path: Path, checksums: bool) -> None:
    if not SHARED.is_dir():
        pytest.skip("no folder shared/")
    fuzz(target, tmp_path, 70, 3, measured=False)
    fuzz(target, tmp_path, 5, 4, measured=True)
