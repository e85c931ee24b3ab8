"""Every layout of image files: real data where it lies beside the repository, drawn files for all that can go wrong."""

import pickle
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

import atrous.data
from atrous.data import AnyDataConfig, camvid, folder, voc
from atrous.data.contract import DataConfig, ImageFiles, read_image
from atrous.data.label_space import voc_colors
from atrous.types import Sample

SHARED = Path(__file__).parents[3] / "shared" / "data"
CAMVID, DEVKIT = SHARED / "camvid", SHARED / "VOCdevkit"
needs_camvid = pytest.mark.skipif(not CAMVID.is_dir(), reason=f"no CamVid in {CAMVID}")
needs_voc = pytest.mark.skipif(not DEVKIT.is_dir(), reason=f"no PASCAL VOC in {DEVKIT}")


def draw(path: Path, values: NDArray[np.generic] | None = None, mode: str | None = None) -> Path:
    """A 4 x 6 image, black unless `values` are given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = PIL.Image.fromarray(np.zeros((4, 6), np.uint8) if values is None else values)
    (picture.convert(mode) if mode else picture).save(path)
    return path


def draw_camvid(root: Path) -> camvid.Config:
    for name in ("a", "b"):
        draw(root / "train" / f"{name}.png", mode="RGB")
        draw(root / "trainannot" / f"{name}.png", np.full((4, 6), 11, np.uint8))
    return camvid.Config(root=root)


def draw_voc(root: Path) -> voc.Config:
    for name in ("a", "b", "c"):
        draw(root / "JPEGImages" / f"{name}.jpg", mode="RGB")
        draw(root / "SegmentationClass" / f"{name}.png")
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("c\na\n")
    return voc.Config(root=root)


def draw_folder(root: Path, names: str = "[background, person]") -> folder.Config:
    for split in ("train", "val"):
        draw(root / "images" / split / "a.jpg", mode="RGB")
        draw(root / "masks" / split / "a.png", np.eye(4, 6, dtype=np.uint8))
    (root / "classes.yaml").write_text(f"names: {names}\n")
    return folder.Config(root=root)


DRAWN: dict[str, Callable[[Path], DataConfig]] = {"camvid": draw_camvid, "voc": draw_voc, "folder": draw_folder}


def complaint(config: DataConfig, split: str = "train", error: type[Exception] = ValueError) -> str:
    """The one line that listing and reading a split ends with."""
    with pytest.raises(error) as caught:
        list(atrous.data.samples(config, split))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def semantic(sample: Sample) -> NDArray[np.uint8]:
    assert sample.semantic is not None
    return sample.semantic


# Real files


@needs_camvid
@pytest.mark.parametrize(("split", "count"), [("train", 367), ("val", 101), ("test", 233)])
def test_camvid_as_it_is(split: str, count: int) -> None:
    samples = atrous.data.samples(camvid.Config(root=CAMVID), split)
    assert len(samples) == count
    above = [*(camvid.CAMVID.names.index(name) for name in ("sky", "tree", "building")), camvid.CAMVID.ignore]
    for sample in (samples[0], samples[count // 2], samples[-1]):
        assert sample.image.shape == (360, 480, 3)
        assert set(np.unique(semantic(sample))) <= set(range(12))
        assert np.isin(semantic(sample)[:20], above).mean() > 0.7


@needs_voc
@pytest.mark.parametrize("root", [DEVKIT, DEVKIT / "VOC2012"])
def test_voc_as_it_is(root: Path) -> None:
    config = voc.Config(root=root)
    assert [len(atrous.data.samples(config, split)) for split in ("train", "val")] == [311, 312]
    sample = atrous.data.samples(config, "val")[0]
    with PIL.Image.open(DEVKIT / "VOC2012" / "SegmentationClass" / f"{sample.name}.png") as label:
        colors = np.asarray(label.convert("RGB"))
    assert np.array_equal(voc_colors(256)[semantic(sample)], colors)
    assert voc.NAMES.index("person") in semantic(sample)


# What all layouts share


@pytest.mark.parametrize("layout", DRAWN)
def test_samples_are_read_as_drawn(layout: str, tmp_path: Path) -> None:
    config = DRAWN[layout](tmp_path)
    for sample in atrous.data.samples(config, "train"):
        assert sample.image.shape == (4, 6, 3)
        assert sample.image.dtype == semantic(sample).dtype == np.uint8
        assert sample.image.flags.writeable
        assert sample.instance is None


@pytest.mark.parametrize("layout", DRAWN)
def test_samples_are_small_to_send_to_a_worker(layout: str, tmp_path: Path) -> None:
    samples = atrous.data.samples(DRAWN[layout](tmp_path), "train")
    list(samples)
    sent = pickle.dumps(samples)
    assert len(sent) < 5000
    assert np.array_equal(pickle.loads(sent)[0].image, samples[0].image)


@pytest.mark.parametrize("layout", DRAWN)
def test_the_root_must_be_set_and_there(layout: str, tmp_path: Path) -> None:
    config = DRAWN[layout](tmp_path / "there")
    assert "data.root is missing" in complaint(config.model_copy(update={"root": None}))
    missing = config.model_copy(update={"root": tmp_path / "nowhere"})
    assert f"data.root: no such folder: {tmp_path / 'nowhere'}" in complaint(missing, error=FileNotFoundError)


@pytest.mark.parametrize("layout", DRAWN)
def test_an_unknown_split_names_those_that_exist(layout: str, tmp_path: Path) -> None:
    assert re.search(r"no split 'trian'.*found: train", complaint(DRAWN[layout](tmp_path), "trian"))


@pytest.mark.parametrize("layout", DRAWN)
def test_names_and_ignore_of_the_config_win(layout: str, tmp_path: Path) -> None:
    config = DRAWN[layout](tmp_path).model_copy(update={"names": ("floor", "wall", "roof"), "ignore": 11})
    space = atrous.data.label_space(config)
    assert (space.names, space.ignore) == (("floor", "wall", "roof"), 11)
    assert len(list(atrous.data.samples(config, "train"))) in (1, 2)


@pytest.mark.parametrize("layout", DRAWN)
def test_hidden_files_are_no_images(layout: str, tmp_path: Path) -> None:
    config = DRAWN[layout](tmp_path)
    count = len(atrous.data.samples(config, "train"))
    for path in [path for path in tmp_path.rglob("*") if path.is_dir()]:
        for junk in ("._x.png", ".DS_Store", "Thumbs.db", "notes.txt"):
            (path / junk).write_bytes(b"junk")
        (path / ".cache").mkdir()
    assert len(atrous.data.samples(config, "train")) == count
    assert ".cache" not in complaint(config, "trian").partition("found: ")[2]


@pytest.mark.parametrize("layout", [*DRAWN, "synthetic"])
def test_the_format_chooses_the_config(layout: str) -> None:
    chosen = TypeAdapter[DataConfig](AnyDataConfig).validate_python({"format": layout})
    assert type(chosen) is atrous.data.FORMATS[layout].config
    assert chosen.format == layout


@pytest.mark.parametrize("wrong", [{"format": "camwid"}, {}, {"format": "voc", "color": 1}, {"format": ["voc"]}])
def test_an_unknown_format_or_key_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(AnyDataConfig).validate_python(wrong)


def test_slices_stay_lazy(tmp_path: Path) -> None:
    samples = atrous.data.samples(draw_camvid(tmp_path), "train")
    (tmp_path / "train" / "a.png").write_bytes(b"")
    assert [sample.name for sample in samples[1:]] == ["b"]


def test_images_without_labels_can_be_read(tmp_path: Path) -> None:
    samples = ImageFiles([("a", draw(tmp_path / "a.png"), None)], camvid.CAMVID)
    assert samples[0].semantic is None


# Files that don't belong together


@pytest.mark.parametrize("layout", ["camvid", "folder"])
def test_images_and_labels_without_each_other(layout: str, tmp_path: Path) -> None:
    config = DRAWN[layout](tmp_path)
    images = next(
        path.parent for path in tmp_path.rglob("train*/a.*") if "mask" not in str(path) and "annot" not in str(path)
    )
    labels = next(path.parent for path in tmp_path.rglob("train*/a.png") if path.parent != images)
    for number in range(7):
        draw(images / f"odd{number}.png")
    text = complaint(config)
    assert text.startswith(f"7 of the images in {images} have no label in {labels}: odd0, odd1, odd2, odd3, odd4, ...")
    for number in range(7):
        (images / f"odd{number}.png").unlink()
    draw(labels / "left.png")
    assert complaint(config).startswith(f"1 of the labels in {labels} have no image in {images}: left")


def test_two_images_of_one_name(tmp_path: Path) -> None:
    config = draw_camvid(tmp_path)
    draw(tmp_path / "train" / "a.JPG", mode="RGB")
    text = complaint(config)
    assert text.startswith(f"1 of the files in {tmp_path / 'train'} have the name of another")
    assert "a.JPG" in text or "a.png" in text


def test_an_empty_split(tmp_path: Path) -> None:
    for name in ("val", "valannot"):
        (tmp_path / name).mkdir()
    assert complaint(camvid.Config(root=tmp_path), "val").startswith(f"no image in {tmp_path / 'val'}: looked for .png")


def test_a_split_without_a_folder_of_labels(tmp_path: Path) -> None:
    draw(tmp_path / "train" / "a.png")
    text = complaint(camvid.Config(root=tmp_path), error=FileNotFoundError)
    assert text == f"labels: no such folder: {tmp_path / 'trainannot'}"


def test_lossy_labels_are_refused(tmp_path: Path) -> None:
    config = draw_folder(tmp_path)
    (tmp_path / "masks" / "train" / "a.png").unlink()
    draw(tmp_path / "masks" / "train" / "a.jpg")
    assert "are JPEG or WebP, which change label values" in complaint(config)


def test_suffixes_may_differ_in_kind_and_case(tmp_path: Path) -> None:
    config = draw_folder(tmp_path)
    for name in ("b.JPEG", "c.bmp", "d.tif", "e.webp", "f.x.PNG"):
        draw(tmp_path / "images" / "train" / name, mode="RGB")
        draw(tmp_path / "masks" / "train" / f"{Path(name).stem}.PNG")
    assert [sample.name for sample in atrous.data.samples(config, "train")] == ["a", "b", "c", "d", "e", "f.x"]


# VOC's lists


def test_voc_reads_its_list_in_order(tmp_path: Path) -> None:
    config = draw_voc(tmp_path)
    assert [sample.name for sample in atrous.data.samples(config, "train")] == ["c", "a"]


def test_voc_takes_any_list_and_folder_of_labels(tmp_path: Path) -> None:
    config = draw_voc(tmp_path / "VOC2012").model_copy(update={"root": tmp_path, "labels": "SegmentationClassAug"})
    (tmp_path / "VOC2012" / "ImageSets" / "Segmentation" / "train_aug.txt").write_text("\ufeffb\r\n\r\n", "utf-8")
    draw(tmp_path / "VOC2012" / "SegmentationClassAug" / "b.png", np.full((4, 6), 20, np.uint8))
    (sample,) = atrous.data.samples(config, "train_aug")
    assert sample.name == "b"
    assert (semantic(sample) == 20).all()


@pytest.mark.parametrize(
    ("names", "text"),
    [
        ("a\nzz\n", "1 of the names in {list} have no image in {root}/JPEGImages: zz"),
        ("a\nd\n", "1 of the names in {list} have no label in {root}/SegmentationClass: d"),
        ("a\nb\na\n", "1 of the names in {list} come twice: a"),
        ("\n", "{list} names no image"),
    ],
)
def test_voc_lists_that_lie(names: str, text: str, tmp_path: Path) -> None:
    config = draw_voc(tmp_path)
    draw(tmp_path / "JPEGImages" / "d.jpg", mode="RGB")
    path = tmp_path / "ImageSets" / "Segmentation" / "train.txt"
    path.write_text(names)
    assert complaint(config) == text.format(list=path, root=tmp_path)


def test_a_root_that_is_no_devkit(tmp_path: Path) -> None:
    assert complaint(voc.Config(root=tmp_path)).startswith(f"data.root: {tmp_path} is no VOCdevkit")


# Own folders


def test_images_without_split_folders_show_the_layout(tmp_path: Path) -> None:
    draw(tmp_path / "images" / "a.jpg", mode="RGB")
    text = complaint(folder.Config(root=tmp_path, names=("a", "b")))
    assert text.startswith(f"data.root: {tmp_path / 'images'} has no folders train/ and val/")
    assert "images/train/a.jpg and masks/train/a.png" in text
    assert "is not there" in complaint(folder.Config(root=tmp_path / "images", names=("a", "b")))


# Image files


MODES = ["1", "L", "P", "LA", "RGB", "RGBA", "CMYK", "I;16"]


@pytest.mark.parametrize("mode", MODES)
def test_images_of_any_mode_become_rgb(mode: str, tmp_path: Path) -> None:
    grey = np.repeat(np.array([[0, 255, 0 if mode == "1" else 99]], np.uint8), 3, axis=0)
    picture = PIL.Image.fromarray(grey)
    deep = PIL.Image.fromarray(grey.astype(np.uint16) * 257)
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    (deep if mode == "I;16" else picture.convert("RGB" if mode == "CMYK" else "L").convert(mode)).save(path)
    assert np.array_equal(read_image(path), np.repeat(grey[..., None], 3, axis=2))


def test_a_palette_with_transparency_is_read_in_silence(tmp_path: Path) -> None:
    picture = PIL.Image.fromarray(np.array([[0, 1]], np.uint8))
    picture.putpalette([10, 20, 30, 40, 50, 60])
    picture.save(tmp_path / "a.png", transparency=b"\x00\x80")
    assert read_image(tmp_path / "a.png").tolist() == [[[10, 20, 30], [40, 50, 60]]]


def test_float_images_are_refused(tmp_path: Path) -> None:
    path = draw(tmp_path / "a.tif", np.zeros((2, 2), np.float32))
    with pytest.raises(ValueError, match=rf"cannot read image {path}: its pixels are floats"):
        read_image(path)


def test_photos_are_turned_upright(tmp_path: Path) -> None:
    values = np.repeat(np.arange(0, 240, 10, dtype=np.uint8).reshape(4, 6)[..., None], 3, axis=2)
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # the camera was held turned: show it rotated clockwise
    PIL.Image.fromarray(values).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(read_image(tmp_path / "a.png"), np.rot90(values, -1))


def test_sizes_that_differ(tmp_path: Path) -> None:
    config = draw_camvid(tmp_path)
    label = draw(tmp_path / "trainannot" / "a.png", np.zeros((3, 6), np.uint8))
    image = tmp_path / "train" / "a.png"
    text = f"sizes differ (width x height): image {image} is 6 x 4, its label {label} is 6 x 3"
    assert complaint(config) == text


def truncated(path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 11, (64, 64), dtype=np.uint8)
    draw(path, noise)
    path.write_bytes(path.read_bytes()[:-200])


def text_file(path: Path) -> None:
    path.write_text("I am no image")


def empty(path: Path) -> None:
    path.write_bytes(b"")


def directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (truncated, "truncated|broken"),
        (text_file, "no image, or its beginning is broken"),
        (empty, "the file is empty"),
        (directory, "Is a directory"),
        (Path.unlink, "No such file"),
    ],
)
@pytest.mark.parametrize("what", ["image", "label"])
def test_files_that_cannot_be_decoded(spoil: Callable[[Path], None], reason: str, what: str, tmp_path: Path) -> None:
    samples = atrous.data.samples(draw_camvid(tmp_path), "train")
    path = tmp_path / {"image": "train", "label": "trainannot"}[what] / "a.png"
    spoil(path)
    with pytest.raises(ValueError, match=rf"^cannot read {what} {re.escape(str(path))}: .*({reason}).*$"):
        samples[0]
    assert samples[1].name == "b"


def test_decompression_bombs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = draw_camvid(tmp_path)
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 10)
    assert re.search(r"cannot read image .*a\.png: .*decompression bomb", complaint(config))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(suffix=st.sampled_from([".png", ".jpg", ".bmp"]), cut=st.floats(0, 1), flips=st.lists(st.integers(0, 10**6)))
def test_damage_is_an_error_of_one_line_or_none(suffix: str, cut: float, flips: Sequence[int], tmp_path: Path) -> None:
    path = draw(tmp_path / f"a{suffix}", np.arange(24, dtype=np.uint8).reshape(4, 6))
    content = bytearray(path.read_bytes()[: max(1, round(cut * path.stat().st_size))])
    for flip in flips:
        content[flip % len(content)] ^= 1 << flip % 8
    path.write_bytes(content)
    try:
        assert read_image(path).ndim == 3
    except ValueError as error:
        assert re.fullmatch(rf"cannot read image {re.escape(str(path))}: .+", str(error))
