"""benchmarks/code_measures.py on a package of three files."""

from pathlib import Path

from benchmarks.code_measures import count_any, cycles, function_lengths, import_graph

FILES = {
    Path("p/__init__.py"): "",
    Path("p/a.py"): "from typing import Any\nfrom p import b\n\ndef short(x: Any) -> None:\n    import p.d\n",
    Path("p/b.py"): "import p.c\n",
    Path("p/c.py"): "from p.a import short\n\ndef long() -> list[int]:\n    return [\n        1,\n    ]\n",
    Path("p/d.py"): "from p.a import short\n",
}


def test_functions_are_measured_from_def_to_their_last_line() -> None:
    assert function_lengths(FILES) == [(2, "p/a.py:short"), (4, "p/c.py:long")]


def test_cycles_are_those_of_imports_at_loading_time() -> None:
    graph = import_graph(FILES)
    assert graph == {"p": set(), "p.a": {"p.b"}, "p.b": {"p.c"}, "p.c": {"p.a"}, "p.d": {"p.a"}}
    assert cycles(graph) == [["p.a", "p.b", "p.c"]]
    assert cycles({**graph, "p.c": set()}) == []


def test_the_import_of_any_is_not_a_use_of_it() -> None:
    assert count_any(FILES) == 1
