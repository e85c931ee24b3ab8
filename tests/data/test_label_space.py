"""What a label space says of its classes, beyond what it stores."""

import pytest

from atrous.data.label_space import LabelSpace

GREY = (90, 90, 90)


@pytest.mark.parametrize(
    ("names", "colors", "background"),
    [
        (("background", "cat"), (), (0,)),
        (("__background__", "cat"), (GREY, (1, 1, 1)), (0,)),
        (("Void", "cat"), (GREY, (1, 1, 1)), (0,)),
        (("unlabelled", "cat"), (GREY, (1, 1, 1)), (0,)),
        (("cat", "background"), (GREY, (1, 1, 1)), ()),
        (("cat", "dog"), (GREY, (0, 0, 0)), (1,)),
        (("road", "background road"), (GREY, (1, 1, 1)), ()),
        (("road", "car"), (), (0,)),  # VOC's first colour is black
        (("背景", "car"), (GREY, (1, 1, 1)), ()),
    ],
)
def test_background_is_black_or_a_first_class_named_for_nothing(
    names: tuple[str, ...], colors: tuple[tuple[int, int, int], ...], background: tuple[int, ...]
) -> None:
    assert LabelSpace(names=names, colors=colors).background == background
