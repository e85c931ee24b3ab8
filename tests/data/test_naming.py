"""Label spaces: the published ones, those made from names, and names that make none."""

from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from pydantic import ValidationError

from atrous.data import camvid, voc
from atrous.data.label_space import LabelSpace, voc_colors
from atrous.data.naming import Names, class_of_value, luma, named_space, naming_advice
from atrous.errors import ConfigError, DataError
from atrous.types import Color

HERE = Path("here.yaml")


def test_camvid_and_voc_are_the_published_ones() -> None:
    assert camvid.CAMVID.num_classes == 11
    assert camvid.CAMVID.names[::5] == ("sky", "tree", "bicyclist")
    assert camvid.CAMVID.ignore == 11
    assert voc.VOC.num_classes == 21
    assert dict(zip(voc.VOC.names, voc.VOC.colors, strict=True))["person"] == (192, 128, 128)
    assert voc.VOC.ignore == 255


def test_voc_colors_are_the_published_ones_and_all_differ() -> None:
    assert voc_colors(256)[[0, 1, 20, 255]].tolist() == [[0, 0, 0], [128, 0, 0], [0, 64, 128], [224, 224, 192]]
    assert len({tuple(color) for color in voc_colors(256).tolist()}) == 256


def test_the_palette_is_filled_up_with_voc_colors() -> None:
    palette = LabelSpace(names=("a", "b"), colors=((1, 2, 3), (4, 5, 6))).palette()
    assert palette.shape == (256, 3)
    assert palette[:3].tolist() == [[1, 2, 3], [4, 5, 6], [0, 128, 0]]


def test_invalid_label_spaces_are_refused() -> None:
    cases: list[tuple[tuple[str, ...], tuple[Color, ...], str]] = [
        ((), (), "at least two classes, got none"),
        (("road",), (), "at least two classes, got one"),
        (("road", "car", "road"), (), "class names must differ, but road is repeated"),
        (("road", "car"), ((0, 0, 0),), "2 class names but 1 colors"),
    ]
    for names, colors, text in cases:
        with pytest.raises(ValidationError, match=text):
            LabelSpace(names=names, colors=colors)


def test_names_make_a_label_space() -> None:
    two = ("a", "b")
    cases: list[tuple[Names, int | None, LabelSpace]] = [
        (["a", "b"], None, LabelSpace(names=two)),
        ({1: "b", 0: "a"}, 9, LabelSpace(names=two, ignore=9)),
        ({0: "a", 1: "b", 2: "other"}, 2, LabelSpace(names=("a", "b", "other"), ignore=2)),
        ({11: "b", 7: "a"}, None, LabelSpace(names=two, raw_ids=((7, 0), (11, 1)))),
        ({7: "a", 11: "b"}, 0, LabelSpace(names=two, raw_ids=((7, 0), (11, 1), (0, 255)))),
        ({0: "a", 255: "b"}, None, LabelSpace(names=two, raw_ids=((0, 0), (255, 1)))),
        ({0: "a", 1: "b", 255: "void"}, 255, LabelSpace(names=two, raw_ids=((0, 0), (1, 1), (255, 255)))),
        (["a", "b"], 65535, LabelSpace(names=two, raw_ids=((0, 0), (1, 1), (65535, 255)))),
    ]
    for names, ignore, expected in cases:
        assert named_space(names, ignore, HERE) == expected, (names, ignore)


def test_names_that_make_no_label_space_are_refused_with_their_source() -> None:
    cases: list[tuple[Names, int | None, str]] = [
        (["only"], None, "at least two classes"),
        ({0: "a", 255: "void"}, 255, "at least two classes"),
        ({-1: "a", 0: "b"}, None, "a label value must be in 0..65535, got -1"),
        (["a", "b"], -1, "a label value must be in 0..65535, got -1"),
        ([f"n{index}" for index in range(256)], None, "256 classes, but"),
    ]
    for names, ignore, text in cases:
        with pytest.raises(DataError, match=f"^here.yaml: .*{text}.*$"):
            named_space(names, ignore, HERE)
        with pytest.raises(ConfigError, match=f"^data.names: .*{text}.*$"):
            named_space(names, ignore, None)


