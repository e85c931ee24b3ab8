"""PNG files that are decoded where they are sliced: the pixels, and the complaints, of reading them whole."""

import struct
import zlib
from collections.abc import Callable, Iterator
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any, cast

import numpy as np
import PIL.Image
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL.PngImagePlugin import PngInfo

import atrous.data
from atrous.data import mix, png
from atrous.data.augment_config import AugmentConfig
from atrous.data.cityscapes import Config as CityscapesConfig
from atrous.data.folder import Config
from atrous.data.image_files import ImageFiles, decode, read_label
from atrous.data.label_space import LabelSpace
from atrous.data.late import PngRows, Renumbered, late_image, late_label
from atrous.data.loader import Stream, training_batches
from atrous.data.pairing import Pair
from atrous.data.pixels import read_image
from atrous.data.strips import LateError, whole
from atrous.data.transforms import augment
from atrous.errors import DataError
from atrous.types import Batch, Sample

MODES = ("1", "L", "P", "P of 4 colors", "P with alpha", "LA", "RGB", "RGB with a transparent color", "RGBA")
SPACE = LabelSpace(names=tuple(f"class_{index}" for index in range(4)))
FILL, IGNORE = (124, 116, 104), 255
Place = tuple[slice, slice]


def picture(mode: str, height: int, width: int, seed: int = 0) -> PIL.Image.Image:
    rng = np.random.default_rng(seed)
    bands = {"LA": 2, "RGB": 3, "RGBA": 4}.get(mode.split()[0], 1)
    most = {"1": 2, "P of 4 colors": 4}.get(mode, 256)
    values = rng.integers(0, most, (height, width, bands), dtype=np.uint8)
    values[: height // 2] = values[0]  # which compresses, and is filtered otherwise than noise
    plain = values if bands > 1 else values[..., 0]
    if mode == "1":
        return PIL.Image.fromarray(plain * 255).convert("1")
    image = PIL.Image.fromarray(plain)
    if mode.startswith("P"):
        image.putpalette(rng.integers(0, 256, 3 * most, dtype=np.uint8).tobytes())
        image.info |= {"transparency": bytes(range(most))} if "alpha" in mode else {}
    if "transparent" in mode:
        image.info["transparency"] = tuple(values[0, 0].tolist())
    return image


def encoded(image: PIL.Image.Image, piece: int = 0, **options: object) -> bytes:
    """As PNG; its pixels in chunks of `piece` bytes, if that isn't 0."""
    file = BytesIO()
    image.save(file, "PNG", **cast("dict[str, Any]", options))
    chunks = list(chunks_of(file.getvalue()))
    pixels = b"".join(data for kind, data in chunks if kind == b"IDAT")
    pieces = [pixels[start : start + piece] for start in range(0, len(pixels), piece)] if piece else [pixels]
    first = [kind for kind, _ in chunks].index(b"IDAT")
    rest = [chunk for chunk in chunks if chunk[0] != b"IDAT"]
    return joined([*rest[:first], *((b"IDAT", part) for part in pieces), *rest[first:]])


def chunks_of(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    place = 8
    while place < len(content):
        length, kind = struct.unpack_from(">I4s", content, place)
        yield kind, content[place + 8 : place + 8 + length]
        place += 12 + length


def joined(chunks: list[tuple[bytes, bytes]]) -> bytes:
    """With checksums that are right."""
    parts = (struct.pack(">I", len(data)) + kind + data + checksum(kind + data) for kind, data in chunks)
    return png.SIGNATURE + b"".join(parts)


def checksum(content: bytes) -> bytes:
    return struct.pack(">I", zlib.crc32(content))


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def outcome(read: Callable[[], NDArray[Any]]) -> object:
    """The pixels, or the complaint."""
    try:
        pixels = read()
    except DataError as error:
        return str(error)
    return pixels.dtype.str, pixels.tolist()


places = st.tuples(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))


def slices(place: tuple[float, float, float, float], height: int, width: int) -> Place:
    """Of one row and column or more."""
    top, left = (min(int(share * side), side - 1) for share, side in zip(place[:2], (height, width), strict=True))
    rows, columns = (
        1 + int(share * (side - 1)) for share, side in zip(place[2:], (height - top, width - left), strict=True)
    )
    return slice(top, top + rows), slice(left, left + columns)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(MODES), st.integers(1, 60), st.integers(1, 60), places, st.sampled_from([0, 1, 7, 300]))
