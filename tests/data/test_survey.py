"""What a split's masks hold is counted once, judged before the first step, and kept."""

from collections.abc import Sequence
from pathlib import Path
from typing import overload

import numpy as np
import pytest
import torch

import atrous.data
from atrous.data import ade20k, folder, survey
from atrous.data.label_space import LabelSpace
from atrous.data.survey import Split, Survey
from atrous.distributed import World
from atrous.errors import DataError
from atrous.types import Sample
from tests.data.conftest import LAYOUTS, row, save, write

ALONE = World(0, 1, torch.device("cpu"))
SPACE = LabelSpace(names=("sky", "road", "car"))


class Maps(Sequence[Sample]):
    """Label maps in memory; None can't be read."""

    def __init__(self, *maps: list[list[int]] | None) -> None:
        self.maps = maps

    def __len__(self) -> int:
        return len(self.maps)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | Sequence[Sample]:
        assert isinstance(index, int)
        labels = self.maps[index]
        if labels is None:
            raise DataError(f"{index}.png: truncated")
        return Sample(str(index), np.zeros((1, 1, 3), np.uint8), np.array(labels, np.uint8))


def count(*maps: list[list[int]] | None, space: LabelSpace = SPACE) -> Survey:
    return survey.count(Maps(*maps), space, ALONE)


def refusal(*maps: list[list[int]] | None, space: LabelSpace = SPACE, like: Survey | None = None) -> str:
    split = Split("train", Maps(*maps), "to learn from", like)
    with pytest.raises(DataError) as caught:
        survey.require_usable(survey.count(split.samples, space, ALONE), space, split, skip_errors=False)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---- counted


def test_pixels_images_and_pixels_of_these_images_by_hand() -> None:
    """Four pixels each: car is in one image, of which one pixel is ignored; the third image is ignored entirely."""
    total = count([[0, 0], [1, 1]], [[0, 2], [2, 255]], [[255] * 4])
    assert total.masks == 3
    assert total.pixels == (3, 2, 2)
    assert total.images == (2, 1, 1)
    assert total.pixels_of_images == (8, 4, 4)
    assert (total.ignored, total.masks_ignored, total.num_pixels) == (5, 2, 12)
    assert total.unlabelled == ("2",)
    assert total.problems == ()


def test_an_ignored_class_has_no_pixels() -> None:
    space = SPACE.model_copy(update={"ignore": 1})
    total = count([[0, 1, 2, 2]], space=space)
    assert (total.pixels, total.images, total.ignored) == ((1, 0, 2), (1, 0, 1), 1)
    assert survey.remarks(total, space, Split("train", ())) == []


def test_an_ignore_value_that_no_map_can_hold_ignores_nothing() -> None:
    assert count([[0, 1, 2]], space=SPACE.model_copy(update={"ignore": 300})).ignored == 0


def test_unreadable_masks_are_problems_and_the_others_are_counted() -> None:
    total = count([[0, 1]], None, [[0, 7]])
    assert total.masks == 1 and total.num_images == 3
    assert total.problems == ("1.png: truncated", "2: label 7 is not a class")
    assert total.wrong == {7: 1}


@pytest.mark.parametrize("layout", [*LAYOUTS, "synthetic"])
def test_every_layout_is_counted_without_its_images(layout: str, tmp_path: Path) -> None:
    config = LAYOUTS[layout](tmp_path) if layout != "synthetic" else atrous.data.synthetic.Config(num_train=3)
    samples, space = atrous.data.samples(config, config.train), atrous.data.label_space(config)
    expected = np.bincount(np.concatenate([x.semantic.ravel() for x in samples if x.semantic is not None]))
    for path in [*tmp_path.rglob("*.jpg")]:
        path.write_bytes(b"")
    total = survey.count(samples, space, ALONE)
    assert total.problems == ()
    assert total.masks == len(samples)
    assert total.num_pixels == expected.sum()
    classes = [count for label, count in enumerate(expected[: space.num_classes].tolist()) if label != space.ignore]
    assert list(total.pixels)[: len(classes)] == classes


def test_workers_and_processes_count_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    maps = [[[index % 3, (index + 1) % 4]] for index in range(130)]
    alone = count(*maps)
    assert alone.wrong == {3: 32}
    assert survey.count(Maps(*maps), SPACE, ALONE, workers=2) == alone
    parts: list[object] = []

    def gather(items: list[object]) -> list[object]:
        parts.extend(items)
        return items

    monkeypatch.setattr("atrous.distributed.gather", gather)
    for rank in range(2):
        survey.count(Maps(*maps), SPACE, World(rank, 2, ALONE.device))
    assert len(parts) == 130
    monkeypatch.setattr("atrous.distributed.gather", lambda items: parts)
    assert survey.count(Maps(*maps), SPACE, ALONE) == alone


def test_progress_counts_the_masks_of_all_processes() -> None:
    numbers: list[int] = []
    survey.count(Maps([[0]], [[1]], [[2]]), SPACE, World(0, 2, ALONE.device), advance=numbers.append)
    assert numbers == [2, 2]


# ---- judged


def test_labels_of_one_class_are_refused_with_the_share_of_ignored_pixels_and_the_setting() -> None:
    two = LabelSpace(names=("background", "crack"))
    assert refusal([[0, 0, 0, 255]], [[0, 0, 0, 0]], space=two) == (
        "split 'train': nothing to learn from: all 7 labelled pixels of 2 masks are background (12 % of the pixels, in "
        '1 mask, have the ignored value 255); if the values 0, 255 are the classes, set "data.names={0: background, '
        '255: crack}"'
    )
    three = refusal([[0, 0, 0, 255]])
    assert three.endswith('; if 255 is a class, name it, as in "data.names={0: sky, 255: road}"')
    assert refusal([[1, 1]]).endswith("all 2 labelled pixels of 1 mask are road; are these the right masks?")


