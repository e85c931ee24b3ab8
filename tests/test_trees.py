"""YAML and JSON of others become plain values, or are refused in one line, in an instant."""

import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from atrous.trees import MAX_BYTES, TreeError, decoded, parse_json, parse_yaml, read_yaml, to_yaml

BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]\n" for level in range(1, 12)
)
CHAIN = "a0: &a0 [x]\n" + "".join(
    f"a{level}: &a{level} [*a{level - 1}]\n" for level in range(1, 60)
)  # nests by aliases


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        ("", None),
        ("# nothing\n", None),
        ("a: 1\r\nb: {c: [2, x]}\r\n", {"a": 1, "b": {"c": [2, "x"]}}),
        ("[yes, no, on, off, y, n]", ["yes", "no", "on", "off", "y", "n"]),
        ("[true, False, null, ~]", [True, False, None, None]),
        ("[010, 0x10, 0o7, 1:30, 1_000]", [10, "0x10", "0o7", "1:30", 1000]),
        ("[1e-3, 1E5, .5, 1., -2.5e+3, -.inf]", [0.001, 1e5, 0.5, 1.0, -2500.0, -math.inf]),
        ("[2024-01-01, 2024-99-99, 12:30:00, =]", ["2024-01-01", "2024-99-99", "12:30:00", "="]),
        ("['1', \"true\", !!str 5]", ["1", "true", "5"]),
        ("{1: x, yes: z}", {1: "x", "yes": "z"}),
        ("a: &x [1, 2]\nb: *x", {"a": [1, 2], "b": [1, 2]}),
        ("a: &x {b: 1, c: 2}\nd: {<<: *x, c: 3}", {"a": {"b": 1, "c": 2}, "d": {"b": 1, "c": 3}}),
        ("- &x {b: 1}\n- &y {b: 2, d: 3}\n- {<<: [*x, *y]}", [{"b": 1}, {"b": 2, "d": 3}, {"b": 1, "d": 3}]),
        ("'<<': 1", {"<<": 1}),
    ],
)  # fmt: skip
def test_values_have_the_types_of_yaml_1_2(text: str, tree: object) -> None:
    assert parse_yaml(text) == tree


@pytest.mark.timeout(60)  # it takes milliseconds
@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a: 1\nb: 2\na: 3", "line 3: 'a' is given twice, first in line 1"),
        ("a:\n  b: {c: 1,\n      c: 1}", "line 3: 'c' is given twice, first in line 2"),
        ("- x\n- {1: a, 01: b}", "line 2: 1 is given twice, first in line 2"),
        ("a: {<<: {b: 1}, <<: {c: 1}}", "line 1: '<<' is given twice"),
        ("a: 1\nb: [", "line 2: not YAML: did not find expected node content"),
        ("a:\n\tb: 1", "line 2: not YAML: indented with a tab; use spaces"),
        ("a: 1\nb: \0", r"line 2: not YAML: it has the control character '\x00'"),
        ("a: \udcff", r"line 1: not YAML: it has the control character '\udcff'"),
        ("a: b: c", "line 1: not YAML: mapping values are not allowed in this context"),
        ("a: 'b\n\n", "line 2: not YAML: found unexpected end of stream while scanning a quoted scalar that begins in"),
        ("a: 1\n---\nb: 2", "line 2: a second document begins; expected one"),
        ("{[1]: 2}", "line 1: a key must be text or a number, not a list or a mapping"),
        ("a: *b", "line 1: *b has no &b before it"),
        ("a: &a [*a]", "line 1: *a has no &a before it"),
        ("<<: 5", "line 1: << must be followed by mappings"),
        ("a: !!python/object/apply:os.getcwd []", "line 1: not YAML of plain values"),
        ("a: !!binary aGk=", "line 1: not YAML of plain values"),
        ("a: !!int x", "line 1: 'x' is not of type"),
        ("a: 1\nb: " + "9" * 5000, "line 2: a number of 5000 digits is too large"),
        ("[" * 100_000, "nesting"),
        ("- " * 1000, "line 1: more than 32 levels of nesting"),
        ("{a: " * 40, "line 1: more than 32 levels of nesting"),
        (BOMB, "more than 50000 values"),
        (CHAIN, "more than 32 levels of nesting"),
        ("[" + "1," * 400_000 + "]", "more than 50000 values"),
    ],
)  # fmt: skip
def test_what_is_not_sound_is_refused_in_one_line_at_once(text: str, reason: str) -> None:
    with pytest.raises(TreeError) as error:
        parse_yaml(text)
    assert reason in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 200


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_a_file_in_any_unicode_encoding_is_read(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "a.yaml").write_bytes("name: Straße\r\nwater: 水\r\n".encode(encoding))
    assert read_yaml(tmp_path / "a.yaml") == {"name": "Straße", "water": "水"}


def test_another_encoding_and_a_file_too_large_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TreeError, match=r"^line 2: not UTF-8 text \(byte 0xdf\); save the file as UTF-8$"):
        decoded("a: 1\nname: Straße".encode("latin-1"))
    with pytest.raises(TreeError, match="line 1: not UTF-16"):
        decoded(b"\xff\xfea")
    (tmp_path / "a.yaml").write_bytes(b"#" * (MAX_BYTES + 1))
    with pytest.raises(TreeError, match="larger than 1 MiB"):
        read_yaml(tmp_path / "a.yaml")


TEXTS = st.one_of(
    st.text(max_size=8), st.from_regex(r"[-+.0-9e_:]{1,8}", fullmatch=True), st.sampled_from(["yes", "~"])
)
TREES = st.recursive(
    st.one_of(TEXTS, st.integers(), st.floats(allow_nan=False), st.booleans(), st.none()),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXTS, inner, max_size=4)),
    max_leaves=12,
)


@given(TREES)
@settings(max_examples=200, deadline=None)
def test_a_tree_survives_yaml_and_readers_of_yaml_1_1_agree(tree: Any) -> None:  # noqa: ANN401
    assert parse_yaml(to_yaml(tree)) == tree
    assert yaml.safe_load(to_yaml(tree)) == tree


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[" * 100_000, "more than 32 levels of nesting"),
        ("[" * 40 + "]" * 40, "more than 32 levels of nesting"),
        ("9" * 5000, "not JSON: "),
        ("{", "not JSON: "),
        ("", "not JSON: "),
        ('{"a": 1, "b": {"c": 2, "c": 2}}', "'c' is given twice"),
    ],
)
def test_json_is_bounded_too(text: str, reason: str) -> None:
    with pytest.raises(TreeError) as error:
        parse_json(text)
    assert reason in str(error.value)
    assert "\n" not in str(error.value)


def test_sound_json_is_read() -> None:
    assert parse_json('{"a": [1, 2.5, null, {"b": true}]}') == {"a": [1, 2.5, None, {"b": True}]}
