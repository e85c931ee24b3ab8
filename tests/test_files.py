"""Files are complete or absent, whatever goes wrong."""

import errno
import os
import platform
import resource
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from atrous import files
from atrous.files import (
    beside,
    keep,
    on_disk,
    prepare_output,
    remove_leftovers,
    require_folder,
    user_path,
    write_atomically,
    written_aside,
)
from tests.runs import leftover


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """No file may grow beyond `size` bytes: the kernel refuses the write, as on a full disk."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)


def test_writing_makes_folders_and_replaces_files(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file.txt"
    write_atomically(path, "one")
    write_atomically(path, b"two")
    assert path.read_text() == "two"
    assert list(path.parent.iterdir()) == [path]


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    mine = [".a.png.12", ".a.png", "a.png", ".a.png.swp", "b.1-2-3-4"]
    for name in mine:
        (tmp_path / name).touch()
    folder = leftover(tmp_path / "copy")
    folder.unlink()
    (folder / "masks").mkdir(parents=True)
    leftover(tmp_path / "a.png")
    remove_leftovers(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == set(mine)
    remove_leftovers(tmp_path / "missing")


def test_what_is_being_written_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with written_aside(tmp_path / "a.png") as temporary:
        temporary.touch()
        remove_leftovers(tmp_path)
        assert temporary.exists()
        monkeypatch.setattr(files, "STARTED", "0" * 6)  # this process has the number of one of an earlier container
        remove_leftovers(tmp_path)
        assert not temporary.exists()
        temporary.touch()


def test_another_machine_may_still_write_what_is_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "node", lambda: "another")
    path = beside(tmp_path / "a.png")
    path.touch()
    monkeypatch.undo()
    remove_leftovers(tmp_path)
    assert path.exists()
    os.utime(path, (0, 0))
    remove_leftovers(tmp_path)
    assert not path.exists()


def test_threads_that_write_one_file_do_not_mix(tmp_path: Path) -> None:
    texts = [name * length for name, length in zip("abcdefgh", range(10_000, 90_000, 10_000), strict=True)]

    def write(text: str) -> None:
        prepare_output(tmp_path)
        write_atomically(tmp_path / "one", text)
        assert (tmp_path / "one").read_text() in texts

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, texts * 20))
    assert [path.name for path in tmp_path.iterdir()] == ["one"]


@pytest.mark.parametrize("has_links", [True, False])
def test_what_is_replaced_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_links: bool) -> None:
    def refuse(old: Path, new: Path) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    if not has_links:
        monkeypatch.setattr(os, "link", refuse)
    path, copy = tmp_path / "last", tmp_path / "previous"
    keep(path, copy)
    assert not copy.exists()
    for text in ("one", "two"):
        write_atomically(path, text)
        for _ in range(2):  # a kill came before the next write
            keep(path, copy)
            assert (path.read_text(), copy.read_text()) == (text, text)
    write_atomically(path, "three")
    assert (path.read_text(), copy.read_text()) == ("three", "two")
    assert sorted(tmp_path.iterdir()) == [path, copy]


def test_names_as_long_as_a_disk_allows(tmp_path: Path) -> None:
    for name in ("x" * 255, "ä" * 127, "x" * 100, "y" * 101):
        write_atomically(tmp_path / name, name)
        assert (tmp_path / name).read_text() == name
    assert len(list(tmp_path.iterdir())) == 4
    with pytest.raises(OSError, match="File name too long"):
        write_atomically(tmp_path / ("x" * 256), "")


def test_a_path_is_found_as_the_disk_spells_it(tmp_path: Path) -> None:
    stored = tmp_path / "Zu\u0308rich" / "caf\u00e9.png"
    write_atomically(stored, "")
    assert on_disk(tmp_path / "Z\u00fcrich" / "cafe\u0301.png") == stored
    assert on_disk(stored) == stored
    assert on_disk(tmp_path / "Zurich") is None
    assert on_disk(stored / "below") is None


def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "model"
    write_atomically(path, "old")
    with full_disk(1000), pytest.raises(OSError, match=f"cannot write {path}"):
        write_atomically(path, b"x" * 5000)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_where_a_folder_must_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="cannot write"):
        write_atomically(tmp_path / "file" / "below", "x")
    with pytest.raises(OSError, match=r"output folder .*file"):
        prepare_output(tmp_path / "file")


def test_preparing_an_output_folder_leaves_no_file_in_it(tmp_path: Path) -> None:
    assert list(prepare_output(tmp_path / "a" / "b").iterdir()) == []


def test_a_missing_folder_is_refused_with_the_setting(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert require_folder(tmp_path, "data.root") == tmp_path
    with pytest.raises(FileNotFoundError, match=r"data\.root: no such folder"):
        require_folder(tmp_path / "missing", "data.root")
    with pytest.raises(NotADirectoryError, match=r"data\.root: not a folder"):
        require_folder(tmp_path / "file", "data.root")


def test_a_home_folder_that_is_unknown_stays_as_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert user_path("~/a.png") == tmp_path / "a.png"
    assert user_path("~nobody-of-this-name/a.png") == Path("~nobody-of-this-name/a.png")
    assert user_path(Path("a/~b")) == Path("a/~b")
