"""Official ids of a model's classes, and models of other classes."""

import pytest

from atrous.data.ade20k import ADE20K, WITH_OTHER
from atrous.data.cityscapes import CITYSCAPES
from atrous.data.coco_panoptic import COCO_PANOPTIC
from atrous.data.label_space import LabelSpace
from atrous.data.voc import VOC
from atrous.errors import ConfigError
from atrous.submissions.classes import ids_of_classes, official_ids
from atrous.submissions.contract import NO_CLASS
from atrous.submissions.formats import SUBMISSIONS


def ids(space: LabelSpace, name: str) -> list[int]:
    values: list[int] = ids_of_classes(space, SUBMISSIONS[name]).tolist()
    return values


def test_benchmarks_own_label_spaces() -> None:
    assert ids(CITYSCAPES, "cityscapes_pixel") == [
        *(7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23),
        *(24, 25, 26, 27, 28, 31, 32, 33),
    ]
    assert ids(CITYSCAPES, "cityscapes_instance") == [*[NO_CLASS] * 11, 24, 25, 26, 27, 28, 31, 32, 33]
    assert ids(VOC, "voc") == list(range(21))
    assert ids(ADE20K, "ade20k") == list(range(1, 151))
    assert ids(WITH_OTHER, "ade20k") == [NO_CLASS, *range(1, 151)]
    coco = ids(COCO_PANOPTIC, "coco_panoptic")
    assert (len(coco), coco[:13], coco[80], coco[81], coco[-1]) == (
        134,
        [NO_CLASS, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 13],
        90,
        92,
        200,
    )
    assert ids(COCO_PANOPTIC, "coco_instances")[81:] == [NO_CLASS] * 53


@pytest.mark.parametrize("name", SUBMISSIONS)
def test_every_class_of_a_benchmark_has_an_id_of_its_own(name: str) -> None:
    values = list(official_ids(SUBMISSIONS[name].space).values())
    assert len(set(values)) == len(values)


def test_order_and_spelling_of_names_do_not_matter() -> None:
    names = [name.replace(" ", "_").title() for name in reversed(CITYSCAPES.names)]
    space = LabelSpace(names=("Void", *names))
    official = ids(space, "cityscapes_pixel")
    assert official == [NO_CLASS, *reversed(ids(CITYSCAPES, "cityscapes_pixel"))]


@pytest.mark.parametrize(
    ("space", "name", "reason"),
    [
        (VOC, "cityscapes_pixel", r"lack road, .*\(14 of 19\) and have aeroplane, .*\(15 of 21\)"),
        (LabelSpace(names=CITYSCAPES.names[:-1]), "cityscapes_pixel", r"they lack bicycle \(1 of 19\)$"),
        (LabelSpace(names=(*CITYSCAPES.names, "dog")), "cityscapes_pixel", r"they have dog \(1 of 20\)$"),
        (
            LabelSpace(names=tuple(f"class_{index}" for index in range(21))),
            "voc",
            "lack background, .* and have class_0",
        ),
        (LabelSpace(names=(*VOC.names, "VOID")), "voc", None),
        (CITYSCAPES.model_copy(update={"things": (11, 12)}), "cityscapes_panoptic", "don't count car, truck, bus"),
        (CITYSCAPES.model_copy(update={"things": range(10, 19)}), "cityscapes_panoptic", "count the stuff sky"),
        (CITYSCAPES.model_copy(update={"things": (11, 12)}), "cityscapes_instance", r"they don't count car, truck"),
        (CITYSCAPES.model_copy(update={"things": range(10, 19)}), "cityscapes_instance", r"have sky \(1 of 9\)"),
    ],
)
def test_a_model_of_other_classes_is_refused_with_the_differences(
    space: LabelSpace, name: str, reason: str | None
) -> None:
    if reason is None:
        assert ids(space, name)[-1] == NO_CLASS
        return
    with pytest.raises(ConfigError, match=reason):
        ids(space, name)
