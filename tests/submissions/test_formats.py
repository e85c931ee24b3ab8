"""What each format writes for maps drawn by hand, and for ground truth, read back."""

import io
import json
import re
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from atrous import data
from atrous.commands import options
from atrous.data import coco_panoptic, panoptic_json, polygons
from atrous.data.ade20k import ADE20K, WITH_OTHER
from atrous.data.cityscapes import CITYSCAPES
from atrous.data.cityscapes import CLASSES as CLASSES_OF_CITYSCAPES
from atrous.data.coco_panoptic import COCO_PANOPTIC
from atrous.data.pairing import Pair
from atrous.data.pixels import read_label
from atrous.data.voc import VOC
from atrous.errors import AtrousError, ConfigError, DataError
from atrous.prediction import Prediction
from atrous.submissions import write_official
from atrous.submissions.formats import SUBMISSIONS
from benchmarks import official_scores
from benchmarks.official_scores import prediction_of
from tests.conftest import SHARED
from tests.submissions.test_rle import decoded

DATA = SHARED / "data"
CLASSES = np.array([[0, 0, 13, 13], [0, 255, 13, 13], [10, 10, 11, 13]])  # road, void, sky, person, car of Cityscapes
NUMBERS = np.array([[0, 0, 2, 2], [0, 0, 5, 5], [0, 0, 1, 5]])
FRAME = "frankfurt_000000_000576"


def city() -> Prediction:
    return prediction_of(CLASSES, NUMBERS, CITYSCAPES)


def coco() -> Prediction:
    """A person, two bears and a fence."""
    classes = np.array([[0, 1, 22, 22], [118, 118, 22, 0]])
    return prediction_of(classes, np.array([[0, 1, 1, 2], [0, 0, 2, 0]]), COCO_PANOPTIC)


def names_in(archive: Path) -> list[str]:
    if archive.suffix == ".tgz":
        with tarfile.open(archive) as packed:
            return packed.getnames()
    with zipfile.ZipFile(archive) as packed:
        return packed.namelist()


def numbers_in(path: Path) -> NDArray[Any]:
    codes = read_label(path)
    assert codes.is_colored
    return codes.values


def test_cityscapes_panoptic(tmp_path: Path) -> None:
    archive = write_official({f"{FRAME}_leftImg8bit.png": city()}, "cityscapes_panoptic", tmp_path, split="val")
    name = "cityscapes_panoptic_val"
    assert archive == tmp_path / f"{name}.zip"
    assert names_in(archive) == [f"{name}.json", f"{name}/{FRAME}_panoptic.png"]
    folder = tmp_path / "cityscapes_panoptic"
    numbers = [[7, 7, 26000, 26000], [7, 0, 26001, 26001], [23, 23, 24000, 26001]]
    assert numbers_in(folder / name / f"{FRAME}_panoptic.png").tolist() == numbers
    tree = json.loads((folder / f"{name}.json").read_text())
    segment = {"category_id": 26, "iscrowd": 0}
    assert tree["annotations"] == [
        {
            "image_id": FRAME,
            "file_name": f"{FRAME}_panoptic.png",
            "segments_info": [
                {"id": 7, "category_id": 7, "area": 3, "bbox": [0, 0, 2, 2], "iscrowd": 0},
                {"id": 23, "category_id": 23, "area": 2, "bbox": [0, 2, 2, 1], "iscrowd": 0},
                {"id": 24000, "category_id": 24, "area": 1, "bbox": [2, 2, 1, 1], "iscrowd": 0},
                {"id": 26000, "area": 2, "bbox": [2, 0, 2, 1], **segment},
                {"id": 26001, "area": 3, "bbox": [2, 1, 2, 2], **segment},
            ],
        }
    ]
    assert tree["categories"][0] == {"id": 7, "name": "road", "isthing": 0, "color": [128, 64, 128]}
    assert {row["id"]: row["isthing"] for row in tree["categories"]}[26] == 1


