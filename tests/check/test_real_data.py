"""Datasets that people train on are clean but for what a person would say of them, too. Each output was looked at."""

from pathlib import Path

import pytest

from atrous.check import Checkup
from atrous.check.run import check
from tests.conftest import SHARED
from tests.runs import QUIET

DATA = SHARED / "data"
COCO_STUFF = f"data.names=[{', '.join(f'class {index}' for index in range(182))}]"
NOTES = {"specks", "imbalance", "absent-classes", "neighbouring-frames"}  # of good datasets
pytestmark = pytest.mark.slow


def checked(name: str, *overrides: str) -> Checkup:
    if not (DATA / name).is_dir():
        pytest.skip(f"needs {DATA / name}")
    return check(str(DATA / name), overrides, workers=2, console=QUIET)


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("camvid", []),
        ("camvid", ["data.train=test", "data.val=val"]),
        ("VOCdevkit", []),
        ("PennFudanPed", []),
        ("ade20k_samples", []),
        ("coco_panoptic_samples", []),
        ("deeplab2_testdata/data", []),
        ("coco_stuff_samples", [COCO_STUFF]),
        ("labelme_examples/semantic_segmentation", []),
        ("labelme_examples/semantic_segmentation/data_annotated", []),
        ("labelme_examples/semantic_segmentation/data_dataset_voc", []),
        ("labelme_examples/instance_segmentation", []),
        ("labelme_examples/instance_segmentation/data_dataset_voc", []),
        ("labelme_examples/instance_segmentation/data_dataset_coco", []),
    ],
)
def test_good_data_have_no_finding_but_notes(name: str, overrides: list[str]) -> None:
    checkup = checked(name, *overrides)
    assert checkup.is_clean, [(finding.name, finding.example) for finding in checkup.findings]
    assert {finding.name for finding in checkup.findings} <= NOTES


def test_labels_without_names_are_checked_by_their_values() -> None:
    findings = {finding.name: finding for finding in checked("coco_stuff_samples").findings}
    assert findings.keys() - NOTES == {"no-names"}
    assert "write a classes.yaml with the lines `names: {0: class_0, 2: class_2" in findings["no-names"].example


def test_cityscapes_lacks_the_images_that_it_lacks() -> None:
    checkup = checked("cityscapes")
    findings = {finding.name: finding for finding in checkup.findings}
    assert {name for name, finding in findings.items() if finding.severity != "note"} == {"labels-without-image"}
    assert len(findings["labels-without-image"].items) == 14


def test_frames_of_a_film_are_no_copies() -> None:
    findings = {finding.name: finding for finding in checked("camvid", "data.train=test").findings}
    items = findings["neighbouring-frames"].items
    assert 0 < len(items) < 20 and findings["neighbouring-frames"].severity == "note"
    assert all(item.name[:6] in ("0001TP", "Seq05V") for item in items)


def test_a_mended_copy_of_good_data_changes_no_label(tmp_path: Path) -> None:
    checked("coco_stuff_samples", COCO_STUFF)
    check(str(DATA / "coco_stuff_samples"), [COCO_STUFF], fix=tmp_path / "copy", console=QUIET)
    again = check(str(tmp_path / "copy"), console=QUIET)
    before = check(str(DATA / "coco_stuff_samples"), [COCO_STUFF], console=QUIET)
    assert again.surveys == before.surveys