def test_masks_without_a_labelled_pixel_are_refused() -> None:
    assert refusal([[255, 255]], [[255, 255]]).startswith(
        "split 'train': nothing to learn from: all 4 pixels of 2 masks have the ignored value 255;"
    )


def test_wrong_values_name_the_file_the_other_files_and_the_setting() -> None:
    assert refusal([[1, 2]], [[1, 3]], [[2, 3]], None) == (
        "1: label 3 is not a class; 2 more of split 'train' can't be used either (3 in 2 masks); "
        'if the values 1, 2, 3 are the classes, set "data.names={1: sky, 2: road, 3: car}"'
    )


def test_a_validation_split_is_numbered_like_the_training_split() -> None:
    two = LabelSpace(names=("background", "crack"))
    text = refusal([[0, 255]], space=two, like=count([[0, 1]], space=two))
    assert text.endswith("; the training labels have the values 0, 1: number these in the same way")


def test_a_split_without_a_purpose_may_hold_one_class() -> None:
    total, split = count([[0, 0]]), Split("val", ())
    survey.require_usable(total, SPACE, split, skip_errors=False)
    assert survey.remarks(total, SPACE, split) == ["split 'val': all 2 labelled pixels of 1 mask are sky"]


def test_unreadable_masks_are_skipped_on_request_unless_none_is_left() -> None:
    some, split = count([[0, 1]], None), Split("train", (), "to learn from")
    survey.require_usable(some, SPACE, split, skip_errors=True)
    assert "split 'train': 1 of 2 masks can't be used and are skipped, such as 1.png: truncated" in survey.remarks(
        some, SPACE, split
    )
    with pytest.raises(DataError, match=r"^0\.png: truncated; 1 more of split 'train' can't be used either$"):
        survey.require_usable(count(None, None), SPACE, split, skip_errors=True)


def test_absent_classes_and_ignored_masks_are_told() -> None:
    assert survey.remarks(count([[0, 1]], [[255, 255]]), SPACE, Split("train", ())) == [
        "split 'train': no pixel of car (1 of 3 classes) in 2 masks (50 % of the pixels, in 1 mask, have the ignored "
        "value 255)",
        "split 'train': 1 of 2 masks are ignored entirely: 1",
    ]
    assert survey.remarks(count([[0, 1, 2]]), SPACE, Split("train", ())) == []


def test_a_class_that_no_label_file_can_hold_is_not_missed() -> None:
    assert "other" not in "".join(survey.remarks(_empty(ade20k.WITH_OTHER), ade20k.WITH_OTHER, Split("train", ())))


def _empty(space: LabelSpace) -> Survey:
    one = (1,) + (0,) * (space.num_classes - 2)
    return Survey(1, (0, *one), (0, *one), (0, *one), 0)


def test_white_masks_are_refused_in_a_folder(tmp_path: Path) -> None:
    """The object is absent from the first nine masks."""
    for number in range(10):
        save(tmp_path / "images" / "train" / f"{number}.png")
        save(tmp_path / "masks" / "train" / f"{number}.png", row(0, 0, 255 * (number == 9)))
    write(tmp_path / "classes.yaml", "names: [background, crack]")
    config = folder.Config(root=tmp_path)
    split = Split("train", folder.samples(config, "train"), "to learn from")
    space = folder.label_space(config)
    with pytest.raises(DataError, match=r'set "data\.names={0: background, 255: crack}"$'):
        survey.require_usable(survey.count(split.samples, space, ALONE), space, split, skip_errors=False)
    named = folder.Config(root=tmp_path, names={0: "background", 255: "crack"})
    assert survey.count(folder.samples(named, "train"), folder.label_space(named), ALONE).pixels == (29, 1)


# ---- kept


def test_what_a_run_keeps_is_read_back_for_the_same_data() -> None:
    total = count([[0, 0], [1, 255]], [[255] * 4], None)
    tree = survey.to_tree(total, SPACE)
    assert tree == {
        "images": 3,
        "unreadable": 1,
        "pixels": 8,
        "ignored": 5,
        "unlabelled": ("1",),
        "num_unlabelled": 1,
        "classes": {
            "sky": {"pixels": 2, "images": 1, "pixels_of_images": 4},
            "road": {"pixels": 1, "images": 1, "pixels_of_images": 4},
            "car": {"pixels": 0, "images": 0, "pixels_of_images": 0},
        },
    }
    again = survey.from_tree(tree, SPACE, images=3)
    assert again is not None
    assert again[:5] == total[:5]
    renamed = SPACE.model_copy(update={"names": ("sky", "road", "bus")})
    assert survey.from_tree(tree, SPACE, 4) is None
    assert survey.from_tree(tree, renamed, 3) is None
    damaged: tuple[object, ...] = (None, [], {}, {**tree, "classes": {"sky": 1}}, {**tree, "ignored": "many"})
    for other in damaged:
        assert survey.from_tree(other, SPACE, 3) is None


@pytest.mark.parametrize(
    ("share", "text"),
    [(100, "100 %"), (99.96, "99.9 %"), (99.5, "99.5 %"), (99.4, "99 %"), (6.25, "6.2 %"), (0.0123, "0.012 %")],
)
def test_shares_are_short_and_all_is_all(share: float, text: str) -> None:
    assert survey.percent(share) == text