def test_cityscapes_instance(tmp_path: Path) -> None:
    prediction = city()
    scores = np.array([[13002, 0.25], [13005, 0.5]])  # the person has none
    labels = prediction.labels._replace(scores=torch.from_numpy(scores))
    predictions = {FRAME: Prediction(labels, prediction.image, prediction.label_space, prediction.task)}
    archive = write_official(predictions, "cityscapes_instance", tmp_path)
    folder = tmp_path / "cityscapes_instance"
    masks = [f"masks/{FRAME}_{number}.png" for number in range(3)]
    assert names_in(archive) == [f"{FRAME}_pred.txt", *masks]
    lines = (folder / f"{FRAME}_pred.txt").read_text()
    assert lines == f"{masks[0]} 24 0.000000\n{masks[1]} 26 0.250000\n{masks[2]} 26 0.500000\n"
    for mask, key in zip(masks, (11001, 13002, 13005), strict=True):
        with Image.open(folder / mask) as picture:
            assert np.array_equal(np.asarray(picture.convert("L")) != 0, key == CLASSES * 1000 + NUMBERS)


def test_a_score_is_in_the_panoptic_json_too(tmp_path: Path) -> None:
    prediction = coco()
    labels = prediction.labels._replace(scores=torch.tensor([[22 * 256 + 1, 0.25]]).double())
    predictions = {"1": Prediction(labels, prediction.image, prediction.label_space, prediction.task)}
    write_official(predictions, "coco_panoptic", tmp_path)
    (path,) = (tmp_path / "coco_panoptic").glob("*.json")
    (annotation,) = json.loads(path.read_text())["annotations"]
    assert [segment.get("score") for segment in annotation["segments_info"]] == [None, 0.25, None, None]
    scores = panoptic_json.read(path).scores
    assert np.array_equal(np.nan_to_num(scores, nan=-1.0), [-1.0, 0.25, -1.0, -1.0])


def test_things_of_a_prediction_without_scores_are_certain(tmp_path: Path) -> None:
    write_official({FRAME: city()}, "cityscapes_instance", tmp_path)
    lines = (tmp_path / "cityscapes_instance" / f"{FRAME}_pred.txt").read_text().splitlines()
    assert [line.split()[2] for line in lines] == ["1.000000"] * 3


@pytest.mark.parametrize("numbers", [None, NUMBERS])
def test_cityscapes_pixel_from_either_kind_of_model(tmp_path: Path, numbers: NDArray[np.int64] | None) -> None:
    predictions = {FRAME: prediction_of(CLASSES, numbers, CITYSCAPES)}
    archive = write_official(predictions, "cityscapes_pixel", tmp_path)
    assert names_in(archive) == [f"{FRAME}_labelIds.png"]
    codes = read_label(tmp_path / "cityscapes_pixel" / f"{FRAME}_labelIds.png")
    assert codes.values.tolist() == [[7, 7, 26, 26], [7, 0, 26, 26], [23, 23, 24, 26]]


def test_coco_panoptic(tmp_path: Path) -> None:
    archive = write_official({"000000000042.jpg": coco()}, "coco_panoptic", tmp_path, method="mine")
    name = "panoptic_test-dev2017_mine_results"
    assert (archive.name, names_in(archive)) == (f"{name}.zip", [f"{name}.json", f"{name}/000000000042.png"])
    folder = tmp_path / "coco_panoptic"
    assert numbers_in(folder / name / "000000000042.png").tolist() == [[0, 1, 2, 3], [4, 4, 3, 0]]
    tree = json.loads((folder / f"{name}.json").read_text())
    (annotation,) = tree["annotations"]
    assert (annotation["image_id"], annotation["file_name"]) == (42, "000000000042.png")
    segments = [(row["id"], row["category_id"], row["area"]) for row in annotation["segments_info"]]
    assert segments == [(1, 1, 1), (2, 23, 1), (3, 23, 2), (4, 185, 2)]
    assert [len(tree["categories"]), sum(row["isthing"] for row in tree["categories"])] == [133, 80]


