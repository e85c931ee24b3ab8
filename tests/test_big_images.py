"""Images that are predicted a few rows at a time: without seams, in little memory, with their place on the earth."""

import errno
import json
import os
import signal
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from atrous import big_images, cli, predict, segmenter
from atrous.big_images import Choice
from atrous.data import raster, rows
from atrous.data.label_space import LabelSpace
from atrous.errors import DataError
from atrous.inference import InferenceConfig, sliding
from atrous.inference.frames import pad_to_grid
from atrous.inference.look import look, predict_probabilities
from atrous.inference.sliding import Source, label_rows
from atrous.inference.windows import ramp, window_starts, window_step
from atrous.segmenter import Segmenter
from atrous.types import Facts, Outputs
from atrous.wire.png import SIGNATURE, chunk
from tests.conftest import SMALL_MODEL, noise, spread_classes
from tests.runs import QUIET

pytestmark = [  # what the tests themselves write lies nowhere on the earth
    pytest.mark.filterwarnings("ignore:Dataset has no geotransform"),
    pytest.mark.filterwarnings("ignore:The given matrix is equal to Affine.identity"),
]
SMOOTH = InferenceConfig(mode="sliding", window=(129, 145), blend="smooth")  # 49 pixels overlap


# ---- seams


class Local:
    """A network that sees as far as `radius`, at a stride of 8, and pads with zeros as others do."""

    def __init__(self, radius: int, convention: str = "aligned_corners") -> None:
        self.facts = Facts("semantic", 4, (100.0, 90.0, 80.0), 8, 8, convention)  # type: ignore[arg-type]
        generator = torch.Generator().manual_seed(0)
        self.weights = torch.randn(4, 3, 2 * radius + 1, 2 * radius + 1, generator=generator)
        self.radius = radius

    def __call__(self, images: Tensor, scale: float = 1.0) -> Outputs:
        centred = images.float() - torch.tensor(self.facts.mean).view(1, 3, 1, 1)
        return Outputs(torch.nn.functional.conv2d(centred / 600, self.weights, stride=8, padding=self.radius))


