from io import BytesIO
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from atrous.data import raster
from atrous.data.pixels import read_image
from atrous.errors import DataError
from atrous.wire.image_ends import is_cut_off

TIFFS = ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits")


def saved(format_name: str, **options: object) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (200, 180, 3), dtype=np.uint8)
    file = BytesIO()
    PIL.Image.fromarray(pixels).save(file, format_name, **options)
    return file.getvalue()


def tiff(compression: str, *, big: bool = False) -> bytes:
    return saved("TIFF", compression=compression, big_tiff=big)


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("compression", TIFFS)
def test_a_tiff_is_cut_off_wherever_it_ends_too_early(compression: str, *, big: bool) -> None:
    content = tiff(compression, big=big)
    assert not is_cut_off(BytesIO(content))
    assert not is_cut_off(BytesIO(content + b"rest"))
    for length in (4, 7, 12, len(content) // 2, len(content) * 9 // 10):
        assert is_cut_off(BytesIO(content[:length])), length


def test_so_are_those_of_the_other_order_of_bytes_and_webp() -> None:
    webp = saved("WEBP")
    assert not is_cut_off(BytesIO(webp))
    assert is_cut_off(BytesIO(webp[:-3]))
    assert is_cut_off(BytesIO(b"MM\0*\0\0\0\x08\0\x02"))


@pytest.mark.parametrize("content", [b"", b"II", b"hello", saved("PNG"), saved("PNG")[:100], saved("JPEG")[:100]])
def test_all_other_files_are_left_to_their_readers(content: bytes) -> None:
    assert not is_cut_off(BytesIO(content))


def test_a_directory_that_claims_billions_of_values_is_read_in_bounded_memory() -> None:
    entries = b"".join(tag.to_bytes(2, "little") + b"\4\0" + b"\xff" * 4 + b"\x08\0\0\0" for tag in (273, 279))
    assert is_cut_off(BytesIO(b"II*\0\x08\0\0\0\2\0" + entries + bytes(4)))


def test_an_offset_beyond_what_any_file_has_is_beyond_the_end(tmp_path: Path) -> None:
    content = b"II+\0\x08\0\0\0" + b"\xff" * 8 + bytes(40)
    assert is_cut_off(BytesIO(content))
    path = tmp_path / "a.tif"
    path.write_bytes(content)
    with path.open("rb") as file:
        assert is_cut_off(file)


@pytest.mark.parametrize("compression", TIFFS)
@pytest.mark.filterwarnings("ignore:Corrupt EXIF|Truncated File:UserWarning")
def test_the_line_for_such_an_image_says_so(compression: str, tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    content = tiff(compression)
    path.write_bytes(content[: len(content) // 2])
    line = rf"cannot read image {path}: the file is cut off: it ends before its pixels do$"
    with pytest.raises(DataError, match=line):
        read_image(path)
    if raster.is_installed():
        with pytest.raises(DataError, match=line), raster.opened(path, "GTiff") as source:
            list(raster.strips(source))
