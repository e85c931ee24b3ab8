"""Measures of a checkout's code, to compare before and after a change: python benchmarks/code_measures.py [CHECKOUT]"""

import ast
import json
import os
import re
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, NamedTuple, TypeAlias

import typer

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("atrous", "tests", "benchmarks")
LONG = 40  # lines; a function above it needs a reason
OPTIONS = "addopts=--import-mode=importlib"  # the checkout's own could leave out the line with the number

Function: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef
Graph: TypeAlias = Mapping[str, set[str]]  # module -> the modules that it imports


class Length(NamedTuple):
    lines: int  # from `def` to the last one, blank ones and the docstring included
    name: str  # path:function


# ---- the sources


def sources(checkout: Path, part: str) -> dict[Path, str]:
    """The text of each Python file of a part, by its path in the checkout."""
    paths = sorted((checkout / part).rglob("*.py"))
    return {path.relative_to(checkout): path.read_text(encoding="utf-8") for path in paths}


def function_lengths(files: Mapping[Path, str]) -> list[Length]:
    """The shortest first. A function inside another counts in both."""
    lengths = []
    for path, text in files.items():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, Function):
                lengths.append(Length((node.end_lineno or node.lineno) - node.lineno + 1, f"{path}:{node.name}"))
    return sorted(lengths)


def count(files: Mapping[Path, str], pattern: str) -> int:
    return sum(len(re.findall(pattern, text)) for text in files.values())


def count_any(files: Mapping[Path, str]) -> int:
    """`Any` where it is used; imports of it are not counted."""
    nodes = (node for text in files.values() for node in ast.walk(ast.parse(text)))
    return sum(isinstance(node, ast.Name) and node.id == "Any" for node in nodes)


# ---- imports


def import_graph(files: Mapping[Path, str]) -> dict[str, set[str]]:
    """Which module imports which when it is loaded: imports inside functions and for type checkers are left out."""
    modules = {_module(path): text for path, text in files.items()}
    return {
        name: {target for target in _imports(ast.parse(text), modules) if target != name}
        for name, text in modules.items()
    }


def _module(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imports(tree: ast.AST, modules: Mapping[str, object]) -> Iterator[str]:
    for node in _executed(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules)
        elif isinstance(node, ast.ImportFrom) and node.module in modules:
            members = [f"{node.module}.{alias.name}" for alias in node.names]
            submodules = [member for member in members if member in modules]
            yield from submodules
            if len(submodules) < len(members):
                yield str(node.module)


def _executed(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes that run when a module is loaded."""
    for child in ast.iter_child_nodes(node):
        is_for_types = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
        if not (isinstance(child, Function | ast.Lambda) or is_for_types):
            yield child
            yield from _executed(child)


def cycles(graph: Graph) -> list[list[str]]:
    """The groups of modules that can all reach one another."""
    reach = {name: _reachable(graph, name) for name in graph}
    groups = {tuple(sorted(other for other in reach[name] if name in reach[other])) for name in graph}
    return sorted(list(group) for group in groups if len(group) > 1)


def _reachable(graph: Graph, start: str) -> set[str]:
    targets: set[str] = set()
    queue = [start]
    while queue:
        for name in graph[queue.pop()] - targets:
            targets.add(name)
            queue.append(name)
    return targets


# ---- tests


def num_tests(checkout: Path, *arguments: str) -> int | None:
    """How many tests pytest collects; None if it can't."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-o", OPTIONS, *arguments]
    result = subprocess.run(
        command, cwd=checkout, env={**os.environ, "PYTHONPATH": str(checkout)}, capture_output=True, text=True
    )
    matches = re.findall(r"^(?:(\d+)/)?(\d+) tests? collected", result.stdout, re.MULTILINE)
    return int(matches[-1][0] or matches[-1][1]) if matches else None


# ---- the command


def measures(checkout: Path) -> dict[str, object]:
    parts = {part: sources(checkout, part) for part in PARTS}
    package, everything = parts["atrous"], {path: text for files in parts.values() for path, text in files.items()}
    lengths = function_lengths(package)
    lines = [length.lines for length in lengths]
    long = [f"{length.name} {length.lines}" for length in reversed(lengths) if length.lines > LONG]
    return {
        **{f"lines, {part}": count(files, r"\n") for part, files in parts.items()},
        "files, atrous": len(package),
        "lines of the longest file, atrous": max(text.count("\n") for text in package.values()),
        "functions, atrous": len(lines),
        "function length, median": statistics.median(lines),
        "function length, 90th percentile": statistics.quantiles(lines, n=10)[-1],
        "function length, maximum": max(lines),
        f"functions over {LONG} lines, atrous": len(long),
        f"functions over {LONG} lines, by name": long,
        f"functions over {LONG} lines, tests and benchmarks": sum(
            length.lines > LONG for part in ("tests", "benchmarks") for length in function_lengths(parts[part])
        ),
        "import cycles, atrous": cycles(import_graph(package)),
        "Any, atrous": count_any(package),
        "Any, everywhere": count_any(everything),
        "type: ignore, atrous": count(package, r"#\s*type:\s*ignore"),
        "type: ignore, everywhere": count(everything, r"#\s*type:\s*ignore"),
        "tests, all": num_tests(checkout),
        "tests, fast": num_tests(checkout, "-m", "not slow"),
    }


def main(
    checkout: Annotated[Path, typer.Argument(help="the folder that holds atrous/ and tests/")] = ROOT,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    values = measures(checkout.resolve())
    if as_json:
        print(json.dumps(values, indent=1))
        return
    for name, value in values.items():
        print(f"{name:48} {value if not isinstance(value, list) else len(value)}")
        if isinstance(value, list):
            print("".join(f"    {item if isinstance(item, str) else ' '.join(item)}\n" for item in value), end="")


if __name__ == "__main__":
    typer.run(main)