def test_coco_instances(tmp_path: Path) -> None:
    archive = write_official([("7.png", coco()), ("5.png", coco())], "coco_instances", tmp_path, split="val2017")
    name = "detections_val2017_atrous_results.json"
    assert names_in(archive) == [name]
    rows = json.loads((tmp_path / "coco_instances" / name).read_text())
    assert [(row["image_id"], row["category_id"], row["score"]) for row in rows] == [
        (image, category, 1.0) for image in (5, 7) for category in (1, 23, 23)
    ]
    assert decoded(rows[2]["segmentation"]).tolist() == [[False, False, False, True], [False, False, True, False]]


def test_voc(tmp_path: Path) -> None:
    classes = np.array([[0, 15], [20, 1]])
    predictions = {"2008_000006.jpg": prediction_of(classes, None, VOC)}
    for settings, folder in (({}, "comp6_test_cls"), ({"competition": "comp5", "split": "val"}, "comp5_val_cls")):
        archive = write_official(predictions, "voc", tmp_path, **settings)
        assert archive.name == f"voc2012_{folder}.tgz"
        assert names_in(archive) == [f"results/VOC2012/Segmentation/{folder}/2008_000006.png"]
    with tarfile.open(archive) as packed:
        file = packed.extractfile(names_in(archive)[0])
        assert file is not None
        picture = Image.open(io.BytesIO(file.read()))
    assert (picture.mode, np.asarray(picture).tolist()) == ("P", classes.tolist())
    assert np.asarray(picture.convert("RGB"))[0, 1].tolist() == [192, 128, 128]  # a person


@pytest.mark.parametrize(("space", "classes"), [(ADE20K, [[0, 149], [255, 7]]), (WITH_OTHER, [[1, 150], [0, 8]])])
def test_ade20k(tmp_path: Path, space: Any, classes: list[list[int]]) -> None:  # noqa: ANN401
    predictions = {"ADE_test_00000001.jpg": prediction_of(np.array(classes), None, space)}
    archive = write_official(predictions, "ade20k", tmp_path)
    assert (archive.name, names_in(archive)) == ("ade20k.zip", ["ADE_test_00000001.png"])
    assert read_label(tmp_path / "ade20k" / "ADE_test_00000001.png").values.tolist() == [[1, 150], [0, 8]]


# ---- an image of nothing, and of too much


def test_an_image_without_things_has_an_empty_list(tmp_path: Path) -> None:
    empty = prediction_of(np.full((3, 4), 255), np.zeros((3, 4), np.int64), CITYSCAPES)
    archive = write_official({FRAME: empty}, "cityscapes_instance", tmp_path)
    assert names_in(archive) == [f"{FRAME}_pred.txt"]
    assert (tmp_path / "cityscapes_instance" / f"{FRAME}_pred.txt").read_bytes() == b""
    write_official({FRAME: empty}, "cityscapes_panoptic", tmp_path)
    name = tmp_path / "cityscapes_panoptic" / "cityscapes_panoptic_test"
    assert json.loads(name.with_suffix(".json").read_text())["annotations"][0]["segments_info"] == []
    assert not numbers_in(name / f"{FRAME}_panoptic.png").any()
    void = prediction_of(np.zeros((2, 2), np.int64), np.zeros((2, 2), np.int64), COCO_PANOPTIC)
    write_official({"5": void}, "coco_instances", tmp_path)
    assert json.loads((tmp_path / "coco_instances" / "detections_test-dev2017_atrous_results.json").read_text()) == []


def cars(count: int) -> Prediction:
    space = CITYSCAPES.model_copy(update={"panoptic_divisor": 2000})
    return prediction_of(np.full((1, count), 13), np.arange(count)[None] + 1, space)


