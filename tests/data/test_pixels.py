"""Photos of more than 8 bits, of every byte order and file, and labels of photos that are turned by their EXIF."""

import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import PIL.Image
import pytest
from numpy.typing import NDArray

from atrous import errors
from atrous.data import pixels
from atrous.data.contract import read_image as read_image_of_layouts
from atrous.data.image_files import ImageFiles
from atrous.data.label_space import LabelSpace
from atrous.data.pairing import Pair
from atrous.data.pixels import read_image, read_label, stored, upright
from atrous.errors import AtrousWarning, DataError
from tests.data.conftest import save, semantic

GREY = np.tile(np.arange(256), (3, 1))
RGB = np.stack([GREY, GREY[:, ::-1], GREY // 2], -1)
TWO = LabelSpace(names=("background", "person"))


@pytest.fixture(autouse=True)
def unwarned(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test depends on what others have warned of."""
    monkeypatch.setattr(errors, "_warned", set())


def write_png(path: Path, samples: NDArray[np.int64], color_type: int, significant: Sequence[int] = ()) -> Path:
    """16 bits per channel, which Pillow doesn't write in colour. Types: 0 grey, 2 RGB, 4 grey and alpha, 6 RGBA."""
    height, width = samples.shape[:2]
    rows = b"".join(b"\0" + line.astype(">u2").tobytes() for line in samples)
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 16, color_type, 0, 0, 0)),
        *([(b"sBIT", bytes(significant))] if significant else []),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    ]
    content = [
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    ]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(content))
    return path


def write_tiff(
    path: Path,
    array: NDArray[np.generic],
    photometric: int,
    order: Literal["<", ">"] = "<",
    **tags: int | Sequence[int],
) -> Path:
    """An uncompressed TIFF of any number of bands; `tags` are t338=... and so on."""
    bands = array.shape[2] if array.ndim == 3 else 1
    data, bits = array.astype(array.dtype.newbyteorder(order)).tobytes(), array.dtype.itemsize * 8
    kind = {"u": 1, "i": 2, "f": 3}[array.dtype.kind]
    values: dict[int, Sequence[int]] = {
        256: [array.shape[1]],
        257: [array.shape[0]],
        258: [bits] * bands,
        259: [1],
        262: [photometric],
        273: [0],
        277: [bands],
        278: [array.shape[0]],
        279: [len(data)],
        339: [kind] * bands,
    }
    values |= {int(tag[1:]): [value] if isinstance(value, int) else value for tag, value in tags.items()}
    end = 8 + 2 + 12 * len(values) + 4
    values[273] = [end + sum(2 * len(value) for value in values.values() if len(value) > 2)]
    entries, more = b"", b""
    for tag, value in sorted(values.items()):
        raw = struct.pack(f"{order}{len(value)}H", *value)
        place = raw.ljust(4, b"\0") if len(raw) <= 4 else struct.pack(f"{order}I", end + len(more))
        entries += struct.pack(f"{order}HHI", tag, 3, len(value)) + place
        more += raw if len(raw) > 4 else b""
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, len(values))
    path.write_bytes(head + entries + struct.pack(f"{order}I", 0) + more + data)
    return path


def grey_of(values: NDArray[np.generic]) -> NDArray[np.generic]:
    return np.repeat(values[..., None], 3, axis=2)


# ---- bits


def test_grey_pixels_are_scaled_by_the_bits_that_they_use(tmp_path: Path) -> None:
    for bits in (8, 10, 12, 14, 16):
        values = GREY << (bits - 8)
        for name, kind in (("a.png", np.uint16), ("a.tif", np.uint16), ("a.tif", np.int32)):
            path = save(tmp_path / name, values.astype(kind))
            if bits < 16:
                with pytest.warns(
                    AtrousWarning, match=rf"^{path}: its values, at most {values.max()}, are read as {bits}-"
                ):
                    image = read_image(path)
            else:
                image = read_image(path)
            errors._warned.clear()
            assert np.array_equal(image, grey_of(GREY)), (bits, name)


