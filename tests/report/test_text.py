"""Numbers and names as people read them."""

import pytest

from atrous.report import text


def test_percent() -> None:
    texts = {0: "0%", 1e-5: "<0.1%", 0.004: "0.4%", 0.0994: "9.9%", 0.0996: "10%", 1: "100%", None: text.UNKNOWN}
    assert {value: text.percent(value) for value in texts} == texts


def test_numbers_on_axes() -> None:
    texts = {0: "0", 0.25: "0.25", 1000: "1k", 12500: "12.5k", 2e6: "2M", 3e-5: "3e-5"}
    assert {value: text.number(value) for value in texts} == texts


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0, "0 s"),
        (0.4, "0 s"),
        (7, "7 s"),
        (59.6, "1 min"),
        (187, "3 min 7 s"),
        (3600, "1 h"),
        (3661, "1 h 1 min"),
        (86400 + 3600 * 5 + 59, "1 d 5 h"),
        (1000 * 86400, "1000 d"),
    ],
)
def test_durations_have_the_two_largest_units(seconds: float, expected: str) -> None:
    assert text.duration(seconds) == expected


def test_lists_are_sentences() -> None:
    letters = list("abcdefgh")
    assert [text.listed(letters[:count]) for count in (0, 1, 2, 3, 5)] == [
        "",
        "a",
        "a and b",
        "a, b and c",
        "a, b, c, d and e",
    ]
    assert text.listed(letters) == "a, b, c, d and 4 more"


def test_a_phrase_is_capitalized_unless_its_first_word_is_a_name() -> None:
    words = ["pixel accuracy", "mIoU", "mIoU of the merged map", "AP50", "PQ of things", "boundary PQ"]
    assert [text.capitalized(one) for one in words] == ["Pixel accuracy", *words[1:5], "Boundary PQ"]


def test_plurals() -> None:
    assert [text.plural(count, "image") for count in (0, 1, 2000)] == ["0 images", "1 image", "2,000 images"]
    assert text.plural(2, "class", "classes") == "2 classes"
