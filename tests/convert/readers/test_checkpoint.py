import re
import shutil
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest

from atrous.convert.arrays import Array
from atrous.convert.readers.checkpoint import find_prefix, read_checkpoint
from atrous.errors import ConversionError
from atrous.wire.crc32c import masked_crc32c
from tests.conftest import SHARED
from tests.convert.readers import writers
from tests.reference.tf_deeplab import seeded

TF1 = SHARED / "goldens" / "tf_deeplab" / "checkpoint"
TF2 = SHARED / "goldens" / "deeplab2" / "checkpoint"
needs_goldens = pytest.mark.skipif(not TF1.is_dir(), reason="no folder shared/goldens")
ONE = np.array([1], np.float32).tobytes()
GOOD = writers.entry(1, (1,), 0, 4, masked_crc32c(ONE))


def tensors() -> dict[str, Array]:
    rng = np.random.default_rng(0)
    arrays: dict[str, Array] = {
        f"scope/{name}/weights": rng.integers(0, 2, (2, 3)).astype(name) for name in writers.DTYPES
    }
    return arrays | {
        "global_step": np.array(30000, np.int64),
        "scope/float32/weights/Momentum": rng.standard_normal((7, 5, 3, 2)).astype(np.float32),
        "scope/none": np.zeros((0, 4), np.float32),
        "scope/ä": rng.standard_normal(5000).astype(np.float32),
    }


def assert_same(tensors: dict[str, Array], expected: dict[str, Array]) -> None:
    assert tensors.keys() == expected.keys()
    for name, array in expected.items():
        assert tensors[name].dtype == array.dtype
        np.testing.assert_array_equal(tensors[name], array, strict=True)
        assert tensors[name].flags.writeable
        assert tensors[name].flags.aligned


def write_files(folder: Path, index: bytes, data: bytes = ONE) -> Path:
    (folder / "m.index").write_bytes(index)
    (folder / "m.data-00000-of-00001").write_bytes(data)
    return folder / "m"


@pytest.mark.parametrize("num_shards", [1, 3])
def test_written_tensors_are_read(tmp_path: Path, num_shards: int) -> None:
    writers.write_checkpoint(tmp_path / "model.ckpt-7", tensors(), num_shards=num_shards)
    assert_same(read_checkpoint(tmp_path / "model.ckpt-7"), tensors())


def test_object_checkpoints_have_a_suffix(tmp_path: Path) -> None:
    writers.write_checkpoint(tmp_path / "ckpt-1", tensors(), suffix="/.ATTRIBUTES/VARIABLE_VALUE")
    assert_same(read_checkpoint(tmp_path / "ckpt-1"), tensors())


def test_strings_are_left_out(tmp_path: Path) -> None:
    index = writers.index_of(_CHECKPOINTABLE_OBJECT_GRAPH=writers.entry(7, (), 0, 10**9, 0), x=GOOD)
    assert_same(read_checkpoint(write_files(tmp_path, index)), {"x": np.ones(1, np.float32)})


def test_bfloat16_becomes_float32(tmp_path: Path) -> None:
    values = np.array([1, -2.5, 0, np.inf, 3.0e38], np.float32)
    raw = (values.view(np.uint32) >> 16).astype("<u2").tobytes()
    index = writers.index_of(x=writers.entry(14, (5,), 0, 10, masked_crc32c(raw)))
    weights = read_checkpoint(write_files(tmp_path, index, raw))["x"]
    assert weights.dtype == np.float32
    np.testing.assert_allclose(weights, values, rtol=2**-7)


def test_any_of_its_files_names_a_checkpoint(tmp_path: Path) -> None:
    path = write_files(tmp_path, writers.index_of(x=GOOD))
    for name in ("m", "m.index", "m.data-00000-of-00001", "."):
        assert find_prefix(tmp_path / name) == path
        assert list(read_checkpoint(tmp_path / name)) == ["x"]