def test_the_number_of_bits_decides_and_not_the_largest_value(tmp_path: Path) -> None:
    """Images of 2049..4095 as their largest value are all divided by 16: a sequence doesn't flicker."""
    for largest in (2049, 3000, 4095):
        path = save(tmp_path / "a.png", np.array([[160, largest]], np.uint16))
        errors._warned.clear()
        with pytest.warns(AtrousWarning, match="12-bit"):
            assert read_image(path)[0, :, 0].tolist() == [10, largest // 16]


def test_the_bits_are_said_once(tmp_path: Path) -> None:
    paths = [save(tmp_path / f"{name}.png", (GREY * 16).astype(np.uint16)) for name in "ab"]
    with pytest.warns(AtrousWarning) as caught:
        for path in paths:
            read_image(path)
    assert len(caught) == 1
    assert "a.png" in str(caught[0].message) and "\n" not in str(caught[0].message)


def test_black_pixels_of_16_bits_are_black_without_a_word(tmp_path: Path) -> None:
    assert not read_image(save(tmp_path / "a.png", np.zeros((2, 2), np.uint16))).any()


def test_colours_of_16_bits_keep_their_low_bytes_where_these_matter(tmp_path: Path) -> None:
    """Pillow alone keeps the high bytes: 16 levels of 256 where a camera has 12 bits, none where it has 8."""
    alpha = np.full((3, 256, 1), 65535)
    for shift in (0, 4, 8):
        deep = RGB << shift
        files = {
            "rgb.png": write_png(tmp_path / "rgb.png", deep, 2),
            "rgba.png": write_png(tmp_path / "rgba.png", np.dstack([deep, alpha]), 6),
            "le.tif": write_tiff(tmp_path / "le.tif", deep.astype(np.uint16), 2),
            "be.tif": write_tiff(tmp_path / "be.tif", deep.astype(np.uint16), 2, ">"),
            "rgba.tif": write_tiff(tmp_path / "rgba.tif", np.dstack([deep, alpha]).astype(np.uint16), 2, t338=2),
        }
        errors._warned.add("depth")
        for name, path in files.items():
            assert np.array_equal(read_image(path), RGB), (shift, name)
        path = write_png(tmp_path / "la.png", np.dstack([GREY << shift, alpha]), 4)
        assert np.array_equal(read_image(path), grey_of(GREY)), shift


def test_16_bit_colours_of_a_kind_that_pillow_cannot_split_are_refused_where_they_would_be_black(
    tmp_path: Path,
) -> None:
    path = write_tiff(tmp_path / "a.tif", np.dstack([RGB * 16, RGB[..., :1]]).astype(np.uint16), 5)
    with pytest.raises(DataError, match=r"16 bits per channel \(CMYK;16.\), of which few are used; save it with 8"):
        read_image(path)


def test_bits_that_the_file_states_come_before_those_of_its_values(tmp_path: Path) -> None:
    dark = GREY * 3 + 1  # up to 766: 10 bits
    stated = {
        "png.png": write_png(tmp_path / "png.png", dark, 0, [12]),
        "rgb.png": write_png(tmp_path / "rgb.png", np.dstack([dark] * 3), 2, [11, 12, 11]),
        "max.tif": write_tiff(tmp_path / "max.tif", dark.astype(np.uint16), 1, t281=4095),
        "s_max.tif": write_tiff(tmp_path / "s_max.tif", dark.astype(np.uint16), 1, t341=4095),
    }
    for name, path in stated.items():
        errors._warned.clear()
        with pytest.warns(AtrousWarning, match="12-bit ones, as the file says"):
            assert np.array_equal(read_image(path), grey_of(dark >> 4)), name
    errors._warned.clear()
    path = write_tiff(tmp_path / "wrong.tif", (GREY * 16).astype(np.uint16), 1, t281=255)
    with pytest.warns(AtrousWarning, match="12-bit ones: 0"):
        assert np.array_equal(read_image(path), grey_of(GREY)), "a largest value that pixels exceed is wrong"


def test_significant_bits_on_the_upper_side_are_those_of_the_png_standard(tmp_path: Path) -> None:
    path = write_png(tmp_path / "a.png", GREY << 4, 0, [12])  # a dark image of 12 bits: the lower four are 0
    with pytest.warns(AtrousWarning, match="16-bit ones, as the file says"):
        assert np.array_equal(read_image(path), grey_of(GREY >> 4))


def test_values_beyond_16_bits_and_below_0_are_refused(tmp_path: Path) -> None:
    for low, high in ((0, 65536), (-1, 255), (0, 2**31 - 1)):
        path = save(tmp_path / "a.tif", np.array([[low, high]], np.int32))
        with pytest.raises(
            DataError, match=rf"^cannot read image {path}: its pixels are {low}\.\.{high}; save it with"
        ):
            read_image(path)


def test_labels_are_never_scaled(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", np.array([[0, 300, 4000]], np.uint16))
    assert read_label(path).values.tolist() == [[0, 300, 4000]]
    with pytest.raises(DataError, match=r"label .*rgb\.png: its colours have 16 bits per channel; save it with 8"):
        read_label(write_png(tmp_path / "rgb.png", RGB, 2))


def test_masks_of_gif_are_read_by_their_colours(tmp_path: Path) -> None:
    values = np.array([[0, 1, 2, 3], [3, 2, 1, 0]], np.uint8)
    picture = PIL.Image.fromarray(values)
    picture.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0, 9, 9, 9])
    picture.save(tmp_path / "a.gif", optimize=False)
    codes = read_label(tmp_path / "a.gif")
    assert codes.is_colored
    assert codes.values[0].tolist() == [0, 128, 128 << 8, 9 | 9 << 8 | 9 << 16]
    grey = PIL.Image.fromarray(values * 85)
    grey.save(tmp_path / "grey.gif", optimize=False)
    assert np.array_equal(read_label(tmp_path / "grey.gif").values, values * 85)