def test_as_many_things_of_a_class_as_cityscapes_numbers(tmp_path: Path) -> None:
    write_official({FRAME: cars(1000)}, "cityscapes_panoptic", tmp_path)
    picture = tmp_path / "cityscapes_panoptic" / "cityscapes_panoptic_test" / f"{FRAME}_panoptic.png"
    assert numbers_in(picture)[0].tolist() == list(range(26000, 27000))
    with pytest.raises(DataError, match=rf"^{FRAME}: 1001 things of one class, but Cityscapes has numbers for 1000"):
        write_official({FRAME: cars(1001)}, "cityscapes_panoptic", tmp_path)
    assert numbers_in(picture).shape == (1, 1000)  # the earlier files are still there
    write_official({FRAME: cars(1001)}, "cityscapes_instance", tmp_path)  # it has no numbers


def test_a_pixel_of_no_class_is_nothing_for_voc(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^2008_000006: 1 pixels are of no class"):
        write_official({"2008_000006": prediction_of(np.array([[0, 255]]), None, VOC)}, "voc", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_numbers_beyond_three_bytes_are_counted_anew(tmp_path: Path) -> None:
    space = COCO_PANOPTIC.model_copy(update={"panoptic_divisor": 2**20})
    prediction = prediction_of(np.array([[80, 80, 133]]), np.array([[2**20 - 1, 7, 0]]), space)
    write_official({"1": prediction}, "coco_panoptic", tmp_path)
    name = tmp_path / "coco_panoptic" / "panoptic_test-dev2017_atrous_results"
    assert numbers_in(name / "000000000001.png").tolist() == [[2, 1, 3]]


# ---- from Python


def test_a_generator_is_read_one_by_one(tmp_path: Path) -> None:
    alive: list[int] = []

    def predictions() -> Iterator[tuple[str, Prediction]]:
        for number in (3, 1, 2):
            alive.append(number)
            yield f"{number}.jpg", coco()

    write_official(predictions(), "coco_panoptic", tmp_path)
    name = tmp_path / "coco_panoptic" / "panoptic_test-dev2017_atrous_results"
    tree = json.loads(name.with_suffix(".json").read_text())
    assert [row["image_id"] for row in tree["annotations"]] == [1, 2, 3]
    assert alive == [3, 1, 2]


@pytest.mark.parametrize(
    ("predictions", "name", "settings", "reason"),
    [
        ({}, "voc", {}, "no predictions"),
        ({"1": coco()}, "cocco_panoptic", {}, r"no such format; did you mean coco_panoptic\?"),
        ({"1": coco()}, "nothing", {}, "no such format; known: ade20k, cityscapes_instance"),
        ({"1": coco()}, "coco_panoptic", {"splitt": "val"}, r"format\.splitt: unknown key; it has format\.split and"),
        (
            {"1": coco()},
            "coco_panoptic",
            {"split": "../up"},
            r"format\.split: '\.\./up' can't be a part of a file's name",
        ),
        ({"1": coco()}, "coco_panoptic", {"method": ""}, r"format\.method: '' can't be"),
        ({"1": coco()}, "coco_panoptic", {"method": "x" * 65}, r"format\.method=x+.*: must have at most 64 characters"),
        ({"2008_000006": coco()}, "voc", {}, r"the model's classes aren't those of PASCAL VOC"),
        ({FRAME: city()}, "cityscapes_panoptic", {"split": "demo"}, r"format\.split=demo: must be 'test', 'val' or"),
        ({FRAME: prediction_of(CLASSES, None, CITYSCAPES)}, "cityscapes_panoptic", {}, "needs a panoptic model"),
        (
            [("1", coco()), ("000000000001.jpg", coco())],
            "coco_panoptic",
            {},
            "a second prediction of image 000000000001",
        ),
        ([("1", coco()), ("2", city())], "coco_panoptic", {}, "2: a prediction of other classes than the first"),
        ({"street.jpg": coco()}, "coco_panoptic", {}, r"^street\.jpg: not named as an image of COCO panoptic"),
    ],
)
def test_what_is_refused_leaves_nothing_behind(
    tmp_path: Path,
    predictions: Any,  # noqa: ANN401
    name: str,
    settings: dict[str, str],
    reason: str,
) -> None:
    with pytest.raises(AtrousError, match=reason) as caught:
        write_official(predictions, name, tmp_path / "out", **settings)
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "out").rglob("*.*"))


