"""How images and masks of every kind are read, and what is reported of those that can't be."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import atrous.data
from atrous.data import camvid, pixels
from atrous.data.image_files import ImageFiles, WrongLabelsError, decode_label, read_image
from atrous.data.label_space import LabelSpace, voc_colors
from atrous.data.naming import named_space
from atrous.data.pairing import Pair
from atrous.data.pixels import as_rgb
from atrous.errors import DataError
from atrous.types import Color
from tests.data.conftest import BLACK, RED, WHITE, complaint, row, save, write_camvid

TWO = LabelSpace(names=("background", "person"))
THREE = LabelSpace(names=("sky", "road", "car"))


def refusal(path: Path, space: LabelSpace, colors: dict[Color, int] | None = None) -> str:
    """The one line with which decoding a mask ends."""
    with pytest.raises(DataError, match=re.escape(str(path))) as caught:
        decode_label(path, space, colors)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Masks of class indices


def test_masks_of_every_kind_are_indices(tmp_path: Path) -> None:
    cases: list[tuple[str, str, type[np.generic]]] = [
        ("a.png", "L", np.uint8),
        ("a.png", "LA", np.uint8),
        ("a.png", "I;16", np.uint16),
        ("a.tif", "L", np.uint8),
        ("a.tif", "I;16", np.uint16),
        ("a.tif", "I", np.int32),
        ("a.bmp", "L", np.uint8),
    ]
    for file, mode, dtype in cases:
        path = save(tmp_path / file, row(0, 1, 2, 255, dtype=dtype), mode)
        with PIL.Image.open(path) as picture:
            assert picture.mode == mode
        assert decode_label(path, THREE).tolist() == [[0, 1, 2, 255]], (file, mode)


def test_palette_masks_are_indices(tmp_path: Path) -> None:
    for values in ((0, 1, 2, 255), (0, 1, 2)):  # Pillow packs few colours into 2 bits
        picture = PIL.Image.fromarray(np.array([values], np.uint8))
        picture.putpalette(voc_colors(max(values) + 1).tobytes())
        assert picture.mode == "P"
        picture.save(tmp_path / "a.png")
        assert decode_label(tmp_path / "a.png", THREE).tolist() == [list(values)]


def test_bilevel_masks_are_zero_and_one(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", row(0, 255, 255), "1")
    assert decode_label(path, TWO).tolist() == [[0, 1, 1]]


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ids=st.lists(st.integers(0, 65535), min_size=2, max_size=40, unique=True), seed=st.integers(0, 99))
def test_raw_ids_are_decoded_as_classes(ids: list[int], seed: int, tmp_path: Path) -> None:
    space = named_space({value: f"n{value}" for value in ids}, None, None)
    classes = np.random.default_rng(seed).integers(0, len(ids), (5, 7))
    path = save(tmp_path / "a.png", np.array(sorted(ids), np.uint16)[classes])
    assert np.array_equal(decode_label(path, space), classes)


def test_values_that_are_not_a_class_are_refused(tmp_path: Path) -> None:
    for value in (3, 254):
        path = save(tmp_path / "a.png", row(0, 2, value, value, 255))
        expected = f"{path}: value {value} (2 pixels): not a class; the 3 classes are 0..2, ignored is 255"
        assert refusal(path, THREE) == expected
    cases: list[tuple[type[np.generic], int]] = [
        (np.int32, -1),
        (np.int32, 2**24),
        (np.int32, 2**31 - 1),
        (np.uint16, 65535),
    ]
    for dtype, value in cases:  # outside the table, where NumPy would wrap or fail
        path = save(tmp_path / "a.tif", row(0, value, dtype=dtype))
        assert f"value {value} (1 pixel): not a class; the 3 classes" in refusal(path, THREE)


def test_many_wrong_values_are_abbreviated(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", row(*range(100), 60))
    assert "values 60 (2 pixels), 3 (1 pixel), " in refusal(path, THREE)
    assert ", ...: not a class; the 3 classes" in refusal(path, THREE)


def test_an_unknown_raw_id_is_reported_with_the_known_ones(tmp_path: Path) -> None:
    space = named_space({7: "road", 11: "building"}, 0, None)
    path = save(tmp_path / "a.png", row(7, 8))
    assert "value 8 (1 pixel): not a class; the 2 classes are 7, 11, ignored is 255, 0" in refusal(path, space)


def test_wrong_labels_carry_their_values(tmp_path: Path) -> None:
    with pytest.raises(WrongLabelsError) as caught:
        decode_label(save(tmp_path / "a.png", row(0, 2, 7, 7, 9)), THREE)
    assert (caught.value.codes, caught.value.wrong) == ((0, 2, 7, 9), (7, 9))


def test_labels_are_read_without_their_image(tmp_path: Path) -> None:
    (tmp_path / "damaged.png").write_bytes(b"")
    pair = Pair("a", tmp_path / "damaged.png", save(tmp_path / "a.png", row(0, 2, 255)))
    sample = ImageFiles([pair, pair._replace(label=None)], THREE).labels(0)
    assert (sample.name, sample.image.size) == ("a", 0)
    assert sample.semantic is not None and sample.semantic.tolist() == [[0, 2, 255]]
    assert ImageFiles([pair._replace(label=None)], THREE).labels(0).semantic is None


def test_too_few_names_do_not_ignore_the_other_values(tmp_path: Path) -> None:
    space = camvid.label_space(camvid.Config(names=("sky", "rest")))
    assert "value 5 (1 pixel)" in refusal(save(tmp_path / "a.png", row(0, 5, 11)), space)


def test_modes_that_hold_no_indices_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "a.tif", np.zeros((2, 2), np.float32))
    assert f"cannot read label {path}: an image of mode F cannot hold whole numbers" in refusal(path, TWO)


# RGB masks


def test_rgb_masks_need_colors(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", np.array([[BLACK, RED, RED]], np.uint8))
    text = refusal(path, TWO)
    assert "the mask is RGB, but class indices are expected; it has colors (255, 0, 0) (2 pixels), (0, 0, 0)" in text
    assert "colors: {background: [0, 0, 0], ...}" in text


def test_rgb_masks_are_decoded_by_their_colors(tmp_path: Path) -> None:
    for mode in ("RGB", "RGBA"):
        path = save(tmp_path / "a.png", np.array([[BLACK, RED, WHITE]], np.uint8), mode)
        assert decode_label(path, TWO, {BLACK: 0, RED: 1, WHITE: 255}).tolist() == [[0, 1, 255]]


def test_grey_masks_stay_indices_where_classes_have_colors(tmp_path: Path) -> None:
    assert decode_label(save(tmp_path / "a.png", row(0, 1)), TWO, {WHITE: 0, RED: 1}).tolist() == [[0, 1]]


def test_large_masks_are_decoded_to_the_last_pixel(tmp_path: Path) -> None:
    classes = np.random.default_rng(0).integers(0, 3, (301, 211), dtype=np.uint8)
    colors = {BLACK: 0, RED: 1, WHITE: 2}
    for values in (classes, np.array(list(colors), np.uint8)[classes]):
        assert np.array_equal(decode_label(save(tmp_path / "a.png", values), THREE, colors), classes)
    classes[-1, -1] = 3
    assert "value 3 (1 pixel)" in refusal(save(tmp_path / "b.png", classes), THREE)


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 999), count=st.integers(2, 255))
def test_masks_of_any_palette_are_decoded(seed: int, count: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)
    packed = rng.permutation(np.unique(rng.integers(0, 2**24, count)))
    palette = np.stack([packed >> 16, packed >> 8 & 255, packed & 255], 1).astype(np.uint8)
    classes = rng.integers(0, len(palette), (6, 9))
    colors: dict[Color, int] = {(red, green, blue): i for i, (red, green, blue) in enumerate(palette.tolist())}
    path = save(tmp_path / "a.png", palette[classes])
    assert np.array_equal(decode_label(path, TWO, colors), classes)


def test_colors_that_no_class_has_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", np.array([[BLACK, (1, 2, 3), (1, 2, 3), (255, 0, 1)]], np.uint8))
    text = refusal(path, TWO, {BLACK: 0, RED: 1})
    assert text.startswith(f"{path}: colors (1, 2, 3) (2 pixels), (255, 0, 1) (1 pixel): not the colour of a class")


# Images


def test_images_of_any_mode_become_rgb(tmp_path: Path) -> None:
    for mode in ("1", "L", "P", "LA", "RGB", "RGBA", "CMYK", "I;16"):
        grey = np.repeat(np.array([[0, 255, 0 if mode == "1" else 99]], np.uint8), 3, axis=0)
        picture = PIL.Image.fromarray(grey)
        deep = PIL.Image.fromarray(grey.astype(np.uint16) * 257)
        path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
        (deep if mode == "I;16" else picture.convert("RGB" if mode == "CMYK" else "L").convert(mode)).save(path)
        assert np.array_equal(read_image(path), np.repeat(grey[..., None], 3, axis=2)), mode


def test_a_palette_with_transparency_is_read_without_a_warning(tmp_path: Path) -> None:
    picture = PIL.Image.fromarray(np.array([[0, 1]], np.uint8))
    picture.putpalette([10, 20, 30, 40, 50, 60])
    picture.save(tmp_path / "a.png", transparency=b"\x00\x80")
    assert read_image(tmp_path / "a.png").tolist() == [[[10, 20, 30], [40, 50, 60]]]


def test_float_images_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "a.tif", np.zeros((2, 2), np.float32))
    with pytest.raises(DataError, match=rf"^cannot read image {path}: its pixels are floats; save it with 8 or 16"):
        read_image(path)
    with pytest.raises(DataError, match=r"^its pixels are floats"):
        as_rgb(PIL.Image.new("F", (2, 2)))


def test_photos_are_turned_upright(tmp_path: Path) -> None:
    values = np.repeat(np.arange(0, 240, 10, dtype=np.uint8).reshape(4, 6)[..., None], 3, axis=2)
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # the camera was held sideways: show it rotated clockwise
    for name in ("a.png", "a.tif"):
        PIL.Image.fromarray(values).save(tmp_path / name, exif=exif)
        assert np.array_equal(read_image(tmp_path / name), np.rot90(values, -1)), name


def test_images_without_labels_can_be_read(tmp_path: Path) -> None:
    samples = ImageFiles([Pair("a", save(tmp_path / "a.png"))], camvid.CAMVID)
    assert samples[0].semantic is None


# Files that can't be read


def test_sizes_that_differ_are_refused(tmp_path: Path) -> None:
    config = write_camvid(tmp_path)
    label = save(tmp_path / "trainannot" / "a.png", np.zeros((3, 6), np.uint8))
    image = tmp_path / "train" / "a.png"
    text = f"sizes differ (width x height): image {image} is 6 x 4, its label {label} is 6 x 3"
    assert complaint(config) == text


def truncate(path: Path) -> None:
    save(path, np.random.default_rng(0).integers(0, 11, (64, 64), dtype=np.uint8))
    path.write_bytes(path.read_bytes()[:-200])


def make_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


SPOILED: list[tuple[Callable[[Path], object], str]] = [
    (truncate, "truncated|broken"),
    (lambda path: path.write_text("This is text"), "not an image, or its header is damaged"),
    (lambda path: path.write_bytes(b""), "the file is empty"),
    (Path.unlink, "No such file"),
    (make_a_folder, "Is a directory"),
]


def test_files_that_cannot_be_decoded_are_named(tmp_path: Path) -> None:
    for number, (spoil, reason) in enumerate(SPOILED):
        for what, folder in (("image", "train"), ("label", "trainannot")):
            root = tmp_path / f"{what}{number}"
            samples = atrous.data.samples(write_camvid(root), "train")
            path = root / folder / "a.png"
            spoil(path)
            with pytest.raises(DataError, match=rf"^cannot read {what} {re.escape(str(path))}: .*({reason}).*$"):
                samples[0]
            assert samples[1].name == "b"


def test_decompression_bombs_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = write_camvid(tmp_path)
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 10)
    assert re.search(r"cannot read image .*a\.png: its 24 pixels are more than the limit of 20, ", complaint(config))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(suffix=st.sampled_from([".png", ".jpg", ".bmp"]), cut=st.floats(0, 1), flips=st.lists(st.integers(0, 10**6)))
def test_damage_is_an_error_of_one_line_or_none(suffix: str, cut: float, flips: Sequence[int], tmp_path: Path) -> None:
    path = save(tmp_path / f"a{suffix}", np.arange(24, dtype=np.uint8).reshape(4, 6))
    content = bytearray(path.read_bytes()[: max(1, round(cut * path.stat().st_size))])
    for flip in flips:
        content[flip % len(content)] ^= 1 << flip % 8
    path.write_bytes(content)
    try:
        assert read_image(path).ndim == 3
    except DataError as error:
        assert re.fullmatch(rf"cannot read image {re.escape(str(path))}: .+", str(error))


def test_a_bug_in_our_decoding_is_not_blamed_on_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ValueError("a bug")

    path = save(tmp_path / "a.png")
    for name, read in (("_as_array", read_image), ("_as_codes", lambda path: decode_label(path, TWO))):
        monkeypatch.setattr(pixels, name, fail)
        with pytest.raises(ValueError, match=r"^a bug$") as caught:
            read(path)
        assert not isinstance(caught.value, DataError)
