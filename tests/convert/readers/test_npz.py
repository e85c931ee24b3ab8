"""NumPy's archives: what `np.savez` writes is read back; objects, claims and damage are refused in one line."""

import io
import re
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from atrous.convert.readers.npz import read_npz
from atrous.errors import ConversionError

ARRAYS = {
    "MobilenetV2/Conv/weights": np.arange(54, dtype=np.float32).reshape(3, 3, 3, 2),
    "half": np.array([1.5, -2], np.float16),
    "columns": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "big": np.arange(3, dtype=">i4"),
    "step": np.array(7),
    "none": np.zeros((0, 4), np.float32),
}


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_are_read_back(save: Callable[..., None], tmp_path: Path) -> None:
    save(tmp_path / "a.npz", **ARRAYS)
    arrays = read_npz(tmp_path / "a.npz")
    assert arrays.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(arrays[name], array)


def npy(array: "np.ndarray[tuple[int, ...], np.dtype[np.generic]]", **changes: str) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    content = stream.getvalue()
    for old, new in changes.items():
        content = content.replace(old.encode(), new.encode())
    return content


ONE = npy(np.ones(3, np.float32))
CLAIM = ONE.replace(b"(3,), }".ljust(20), b"(3000000000000,), }".ljust(20))
MEMBERS = {
    "objects": ([("a.npy", npy(np.array([{}], object)))], "'a.npy' holds object; only numbers are read"),
    "text": ([("a.npy", npy(np.array(["b"])))], "holds <U1; only numbers are read"),
    "no array": ([("a.npy", b"hello")], "not a file of np.savez, or damaged"),
    "empty": ([("a.npy", b"")], "not a file of np.savez, or damaged"),
    "truncated": ([("a.npy", ONE[:-1])], r"'a.npy' has 11 bytes, not those of the shape \(3,\)"),
    "a terabyte": ([("a.npy", CLAIM)], r"has 12 bytes, not those of the shape \(3000000000000,\)"),
    "a version of tomorrow": ([("a.npy", ONE[:6] + b"\x09" + ONE[7:])], r"is of version 9\.0 of the format|damaged"),
    "a bomb": ([("a.npy", bytes(2**25))], r"its arrays claim \d+ bytes, in a file of \d+"),
    "twice": ([("a.npy", ONE), ("a.npy", ONE)], "an array occurs twice"),
}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("case", MEMBERS)
def test_what_is_no_weights_is_refused(case: str, tmp_path: Path) -> None:
    members, reason = MEMBERS[case]
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)
    with pytest.raises(ConversionError, match=f"cannot read {re.escape(str(path))} as a NumPy archive: .*{reason}"):
        read_npz(path)


def test_damage_never_leaves_the_reader_as_another_error(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    save: Callable[..., None] = np.savez_compressed
    save(path, **ARRAYS)
    whole, draw = path.read_bytes(), np.random.default_rng(0)
    for _ in range(150):
        content = bytearray(whole)
        for place in draw.integers(0, len(content), 4):
            content[place] = draw.integers(0, 256)
        path.write_bytes(bytes(content[: draw.integers(1, len(content) + 1)]))
        try:
            read_npz(path)
        except ConversionError as error:
            assert "\n" not in str(error)