def test_a_size_that_the_list_does_not_have_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "images.json"
    path.write_text(json.dumps({"images": [{"id": 9, "file_name": "street.jpg", "height": 4, "width": 2}]}))
    with pytest.raises(DataError, match=r"^street\.jpg: 4 x 2 pixels, but 2 x 4 \(width x height\) in the list"):
        write_official({"street.jpg": coco()}, "coco_panoptic", tmp_path / "out", images_json=path)


def test_a_place_that_is_taken_is_refused(tmp_path: Path) -> None:
    (tmp_path / "coco_panoptic").write_text("mine")
    with pytest.raises(NotADirectoryError, match="coco_panoptic: it is a file"):
        write_official({"1": coco()}, "coco_panoptic", tmp_path)
    assert (tmp_path / "coco_panoptic").read_text() == "mine"
    mine = tmp_path / "coco_instances" / "mine.txt"
    mine.parent.mkdir()
    mine.touch()
    with pytest.raises(ConfigError, match="coco_instances holds files that no prediction wrote"):
        write_official({"1": coco()}, "coco_instances", tmp_path)
    (tmp_path / "ade20k.zip").touch()
    truth = {"ADE_val_00000001": prediction_of(np.zeros((2, 2), np.int64), None, ADE20K)}
    with pytest.raises(ConfigError, match=r"ade20k\.zip is a file that no prediction wrote"):
        write_official(truth, "ade20k", tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ade20k.zip", "coco_instances", "coco_panoptic"]


def test_earlier_files_are_replaced_as_a_whole(tmp_path: Path) -> None:
    for count in (3, 1):
        write_official({FRAME: cars(count)}, "cityscapes_instance", tmp_path)
        assert len(list((tmp_path / "cityscapes_instance" / "masks").iterdir())) == count
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "atrous.json",
        "cityscapes_instance",
        "cityscapes_instance.zip",
    ]


# ---- the table


def test_the_command_line_knows_every_format() -> None:
    assert options.format_names() == sorted(SUBMISSIONS)
    assert options.format_names("coco") == ["coco_instances", "coco_panoptic"]


@pytest.mark.parametrize("name", SUBMISSIONS)
def test_a_format_says_what_comes_of_missing_images(name: str) -> None:
    form = SUBMISSIONS[name]
    assert form.missing
    assert re.fullmatch(r"[\w.-]+\.(zip|tgz)", form.archive(form.config()))
    assert set(form.needs) <= {"semantic", "instance"}


# ---- ground truth


