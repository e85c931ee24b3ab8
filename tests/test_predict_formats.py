"""`atrous predict --format`: from a model and images to the archive for a benchmark's server."""

import errno
import json
import os
import re
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import atrous
from atrous import cli, predict, segmenter
from atrous.config import load
from atrous.data.cityscapes import CITYSCAPES
from atrous.data.coco_panoptic import COCO_PANOPTIC
from atrous.data.label_space import LabelSpace
from atrous.data.pixels import read_label
from atrous.data.voc import VOC
from atrous.errors import ConfigError
from atrous.interrupt import Interrupted
from atrous.models import ModelConfig
from atrous.predicting.all_images import Summary
from atrous.prediction_folder import recorded_folders
from atrous.submissions import drafts
from atrous.submissions.drafts import Draft
from atrous.tasks.contract import Labels
from tests.conftest import SMALL_MODEL, SMALL_PANOPTIC, save
from tests.runs import QUIET

ARCHIVE = "panoptic_val2017_atrous_results.zip"
SETTINGS = ("format.split=val2017", "decode.stuff_area=0")


def saved(folder: Path, name: str, config: ModelConfig, space: LabelSpace) -> Path:
    path = folder / f"{name}.safetensors"
    segmenter.create(config, label_space=space).save(path)
    return path


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    panoptic = load("synthetic/panoptic_demo", SMALL_PANOPTIC).model
    semantic = load("synthetic/deeplab_v3plus_tiny", SMALL_MODEL).model
    return {
        "coco": saved(folder, "coco", panoptic, COCO_PANOPTIC),
        "city": saved(folder, "city", panoptic, CITYSCAPES),
        "city_semantic": saved(folder, "city_semantic", semantic, CITYSCAPES),
        "voc": saved(folder, "voc", semantic, VOC),
    }


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for number in (7, 3, 42):
        save(tmp_path / "photos" / f"{number:012}.png", rng.integers(0, 256, (33, 49, 3), np.uint8))
    return tmp_path / "photos"


def submit(models: dict[str, Path], photos: Path, out: Path, *settings: str) -> Summary:
    return predict.submit(models["coco"], [str(photos)], out, "coco_panoptic", [*SETTINGS, *settings], console=QUIET)


