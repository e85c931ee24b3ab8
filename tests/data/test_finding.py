"""Files, folders and patterns as images: each once, without what isn't a person's image."""

import os
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest

from atrous.data import finding
from atrous.data.finding import Found

COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "Zürich") for form in ("NFC", "NFD"))


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")


def find(*sources: str | Path, is_result: Callable[[Path], bool] = lambda folder: False) -> Found:
    return finding.find([str(source) for source in sources], is_result)


def names(found: Found) -> list[str]:
    return [image.name.as_posix() for image in found.images]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_folder_gives_names_below_it(here: Path) -> None:
    touch(here, "p/b.png", "p/deep/er/c.JPG", "p/a.b.tiff", "p/notes.txt", "p/d.png/e.webp")
    assert names(find("p")) == ["a.b", "b", "d.png/e", "deep/er/c"]  # a folder named like an image is a folder
    assert names(find("p/deep")) == ["er/c"]
    assert [image.path for image in find("p/deep").images] == [Path("p/deep/er/c.JPG")]


def test_what_systems_put_among_images_is_left_out(here: Path) -> None:
    junk = [f"p/{folder}/a.png" for folder in (".thumbnails", ".Trash-1000/files", "__MACOSX", "@eaDir", "x/.git")]
    touch(here, "p/a.png", "p/._a.png", "p/.a.png.123", "p/$RECYCLE.BIN/S-1/a.png", *junk)
    for source in ("p", "p/**/*.png", "p/**", "p/*"):
        assert names(find(source)) == ["a"], source
    assert names(find("p/.thumbnails", "p/@eaDir/*.png", "p/._a.png")) == ["a", "a", "._a"]  # named by themselves


def test_only_hidden_images_are_said(here: Path) -> None:
    touch(here, "p/.a.png", "q/notes.txt")
    with pytest.raises(FileNotFoundError, match=r"p: no image .* apart from hidden files \(p/\.a\.png\)"):
        find("p")
    with pytest.raises(FileNotFoundError, match=r"q: no image \(\.png, .*\) here$"):
        find("q")


def test_results_are_left_out_and_said(here: Path) -> None:
    touch(here, "p/a.png", "p/out/masks/a.png", "p/out/masks/deep/a.png")
    for source in ("p", "p/**/*.png"):
        found = find(source, is_result=lambda folder: folder.name == "masks")
        assert names(found) == ["a"]
        assert set(found.paths("result")) == {Path("p/out/masks")}
    with pytest.raises(FileNotFoundError, match=r"apart from results of earlier predictions \(p/out/masks\)"):
        find("p/out", is_result=lambda folder: folder.name == "masks")


def test_a_missing_source_is_refused(here: Path) -> None:
    touch(here, "p/a.png", "p/notes.txt")
    for source, reason in (
        ("", "'': no such file, folder or pattern"),
        ("nowhere.png", r"nowhere\.png: no such file, folder or pattern"),
        ("p/a.png/b", "no such file, folder or pattern"),
        ("x" * 5000, "no such file, folder or pattern"),
        ("p/*.jpg", "no image has a name of this pattern"),
        ("p/*.txt", "no image has a name of this pattern"),
    ):
        with pytest.raises(FileNotFoundError, match=reason):
            find("p", source)


def test_patterns_give_names_below_their_fixed_part(here: Path) -> None:
    touch(here, "p/1/x.jpg", "p/2/x.jpg", "p/2/y.png", "p/z.jpg")
    assert names(find("p/*/x.jpg")) == ["1/x", "2/x"]
    assert names(find(here / "p" / "**" / "*.jpg")) == ["1/x", "2/x", "z"]
    assert names(find("p/[2]/?.*")) == ["2/x", "2/y"]
    assert names(find("p/*")) == ["1/x", "2/x", "2/y", "z"]  # as a shell hands it over: folders are searched


def test_names_with_the_characters_of_patterns(here: Path) -> None:
    touch(here, "p [2024]/IMG[1].png", "p [2024]/IMG[2].png", "p [2024]/what?.png")
    assert names(find("p [2024]")) == ["IMG[1]", "IMG[2]", "what?"]
    assert names(find("p [2024]/IMG[1].png", "p [2024]/what?.png")) == ["IMG[1]", "what?"]
    assert names(find("p [2024]/*.png")) == ["IMG[1]", "IMG[2]", "what?"]
    assert names(find("p [2024]/IMG[1]*")) == ["IMG[1]"]


@pytest.mark.parametrize(("typed", "stored"), [(COMPOSED, DECOMPOSED), (DECOMPOSED, COMPOSED)])
def test_accents_are_found_in_either_form(here: Path, typed: str, stored: str) -> None:
    touch(here, f"{stored}/{stored}.png")
    for source in (typed, f"{typed}/{typed}.png", f"{typed}/{typed}*", f"{typed[:3]}*/*.png"):
        assert [image.path.name for image in find(source).images] == [f"{stored}.png"], source


def test_a_home_folder_is_expanded_but_no_name(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(here / "home"))
    touch(here, "home/p/a.png", "~$b.png")
    assert names(find("~/p", "~/p/*.png", "~$b.png")) == ["a", "~$b"]


def test_each_file_is_there_once(here: Path) -> None:
    touch(here, "p/a.png", "p/sub/b.png", "q/c.png")
    (here / "p/sub/0_link.png").symlink_to("../a.png")
    (here / "p/sub/up").symlink_to("..")  # a loop
    (here / "p/0_sub").symlink_to("sub")
    (here / "p/q").symlink_to("../q")
    found = find("p")
    assert names(found) == ["a", "q/c", "sub/b"]
    assert [skipped.text for skipped in found.skipped] == ["p/sub/0_link.png is the same file as p/a.png"]
    assert names(find("p", "p/a.png", "./p/a.png", here / "p/a.png", "p/*.png", "p/sub")) == ["a", "q/c", "sub/b"]
    assert len(find("p/**/*.png").images) == 3
    assert names(find("p/sub/0_link.png")) == ["0_link"]  # its file isn't named


def test_the_order_is_that_of_the_sources(here: Path) -> None:
    touch(here, "b/2.png", "b/1.png", "a/3.png")
    assert names(find("b", "a")) == ["1", "2", "3"]


def test_what_is_named_like_an_image_but_is_no_file_is_left_to_its_reader(here: Path) -> None:
    touch(here, "p/a.png")
    os.mkfifo(here / "p/pipe.png")
    (here / "p/dangling.png").symlink_to("nowhere")
    (here / "p/loop.png").symlink_to("loop.png")
    assert names(find("p")) == ["a", "dangling", "loop", "pipe"]
    assert names(find("p/pipe.png", "p/dangling.png")) == ["pipe", "dangling"]


def test_a_folder_that_cannot_be_read_is_said(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(here, "p/a.png", "p/locked/b.png", "locked/c.png")
    scandir = os.scandir

    def locked(path: Path) -> object:  # the tests may run as root, whom no folder is closed to
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr("atrous.data.finding.os.scandir", locked)
    found = find("p", "locked")
    assert names(found) == ["a"]
    assert found.problems == [
        "cannot read folder p/locked: Permission denied",
        "cannot read folder locked: Permission denied",
    ]