def test_a_folder_stands_for_its_newest_checkpoint(tmp_path: Path) -> None:
    for name in ("model.ckpt-9", "model.ckpt-30000", "model.ckpt", "._model.ckpt-99999"):
        (tmp_path / f"{name}.index").touch()
    assert find_prefix(tmp_path).name == "model.ckpt-30000"
    state = tmp_path / "checkpoint"
    for written in ("model.ckpt-9", "/home/somebody/run/model.ckpt-9", "C:\\\\run\\\\model.ckpt-9"):
        state.write_text(f'model_checkpoint_path: "{written}"\nall_model_checkpoint_paths: "model.ckpt-30000"\n')
        assert find_prefix(tmp_path).name == "model.ckpt-9"
    state.write_text('model_checkpoint_path: "model.ckpt-50000"\n')
    with pytest.raises(FileNotFoundError, match=r"names 'model.ckpt-50000', but its .index is missing"):
        find_prefix(tmp_path)
    state.write_text("model: 7\n")
    with pytest.raises(ConversionError, match="no line `model_checkpoint_path"):
        find_prefix(tmp_path)


def test_other_files_and_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no checkpoint \(.index\) in"):
        read_checkpoint(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"there is no model.ckpt.index"):
        read_checkpoint(tmp_path / "model.ckpt")
    (tmp_path / "old.ckpt").write_bytes(b"version 1 was one file")
    with pytest.raises(ConversionError, match=r"not a checkpoint of an .index and .data- files: .*old.ckpt"):
        read_checkpoint(tmp_path / "old.ckpt")
    for name in ("a", "b"):
        (tmp_path / f"{name}.index").touch()
    with pytest.raises(ConversionError, match=r"several checkpoints in .*: name one of a, b"):
        read_checkpoint(tmp_path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    path = write_files(tmp_path, writers.index_of(x=GOOD))
    (tmp_path / "m.index").rename(tmp_path / "other")
    with pytest.raises(FileNotFoundError, match=r"there is no m.index"):
        read_checkpoint(tmp_path / "m.data-00000-of-00001")
    (tmp_path / "other").rename(tmp_path / "m.index")
    (tmp_path / "m.data-00000-of-00001").unlink()
    with pytest.raises(FileNotFoundError, match=r"no such file: .*m.data-00000-of-00001"):
        read_checkpoint(path)


CASES = {
    "no table": (b"a text", "the end of the table is missing"),
    "no entries": (writers.table([]), "does not begin with a header"),
    "no header": (writers.table([(b"x", GOOD)]), "does not begin with a header"),
    "big endian": (writers.table([(b"", writers.message((1, 1), (2, 1))), (b"x", GOOD)]), "big-endian"),
    "no shards": (writers.table([(b"", b""), (b"x", GOOD)]), "claims 0 shards"),
    "compressed": (writers.table([(b"", writers.HEADER)], kind=9), "by the unknown method 9"),
    "no UTF-8": (writers.table([(b"", writers.HEADER), (b"\xff", GOOD)]), r"the name '\\\\xff' is not UTF-8"),
    "unsorted": (writers.table([(b"", writers.HEADER), (b"b", GOOD), (b"a", GOOD)]), "'a' is out of order"),
    "twice": (writers.index_of(**{"x": GOOD, "x/.ATTRIBUTES/VARIABLE_VALUE": GOOD}), "occurs twice"),
    "sliced": (writers.index_of(x=GOOD + writers.message((7, b""))), "'x' is partitioned into slices"),
    "complex": (writers.index_of(x=writers.entry(8, (1,), 0, 8, 0)), "'x': the type 8 is not supported"),
    "negative shape": (writers.index_of(x=writers.entry(1, (-1, -4), 0, 16, 0)), "'x': a negative size"),
    "deep shape": (writers.index_of(x=writers.entry(1, (1,) * 33, 0, 4, 0)), "'x': a shape of 33 dimensions"),
    "impossible shape": (writers.index_of(x=writers.entry(1, (0, 2**40, 2**40), 0, 0, 0)), "impossible shape"),
    "wrong size": (writers.index_of(x=writers.entry(1, (2,), 0, 4, 0)), "takes 8 bytes, but 4 are claimed"),
    "wrong shard": (writers.index_of(x=writers.entry(1, (1,), 0, 4, 0, shard=1)), "lies at 0 in shard 1 of 1"),
    "negative offset": (writers.index_of(x=writers.entry(1, (1,), -4, 4, 0)), "lies at -4 in shard 0 of 1"),
    "outside": (writers.index_of(x=writers.entry(1, (1,), 1, 4, 0)), "data.*'x' ends at 5, but the file has 4 bytes"),
    "overlapping": (writers.index_of(x=GOOD, y=GOOD), "data.*'y' overlaps another tensor"),
    "wrong checksum": (writers.index_of(x=writers.entry(1, (1,), 0, 4, 7)), "data.*'x' does not match its checksum"),
}


def test_an_index_that_google_compressed_is_read(tmp_path: Path) -> None:
    index = writers.table([(b"", writers.HEADER), (b"name" * 40, GOOD)], kind=1)
    assert read_checkpoint(write_files(tmp_path, index)).keys() == {"name" * 40}


def test_damage_is_refused_with_its_reason(tmp_path: Path) -> None:
    for index, reason in CASES.values():
        path = write_files(tmp_path, index)
        with pytest.raises(ConversionError, match=f"{re.escape(str(tmp_path))}.*{reason}") as error:
            read_checkpoint(path)
        assert "\n" not in str(error.value)


def test_a_flipped_bit_in_the_index_is_detected(tmp_path: Path) -> None:
    index = bytearray(writers.index_of(x=GOOD))
    index[10] ^= 1
    with pytest.raises(ConversionError, match="a block does not match its checksum"):
        read_checkpoint(write_files(tmp_path, bytes(index)))


def test_a_claim_of_10_gb_takes_no_memory(tmp_path: Path) -> None:
    size = 10 * 2**30
    path = write_files(tmp_path, writers.index_of(x=writers.entry(1, (size // 4,), 0, size, 0)), bytes(2**20))
    tracemalloc.start()
    with pytest.raises(ConversionError, match=f"'x' ends at {size}, but the file has 1048576 bytes"):
        read_checkpoint(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**20


def test_shared_prefixes_cannot_fill_the_memory(tmp_path: Path) -> None:
    names = [b"x" * 8_000 + f"{number:04}".encode() for number in range(1_000)]
    index = writers.table([(b"", writers.HEADER), *((name, GOOD) for name in names)], per_block=10**6)
    with pytest.raises(ConversionError, match="more than 64 times as long as the file"):
        read_checkpoint(write_files(tmp_path, index))


@needs_goldens
def test_a_real_checkpoint_of_tensorflow_1_is_read() -> None:
    tensors = read_checkpoint(TF1)
    weights = {name: array for name, array in tensors.items() if not name.endswith("/Momentum")}
    assert (len(tensors), int(weights.pop("global_step"))) == (437, 30000)
    assert (len(weights), sum(array.size for array in weights.values())) == (272, 714_325)  # tf-deeplab.md, 2.3
    assert_same(weights, {name: seeded(name, array.shape) for name, array in weights.items()})


@needs_goldens
def test_a_real_checkpoint_of_tensorflow_2_is_read() -> None:
    weights = read_checkpoint(TF2)
    assert (len(weights), int(weights.pop("step"))) == (363, 60000)
    for name, array in weights.items():
        np.testing.assert_allclose(array, seeded_2(name, array.shape), rtol=1e-5, atol=1e-7, err_msg=name)


def seeded_2(name: str, shape: tuple[int, ...]) -> Array:
    """The formula of goldens/README.md, deeplab2."""
    normal: Array = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape).astype(np.float32)
    leaf = name.rsplit("/", 1)[-1]
    if leaf == "depthwise_kernel":
        return np.asarray(normal / np.sqrt(shape[0] * shape[1]))
    if leaf == "gamma":
        return 1 + 0.1 * normal
    if leaf == "moving_variance":
        return np.asarray(np.exp(0.2 * normal))
    return normal * np.sqrt(1.5 / np.prod(shape[:-1])) if len(shape) > 1 else 0.1 * normal


@needs_goldens
def test_a_truncated_real_file_is_refused(tmp_path: Path) -> None:
    for path in TF1.glob("model.ckpt*"):
        shutil.copyfile(path, tmp_path / path.name)
    data = tmp_path / "model.ckpt-30000.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[:-1])
    with pytest.raises(
        ConversionError, match=r"cannot read .*data-00000-of-00001 as a TensorFlow checkpoint: .* ends at"
    ):
        read_checkpoint(tmp_path)