def test_a_slice_is_that_of_the_whole(
    tmp_path: Path, mode: str, height: int, width: int, place: tuple[float, float, float, float], piece: int
) -> None:
    path = written(tmp_path / "a.png", encoded(picture(mode, height, width), piece))
    part = slices(place, height, width)
    late, image = late_image(path), read_image(path)
    assert late is not None and late.shape == image.shape and late.ndim == 3 and late.size == image.size
    np.testing.assert_array_equal(late[part], image[part])
    assert late[part].flags.writeable and late[part].flags.owndata
    label, codes = late_label(path, lambda codes: codes.values), read_label(path)
    assert label is not None and label.shape == codes.values.shape and label.ndim == 2
    np.testing.assert_array_equal(label[part], codes.values[part])
    assert label[part].dtype == codes.values.dtype


def test_nothing_below_the_slice_is_decoded(tmp_path: Path) -> None:
    """Here that part can't be, though its checksum is right."""
    chunks = list(chunks_of(encoded(picture("RGB", 90, 40), compress_level=0)))
    broken = [(kind, data[: len(data) // 2] + b"\xff" * 99 if kind == b"IDAT" else data) for kind, data in chunks]
    path = written(tmp_path / "a.png", joined(broken))
    late = late_image(path)
    assert late is not None
    np.testing.assert_array_equal(late[3:40, 5:9], np.asarray(picture("RGB", 90, 40))[3:40, 5:9])
    with pytest.raises(LateError, match=rf"^cannot read image {path}: ") as caught:
        late[50:80, :]
    with pytest.raises(DataError) as complaint:
        read_image(path)
    assert str(caught.value) == str(complaint.value)


# ---- damage


def damaged() -> Iterator[bytes]:
    """Each beginning of a file, and the file with each of its bytes changed."""
    content = encoded(picture("RGB", 5, 4), 40)
    for place in range(len(content)):
        yield content[:place]
        yield content[:place] + bytes([content[place] ^ 0x10]) + content[place + 1 :]


def test_a_damaged_file_gives_what_it_gives_when_read_whole(tmp_path: Path) -> None:
    refused = 0
    for content in damaged():
        path = written(tmp_path / "a.png", content)
        files = ImageFiles([Pair("a", path)], SPACE)
        late = outcome(lambda files=files: whole(files.late(0)).image)  # type: ignore[misc]
        assert late == outcome(lambda files=files: files[0].image)  # type: ignore[misc]
        refused += isinstance(late, str)
    assert refused > 200


@pytest.mark.parametrize("cut", [1, 4, 12, 13, 30])
def test_a_file_cut_off_at_its_end_is_not_taken_as_sound(cut: int) -> None:
    content = encoded(picture("RGB", 9, 6), 40)
    assert png.is_sound(content) and png.is_sound(content + b"what follows the picture")
    assert not png.is_sound(content[:-cut])
    assert not png.is_sound(b"") and not png.is_sound(content[:8])


# ---- what is read whole


def with_chunks(content: bytes, kind: bytes, data: bytes, *, before: bytes) -> bytes:
    chunks = list(chunks_of(content))
    place = [name for name, _ in chunks].index(before)
    return joined([*chunks[:place], (kind, data), *chunks[place:]])


def exif() -> bytes:
    tags = PIL.Image.Exif()
    tags[0x0112] = 6
    return tags.tobytes().removeprefix(b"Exif\0\0")


def special() -> dict[str, bytes]:
    plain = encoded(picture("RGB", 5, 7))
    head = b"".join(data for kind, data in chunks_of(plain) if kind == b"IHDR")
    frames = BytesIO()
    picture("RGB", 5, 7).save(frames, "PNG", save_all=True, append_images=[picture("RGB", 5, 7, 1)])
    xmp = b"XML:com.adobe.xmp\0\0\0\0\0<x tiff:Orientation='6'/>"
    pixels = b"".join(data for kind, data in chunks_of(plain) if kind == b"IDAT")
    rest = [chunk for chunk in chunks_of(plain) if chunk[0] not in (b"IDAT", b"IEND")]
    return {
        "16 bits": encoded(PIL.Image.fromarray(1900 * np.arange(35, dtype=np.uint16).reshape(5, 7))),
        "turned": with_chunks(plain, b"eXIf", exif(), before=b"IDAT"),
        "turned at its end": with_chunks(plain, b"eXIf", exif(), before=b"IEND"),
        "turned by XMP": with_chunks(plain, b"iTXt", xmp, before=b"IEND"),
        "profile as text": with_chunks(plain, b"tEXt", b"Raw profile type exif\0\nexif\n0\n", before=b"IDAT"),
        "animated": frames.getvalue(),
        "interlaced": plain.replace(head, head[:12] + b"\1").replace(
            checksum(b"IHDR" + head), checksum(b"IHDR" + head[:12] + b"\1")
        ),
        "unknown chunk": with_chunks(plain, b"abCd", b"", before=b"IDAT"),
        "pixels in two places": joined(
            [*rest, (b"IDAT", pixels[:30]), (b"tIME", bytes(7)), (b"IDAT", pixels[30:]), (b"IEND", b"")]
        ),
        "late palette": with_chunks(plain, b"PLTE", bytes(12), before=b"IEND"),
        "no pixels": joined([*rest, (b"IEND", b"")]),
        "two headers": with_chunks(plain, b"IHDR", head, before=b"IDAT"),
        "empty": b"",
        "a JPEG": b"\xff\xd8\xff\xe0 and more than enough bytes of it to be a header",
        "no width": joined([(b"IHDR", bytes(4) + head[4:]), (b"IEND", b"")]),
    }


@pytest.mark.parametrize("kind", special())
def test_what_is_no_plain_png_is_read_whole(tmp_path: Path, kind: str) -> None:
    path = written(tmp_path / "a.png", special()[kind])
    assert late_image(path) is None and late_label(path, lambda codes: codes.values) is None
    files = ImageFiles([Pair("a", path)], SPACE)
    assert outcome(lambda: files.late(0).image) == outcome(lambda: files[0].image)


def test_texts_that_say_nothing_of_the_pixels_do_no_harm(tmp_path: Path) -> None:
    texts = PngInfo()
    texts.add_text("Software", "a viewer")
    texts.add_text("Comment", "of " * 500, zip=True)
    content = encoded(picture("RGB", 5, 7), pnginfo=texts, dpi=(72, 72))
    late = late_image(written(tmp_path / "a.png", content))
    assert late is not None
    np.testing.assert_array_equal(late[:, :], np.asarray(picture("RGB", 5, 7)))


def test_huge_pictures_missing_files_and_folders_are_refused_as_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = encoded(picture("RGB", 5, 7))
    head = struct.pack(">2I", 60_000, 60_000) + b"\x08\x02\0\0\0"
    bomb = joined([(kind, head if kind == b"IHDR" else data) for kind, data in chunks_of(plain)])
    (tmp_path / "folder.png").mkdir()
    written(tmp_path / "bomb.png", bomb)
    for name in ("bomb.png", "missing.png", "folder.png"):
        files = ImageFiles([Pair("a", tmp_path / name)], SPACE)
        assert late_image(tmp_path / name) is None
        text = outcome(lambda files=files: files.late(0).image)  # type: ignore[misc]
        assert isinstance(text, str) and name in text
        assert text == outcome(lambda files=files: files[0].image)  # type: ignore[misc]
    small = written(tmp_path / "small.png", plain)
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", PIL.Image.MAX_IMAGE_PIXELS)  # to be set back
    monkeypatch.setenv("ATROUS_MAX_PIXELS", "34")
    assert late_image(small) is None
    with pytest.raises(DataError, match="its 35 pixels are more than the limit of 34"):
        ImageFiles([Pair("a", small)], SPACE).late(0)


# ---- samples


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Three images in PNG of 70 x 110, with masks of 4 classes, and a JPEG."""
    rng = np.random.default_rng(3)
    for folder in ("images/train", "masks/train"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "classes.yaml").write_text("names: [a, b, c, d]\n")
    for number, suffix in enumerate(("png", "png", "png", "jpg")):
        picture("RGB", 70, 110, number).save(tmp_path / f"images/train/{number}.{suffix}")
        mask = rng.integers(0, 4, (7, 11), dtype=np.uint8).repeat(10, 0).repeat(10, 1)
        PIL.Image.fromarray(mask).save(tmp_path / f"masks/train/{number}.png")
    return tmp_path


def samples_of(root: Path, **settings: object) -> ImageFiles:
    samples = atrous.data.samples(Config.model_validate({"root": root} | settings), "train")
    assert isinstance(samples, ImageFiles)
    return samples


def assert_equal(one: Sample, other: Sample) -> None:
    for left, right in zip(one, other, strict=True):
        np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"min_scale": 0.3, "max_scale": 0.6},
        {"min_scale": 1.0, "max_scale": 1.0},
        {"rotate": 30, "rotate_probability": 1, "blur": 1, "affine": 0.05, "aspect": (0.8, 1.25), "autoaugment": 1},
        {"resampling": "fast"},
        {"resize_min": 50, "padding": "around", "flip_vertical": 0.5},
        {"style": "tf_deeplab"},
        {"style": "semseg", "padding": "around"},
        {"style": "deeplab2", "padding": "random", "scale_step": 0.25},
        {"style": "forma", "blur_kernel": "area", "leg_crop": 1},
    ],
    ids=str,
)
def test_augmented_samples_are_those_of_whole_files(dataset: Path, config: dict[str, Any]) -> None:
    samples = samples_of(dataset)
    settings = AugmentConfig.model_validate({"crop": (33, 41), "scale_step": 0} | config)
    for seed in range(24):
        late, read = samples.late(seed % 4), samples[seed % 4]
        one, other = (
            augment(sample, settings, np.random.default_rng(seed), fill=FILL, ignore=IGNORE) for sample in (late, read)
        )
        assert_equal(one, other)
        assert isinstance(late.image, PngRows) is (seed % 4 < 3)
        assert isinstance(late.semantic, PngRows) is (seed > 3 and seed % 4 < 3), "whole at first, to see its values"


def test_a_value_that_is_no_class_is_found_at_once_wherever_it_lies(dataset: Path) -> None:
    path, samples = dataset / "masks/train/1.png", samples_of(dataset)
    mask = np.zeros((70, 110), np.uint8)
    samples.late(1)
    mask[69, 109] = 9
    PIL.Image.fromarray(mask).save(path)
    for _ in range(2):
        with pytest.raises(DataError, match=rf"^{path}: value 9 \(1 pixel\): not a class"):
            samples.late(1)
    mask[69, 109] = 3
    PIL.Image.fromarray(mask).save(path)
    assert isinstance(samples.late(1).semantic, np.ndarray)
    assert isinstance(samples.late(1).semantic, PngRows)
    assert isinstance(samples_of(dataset, names=("a", "b", "c", "d", "e")).late(1).semantic, np.ndarray)


def test_a_part_with_a_wrong_value_is_refused_with_all_that_the_file_holds(tmp_path: Path) -> None:
    """What can only be if a file changes at the same time and size."""
    mask = np.zeros((20, 8), np.uint8)
    mask[3:5, 2], mask[15, 2] = 9, 8
    path = tmp_path / "a.png"
    PIL.Image.fromarray(mask).save(path)
    rows = late_label(path, lambda codes: decode(codes, path, SPACE))
    assert rows is not None and not rows[:3, :].any()
    with pytest.raises(LateError, match=r"values 9 \(2 pixels\), 8 \(1 pixel\): not a class"):
        rows[2:5, :]


def test_labels_with_things_and_of_other_sizes(dataset: Path) -> None:
    (dataset / "instances/train").mkdir(parents=True)
    for number in range(4):
        PIL.Image.fromarray(np.zeros((70, 110), np.uint8)).save(dataset / f"instances/train/{number}.png")
    samples = samples_of(dataset, things=("d",))
    for _ in range(2):
        late = samples.late(0)
        assert isinstance(late.image, PngRows) and isinstance(late.instance, np.ndarray)
        assert_equal(whole(late), samples[0])
    assert isinstance(samples.without_instances().late(0).semantic, np.ndarray | PngRows)
    PIL.Image.fromarray(np.zeros((70, 100), np.uint8)).save(dataset / "masks/train/0.png")
    for _ in range(2):
        with pytest.raises(DataError, match=r"sizes differ \(width x height\): image .*0.png is 110 x 70"):
            samples.without_instances().late(0)


def test_merged_and_mixed_samples_are_late_too(dataset: Path) -> None:
    settings: dict[str, Any] = {"map": {"few": ["b", "c"]}}
    samples = samples_of(dataset, **settings)
    for _ in range(2):
        assert_equal(whole(samples.late(0)), samples[0])
    assert isinstance(samples.late(0).semantic, Renumbered)
    parts = {name: {"format": "folder", "root": str(dataset)} for name in ("one", "two")}
    mixed = atrous.data.samples(mix.Config(parts=parts), "train")
    assert isinstance(mixed, mix.Mix)
    mixed.late(5)
    late = mixed.late(5)
    assert late.name == "two/1" and isinstance(late.image, PngRows)
    assert_equal(whole(late), mixed[5])


def batches(samples: ImageFiles, workers: int = 0, *, skip_errors: bool = False) -> list[tuple[Batch, tuple[str, ...]]]:
    settings = AugmentConfig(crop=(33, 41), scale_step=0)
    stream = training_batches(
        samples,
        lambda sample, *, rng: augment(sample, settings, rng, fill=FILL, ignore=IGNORE),
        Stream(seed=1, batch=2),
        workers=workers,
        skip_errors=skip_errors,
    )
    return list(islice(stream, 6))


def test_a_training_reads_late_and_names_a_file_that_breaks_then(dataset: Path) -> None:
    samples = samples_of(dataset)
    for one, other in zip(batches(samples), batches(samples, workers=1), strict=True):
        assert one[0].images.equal(other[0].images)
    path = dataset / "images/train/2.png"
    chunks = list(chunks_of(path.read_bytes()))
    path.write_bytes(joined([(kind, b"x\x9c\xff\xff" if kind == b"IDAT" else data) for kind, data in chunks]))
    assert isinstance(samples.late(2).image, PngRows), "only its pixels will tell"
    with pytest.raises(DataError, match=rf"^cannot read image {path}: ") as caught:
        batches(samples)
    assert "\n" not in str(caught.value)
    problems = [problem for _, part in batches(samples, skip_errors=True) for problem in part]
    assert problems and set(problems) == {str(caught.value)}


def test_cityscapes_labels_are_late_without_instances(tmp_path: Path) -> None:
    for folder, name, mode in (
        ("leftImg8bit/train/ulm", "ulm_000000_000019_leftImg8bit.png", "RGB"),
        ("gtFine/train/ulm", "ulm_000000_000019_gtFine_labelIds.png", "P of 4 colors"),
    ):
        (tmp_path / folder).mkdir(parents=True)
        picture(mode, 64, 128).save(tmp_path / folder / name)
    samples = atrous.data.samples(CityscapesConfig(root=tmp_path), "train", ("semantic",))
    assert isinstance(samples, ImageFiles)
    samples.late(0)
    assert isinstance(samples.late(0).semantic, PngRows)
    assert_equal(whole(samples.late(0)), samples[0])