def failure(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert cli.run(["predict", *map(str, arguments), "--device", "cpu"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_from_a_model_to_an_archive(
    models: dict[str, Path], photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    call = ["predict", str(models["coco"]), str(photos), *SETTINGS, "--format", "coco_panoptic", "--out", str(out)]
    assert cli.run([*call, "--device", "cpu"]) == 0
    assert capsys.readouterr().out == f"3 images: {out / ARCHIVE}\n"
    name = ARCHIVE.removesuffix(".zip")
    with zipfile.ZipFile(out / ARCHIVE) as packed:
        numbers = ("000000000003", "000000000007", "000000000042")
        assert packed.namelist() == [f"{name}.json", *(f"{name}/{number}.png" for number in numbers)]
        tree = json.loads(packed.read(f"{name}.json"))
    prediction = atrous.load(models["coco"]).predict(photos / "000000000042.png")
    assert tree["annotations"][2]["image_id"] == 42
    picture = read_label(out / "coco_panoptic" / name / "000000000042.png").values
    areas = {row["id"]: row["area"] for row in tree["annotations"][2]["segments_info"]}
    assert dict(zip(*np.unique(picture[picture > 0], return_counts=True), strict=True)) == areas
    assert picture.shape == prediction.panoptic.shape
    assert sorted(path.name for path in out.iterdir()) == ["atrous.json", "coco_panoptic", ARCHIVE]
    assert recorded_folders(out) == {"coco_panoptic"}


def test_pictures_on_request(models: dict[str, Path], photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    call = ["predict", str(models["coco"]), str(photos), "--format", "coco_panoptic", "--out", str(out), "--overlays"]
    assert cli.run([*call, "--legend", "--device", "cpu"]) == 0
    assert len(list((out / "overlays").glob("*.jpg"))) == 3
    assert recorded_folders(out) == {"coco_panoptic", "overlays"}


@pytest.mark.parametrize("name", ["city", "city_semantic"])
def test_either_model_of_cityscapes_writes_label_maps(models: dict[str, Path], tmp_path: Path, name: str) -> None:
    frame = "frankfurt_000000_000576"
    photo = tmp_path / "val" / "frankfurt" / f"{frame}_leftImg8bit.png"
    save(photo, np.random.default_rng(0).integers(0, 256, (33, 49, 3), np.uint8))
    predict.submit(models[name], [str(tmp_path / "val")], tmp_path / "out", "cityscapes_pixel", console=QUIET)
    written = read_label(tmp_path / "out" / "cityscapes_pixel" / f"{frame}_labelIds.png").values
    ids = np.array([raw for raw, index in CITYSCAPES.raw_ids if index != 255])
    assert np.array_equal(written, ids[atrous.load(models[name]).predict(photo).semantic])


def test_the_same_again_gives_the_same_bytes(models: dict[str, Path], photos: Path, tmp_path: Path) -> None:
    submit(models, photos, tmp_path / "one")
    sources = [str(path) for path in sorted(photos.iterdir(), reverse=True)]
    predict.submit(models["coco"], sources, tmp_path / "two", "coco_panoptic", SETTINGS, console=QUIET)
    assert (tmp_path / "one" / ARCHIVE).read_bytes() == (tmp_path / "two" / ARCHIVE).read_bytes()


def test_a_failed_image_is_named_and_left_out(
    models: dict[str, Path], photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "000000000005.png").write_bytes(b"\x89PNG")
    out = tmp_path / "out"
    call = ["predict", str(models["coco"]), str(photos), *SETTINGS, "--format", "coco_panoptic", "--out", str(out)]
    assert cli.run([*call, "--device", "cpu"]) == 1
    output = capsys.readouterr()
    assert f"{ARCHIVE} lacks 1 image: panopticapi stops at an image without a prediction" in output.out
    assert "000000000005.png" in output.err
    assert "1 of 4 failed" in output.err
    tree = json.loads((out / "coco_panoptic" / ARCHIVE.replace(".zip", ".json")).read_text())
    assert [row["image_id"] for row in tree["annotations"]] == [3, 7, 42]


def test_no_image_no_archive(models: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "1.png").write_bytes(b"\x89PNG")
    summary = submit(models, tmp_path / "photos", tmp_path / "out")
    assert (summary.images, len(summary.failures)) == (0, 1)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["atrous.json"]


def test_a_list_of_images_names_them_and_says_what_is_missing(
    models: dict[str, Path], photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "000000000003.png").rename(photos / "street.png")
    rows = [{"id": number, "file_name": f"{number:012}.jpg", "height": 33, "width": 49} for number in (7, 42, 99)]
    images = tmp_path / "images.json"
    images.write_text(json.dumps({"images": [*rows, {"id": 1, "file_name": "street.jpg"}]}))
    out = tmp_path / "out"
    call = ["predict", str(models["coco"]), str(photos), "--format", "coco_panoptic", "--out", str(out)]
    assert cli.run([*call, "--images-json", str(images), "--device", "cpu"]) == 0
    assert "lacks 1 image" in capsys.readouterr().out
    (path,) = (out / "coco_panoptic").glob("*.json")
    assert [row["image_id"] for row in json.loads(path.read_text())["annotations"]] == [1, 7, 42]


def test_labels_lie_as_the_pixels_are_stored(models: dict[str, Path], tmp_path: Path) -> None:
    """A photo that its EXIF turns has the size of the official labels, which programs read without its EXIF."""
    pixels = np.random.default_rng(1).integers(0, 256, (33, 49, 3), np.uint8)
    photos = tmp_path / "photos"
    photos.mkdir()
    upright = atrous.load(models["voc"])
    for number, orientation in enumerate((1, 3, 6)):
        exif = Image.Exif()
        exif[274] = orientation
        Image.fromarray(pixels).save(photos / f"2008_{number:06}.png", exif=exif)
    predict.submit(models["voc"], [str(photos)], tmp_path / "out", "voc", console=QUIET)
    for number, turns in enumerate((0, 2, 3)):  # by EXIF 6, a photo is turned clockwise: three turns to the left
        (path,) = (tmp_path / "out" / "voc").rglob(f"2008_{number:06}.png")
        expected = np.rot90(upright.predict(np.rot90(pixels, turns).copy()).semantic, -turns)
        assert np.array_equal(read_label(path).values, expected), number


def test_more_things_than_the_model_numbers_are_named(models: dict[str, Path], photos: Path, tmp_path: Path) -> None:
    """Not written as things of the next class."""
    model, path = atrous.load(models["coco"]), tmp_path / "small.safetensors"
    with torch.no_grad():
        model.model.get_parameter("semantic_head.classify.bias")[1] = 1e3  # people everywhere, each of few pixels
        model.model.get_parameter("center_head.classify.bias").fill_(1)
        model.model.get_parameter("offset_head.classify.weight").zero_()
    model.with_header(label_space=COCO_PANOPTIC.model_copy(update={"panoptic_divisor": 2})).save(path)
    settings = ["decode.threshold=0", "decode.kernel=1", "decode.top_k=0"]
    summary = predict.submit(path, [str(photos)], tmp_path / "out", "coco_panoptic", settings, console=QUIET)
    assert len(summary.failures) == 3
    assert re.fullmatch(rf"{photos}/0{{11}}3\.png: \d+ things of one class, .*", summary.failures[0])


# ---- refused before the work

WRONG = {  # model, more arguments: a part of the answer
    ("coco", "--format", "coco_panoptik"): "no such format; did you mean coco_panoptic?",
    ("city_semantic", "--format", "cityscapes_panoptic"): "--format cityscapes_panoptic needs a panoptic model",
    ("city", "--format", "voc"): "--format voc: the model's classes aren't those of PASCAL VOC: they lack background",
    ("city", "--format", "coco_panoptic"): "they lack airplane, boat",
    ("coco", "--format", "cityscapes_instance"): "they lack rider (1 of 8) and have airplane",
    ("city", "--format", "cityscapes_panoptic"): "not named as an image of Cityscapes, such as frankfurt_000000",
    ("coco", "--format", "coco_panoptic", "format.splitt=val"): "format.splitt: unknown key; it has format.split and",
    ("coco", "--format", "coco_panoptic", "format.split=a/b"): "format.split: 'a/b' can't be a part of a file's name",
    ("coco", "--format", "coco_panoptic", "train.steps=1"): "train: only settings of evaluate and decode apply",
    (
        "coco",
        "--format",
        "coco_panoptic",
        "--images-json",
        "nowhere.json",
    ): "cannot read the list of images nowhere.json",
    ("coco", "--images-json", "images.json"): "it needs --format",
    ("coco", "--format", "coco_panoptic", "--out", "/proc/out"): "cannot write into the output folder /proc/out",
    ("coco", "--format"): "requires an argument",
}


def test_a_wrong_call_is_one_line_and_writes_nothing(
    models: dict[str, Path], photos: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(photos.parent)
    for (name, *arguments), reason in WRONG.items():
        if arguments == ["--format"]:
            assert cli.run(["predict", str(models[name]), str(photos), *arguments]) == 2
            assert reason in capsys.readouterr().err
            continue
        assert reason in failure(capsys, models[name], photos, *arguments), arguments
        assert [path.name for path in photos.parent.iterdir()] == ["photos"], arguments


def test_two_files_of_one_image_are_refused(
    models: dict[str, Path], photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(photos / "000000000007.png", photos / "COCO_val2014_000000000007.png")
    line = failure(capsys, models["coco"], photos, "--format", "coco_panoptic", "--out", tmp_path / "out")
    assert "are both image 000000000007 of COCO panoptic" in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("taken", [ARCHIVE, "coco_panoptic/mine.txt", f"{ARCHIVE}/folder"])
def test_files_of_others_are_not_replaced(models: dict[str, Path], photos: Path, tmp_path: Path, taken: str) -> None:
    path = tmp_path / "out" / taken
    path.parent.mkdir(parents=True)
    path.touch()
    with pytest.raises((ConfigError, OSError), match=re.escape(str(tmp_path / "out" / taken.partition("/")[0]))):
        submit(models, photos, tmp_path / "out")
    assert [other for other in (tmp_path / "out").rglob("*") if other.is_file()] == [path]


# ---- the work comes to an end


def stop_at(monkeypatch: pytest.MonkeyPatch, image: str, error: BaseException) -> None:
    add = drafts.add

    def stopped(draft: Draft, identifier: str, labels: Labels, size: tuple[int, int] | None = None) -> None:
        add(draft, identifier, labels, size)
        if identifier == image:
            raise error

    monkeypatch.setattr(drafts, "add", stopped)


@pytest.mark.parametrize(
    ("error", "kind", "reason"),
    [
        (KeyboardInterrupt(), Interrupted, r"^interrupted; 1 of 3 images are done$"),
        (OSError(errno.ENOSPC, "cannot write x: No space left on device"), OSError, "No space left .*; 1 of 3 images"),
        (ValueError("a bug"), ValueError, "a bug"),
    ],
)
def test_an_end_in_the_middle_leaves_the_earlier_files(
    models: dict[str, Path],
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    kind: type[BaseException],
    reason: str,
) -> None:
    out = tmp_path / "out"
    submit(models, photos, out)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with monkeypatch.context() as patch:
        stop_at(patch, "000000000007", error)
        with pytest.raises(kind, match=reason):
            submit(models, photos, out)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    shutil.rmtree(out)
    with monkeypatch.context() as patch:
        stop_at(patch, "000000000007", error)
        with pytest.raises(kind):
            submit(models, photos, out)
    assert [path.name for path in out.iterdir()] == ["atrous.json"]
    submit(models, photos, out)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_what_a_killed_prediction_left_is_not_in_the_archive(
    models: dict[str, Path], photos: Path, tmp_path: Path
) -> None:
    left = tmp_path / "out" / ".coco_panoptic.part" / "files" / "old.png"
    left.parent.mkdir(parents=True)
    left.touch()
    submit(models, photos, tmp_path / "out")
    with zipfile.ZipFile(tmp_path / "out" / ARCHIVE) as packed:
        assert not [name for name in packed.namelist() if "old" in name]
    assert not (tmp_path / "out" / ".coco_panoptic.part").exists()


def test_one_prediction_at_a_time_writes_a_format(
    models: dict[str, Path], photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add = drafts.add
    refused: list[str] = []

    def second(draft: Draft, identifier: str, labels: Labels, size: tuple[int, int] | None = None) -> None:
        add(draft, identifier, labels, size)
        if not refused:
            with pytest.raises(ConfigError, match="another prediction writes coco_panoptic there") as caught:
                submit(models, photos, tmp_path / "out")
            refused.append(str(caught.value))

    monkeypatch.setattr(drafts, "add", second)
    assert submit(models, photos, tmp_path / "out").images == 3
    assert refused


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is unwritable for root")
def test_a_folder_that_cannot_be_written_is_named(models: dict[str, Path], photos: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir(mode=0o500)
    with pytest.raises(OSError, match="cannot write into the output folder"):
        submit(models, photos, tmp_path / "out")


def test_results_of_a_format_are_no_images_to_predict(models: dict[str, Path], photos: Path) -> None:
    for _ in range(2):
        assert submit(models, photos, photos / "out").images == 3
