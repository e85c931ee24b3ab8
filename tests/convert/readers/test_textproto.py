"""Protobuf's text format: what is read, and lines of what is not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atrous.convert.readers.textproto import MAX_DEPTH, Message, Word, parse
from atrous.errors import ConfigError


def plain(message: Message) -> dict[str, list[object]]:
    """Without line numbers."""
    return {
        name: [plain(node.value) if isinstance(node.value, dict) else node.value for node in nodes]
        for name, nodes in message.items()
    }


VALUES: list[tuple[str, object]] = [
    ("5", 5),
    ("-5", -5),
    ("- 5", -5),
    ("0x1F", 31),
    ("017", 15),
    ("1.5", 1.5),
    ("1.5f", 1.5),
    ("1e-3", 1e-3),
    (".5", 0.5),
    ("2.", 2.0),
    ("-inf", float("-inf")),
    ("true", Word("true")),
    ("SOME_ENUM", Word("SOME_ENUM")),
    ('"text"', "text"),
    ("'text'", "text"),
    ("'one' \"two\"\n'three'", "onetwothree"),
    (r'"\n\t\\\"\'\x41\101\u00e9"', "\n\t\\\"'AAé"),
    ('"# no comment"', "# no comment"),
]


@pytest.mark.parametrize(("text", "value"), VALUES)
def test_values(text: str, value: object) -> None:
    read = plain(parse(f"a: {text}", "x"))["a"]
    assert read == [value]
    assert type(read[0]) is type(value)


def test_messages_lists_and_separators() -> None:
    text = "# first\na { b: 1; c: 2, } a: < b: 3 > # last\nd: [1, 2] d: 3 e: [{ b: 4 }, < b: 5 >] f {} g: []"
    assert plain(parse(text, "x")) == {
        "a": [{"b": [1], "c": [2]}, {"b": [3]}],
        "d": [1, 2, 3],
        "e": [{"b": [4]}, {"b": [5]}],
        "f": [{}],
        "g": [],
    }
    assert parse("", "x") == {}


def test_values_know_their_lines() -> None:
    message = parse("a: 1\n\nb {\n  c: 'x'\n}", "x")
    (outer,) = message["b"]
    assert (message["a"][0].line, outer.line) == (1, 3)
    assert isinstance(outer.value, dict)
    assert outer.value["c"][0].line == 4


WRONG = {
    "a {\n b: 1": "line 2: expected '}', got the end of the text",
    "a <": "line 1: expected '>', got the end of the text",
    "a: 1 }": "line 1: expected the name of a field, got '}'",
    "a < b: 1 }": "line 1: expected the name of a field, got '}'",
    "\n\na": "line 3: expected ':' or '{', got the end of the text",
    "a 1": "line 1: expected ':' or '{', got '1'",
    "a:": "line 1: expected a value, got the end of the text",
    "a: ]": "line 1: expected a value, got ']'",
    "a: [1 2]": "line 1: expected ',' or ']', got '2'",
    "a: [1, 2": "line 1: expected ',' or ']', got the end of the text",
    "1: 2": "line 1: expected the name of a field, got '1'",
    "[a.b]: 2": "line 1: expected the name of a field, got '['",
    "a: 1.2.3": "line 1: '1.2.3' is not part of protobuf's text format",
    'a: "x': "line 1: '\"x' is not part",
    'a: "x\n"': "line 1: '\"x' is not part",
    r"a: '\q'": r"line 1: expected a known escape, got",
    r"a: '\Uffffffff'": r"line 1: expected a character, got",
    "a {" * (MAX_DEPTH + 1): f"line 1: messages are nested deeper than {MAX_DEPTH}",
}


@pytest.mark.parametrize(("text", "reason"), WRONG.items())
def test_what_is_refused(text: str, reason: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse(text, "my.textproto")
    assert str(error.value).startswith(f"my.textproto: {reason}")
    assert "\n" not in str(error.value)


@given(st.text(alphabet="ab{}<>[]:;,.\"'\\#\n 0123-x", max_size=60))
def test_any_text_is_read_or_refused_in_one_line(text: str) -> None:
    try:
        parse(text, "x")
    except ConfigError as error:
        assert "\n" not in str(error)