def partition(classes: NDArray[Any], numbers: NDArray[Any]) -> set[tuple[int, bytes]]:
    """Each segment: its class, and its pixels; whatever the numbers are."""
    both = classes.astype(np.int64) * 2**20 + numbers
    return {(int(key) // 2**20, (both == key).tobytes()) for key in np.unique(both)}


@pytest.mark.skipif(not DATA.exists(), reason="needs the benchmarks' samples beside the project")
def test_our_own_reader_of_coco_reads_what_was_written(tmp_path: Path) -> None:
    root = DATA / "coco_panoptic_samples"
    truth = {name.stem: prediction for name, prediction in official_scores.coco_truth(root)}
    write_official(truth, "coco_panoptic", tmp_path, split="val2017")
    split, images = "val2017_atrous_results", str(root / "input_images")
    config = coco_panoptic.Config(root=tmp_path / "coco_panoptic", train=split, val=split, images=images)
    assert data.label_space(config) == COCO_PANOPTIC
    samples = list(data.samples(config, split))
    assert len(samples) == 2
    for sample in samples:
        panoptic = truth[sample.name].panoptic
        assert sample.semantic is not None and sample.instance is not None
        assert partition(sample.semantic, sample.instance) == partition(panoptic // 256, panoptic % 256)


@pytest.mark.skipif(not DATA.exists(), reason="needs the benchmarks' samples beside the project")
def test_our_own_reader_of_masks_reads_what_was_written(tmp_path: Path) -> None:
    truth = dict(official_scores.coco_truth(DATA / "coco_panoptic_samples"))
    write_official(truth, "coco_instances", tmp_path, split="val2017")
    (path,) = (tmp_path / "coco_instances").iterdir()
    rows = json.loads(path.read_text())
    for name, prediction in truth.items():
        own = [row for row in rows if row["image_id"] == int(name.stem)]
        things = [segment for segment in prediction.segments if segment.category in COCO_PANOPTIC.things]
        assert len(own) == len(things)
        for row, thing in zip(own, things, strict=True):
            size = tuple(row["segmentation"]["size"])
            region = polygons.coco_rle(polygons.coco_counts(row["segmentation"]["counts"]), size)
            assert np.array_equal(region.mask, prediction.panoptic == thing.id)


@pytest.mark.skipif(not DATA.exists(), reason="needs the benchmarks' samples beside the project")
def test_coco_samples_are_read_back(tmp_path: Path) -> None:
    """Segments have other numbers than the truth; each is one of the same category."""
    root = DATA / "coco_panoptic_samples"
    write_official(official_scores.coco_truth(root), "coco_panoptic", tmp_path)
    name = tmp_path / "coco_panoptic" / "panoptic_test-dev2017_atrous_results"
    written = {row["image_id"]: row for row in json.loads(name.with_suffix(".json").read_text())["annotations"]}
    for truth in json.loads((root / "panoptic_examples.json").read_text())["annotations"]:
        own = written[truth["image_id"]]
        numbers = numbers_in(name / own["file_name"])
        true_numbers = numbers_in(root / "panoptic_examples" / truth["file_name"])
        areas = {row["id"]: (row["category_id"], row["area"], row["bbox"]) for row in own["segments_info"]}
        for segment in truth["segments_info"]:
            values = np.unique(numbers[true_numbers == segment["id"]])
            assert len(values) == 1
            if segment["iscrowd"]:
                assert values[0] == 0
            else:
                assert areas.pop(int(values[0])) == (segment["category_id"], segment["area"], segment["bbox"])
        assert not areas


@pytest.mark.skipif(not DATA.exists(), reason="needs the benchmarks' samples beside the project")
@pytest.mark.parametrize("name", ["voc", "ade20k"])
def test_label_maps_are_read_back(name: str) -> None:
    assert official_scores.equal_pixels(name, DATA, 20) == 1.0


@pytest.mark.skipif(not DATA.exists(), reason="needs the benchmarks' samples beside the project")
def test_cityscapes_frames_are_read_back(tmp_path: Path) -> None:
    """Numbers of things count from 0 without gaps, as in the truth."""
    root = DATA / "cityscapes"
    name, prediction = next(official_scores.cityscapes_truth(root))
    write_official({name: prediction}, "cityscapes_panoptic", tmp_path)
    (picture,) = (tmp_path / "cityscapes_panoptic").rglob("*.png")
    (path,) = root.glob(f"gtFine/val/*/{picture.name.replace('panoptic', 'gtFine_instanceIds')}")
    truth = read_label(path).values.astype(int)
    counted = np.isin(
        np.where(truth >= 1000, truth // 1000, truth),
        [row.raw_id for row in CLASSES_OF_CITYSCAPES.values()],
    )
    is_group = (truth >= 24) & (truth < 1000)
    assert np.array_equal(numbers_in(picture), np.where(counted & ~is_group, truth, 0))
    annotations = panoptic_json.read(next((tmp_path / "cityscapes_panoptic").glob("*.json")))
    drawing = panoptic_json.read_segments(
        Pair("frame", path, picture),
        annotations=annotations,
        space=CITYSCAPES,
        classes={row.raw_id: index for index, row in enumerate(CLASSES_OF_CITYSCAPES.values())},
    )
    semantic, instance = (drawn.values for drawn in drawing if drawn is not None)
    own = prediction.labels.panoptic
    assert own is not None
    assert partition(semantic, instance) == partition(own.numpy() // 1000, own.numpy() % 1000)
