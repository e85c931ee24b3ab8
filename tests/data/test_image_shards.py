"""Images in tars: of `atrous pack`, of others, and of people who mean harm."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PILImage

from atrous import pack, predict, segmenter
from atrous.data import image_shards
from atrous.data.finding import NamedImage, Skipped
from atrous.errors import DataError
from atrous.packing.job import checked_options
from tests.conftest import noise, write_folder_data
from tests.runs import QUIET


def encoded(image: np.ndarray[tuple[int, ...], np.dtype[np.uint8]], form: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    if form == "npy":
        np.save(buffer, image)
    else:
        PILImage.fromarray(image).save(buffer, form)
    return buffer.getvalue()


def write_tar(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def images_in(path: Path) -> list[NamedImage]:
    items = list(image_shards.images_in(image_shards.Shard(path)))
    assert not [item for item in items if isinstance(item, Skipped)]
    return [item for item in items if isinstance(item, NamedImage)]


def problem_of(path: Path) -> str:
    (item,) = image_shards.images_in(image_shards.Shard(path))
    assert isinstance(item, Skipped)
    assert item.why == "unreadable"
    return item.text


def read(image: NamedImage) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    assert image.entry is not None
    return image_shards.read(image.entry)


def test_images_of_webdataset_beside_other_files(tmp_path: Path) -> None:
    one, other = noise(9, 7), noise(5, 6)
    files = {
        "deep/a.seg.png": encoded(noise(3, 3)[..., 0]),
        "deep/a.png": encoded(one),
        "deep/a.json": b'{"caption": "a street"}',
        "b.cls": b"3",
        "b.npy": encoded(other, "npy"),
        "only_text.txt": b"",
    }
    images = images_in(write_tar(tmp_path / "x.tar", files))
    assert [image.name.as_posix() for image in images] == ["deep/a", "b"]
    assert images[0].path == tmp_path / "x.tar" / "deep" / "a.png"
    assert (read(images[0]) == one).all()
    assert (read(images[1]) == other).all()
    files_of = [image_shards.file_of(image.entry) for image in images if image.entry]
    assert files_of[0] is not None
    assert files_of[0].read() == files["deep/a.png"]
    assert files_of[1] is None


@pytest.mark.parametrize("for_crops", [False, True])
def test_what_was_packed_is_predicted_as_the_files_are(tmp_path: Path, for_crops: bool) -> None:
    data = write_folder_data(tmp_path / "data")
    options = checked_options(for_crops=for_crops)
    pack.run(str(data), tmp_path / "shards", [], options, splits=["train", "val"], workers=0, console=QUIET)
    model = tmp_path / "model.safetensors"
    segmenter.create("deeplab_v3", num_classes=3, output_stride=32).save(model)
    plain = predict.run(model, [str(data / "images")], tmp_path / "plain", console=QUIET)
    packed = predict.run(model, [str(tmp_path / "shards")], tmp_path / "packed", console=QUIET)
    assert (plain.images, packed.images, packed.failures) == (8, 8, ())
    masks = {path.relative_to(tmp_path / "plain"): path for path in (tmp_path / "plain" / "masks").rglob("*.png")}
    assert len(masks) == 8
    for name, path in masks.items():
        assert (tmp_path / "packed" / name).read_bytes() == path.read_bytes(), name
    alone = predict.run(model, [str(tmp_path / "shards" / "v*.tar")], tmp_path / "alone", console=QUIET)
    assert alone.images == 2
    assert (tmp_path / "alone" / "masks" / "0.png").is_file()
    again = predict.run(model, [str(tmp_path / "shards")], tmp_path / "packed", console=QUIET)
    assert (again.images, again.earlier) == (0, 8)


def test_a_damaged_image_of_a_shard_is_named_and_the_others_are_done(tmp_path: Path) -> None:
    data = write_folder_data(tmp_path / "data")
    pack.run(str(data), tmp_path / "shards", [], checked_options(), splits=["train"], workers=0, console=QUIET)
    (shard,) = (tmp_path / "shards").glob("*.tar")
    image = images_in(shard)[2]
    assert image.entry is not None
    content = bytearray(shard.read_bytes())
    content[image.entry.files["png"].start + 60] ^= 1
    shard.write_bytes(content)
    model = tmp_path / "model.safetensors"
    segmenter.create("deeplab_v3", num_classes=3, output_stride=32).save(model)
    summary = predict.run(model, [str(tmp_path / "shards")], tmp_path / "out", console=QUIET)
    assert summary.images == 5
    assert summary.failures == (f"{shard}: 2.png is damaged: its checksum is wrong",)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not an array of NumPy, or cut off"),
        (encoded(noise(4, 4), "npy")[:-1], "is cut off"),
        (encoded(noise(4, 4)[..., 0], "npy"), "not an image: that is an array"),
        (encoded(noise(4, 4), "npy").replace(b"(4, 4, 3)", b"(9, 9, 3)"), "is cut off"),
        (encoded(noise(4, 4), "npy").replace(b"|u1", b"|O8"), "not an image|not an array"),
        (encoded(np.asfortranarray(noise(4, 4)), "npy"), "by rows"),
    ],
)
def test_arrays_that_are_no_images_are_named(tmp_path: Path, content: bytes, reason: str) -> None:
    (image,) = images_in(write_tar(tmp_path / "x.tar", {"a.npy": content}))
    with pytest.raises(DataError, match=rf"x\.tar: a\.npy.*({reason})"):
        read(image)


def test_tars_that_hold_nothing_or_lead_elsewhere(tmp_path: Path) -> None:
    content = encoded(noise(4, 4))
    whole = write_tar(tmp_path / "whole.tar", {"a.png": content})
    (tmp_path / "cut.tar").write_bytes(whole.read_bytes()[:700])
    (tmp_path / "text.tar").write_text("no tar" * 300)
    (tmp_path / "empty.tar").write_bytes(b"")
    assert "no image" in problem_of(write_tar(tmp_path / "none.tar", {"a.txt": b"", "b.seg.png": content}))
    for name in ("cut", "text", "empty"):
        assert problem_of(tmp_path / f"{name}.tar").startswith(f"shard {tmp_path / name}.tar: ")
    for name in ("../a.png", "/etc/a.png", "a/../../b.png"):
        assert "is not the name of a file" in problem_of(write_tar(tmp_path / "out.tar", {name: content}))
    assert "is not the name of a file in a folder" in problem_of(
        write_tar(tmp_path / "encoded.tar", {"%2E%2E%2Fa.png": content})
    )
    assert "occurs twice" in problem_of(doubled(tmp_path / "twice.tar", content))


def doubled(path: Path, content: bytes) -> Path:
    with tarfile.open(path, "w") as tar:
        for _ in range(2):
            info = tarfile.TarInfo("a.png")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def test_a_broken_tar_costs_only_itself(tmp_path: Path) -> None:
    write_tar(tmp_path / "good.tar", {"a.png": encoded(noise(20, 20))})
    (tmp_path / "bad.tar").write_text("no tar")
    model = tmp_path / "model.safetensors"
    segmenter.create("deeplab_v3", num_classes=3, output_stride=32).save(model)
    summary = predict.run(model, [f"{tmp_path}/*.tar"], tmp_path / "out", console=QUIET)
    assert summary.images == 1
    assert len(summary.failures) == 1
    assert "bad.tar" in summary.failures[0]


def test_other_sources_are_no_shards(tmp_path: Path) -> None:
    (tmp_path / "folder.tar").mkdir()
    for source in ("", str(tmp_path), str(tmp_path / "missing.tar"), str(tmp_path / "folder.tar"), f"{tmp_path}/*.png"):
        assert image_shards.shards_of(source) == []
