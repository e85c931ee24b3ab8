"""Protobuf's text format, `name: value` and `name { ... }`, without a schema: messages as fields with their lines."""

import re
from collections.abc import Iterator
from typing import NamedTuple, TypeAlias

from atrous.errors import ConfigError

MAX_DEPTH = 32  # of messages in messages
TOKEN = re.compile(
    r"""(?P<space>\s+|\#[^\n]*)
    |(?P<text>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')
    |(?P<number>-?\s*(?:0[xX][0-9a-fA-F]+|(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?[fF]?|inf(?:inity)?\b|nan\b)(?![\w.]))
    |(?P<name>[A-Za-z_]\w*)
    |(?P<sign>[{}<>:;,\[\]])""",
    re.VERBOSE,
)
CLOSING = {"{": "}", "<": ">"}
ESCAPE = re.compile(r"\\(?:([0-7]{1,3})|[xX]([0-9a-fA-F]{1,2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(.))")
LETTERS = {"n": "\n", "t": "\t", "r": "\r", "a": "\a", "b": "\b", "f": "\f", "v": "\v"}
PLAIN = "\\'\"?"


class Node(NamedTuple):
    """A value, where a field has one; `Word` for what is neither quoted nor a number: an enum, a boolean."""

    value: "str | int | float | Word | Message"
    line: int


class Word(str):
    __slots__ = ()


Message: TypeAlias = dict[str, list[Node]]  # all values of each field, in their order


class Token(NamedTuple):
    kind: str  # a group of TOKEN; end: after the last one
    text: str
    line: int


def parse(text: str, label: str) -> Message:
    """Raises ConfigError, in one line that names the line of the text, for anything that is not the format."""
    tokens = Tokens(text, label)
    message = _message(tokens, "", 0)
    if tokens.next.kind != "end":
        raise tokens.wrong("a field", tokens.next)
    return message


class Tokens:
    """The tokens of a text, one of them seen ahead."""

    def __init__(self, text: str, label: str) -> None:
        self.label, self._rest = label, _tokens(text, label)
        self.next = next(self._rest)

    def take(self) -> Token:
        token = self.next
        if token.kind != "end":
            self.next = next(self._rest)
        return token

    def take_sign(self, signs: str) -> str:
        """The next sign if it is one of these, else nothing."""
        return self.take().text if self.next.kind == "sign" and self.next.text in signs else ""

    def wrong(self, expected: str, token: Token) -> ConfigError:
        what = "the end of the text" if token.kind == "end" else repr(token.text[:40])
        return ConfigError(f"{self.label}: line {token.line}: expected {expected}, got {what}")


def _tokens(text: str, label: str) -> Iterator[Token]:
    at, line = 0, 1
    while at < len(text):
        match = TOKEN.match(text, at)
        if match is None:
            word = text[at : at + 20].split()[0]
            raise ConfigError(f"{label}: line {line}: {word!r} is not part of protobuf's text format")
        if match.lastgroup != "space":
            yield Token(str(match.lastgroup), match[0], line)
        line += match[0].count("\n")
        at = match.end()
    yield Token("end", "", line)


def _message(tokens: Tokens, closing: str, depth: int) -> Message:
    """The fields up to the closing sign, which is taken, or up to the end."""
    message: Message = {}
    while tokens.next.kind != "end" and not tokens.take_sign(closing):
        name = tokens.take()
        if name.kind != "name":
            raise tokens.wrong("the name of a field", name)
        message.setdefault(name.text, []).extend(_values(tokens, depth))
        tokens.take_sign(";,")
        if closing and tokens.next.kind == "end":
            raise tokens.wrong(f"{closing!r}", tokens.next)
    return message


def _values(tokens: Tokens, depth: int) -> list[Node]:
    """One value, or those of a list in brackets."""
    has_colon, line = tokens.take_sign(":"), tokens.next.line
    if opening := tokens.take_sign("{<"):
        return [_nested(tokens, opening, line, depth)]
    if not has_colon:
        raise tokens.wrong("':' or '{'", tokens.next)
    if not tokens.take_sign("["):
        return [_scalar(tokens)]
    values: list[Node] = []
    while not tokens.take_sign("]"):
        if values and not tokens.take_sign(","):
            raise tokens.wrong("',' or ']'", tokens.next)
        opening = tokens.take_sign("{<")
        values.append(_nested(tokens, opening, tokens.next.line, depth) if opening else _scalar(tokens))
    return values


def _nested(tokens: Tokens, opening: str, line: int, depth: int) -> Node:
    if depth >= MAX_DEPTH:
        raise ConfigError(f"{tokens.label}: line {line}: messages are nested deeper than {MAX_DEPTH}")
    if tokens.next.kind == "end":
        raise tokens.wrong(repr(CLOSING[opening]), tokens.next)
    return Node(_message(tokens, CLOSING[opening], depth + 1), line)


def _scalar(tokens: Tokens) -> Node:
    token = tokens.take()
    if token.kind == "number":
        return Node(_number(token.text), token.line)
    if token.kind == "name":
        return Node(Word(token.text), token.line)
    if token.kind != "text":
        raise tokens.wrong("a value", token)
    text = _unescaped(tokens, token)
    while tokens.next.kind == "text":  # strings beside one another are one string
        text += _unescaped(tokens, tokens.take())
    return Node(text, token.line)


def _number(text: str) -> int | float:
    text = "".join(text.split()).lower()
    if "0x" in text:
        return int(text, 16)
    if re.fullmatch(r"-?0[0-7]+", text):
        return int(text, 8)
    return int(text) if re.fullmatch(r"-?\d{1,20}", text) else float(text if "inf" in text else text.rstrip("f"))


def _unescaped(tokens: Tokens, token: Token) -> str:
    def character(match: re.Match[str]) -> str:
        octal, short, four, eight, letter = match.groups()
        if letter is not None:
            if letter not in LETTERS and letter not in PLAIN:
                raise tokens.wrong("a known escape", token._replace(text=match[0]))
            return LETTERS.get(letter, letter)
        number = int(octal, 8) if octal else int(short or four or eight, 16)
        if number > 0x10FFFF:
            raise tokens.wrong("a character", token._replace(text=match[0]))
        return chr(number)

    return ESCAPE.sub(character, token.text[1:-1])
