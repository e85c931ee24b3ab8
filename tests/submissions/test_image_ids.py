"""Which image of a benchmark a file is."""

import json
import os
from pathlib import Path

import pytest

from atrous.errors import ConfigError, DataError
from atrous.submissions.formats import SUBMISSIONS
from atrous.submissions.image_ids import identified, identifier_of, missing, read_list, size_of

COCO = SUBMISSIONS["coco_panoptic"]


@pytest.mark.parametrize(
    ("name", "file", "identifier"),
    [
        ("coco_panoptic", "000000142238", "000000142238"),
        ("coco_instances", "COCO_val2014_000000142238", "000000142238"),
        ("coco_panoptic", "142238", "000000142238"),
        ("coco_panoptic", "0", "000000000000"),
        ("coco_panoptic", "street", None),
        ("coco_panoptic", "street_12", None),
        ("coco_panoptic", "1234567890123", None),
        ("coco_panoptic", "٣٤", None),  # digits, but not ASCII
        ("cityscapes_panoptic", "frankfurt_000000_000576_leftImg8bit", "frankfurt_000000_000576"),
        ("cityscapes_pixel", "frankfurt_000000_000576", "frankfurt_000000_000576"),
        ("cityscapes_instance", "weimar_000000_0005_leftImg8bit", None),
        ("cityscapes_instance", "000000_000576", None),
        ("voc", "2008_000006", "2008_000006"),
        ("voc", "000006", None),
        ("ade20k", "ADE_test_00000001", "ADE_test_00000001"),
        ("ade20k", "ADE_frame_00000001", None),
    ],
)
def test_names_of_files(name: str, file: str, identifier: str | None) -> None:
    assert SUBMISSIONS[name].identify(file) == identifier


@pytest.mark.parametrize("name", SUBMISSIONS)
def test_the_example_of_a_format_is_one_of_its_images(name: str) -> None:
    form = SUBMISSIONS[name]
    assert identifier_of(Path("photos", form.example), form)


def test_a_file_without_an_identifier_is_named() -> None:
    with pytest.raises(
        ConfigError,
        match=r"^photos/a\.jpg: not named as an image of COCO panoptic, .* 000000142238\.jpg; .*--images-json",
    ):
        identified([Path("photos/1.jpg"), Path("photos/a.jpg")], COCO)


def test_two_files_of_one_image_are_named() -> None:
    with pytest.raises(ConfigError, match=r"^a/7\.jpg and b/000000000007\.png are both image 000000000007"):
        identified([Path("a/7.jpg"), Path("b/000000000007.png")], COCO)


def list_of(folder: Path, *images: object) -> Path:
    path = folder / "images.json"
    path.write_text(json.dumps({"images": images}))
    return path


def test_a_list_gives_identifiers_to_names(tmp_path: Path) -> None:
    path = list_of(
        tmp_path,
        {"id": 5, "file_name": "street.jpg", "height": 20, "width": 30},
        {"id": 6, "file_name": "b/street.jpg"},
        {"id": 7, "file_name": "000000000099.jpg"},
        {"id": 8, "file_name": "x.jpg", "height": "20", "width": 30},
    )
    image_list = read_list(path, COCO)
    files = [Path("in/street.png"), Path("in/b/street.jpg"), Path("000000000099.jpg"), Path("000000000008.jpg")]
    assert list(identified(files, COCO, image_list).values()) == [f"{number:012}" for number in (5, 6, 7, 8)]
    assert [size_of(f"{number:012}", image_list) for number in (5, 6, 8, 9)] == [(20, 30), None, None, None]
    assert size_of("000000000005", None) is None
    ids = identified(files[:2], COCO, image_list)
    assert missing(ids, image_list) == ["000000000007", "000000000008"]
    assert missing(ids, None) == []
    with pytest.raises(ConfigError, match=r"^000000000009\.jpg: not among the 4 images in .*images\.json"):
        identified([Path("000000000009.jpg")], COCO, image_list)


def test_equal_names_in_a_list_are_told_apart_by_folders_alone(tmp_path: Path) -> None:
    rows = [{"id": number, "file_name": f"{folder}/street.jpg"} for number, folder in ((5, "a"), (6, "b"))]
    image_list = read_list(list_of(tmp_path, *rows), COCO)
    assert identifier_of(Path("all/b/street.jpg"), COCO, image_list) == "000000000006"
    with pytest.raises(ConfigError, match="not among"):
        identifier_of(Path("street.jpg"), COCO, image_list)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[" * 100_000,
        "[]",
        "{}",
        '{"images": {}}',
        '{"images": []}',
        '{"images": [3]}',
        '{"images": [{"id": "a", "file_name": "b"}]}',
        '{"images": [{"id": true, "file_name": "b"}]}',
        '{"images": [{"id": -1, "file_name": "b"}]}',
        '{"images": [{"id": 1.5, "file_name": "b"}]}',
        '{"images": [{"id": 1}]}',
        '{"images": [{"id": 1, "file_name": ""}]}',
        '{"images": [{"id": 1, "file_name": "a"}, {"id": 1, "file_name": "b"}]}',
    ],
)
def test_a_damaged_list_is_named_in_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "list.json"
    path.write_text(text)
    with pytest.raises(DataError, match=str(path)) as caught:
        read_list(path, COCO)
    assert "\n" not in str(caught.value)


def test_a_list_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.json")
    for name, reason in {"nowhere": "No such file", "pipe": "it is a named pipe"}.items():
        with pytest.raises(OSError, match=rf"cannot read the list of images .*{name}\.json: {reason}"):
            read_list(tmp_path / f"{name}.json", COCO)