class Slanted:
    """A network whose error depends on where in a window a pixel lies: whatever the image, from 0 to 1 across it."""

    facts = Facts("semantic", 2, (0.0, 0.0, 0.0), 8, 8, "aligned_corners")

    def __call__(self, images: Tensor, scale: float = 1.0) -> Outputs:
        height, width = ((side - 1) // 8 + 1 for side in images.shape[-2:])
        slope = torch.linspace(-1, 1, height)[:, None] + torch.linspace(-1, 1, width)
        return Outputs(torch.stack([slope, -slope])[None].expand(len(images), -1, -1, -1))


def picture(height: int, width: int) -> Tensor:
    return torch.from_numpy(noise(height, width)).permute(2, 0, 1)[None]


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("size", [(300, 350), (257, 161), (337, 190), (130, 147), (140, 300), (129, 145)])
def test_a_network_that_sees_less_than_the_overlap_predicts_what_it_does_of_the_whole(
    size: tuple[int, int], flip: bool
) -> None:
    """Sees: a cell of 8 pixels, and 4 around; a quarter of the overlap, 12 pixels, doesn't count. At the edges of the
    image, too, where a window that reaches beyond them is padded as the image is.
    """
    network, images = Local(radius=4), picture(*size)
    config = SMOOTH.model_copy(update={"flip": flip})
    if flip:
        padded = pad_to_grid(images, network)  # a flipped image has its padding at the left
        expected = predict_probabilities(network, padded, InferenceConfig(flip=True))
    else:
        expected = predict_probabilities(network, images, InferenceConfig())
    expected = expected[..., : size[0], : size[1]]
    difference = (predict_probabilities(network, images, config) - expected).abs()
    assert float(difference.max()) < 1e-5
    plain = predict_probabilities(network, images, config.model_copy(update={"blend": "equal"}))
    if size == (300, 350):
        assert float((plain - expected).abs().max()) > 0.05  # the published mean has seams


def test_the_blend_is_continuous_where_windows_disagree() -> None:
    images = picture(300, 400)
    smooth, equal = (
        predict_probabilities(Slanted(), images, SMOOTH.model_copy(update={"blend": blend}))[0, 0]
        for blend in ("smooth", "equal")
    )
    for axis, jump in ((0, 0.1), (1, 0.1)):
        assert float(smooth.diff(dim=axis).abs().max()) < jump
        assert float(equal.diff(dim=axis).abs().max()) > 2 * jump


@pytest.mark.parametrize("overlap", [0.0, 0.1, 1 / 3, 0.5, 0.8])
@pytest.mark.parametrize("side", [100, 513, 700, 1025, 4000])
def test_weights_of_neighbouring_windows_add_up_to_one(side: int, overlap: float) -> None:
    grid, window = 16, 257
    step = window_step(window, overlap, grid)
    starts = window_starts(side, window, overlap, grid)
    total = torch.zeros(starts[-1] + window)
    for start in starts:
        place = slice(start, start + min(window, side))
        total[place] += ramp(place, place, side, window - step)
    assert float(total[:side].min()) > 0
    regular = slice(0, starts[-1]) if overlap < 0.5 and len(starts) > 1 else slice(0, 0)
    if overlap:
        torch.testing.assert_close(total[regular], torch.ones_like(total[regular]))


@pytest.mark.parametrize("overlap", [0.0, 1 / 3, 0.95])
@pytest.mark.parametrize("window", [7, 16, 33, 100])
@pytest.mark.parametrize("side", [1, 6, 40, 99, 517])
def test_windows_on_a_grid_cover_the_side(side: int, window: int, overlap: float) -> None:
    starts = window_starts(side, window, overlap, 16)
    covered = {place for start in starts for place in range(start, start + window)}
    assert covered >= {*range(side)}
    assert starts == sorted({*starts}) and (window < 33 or overlap > 0.5 or all(start % 16 == 0 for start in starts))


def test_rows_of_a_source_are_those_of_an_array(small: Segmenter) -> None:
    images = picture(300, 200)
    asked: list[slice] = []

    def read(part: slice) -> Tensor:
        asked.append(part)
        return images[..., part, :]

    labels = list(label_rows(small.prepared, Source(1, (300, 200), read), SMOOTH))
    assert [part.start for part, _ in labels] == [0, *(part.stop for part, _ in labels)][:-1]
    whole = look(small.prepared, images, SMOOTH).labels
    assert whole is not None and torch.equal(torch.cat([rows for _, rows in labels], 1), whole)
    assert [part.start for part in asked] == sorted(part.start for part in asked)
    assert whole.min() < whole.max()


def test_the_blend_is_part_of_the_protocol() -> None:
    assert SMOOTH.describe()["image"] == "windows of 129 x 145, 33% overlap, blended"
    assert InferenceConfig().blend == "equal"


def test_a_panoptic_networks_maps_are_blended_too() -> None:
    network = segmenter.create("panoptic_deeplab", backbone="resnet_tiny", num_classes=3).with_inference(SMOOTH)
    labels = network.decode(noise(150, 170))
    assert labels.panoptic is not None and labels.panoptic.shape == (150, 170)


# ---- files


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes, each the likeliest somewhere, and windows small enough for small images."""
    from atrous.config import load

    config = load("synthetic/deeplab_v3plus_tiny", SMALL_MODEL).model
    space = LabelSpace(names=("field", "road", "house"), colors=((9, 99, 9), (80, 80, 80), (255, 0, 0)))
    created = segmenter.create(config, label_space=space)
    spread_classes(created.model, picture(120, 150))
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    created.with_inference(InferenceConfig(window=(65, 65))).save(path)
    return path


@pytest.fixture
def geo() -> Any:  # noqa: ANN401 - a module that need not be installed
    return pytest.importorskip("rasterio", reason="rasterio is not installed: pip install '.[geo]'")


def write_geotiff(path: Path, pixels: NDArray[Any], geo: Any, **options: Any) -> Path:  # noqa: ANN401
    height, width, count = pixels.shape
    profile = {"driver": "GTiff", "height": height, "width": width, "count": count, "dtype": pixels.dtype}
    place = {"crs": "EPSG:32632", "transform": geo.Affine(0.5, 0, 500_000, 0, -0.5, 5_000_000)}
    with geo.open(path, "w", **profile, **place, **options) as file:
        file.write(pixels.transpose(2, 0, 1))
    return path


def mask_of(path: Path) -> NDArray[np.uint8]:
    with PIL.Image.open(path) as picture:
        return np.asarray(picture)


def run(*arguments: object) -> int:
    return cli.run(["predict", *map(str, arguments), "--device", "cpu"])


def test_a_png_of_any_size_becomes_a_palette_mask_and_an_overlay(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    PIL.Image.fromarray(noise(300, 200)).save(tmp_path / "a.png")
    assert run(model, tmp_path / "a.png", "--big", "--legend", "--out", tmp_path / "out") == 0
    network = segmenter.load(model)
    expected = network.with_inference(big_images.protocol(network.inference)).predict(tmp_path / "a.png")
    mask = mask_of(tmp_path / "out" / "masks" / "a.png")
    assert np.array_equal(mask, expected.semantic) and len(np.unique(mask)) == 3
    with PIL.Image.open(tmp_path / "out" / "masks" / "a.png") as picture:
        assert picture.mode == "P"
        assert picture.getpalette()[:9] == [9, 99, 9, 80, 80, 80, 255, 0, 0]  # type: ignore[index]
    with PIL.Image.open(tmp_path / "out" / "overlays" / "a.jpg") as overlay:
        assert overlay.width >= 200 and overlay.height > 300  # the legend
    text = capsys.readouterr().out
    assert "200 x 300 pixels (width x height), predicted in blended windows of 65 x 65" in text
    assert not [path for path in (tmp_path / "out").rglob(".*") if path.name != ".atrous"]


def test_a_large_image_is_recognised_by_its_pixels(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(big_images, "BIG", 100 * 100)
    PIL.Image.fromarray(noise(100, 100)).save(tmp_path / "a.png")
    PIL.Image.fromarray(noise(100, 101)).save(tmp_path / "b.png")
    assert run(model, tmp_path / "a.png", tmp_path / "b.png", "--out", tmp_path / "out") == 0
    text = capsys.readouterr().out
    assert "a.png: 100" not in text and "b.png: 101 x 100 pixels" in text
    assert run(model, tmp_path / "b.png", "--no-big", "--out", tmp_path / "whole") == 0
    assert "blended" not in capsys.readouterr().out


def test_a_geotiff_keeps_its_place_its_colours_and_its_gaps(
    model: Path,
    tmp_path: Path,
    geo: Any,  # noqa: ANN401
    capsys: pytest.CaptureFixture[str],
) -> None:
    pixels = np.maximum(noise(700, 150), 1)
    pixels[:20, 30:] = 0
    options = {"tiled": True, "blockxsize": 64, "blockysize": 64, "nodata": 0, "compress": "deflate"}
    write_geotiff(tmp_path / "a.tif", pixels, geo, **options)
    assert run(model, tmp_path / "a.tif", "--big", "--out", tmp_path / "out") == 0
    with geo.open(tmp_path / "out" / "masks" / "a.tif") as mask, geo.open(tmp_path / "a.tif") as image:
        assert (mask.crs, mask.transform, mask.shape) == (image.crs, image.transform, image.shape)
        assert (mask.nodata, mask.dtypes, mask.block_shapes) == (255, ("uint8",), [(512, 512)])
        assert mask.profile["compress"] == "deflate"
        assert mask.colormap(1)[2] == (255, 0, 0, 255)
        labels = mask.read(1)
    assert ((labels == 255) == (pixels == 0).all(-1)).all()
    network = segmenter.load(model)
    expected = network.with_inference(big_images.protocol(network.inference)).predict(pixels)
    assert (labels == expected.semantic)[labels < 255].all()
    assert "2400 pixels have no data (nodata, or transparent): they are 255" in capsys.readouterr().out
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file() and path.parent.name != ".atrous"]
    assert sorted(path.name for path in files) == ["a.jpg", "a.tif", "atrous.json"]


def test_points_of_reference_and_pixels_as_points_are_kept(
    model: Path,
    tmp_path: Path,
    geo: Any,  # noqa: ANN401
) -> None:
    write_geotiff(tmp_path / "a.tif", noise(70, 80), geo)
    with geo.open(tmp_path / "a.tif", "r+") as file:
        file.update_tags(AREA_OR_POINT="Point")
    points = [
        geo.control.GroundControlPoint(row, column, 10 + column, 50 - row) for row in (0, 60) for column in (0, 70)
    ]
    profile = {"driver": "GTiff", "height": 70, "width": 80, "count": 3, "dtype": "uint8"}
    with geo.open(tmp_path / "b.tif", "w", **profile) as file:
        file.gcps = (points, geo.CRS.from_epsg(4326))
        file.write(noise(70, 80).transpose(2, 0, 1))
    assert run(model, tmp_path / "a.tif", tmp_path / "b.tif", "--big", "--out", tmp_path / "out") == 0
    with geo.open(tmp_path / "out" / "masks" / "a.tif") as mask, geo.open(tmp_path / "a.tif") as image:
        assert mask.transform == image.transform and mask.tags()["AREA_OR_POINT"] == "Point"
    with geo.open(tmp_path / "out" / "masks" / "b.tif") as mask:
        own, crs = mask.gcps
        assert crs.to_epsg() == 4326
        assert [(point.row, point.col, point.x, point.y) for point in own] == [
            (point.row, point.col, point.x, point.y) for point in points
        ]


def test_bands_are_chosen_and_a_plain_tiff_becomes_a_png(
    model: Path,
    tmp_path: Path,
    geo: Any,  # noqa: ANN401
    capsys: pytest.CaptureFixture[str],
) -> None:
    colors = noise(90, 100)
    six = np.concatenate([np.zeros_like(colors), colors[..., ::-1]], -1)
    write_geotiff(tmp_path / "six.tif", six, geo)
    PIL.Image.fromarray(colors).save(tmp_path / "plain.tif")
    PIL.Image.fromarray(colors).save(tmp_path / "photo.png")
    command = (model, tmp_path / "six.tif", tmp_path / "photo.png", "--bands", "6,5,4", "--out", tmp_path / "out")
    assert run(*command) == 1
    assert "photo.png: --bands chooses among the bands of a TIFF" in capsys.readouterr().err
    assert run(model, tmp_path / "plain.tif", "--big", "--out", tmp_path / "out2") == 0
    with geo.open(tmp_path / "out" / "masks" / "six.tif") as mask:
        assert np.array_equal(mask.read(1), mask_of(tmp_path / "out2" / "masks" / "plain.png"))


def test_an_overlay_of_a_large_image_is_an_overview(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(big_images, "OVERVIEW", 100)
    pixels = np.zeros((301, 150, 4), np.uint8)
    pixels[..., 3] = 255
    pixels[:150, :, :3] = 200
    pixels[200:, :, 3] = 0
    PIL.Image.fromarray(pixels).save(tmp_path / "a.png")
    assert run(model, tmp_path / "a.png", "--big", "--out", tmp_path / "out", "evaluate.window=65,65") == 0
    assert "the overlay is shrunk to 1/4" in capsys.readouterr().out
    with PIL.Image.open(tmp_path / "out" / "overlays" / "a.jpg") as overlay:
        assert overlay.size == (38, 76)
        assert np.asarray(overlay)[55:].max() < 30  # the image alone, where it has no data
    assert set(np.unique(mask_of(tmp_path / "out" / "masks" / "a.png")[200:])) == {255}


def test_an_overview_does_not_depend_on_how_rows_arrive() -> None:
    monkey = np.random.default_rng(0)
    strip = monkey.integers(0, 256, (100, 70, 4), np.uint8)
    labels = monkey.integers(0, 5, (100, 70), np.uint8)
    views = []
    for parts in ([100], [1] * 100, [33, 7, 60]):
        view = big_images.Overview((100, 70))
        view.step, start = 8, 0
        for count in parts:
            view.add(strip[start : start + count], labels[start : start + count])
            start += count
        views.append((np.concatenate(view.images), np.concatenate(view.labels)))
    assert views[0][0].shape == (13, 9, 3) and views[0][1].shape == (13, 9)
    for image, own in views[1:]:
        assert np.array_equal(image, views[0][0]) and np.array_equal(own[:-1], views[0][1][:-1])


# ---- what can't be


@pytest.mark.parametrize(
    ("settings", "options", "reason"),
    [
        (["evaluate.scales=0.5,1"], [], "evaluate.scales=0.5,1 needs the whole image"),
        (["evaluate.crf=v2_resnet101"], [], "evaluate.crf=v2_resnet101 needs the whole image"),
        ([], ["--probabilities"], "--probabilities"),
    ],
)
def test_a_protocol_that_needs_the_whole_image_is_refused_before_the_work(
    settings: list[str],
    options: list[str],
    reason: str,
    model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    PIL.Image.fromarray(noise()).save(tmp_path / "a.png")
    assert run(model, tmp_path / "a.png", "--big", "--out", tmp_path / "out", *settings, *options) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and reason in lines[0]
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr(big_images, "BIG", 10)  # within the limit of all images, it is predicted as a whole
    assert run(model, tmp_path / "a.png", "--out", tmp_path / "out", *settings, *options) == 0
    monkeypatch.setattr(big_images, "limit_of_pixels", lambda: 100)
    assert run(model, tmp_path / "a.png", "--out", tmp_path / "out2", *settings, *options) == 1
    assert reason in capsys.readouterr().err


def test_a_panoptic_model_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "model.safetensors"
    segmenter.create("panoptic_deeplab", backbone="resnet_tiny", num_classes=3).save(path)
    PIL.Image.fromarray(noise()).save(tmp_path / "a.png")
    assert run(path, tmp_path / "a.png", "--big", "--out", tmp_path / "out") == 2
    assert "the task panoptic looks at the whole image" in capsys.readouterr().err


def test_a_format_of_a_benchmark_takes_no_large_images(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(model, tmp_path, "--format", "voc", "--big", "--out", tmp_path / "out") == 2
    assert "--big writes masks; it can't be combined with --format" in capsys.readouterr().err


def bomb(path: Path, side: int, rows_of_it: int) -> Path:
    """A PNG of side x side pixels, of which only some rows are there."""
    deflater = zlib.compressobj(9)
    data = deflater.compress(bytes(rows_of_it * (3 * side + 1))) + deflater.flush()
    head = chunk(b"IHDR", struct.pack(">2I5B", side, side, 8, 2, 0, 0, 0))
    path.write_bytes(SIGNATURE + head + chunk(b"IDAT", data) + chunk(b"IEND", b""))
    return path


def test_small_files_that_say_they_are_huge_are_named_and_the_others_predicted(
    model: Path,
    tmp_path: Path,
    geo: Any,  # noqa: ANN401
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    bomb(folder / "bomb.png", 60_000, 10)
    PIL.Image.fromarray(noise()).save(folder / "huge.jpg")
    content = bytearray((folder / "huge.jpg").read_bytes())
    frame = content.index(b"\xff\xc0")
    content[frame + 5 : frame + 9] = struct.pack(">2H", 60_000, 60_000)
    (folder / "huge.jpg").write_bytes(content)
    with geo.open(
        folder / "wide.tif", "w", driver="GTiff", height=1000, width=300_000, count=1, dtype="uint8", sparse_ok=True
    ):
        pass
    PIL.Image.fromarray(noise()).save(folder / "right.png")
    assert run(model, folder, "--out", tmp_path / "out") == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if "Warning" not in line]
    for name, reason in (
        ("bomb.png", "can't hold as many"),
        ("huge.jpg", "cannot read"),
        ("wide.tif", "300000 pixels wide"),
    ):
        assert sum(name in line and reason in line for line in lines) == 1, (name, lines)
    assert len(lines) == 4
    assert [path.name for path in (tmp_path / "out" / "masks").iterdir()] == ["right.png"]


def test_an_image_damaged_at_its_end_leaves_nothing(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.png"
    PIL.Image.fromarray(noise(400, 100)).save(path)
    content = bytearray(path.read_bytes())
    content[-30] ^= 255
    path.write_bytes(content)
    assert run(model, path, "--big", "--out", tmp_path / "out") == 1
    assert "a.png: it is damaged near row" in capsys.readouterr().err
    assert not list((tmp_path / "out" / "masks").iterdir())


@pytest.mark.parametrize("kind", ["png", "tif"])
def test_a_full_disk_ends_it_in_one_line(
    kind: str,
    model: Path,
    tmp_path: Path,
    geo: Any,  # noqa: ANN401
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where what was written isn't there afterwards, too: GDAL may not say so."""
    pixels = noise(100, 90)
    write_geotiff(tmp_path / "a.tif", pixels, geo)
    PIL.Image.fromarray(pixels).save(tmp_path / "a.png")

    def begin(*_: object) -> Callable[[object], None]:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("atrous.wire.png.begin", begin)
    monkeypatch.setattr(raster, "_tiled", begin)
    assert run(model, tmp_path / f"a.{kind}", "--big", "--out", tmp_path / "out") == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and "cannot write" in lines[0] and "No space left" in lines[0]
    assert not list((tmp_path / "out" / "masks").iterdir())


def test_a_geotiff_that_the_disk_has_changed_is_noticed(
    tmp_path: Path,
    geo: Any,  # noqa: ANN401
) -> None:
    place = raster.Place(geo.CRS.from_epsg(4326), geo.Affine(1, 0, 0, 0, -1, 0), [], None, None)
    labels = np.arange(1200 * 40, dtype=np.uint64).astype(np.uint8).reshape(1200, 40)
    path = tmp_path / "a.tif"
    with raster.writer(path, (1200, 40), place, np.zeros((256, 3), np.uint8), 255) as add:
        for part in np.array_split(labels, 7):
            add(part)
    with geo.open(path) as file:
        assert np.array_equal(file.read(1), labels)
    with pytest.raises(OSError, match="something else"):
        raster._read_again(path, [0, 0, 0])


@pytest.mark.slow  # 15 s: a process of its own
def test_a_killed_prediction_leaves_no_half_file_and_goes_on(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    PIL.Image.fromarray(noise(60, 60)).save(folder / "a.png")
    PIL.Image.fromarray(noise(6000, 300)).save(folder / "b.png")
    command = [
        sys.executable,
        "-m",
        "atrous",
        "predict",
        str(model),
        str(folder),
        "--big",
        "--out",
        str(tmp_path / "out"),
    ]
    process = subprocess.Popen(
        [*command, "--device", "cpu"], stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    masks, deadline = tmp_path / "out" / "masks", time.monotonic() + 120
    while not list(masks.glob(".b.*")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert [path.name for path in masks.glob("*.png")] == ["a.png"]
    PIL.Image.fromarray(noise(70, 60)).save(folder / "b.png")  # a smaller one, for the second half of this test
    summary = predict.run(model, [str(folder)], tmp_path / "out", big=Choice(is_big=True), device="cpu", console=QUIET)
    assert (summary.images, summary.earlier, summary.failures) == (1, 1, ())
    assert sorted(path.name for path in masks.iterdir()) == ["a.png", "b.png"]


def test_another_way_to_predict_begins_anew(model: Path, tmp_path: Path) -> None:
    PIL.Image.fromarray(noise(70, 60)).save(tmp_path / "a.png")
    for big, earlier in ((None, 0), (None, 1), (True, 0), (True, 1)):
        summary = predict.run(model, [str(tmp_path / "a.png")], tmp_path / "out", big=Choice(big), console=QUIET)
        assert summary.earlier == earlier
    assert json.loads((tmp_path / "out" / "atrous.json").read_bytes())["folders"] == ["masks", "overlays"]


def test_labels_without_data() -> None:
    names = tuple(map(str, range(256)))
    assert big_images.void_label(LabelSpace(names=names[:3])) == 255
    assert big_images.void_label(LabelSpace(names=names[:3], ignore=9)) == 9
    assert big_images.void_label(LabelSpace(names=names[:3], ignore=1)) == 255
    assert big_images.void_label(LabelSpace(names=names)) is None
    assert big_images.void_label(LabelSpace(names=(*names, "256"))) == 65_535


def test_more_classes_than_a_byte_holds(tmp_path: Path) -> None:
    network = segmenter.create("fcn", backbone="resnet_tiny", num_classes=300)
    network.save(tmp_path / "m.safetensors")
    PIL.Image.fromarray(noise(70, 60)).save(tmp_path / "a.png")
    assert run(tmp_path / "m.safetensors", tmp_path / "a.png", "--big", "--out", tmp_path / "out") == 0
    with PIL.Image.open(tmp_path / "out" / "masks" / "a.png") as mask:
        assert mask.mode.startswith("I") and mask.size == (60, 70)
        expected = network.with_inference(big_images.protocol(network.inference)).predict(tmp_path / "a.png")
        assert np.array_equal(np.asarray(mask), expected.semantic)


def test_reading_and_writing_hold_a_few_rows(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However high an image is: nothing is held that has more rows than two windows."""
    PIL.Image.fromarray(noise(3000, 40)).save(tmp_path / "a.png")
    monkeypatch.setattr("atrous.data.png_rows.STRIP_BYTES", 1000)
    monkeypatch.setattr(sliding, "WINDOW_PIXELS", 65 * 65)
    heights: list[int] = []
    reader = rows.reader

    def watched(strips: Iterator[rows.Strip]) -> Callable[[slice], rows.Strip]:
        read = reader(strips)

        def counted(part: slice) -> rows.Strip:
            heights.append(len(read(part)))
            return read(part)

        return counted

    monkeypatch.setattr(rows, "reader", watched)
    target = big_images.Target(tmp_path / "mask", None)
    big_images.predict(segmenter.load(model), tmp_path / "a.png", target, console=QUIET)
    assert sum(heights) > 3000 and max(heights) <= 2 * 65


def test_an_error_in_the_middle_is_of_this_image(model: Path, tmp_path: Path) -> None:
    target = big_images.Target(tmp_path / "mask", None)
    with pytest.raises(DataError, match=r"missing\.png"):
        big_images.predict(segmenter.load(model), tmp_path / "missing.png", target, console=QUIET)
    assert not list(tmp_path.iterdir())
