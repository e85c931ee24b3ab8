"""Configs that are Python text, as OpenMMLab's programs have them: read, never run."""

import ast
from collections.abc import Callable
from typing import Any, cast

from atrous.convert.readers.damage import DamagedError

MAX_CHARACTERS = 2**18
DAMAGE = (SyntaxError, ValueError, RecursionError, MemoryError)  # of Python's own parser


def assignments(text: str) -> dict[str, Any]:
    """The values of names that stand for literals and calls of `dict`, lists as tuples; others are left out.

    Raises DamagedError for what is no Python.
    """
    if len(text) > MAX_CHARACTERS:
        raise DamagedError(f"a config of more than {MAX_CHARACTERS} characters")
    try:
        lines = ast.parse(text).body
    except DAMAGE as error:
        raise DamagedError("a config that is no Python") from error
    pairs = ((line.targets[0], line.value) for line in lines if isinstance(line, ast.Assign))
    return {target.id: value for target, node in pairs if isinstance(target, ast.Name) for value in _values(node)}


def _values(node: ast.expr) -> list[Any]:
    try:
        return [_value(node)]
    except (ValueError, RecursionError):
        return []


def _value(node: ast.expr) -> Any:  # noqa: ANN401
    return READERS.get(type(node), _other)(node)


def _sequence(node: ast.expr) -> tuple[Any, ...]:
    return tuple(_value(one) for one in cast(ast.List | ast.Tuple, node).elts)


def _call(node: ast.expr) -> dict[str, Any]:
    call = cast(ast.Call, node)
    if not isinstance(call.func, ast.Name) or call.func.id != "dict" or call.args:
        raise ValueError("a call of something else than dict")
    return {one.arg: _value(one.value) for one in call.keywords if one.arg}


def _mapping(node: ast.expr) -> dict[Any, Any]:
    tree = cast(ast.Dict, node)
    return {_hashable(key): _value(value) for key, value in zip(tree.keys, tree.values, strict=True) if key}


def _hashable(node: ast.expr) -> object:
    if not isinstance(node, ast.Constant):
        raise ValueError("a key that is no text and no number")
    return node.value


def _other(node: ast.expr) -> object:
    return ast.literal_eval(node)


READERS: dict[type[ast.expr], Callable[[ast.expr], Any]] = {
    ast.List: _sequence,
    ast.Tuple: _sequence,
    ast.Call: _call,
    ast.Dict: _mapping,
}