# ---- strips


def test_strips_make_no_difference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    exif = PIL.Image.Exif()
    exif[0x0112] = 8
    colors = rng.integers(0, 256, (13, 7, 3), np.uint8)
    PIL.Image.fromarray(colors).save(tmp_path / "rgb.png", exif=exif)
    save(tmp_path / "deep.png", rng.integers(0, 65536, (13, 7)).astype(np.uint16))
    whole = [read_image(tmp_path / name) for name in ("rgb.png", "deep.png")]
    assert np.array_equal(whole[0], np.rot90(colors))
    for size in (1, 20):
        monkeypatch.setattr(pixels, "_STRIP", size)
        for image, name in zip(whole, ("rgb.png", "deep.png"), strict=True):
            assert np.array_equal(read_image(tmp_path / name), image), (size, name)


def test_layouts_elsewhere_read_images_by_the_contract(tmp_path: Path) -> None:
    assert read_image_of_layouts(str(save(tmp_path / "a.png"))).shape == (4, 6, 3)


# ---- orientation


def turned_by_pillow(values: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    picture = PIL.Image.fromarray(values)
    picture.info["exif"] = exif.tobytes()
    return np.asarray(PIL.ImageOps.exif_transpose(picture))


def test_every_orientation_is_turned_as_pillow_turns_it() -> None:
    values = np.arange(12, dtype=np.uint8).reshape(3, 4)
    for orientation in range(1, 9):
        assert np.array_equal(upright(values, orientation), turned_by_pillow(values, orientation)), orientation
        assert np.array_equal(stored(upright(values, orientation), orientation), values), orientation


def photo_and_label(
    folder: Path, size: tuple[int, int], orientation: int, label: NDArray[np.uint8], label_orientation: int = 1
) -> ImageFiles:
    for path, values, number in (
        (folder / "a.png", np.zeros(size, np.uint8), orientation),
        (folder / "label.png", label, label_orientation),
    ):
        exif = PIL.Image.Exif()
        exif[0x0112] = number
        PIL.Image.fromarray(values).save(path, exif=exif)
    return ImageFiles([Pair("a", folder / "a.png", folder / "label.png")], TWO)


def corner(height: int, width: int) -> NDArray[np.uint8]:
    label = np.zeros((height, width), np.uint8)
    label[0, 0] = 1
    return label


def test_a_label_on_the_photo_as_stored_is_turned_with_it(tmp_path: Path) -> None:
    for orientation in (5, 6, 7, 8):
        errors._warned.clear()
        samples = photo_and_label(tmp_path, (4, 6), orientation, corner(4, 6))
        with pytest.warns(AtrousWarning, match=r"label\.png, drawn on the photo as stored, is turned with it"):
            sample = samples[0]
        assert sample.image.shape == (6, 4, 3)
        assert np.array_equal(semantic(sample), turned_by_pillow(corner(4, 6), orientation)), orientation


def test_a_label_on_the_upright_photo_stays(tmp_path: Path) -> None:
    samples = photo_and_label(tmp_path, (4, 6), 6, corner(6, 4))
    assert np.array_equal(semantic(samples[0]), corner(6, 4))


def test_a_label_that_fits_both_ways_stays_unless_its_own_exif_is_the_photos(tmp_path: Path) -> None:
    for size, orientation in (((4, 4), 6), ((4, 6), 3)):
        errors._warned.clear()
        with pytest.warns(AtrousWarning, match="is taken as drawn on the upright photo"):
            sample = photo_and_label(tmp_path, size, orientation, corner(*size))[0]
        assert np.array_equal(semantic(sample), corner(*size))
        with pytest.warns(AtrousWarning, match="is turned with it"):
            sample = photo_and_label(tmp_path, size, orientation, corner(*size), orientation)[0]
        assert np.array_equal(semantic(sample), turned_by_pillow(corner(*size), orientation))


def test_a_label_of_another_size_is_refused_whatever_the_orientation(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="sizes differ"):
        photo_and_label(tmp_path, (4, 6), 6, corner(5, 6))[0]


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_a_damaged_exif_is_ignored_as_by_viewers(tmp_path: Path) -> None:
    PIL.Image.new("RGB", (6, 4)).save(tmp_path / "a.jpg", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff")
    assert read_image(tmp_path / "a.jpg").shape == (4, 6, 3)