def test_the_ignore_value_always_stands_for_itself() -> None:
    assert class_of_value(LabelSpace(names=("a", "b"))) == {0: 0, 1: 1, 255: 255}
    assert class_of_value(LabelSpace(names=("a", "b"), raw_ids=((0, 0), (255, 1)))) == {0: 0, 255: 1}


def test_renamed_classes_keep_their_colors() -> None:
    names = tuple(f"n{index}" for index in range(11))
    space = camvid.label_space(camvid.Config(names=names))
    assert space == camvid.CAMVID.model_copy(update={"names": names})
    assert voc.label_space(voc.Config()) is voc.VOC
    backwards = dict(reversed(list(enumerate(names))))
    assert camvid.label_space(camvid.Config(names=backwards)) == space
    fewer = camvid.label_space(camvid.Config(names=("sky", "rest")))
    assert (fewer.colors, fewer.ignore) == ((), 11)


# Advice


ADVICE = (  # all values that the masks hold, and the setting that makes them the classes
    (("background", "person"), 254, (0, 255), '"data.names={0: background, 255: person}"'),
    (("background", "person"), 255, (0, 255), '"data.names={0: background, 255: person}"'),
    (("background", "person"), 255, (255,), '"data.names={0: background, 255: person}"'),
    (("sky", "road", "car"), 255, (1, 2, 3, 255), '"data.names={1: sky, 2: road, 3: car}"'),
    (("sky", "road", "car"), 255, (1, 3), '"data.names={1: sky, 2: road, 3: car}"'),
    (("sky", "road", "car"), 255, (0, 127, 254), '"data.names={0: sky, 127: road, 254: car}"'),
    (("sky", "road", "car"), 254, (0, 127, 255), '"data.names={0: sky, 127: road, 255: car}"'),
    (("sky", "road", "car"), 255, (0, 38, 255), '"data.names={0: sky, 38: road, 75: car}"'),  # greys of VOC's colours
    (
        ("sky", "road", "car"),
        255,
        (0, 1, 2, 3),
        'if 0 is the background, set "data.names=[background, sky, road, car]"',
    ),
    (
        ("background", "car"),
        255,
        (0, 1, 2),
        "the names end at 1: name them all, or write 1 for every object if each has its own number",
    ),
    (("background", "person"), 255, range(9), "or write 1 for every object if each has its own number"),
    (("sky", "road", "car"), 255, (0, 10, 20), '"data.names={0: sky, 10: road, 20: car}"'),
    (("sky", "road", "car"), 255, (0, 1, 7), ""),
    (("sky", "road", "car"), 255, (0, 1, 2, 3, 4, 5), "the values reach 5, but the names end at 2: name them all"),
    (("sky", "road", "car"), 0, (1, 2, 255), ""),
    (("sky", "road"), 255, range(0, 200, 3), "masks that were resized smoothly or compressed"),
    (("sky", "road", "car"), 255, (0, 255), ""),
    (("no", "b: c"), 255, (0, 255), "\"data.names={0: no, 255: 'b: c'}\""),
    (("sky", "road", "car"), 255, (0, 1, 2, 77), ""),
    (("background", "person"), 255, ((255, 0, 0),), ""),
)


@pytest.mark.parametrize(("names", "ignore", "values", "advice"), ADVICE)
def test_the_usual_wrong_numberings_are_answered_with_the_setting(
    names: tuple[str, ...], ignore: int, values: tuple[int, ...], advice: str
) -> None:
    text = naming_advice(values, LabelSpace(names=names, ignore=ignore))
    assert advice in text
    assert bool(text) == bool(advice)


def test_greys_are_those_of_pillow() -> None:
    colors = [(0, 0, 0), (128, 0, 0), (0, 128, 0), (12, 200, 77), (255, 255, 255)]
    image = PIL.Image.fromarray(np.array([colors], np.uint8)).convert("L")
    assert [luma(color) for color in colors] == np.asarray(image)[0].tolist()


def test_values_that_someone_has_named_get_no_advice() -> None:
    assert naming_advice((0, 255), named_space({0: "a", 128: "b"}, None, None)) == ""
