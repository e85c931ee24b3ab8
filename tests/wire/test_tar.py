"""Tar files by the place of their members: what tarfile itself reads back, and what is refused."""

import io
import tarfile
from pathlib import Path

import pytest

from atrous.errors import DamagedError
from atrous.wire import tar

FILES = {"a.jpg": b"photo", "a.json": b"{}", "folder/b.png": bytes(1000), "ü " + 120 * "n": b"", "empty": b""}


def write(path: Path, files: dict[str, bytes], end: bytes = tar.END) -> Path:
    path.write_bytes(b"".join(tar.member_bytes(*file) for file in files.items()) + end)
    return path


def write_odd(path: Path, kind: bytes, name: str = "a", target: str = "b") -> Path:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    with tarfile.open(path, "w") as file:
        file.addfile(tarfile.TarInfo("first"), io.BytesIO())
        file.addfile(info)
    return path


def test_members_lie_where_they_are_said_to(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tar", FILES)
    content = path.read_bytes()
    places = dict(tar.members(path))
    assert {name: content[place.start :][: place.size] for name, place in places.items()} == FILES
    with tarfile.open(path) as file:
        assert file.getnames() == list(FILES)


def test_a_tar_of_another_program_is_read(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.GNU_FORMAT) as file:
        folder = tarfile.TarInfo("folder")
        folder.type = tarfile.DIRTYPE
        file.addfile(folder)
        info = tarfile.TarInfo("folder/" + 150 * "n")
        info.size = 3
        file.addfile(info, io.BytesIO(b"abc"))
    ((name, place),) = tar.members(tmp_path / "a.tar")
    assert name == "folder/" + 150 * "n" and (tmp_path / "a.tar").read_bytes()[place.start :][:3] == b"abc"


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_refused(tmp_path: Path, kind: bytes) -> None:
    with pytest.raises(DamagedError, match=r"'a' is a link, a device or a sparse file"):
        list(tar.members(write_odd(tmp_path / "a.tar", kind)))


@pytest.mark.parametrize("name", ["../a", "/etc/passwd", "a/../../b", "a\\b", "C:x", "a\nb"])
def test_names_that_lead_out_of_the_folder_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(DamagedError, match="not the name of a file inside a folder"):
        list(tar.members(write_odd(tmp_path / "a.tar", tarfile.REGTYPE, name)))


def test_a_damaged_tar_is_told(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tar", FILES)
    whole = path.read_bytes()
    damaged = bytearray(whole)
    damaged[1024] ^= 1  # the name in the head of the second member, whose sum no longer fits
    for content, complaint in {
        bytes(damaged): "the head of a member, at byte 1024, is damaged",
        whole[:-600]: "its end is missing",
        whole[:2600]: "cut off|end is missing",
        b"": "not a tar file",
        b"junk" * 500: "not a tar file",
        whole + b"x": "the head of a member",
    }.items():
        path.write_bytes(content)
        with pytest.raises(DamagedError, match=complaint):
            list(tar.members(path))


def test_equal_files_are_equal_bytes() -> None:
    assert tar.member_bytes("a", b"x") == tar.member_bytes("a", b"x")
    info = tarfile.TarInfo.frombuf(tar.member_bytes("a", b"x")[:512], "utf-8", "strict")
    assert (info.mtime, info.uid, info.gid, info.uname, info.gname, info.mode) == (0, 0, 0, "", "", 0o644)
