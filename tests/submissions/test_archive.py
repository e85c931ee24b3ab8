"""Archives have the same bytes whenever and in whatever order their files were written."""

import os
import tarfile
import zipfile
from pathlib import Path

import pytest

from atrous.submissions.archive import archive

FILES = {"b.json": b"{}" * 1000, "pictures/2.png": b"\x89PNG", "pictures/10.png": b"\x89PNG too", "a_pred.txt": b""}
NAMES = ["a_pred.txt", "b.json", "pictures/10.png", "pictures/2.png"]


def write(folder: Path, names: list[str], time: int) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(FILES[name])
        path.chmod(0o600 if time else 0o644)
        os.utime(path, (time, time))
    return folder


@pytest.mark.parametrize("suffix", [".zip", ".tgz"])
def test_equal_files_make_equal_bytes(tmp_path: Path, suffix: str) -> None:
    for name, order, time in (("one", NAMES, 0), ("two", NAMES[::-1], 1_700_000_000)):
        archive(write(tmp_path / name, order, time), tmp_path / f"{name}{suffix}")
    assert (tmp_path / f"one{suffix}").read_bytes() == (tmp_path / f"two{suffix}").read_bytes()


def test_a_zip_is_read_back(tmp_path: Path) -> None:
    archive(write(tmp_path / "files", NAMES, 0), tmp_path / "a.zip")
    with zipfile.ZipFile(tmp_path / "a.zip") as packed:
        assert packed.namelist() == NAMES
        assert packed.testzip() is None
        assert {name: packed.read(name) for name in NAMES} == FILES
        assert packed.getinfo("b.json").compress_size < 100


def test_a_tgz_is_read_back(tmp_path: Path) -> None:
    archive(write(tmp_path / "files", NAMES, 0), tmp_path / "a.tgz")
    with tarfile.open(tmp_path / "a.tgz", "r:gz") as packed:
        assert packed.getnames() == NAMES
        contents = {name: packed.extractfile(name) for name in NAMES}
        assert {name: file.read() for name, file in contents.items() if file} == FILES
