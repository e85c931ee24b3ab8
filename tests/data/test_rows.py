"""Images as rows: the pixels that reading them whole gives, and complaints before the work."""

import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from numpy.typing import NDArray

from atrous.data import jpeg, png_rows, raster, rows
from atrous.data.pixels import read_image
from atrous.errors import ConfigError, DataError
from atrous.wire.png import SIGNATURE, chunk

Pixels = NDArray[Any]
pytestmark = pytest.mark.filterwarnings("ignore::atrous.errors.AtrousWarning")  # that few bits are used
HEIGHT, WIDTH = 37, 53


@pytest.fixture(autouse=True)
def short_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(png_rows, "STRIP_BYTES", 100)
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", PIL.Image.MAX_IMAGE_PIXELS)  # which the environment changes
    monkeypatch.setattr(png_rows, "READ_BYTES", 100)
    monkeypatch.setattr(raster, "STRIP_BYTES", 700)


def texture(channels: int, largest: int = 255) -> Pixels:
    """Smooth enough for an encoder to choose each of PNG's filters."""
    rng = np.random.default_rng(channels)
    coarse = rng.integers(0, 200, (6, 8, channels)).repeat(7, 0).repeat(7, 1)[:HEIGHT, :WIDTH]
    values = (coarse.cumsum(1) + np.arange(HEIGHT)[:, None, None] * 3 + rng.integers(0, 4, coarse.shape)) % 256
    return (values * largest // 255).astype(np.uint8 if largest < 256 else np.uint16)


def read_all(path: Path, bands: tuple[int, ...] = ()) -> Pixels:
    with rows.opened(path, bands) as image:
        strips = list(image.strips())
        again = list(image.strips())
    assert len(strips) > 1
    assert all(np.array_equal(one, other) for one, other in zip(strips, again, strict=True))
    pixels = np.concatenate(strips)
    assert pixels.shape == (*image.size, 4)
    return pixels


def filtered_png(path: Path, pixels: Pixels, kind: int, depth: int, *extra: tuple[bytes, bytes]) -> Path:
    """Each row by another of PNG's five filters, the pixels in many chunks."""
    height, width = pixels.shape[:2]
    data = pixels.astype(">u2" if depth == 16 else np.uint8).reshape(height, -1)
    data = np.ascontiguousarray(data).view(np.uint8).astype(np.int64)
    step = data.shape[1] // width
    left, up = np.zeros_like(data), np.zeros_like(data)
    left[:, step:], up[1:] = data[:, :-step], data[:-1]
    corner = np.zeros_like(data)
    corner[1:, step:] = data[:-1, :-step]
    guess = left + up - corner
    distances = np.stack([abs(guess - left), abs(guess - up), abs(guess - corner)])
    paeth = np.choose(distances.argmin(0), [left, up, corner])
    below = np.stack([np.zeros_like(data), left, up, (left + up) // 2, paeth])
    number = np.arange(height) % 5
    body = (data - below[number, np.arange(height)]) % 256
    stream = zlib.compress(np.concatenate([number[:, None], body], 1).astype(np.uint8).tobytes())
    head = chunk(b"IHDR", struct.pack(">2I5B", width, height, depth, kind, 0, 0, 0))
    meta = b"".join(chunk(*one) for one in extra)
    idat = b"".join(chunk(b"IDAT", stream[start : start + 333]) for start in range(0, len(stream), 333))
    path.write_bytes(SIGNATURE + head + meta + idat + chunk(b"IEND", b""))
    return path


# ---- PNG


@pytest.mark.parametrize(("kind", "samples"), [(0, 1), (2, 3), (4, 2), (6, 4)])
@pytest.mark.parametrize("depth", [8, 16])
def test_every_filter_kind_and_depth_is_read_as_pillow_reads_it(
    kind: int, samples: int, depth: int, tmp_path: Path
) -> None:
    path = filtered_png(tmp_path / "a.png", texture(samples, 2**depth - 1), kind, depth)
    assert np.array_equal(read_all(path)[..., :3], read_image(path))


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_palettes_and_few_bits(bits: int, tmp_path: Path) -> None:
    indices = (texture(1)[..., 0].astype(int) % 2**bits).astype(np.uint8)
    picture = PIL.Image.fromarray(indices)
    picture.putpalette(list(range(40, 40 + 3 * 2**bits)) if bits < 8 else list(range(256)) * 3)
    picture.save(tmp_path / "a.png", bits=bits)
    assert png_rows.open_png(tmp_path / "a.png").depth == bits
    assert np.array_equal(read_all(tmp_path / "a.png")[..., :3], read_image(tmp_path / "a.png"))
    if bits == 1:
        PIL.Image.fromarray(indices.astype(bool)).save(tmp_path / "b.png")
        assert np.array_equal(read_all(tmp_path / "b.png")[..., :3], read_image(tmp_path / "b.png"))


def test_transparent_pixels_have_no_data(tmp_path: Path) -> None:
    pixels = texture(4)
    pixels[:5, :, 3], pixels[5:, :, 3] = 0, 1
    path = filtered_png(tmp_path / "rgba.png", pixels, 6, 8)
    assert ((read_all(path)[..., 3] == 0) == (pixels[..., 3] == 0)).all()
    grey = texture(1)
    path = filtered_png(tmp_path / "grey.png", grey, 0, 8, (b"tRNS", struct.pack(">H", int(grey[3, 4, 0]))))
    assert ((read_all(path)[..., 3] == 0) == (grey[..., 0] == grey[3, 4, 0])).all()
    indices = PIL.Image.fromarray(grey[..., 0] % 4)
    indices.putpalette([0, 0, 0, 9, 9, 9, 8, 8, 8, 7, 7, 7])
    indices.save(tmp_path / "palette.png", transparency=2)
    assert ((read_all(tmp_path / "palette.png")[..., 3] == 0) == (grey[..., 0] % 4 == 2)).all()


@pytest.mark.parametrize(
    ("largest", "significant"), [(255, None), (4095, None), (60_000, None), (1023, 12), (4000, 10)]
)
def test_deep_pixels_are_scaled_as_by_reading_whole(largest: int, significant: int | None, tmp_path: Path) -> None:
    extra = [] if significant is None else [(b"sBIT", bytes([significant]))]
    path = filtered_png(tmp_path / "a.png", texture(1, 65_535) // (65_536 // (largest + 1)), 0, 16, *extra)
    assert np.array_equal(read_all(path)[..., :3], read_image(path))


def damaged(path: Path, change: Callable[[bytes], bytes]) -> Path:
    path.write_bytes(change(path.read_bytes()))
    return path


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda c: c[:-20], "cut off"),
        (lambda c: c[: len(c) // 2], "cut off"),
        (lambda c: c[:20], "cut off"),
        (lambda c: c.replace(b"IHDR", b"IHDX"), "no header"),
        (lambda c: c[:19] + b"\x99" + c[20:], "checksum of IHDR"),
        (lambda c: SIGNATURE + chunk(b"IHDR", struct.pack(">2I5B", 0, 5, 8, 2, 0, 0, 0)) + c[33:], "no PNG can have"),
        (lambda c: SIGNATURE + chunk(b"IHDR", struct.pack(">2I5B", 5, 5, 7, 2, 0, 0, 0)) + c[33:], "no PNG has 7 bits"),
        (lambda c: c[:33] + chunk(b"acTL", b"\0" * 8) + c[33:], "an animation"),
        (lambda c: SIGNATURE + chunk(b"IHDR", struct.pack(">2I5B", WIDTH, HEIGHT, 8, 3, 0, 0, 0)) + c[33:], "palette"),
    ],
)
def test_a_png_that_is_not_whole_is_refused_before_its_pixels(
    change: Callable[[bytes], bytes], reason: str, tmp_path: Path
) -> None:
    path = damaged(filtered_png(tmp_path / "a.png", texture(3), 2, 8), change)
    with pytest.raises(DataError, match=f"cannot read image .*a.png: .*{reason}"), rows.opened(path):
        pass


@pytest.mark.parametrize("place", [60, 900, -30])
def test_damaged_pixels_are_noticed_where_they_come(place: int, tmp_path: Path) -> None:
    path = filtered_png(tmp_path / "a.png", texture(3), 2, 8)
    damaged(path, lambda c: c[:place] + bytes([c[place] ^ 64]) + c[place + 1 :])
    with pytest.raises(DataError, match=r"a.png: it is damaged near row"), rows.opened(path) as image:
        list(image.strips())


def test_pixels_that_end_too_early_are_noticed(tmp_path: Path) -> None:
    path = filtered_png(tmp_path / "a.png", texture(3), 2, 8)
    head = chunk(b"IHDR", struct.pack(">2I5B", WIDTH, HEIGHT + 9, 8, 2, 0, 0, 0))
    damaged(path, lambda c: SIGNATURE + head + c[33:])
    with pytest.raises(DataError, match="end too early"), rows.opened(path) as image:
        list(image.strips())


def test_a_small_file_cannot_say_that_it_is_huge(tmp_path: Path) -> None:
    path = filtered_png(tmp_path / "a.png", texture(3), 2, 8)
    head = chunk(b"IHDR", struct.pack(">2I5B", 60_000, 60_000, 8, 2, 0, 0, 0))
    damaged(path, lambda c: SIGNATURE + head + c[33:])
    assert rows.size_of(path) == (60_000, 60_000)
    with (
        pytest.raises(DataError, match=r"says that it is 60000 x 60000 pixels .* can't hold as many"),
        rows.opened(path),
    ):
        pass


def test_a_row_that_would_fill_the_memory_is_refused(tmp_path: Path) -> None:
    PIL.Image.new("1", (300_000, 2)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match="300000 pixels wide, more than 262144"), rows.opened(tmp_path / "a.png"):
        pass


@pytest.mark.parametrize("orientation", [1, 6])
def test_what_cannot_be_read_in_rows_is_read_whole_within_the_limit(
    orientation: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An interlaced PNG, and one that is to be turned; `rows` then has one strip."""
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "a.png"
    PIL.Image.fromarray(texture(3)).save(path, exif=exif)
    with rows.opened(path) as image:
        pixels = np.concatenate(list(image.strips()))
    assert np.array_equal(pixels[..., :3], read_image(path))
    assert pixels.shape[:2] == ((WIDTH, HEIGHT) if orientation == 6 else (HEIGHT, WIDTH))
    monkeypatch.setenv("ATROUS_MAX_PIXELS", "1000")
    if orientation == 6:
        with pytest.raises(DataError, match=r"EXIF orientation is 6.*ATROUS_MAX_PIXELS=1961"), rows.opened(path):
            pass
    else:
        with rows.opened(path) as image:
            assert image.size == (HEIGHT, WIDTH)


def test_rows_on_request_may_overlap_and_go_on() -> None:
    whole = np.arange(40 * 3 * 4, dtype=np.uint64).astype(np.uint8).reshape(40, 3, 4)
    read = rows.reader(iter(np.split(whole, [7, 8, 20, 33])))
    for part in (slice(0, 5), slice(0, 9), slice(4, 21), slice(4, 6), slice(30, 31), slice(30, 40), slice(39, 40)):
        assert np.array_equal(read(part), whole[part])


# ---- TIFF and JPEG, by rasterio


@pytest.fixture
def geo() -> Any:  # noqa: ANN401 - a module that need not be installed
    return pytest.importorskip("rasterio", reason="rasterio is not installed: pip install '.[geo]'")


def write_tiff(path: Path, pixels: Pixels, geo: Any, **options: Any) -> Path:  # noqa: ANN401
    height, width, count = pixels.shape
    profile = {"driver": "GTiff", "height": height, "width": width, "count": count, "dtype": pixels.dtype}
    profile |= {"blockysize": 5, **options}
    colors = {key: profile.pop(key) for key in ("colormap",) if key in profile}
    with geo.Env(), geo.open(path, "w", **profile) as file:
        if colors:
            file.write_colormap(1, colors["colormap"])
        file.write(pixels.transpose(2, 0, 1))
    return path


@pytest.fixture
def georeferenced(geo: Any) -> dict[str, Any]:  # noqa: ANN401
    return {"crs": "EPSG:32632", "transform": geo.Affine(0.5, 0, 500_000, 0, -0.5, 5_000_000)}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"tiled": True, "blockxsize": 16, "blockysize": 16, "compress": "deflate"},
        {"compress": "lzw", "blockysize": 5},
        {"interleave": "band", "compress": "deflate"},
        {"bigtiff": "YES"},
    ],
)
def test_tiffs_of_any_layout_are_read_as_pillow_reads_them(
    options: dict[str, Any],
    geo: Any,  # noqa: ANN401
    georeferenced: dict[str, Any],
    tmp_path: Path,
) -> None:
    path = write_tiff(tmp_path / "a.tif", texture(3), geo, photometric="RGB", **options, **georeferenced)
    assert rows.size_of(path) == (HEIGHT, WIDTH)
    assert np.array_equal(read_all(path)[..., :3], texture(3))
    if "interleave" not in options:
        assert np.array_equal(read_all(path)[..., :3], read_image(path))


def test_grey_deep_and_palette_tiffs_are_read_as_pillow_reads_them(
    geo: Any,  # noqa: ANN401
    georeferenced: dict[str, Any],
    tmp_path: Path,
) -> None:
    for name, pixels, options in (
        ("grey", texture(1), {}),
        ("deep", texture(3, 4095), {"photometric": "RGB"}),
        ("deep_grey", texture(1, 65_535), {}),
        ("few_bits", texture(1) // 16, {"nbits": 4}),
        ("white_zero", texture(1), {"photometric": "MINISWHITE"}),
        ("palette", texture(1) % 3, {"colormap": {0: (9, 8, 7), 1: (1, 2, 3), 2: (255, 0, 9)}}),
    ):
        path = write_tiff(tmp_path / f"{name}.tif", pixels, geo, **options, **georeferenced)
        assert np.array_equal(read_all(path)[..., :3], read_image(path)), name


def test_nodata_alpha_and_bands(
    geo: Any,  # noqa: ANN401
    georeferenced: dict[str, Any],
    tmp_path: Path,
) -> None:
    pixels = texture(3)
    pixels[:6] = 7
    path = write_tiff(tmp_path / "nodata.tif", pixels, geo, nodata=7, **georeferenced)
    assert ((read_all(path)[..., 3] == 0) == (pixels == 7).all(-1)).all()
    four = texture(4)
    four[:, :9, 3] = 0
    path = write_tiff(tmp_path / "alpha.tif", four, geo, photometric="RGB", alpha="YES", **georeferenced)
    assert ((read_all(path)[..., 3] == 0) == (four[..., 3] == 0)).all()
    seven = texture(7)
    path = write_tiff(tmp_path / "seven.tif", seven, geo, **georeferenced)
    assert np.array_equal(read_all(path, (4, 3, 2))[..., :3], seven[..., [3, 2, 1]])
    assert np.array_equal(read_all(path, (7,))[..., :3], seven[..., [6, 6, 6]])
    for bands, reason in (((), "it has 7 bands"), ((8,), "it has 7 bands, counted from 1")):
        with pytest.raises(DataError, match=reason), rows.opened(path, bands):
            pass


def test_a_deep_nodata_value_is_no_brightness(
    geo: Any,  # noqa: ANN401
    georeferenced: dict[str, Any],
    tmp_path: Path,
) -> None:
    pixels = texture(1, 4095)
    pixels[:5] = 65_535
    path = write_tiff(tmp_path / "a.tif", pixels, geo, nodata=65_535, **georeferenced)
    assert np.array_equal(read_all(path)[5:, :, 0], (pixels[5:, :, 0] >> 4).astype(np.uint8))


@pytest.mark.parametrize(
    ("pixels", "options", "reason"),
    [
        (np.ones((9, 9, 1), np.float32), {}, "floats; save it with 8 or 16 bits"),
        (np.full((9, 9, 1), -3, np.int16), {}, "its pixels are -3..-3"),
        (np.full((9, 9, 1), 70_000, np.uint32), {}, "its pixels are 70000..70000"),
        (np.ones((9, 9, 1), np.int8), {}, "signed numbers"),
        (np.ones((9, 9, 1), np.complex64), {}, "numbers of the type complex64"),
        (np.ones((9, 9, 1), np.uint16), {"photometric": "MINISWHITE"}, "0 is white in it"),
    ],
)
def test_pixels_that_are_no_photo_are_refused(
    pixels: Pixels,
    options: dict[str, Any],
    reason: str,
    geo: Any,  # noqa: ANN401
    georeferenced: dict[str, Any],
    tmp_path: Path,
) -> None:
    path = write_tiff(tmp_path / "a.tif", pixels, geo, **options, **georeferenced)
    with pytest.raises(DataError, match=f"a.tif: .*{reason}"), rows.opened(path):
        pass


def test_a_damaged_tiff_is_one_line(
    geo: Any,  # noqa: ANN401
    georeferenced: dict[str, Any],
    tmp_path: Path,
) -> None:
    path = write_tiff(tmp_path / "a.tif", texture(3), geo, compress="deflate", blockysize=4, **georeferenced)
    content = path.read_bytes()
    path.write_bytes(content[:200] + bytes(2000) + content[2200:])
    with pytest.raises(DataError, match=r"cannot read image .*a.tif") as error, rows.opened(path) as image:
        list(image.strips())
    assert "\n" not in str(error.value)
    path.write_bytes(content[:100])
    with pytest.raises(DataError, match=r"cannot read image .*a.tif"), rows.opened(path):
        pass


def test_pages_are_refused(geo: object, tmp_path: Path) -> None:
    pages = [PIL.Image.fromarray(texture(3)) for _ in range(3)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(DataError, match="it has 3 pages"), rows.opened(tmp_path / "a.tif"):
        pass


def test_huge_blocks_are_refused(
    geo: Any,  # noqa: ANN401
    georeferenced: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = write_tiff(tmp_path / "a.tif", texture(3), geo, blockysize=37, **georeferenced)
    monkeypatch.setattr(raster, "MOST_BYTES", 5000)
    with pytest.raises(DataError, match=r"blocks of 37 x 53 pixels.*TILED=YES"), rows.opened(path):
        pass


def test_a_jpeg_is_read_by_rows_unless_it_is_progressive(
    geo: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, options in (("a", {}), ("b", {"progressive": True})):
        path = tmp_path / f"{name}.jpg"
        PIL.Image.fromarray(texture(3)).save(path, quality=95, subsampling=0, **options)  # type: ignore[arg-type]
        assert rows.size_of(path) == (HEIGHT, WIDTH)
        with rows.opened(path) as image:
            strips = list(image.strips())
        assert (len(strips) > 1) == (name == "a")
        assert int(abs(np.concatenate(strips)[..., :3].astype(int) - read_image(path)).max()) <= 2
    monkeypatch.setenv("ATROUS_MAX_PIXELS", "1000")
    with pytest.raises(DataError, match=r"progressive JPEG.*ATROUS_MAX_PIXELS=1961"), rows.opened(tmp_path / "b.jpg"):
        pass


def test_a_jpeg_that_ends_too_early_is_noticed(geo: object, tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    PIL.Image.fromarray(texture(3)).save(path, quality=95)
    content = bytearray(path.read_bytes())
    frame = content.index(b"\xff\xc0")
    content[frame + 5 : frame + 9] = struct.pack(">2H", 60_000, 60_000)
    path.write_bytes(content)
    assert rows.size_of(path) == (60_000, 60_000)
    with pytest.raises(DataError, match=r"cannot read image .*a\.jpg"), rows.opened(path) as image:
        list(image.strips())


def test_the_head_of_a_jpeg_tells_how_it_is_turned(tmp_path: Path) -> None:
    exif = PIL.Image.Exif()
    exif[0x0112] = 8
    PIL.Image.fromarray(texture(3)).save(tmp_path / "a.jpg", exif=exif)
    assert jpeg.read_head(tmp_path / "a.jpg") == jpeg.JpegHead(HEIGHT, WIDTH, 3, False, 8)
    (tmp_path / "b.jpg").write_bytes((tmp_path / "a.jpg").read_bytes()[:30])
    assert jpeg.read_head(tmp_path / "b.jpg") is None


def test_without_rasterio_a_tiff_is_read_whole_or_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    PIL.Image.fromarray(texture(3)).save(tmp_path / "a.tif")
    monkeypatch.setattr(raster, "is_installed", lambda: False)
    with rows.opened(tmp_path / "a.tif") as image:
        assert np.array_equal(np.concatenate(list(image.strips()))[..., :3], texture(3))
    with (
        pytest.raises(ConfigError, match=r"--bands: .*pip install 'atrous\[geo\]'"),
        rows.opened(tmp_path / "a.tif", (1,)),
    ):
        pass
    monkeypatch.setenv("ATROUS_MAX_PIXELS", "1000")
    with pytest.raises(DataError, match=r"pip install 'atrous\[geo\]'"), rows.opened(tmp_path / "a.tif"):
        pass


def test_what_is_no_image_is_one_line(tmp_path: Path) -> None:
    for name, content in (
        ("a.png", b""),
        ("b.tif", b"II*\0" + bytes(50)),
        ("c.jpg", b"\xff\xd8\xff"),
        ("d.png", b"text"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=name), rows.opened(tmp_path / name):
            pass
    with (
        pytest.raises(DataError, match="--bands chooses among the bands of a TIFF"),
        rows.opened(tmp_path / "a.png", (1,)),
    ):
        pass
    with pytest.raises(DataError, match="missing"), rows.opened(tmp_path / "missing.png"):
        pass
