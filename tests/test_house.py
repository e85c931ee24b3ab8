"""The project's own rules that no linter knows: what a part may name, and what is stated in one place only."""

import ast
import importlib.util
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

import atrous
from atrous.commands.app import app
from atrous.data import FORMATS

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "atrous"
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
TASK_AGNOSTIC = (
    "train",
    "training",
    "evaluate",
    "predict",
    "predicting",
    "segmenter",
    "run_folder",
    "run_metrics",
    "run_opening",
    "run_state",
    "progress",
    "demo",
    "report",
)
VAGUE = {"utils", "util", "common", "core", "base", "helpers", "misc", "manager", "engine"}


def code_of(path: Path) -> str:
    """Python source without comments and docstrings; any other file as it is."""
    if path.suffix != ".py":
        return path.read_text(encoding="utf-8")
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(
            node
        ):
            node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree)


def files_of(part: str) -> list[Path]:
    module = PACKAGE / f"{part}.py"
    return (
        [module] if module.exists() else sorted(p for p in (PACKAGE / part).rglob("*") if p.suffix in (".py", ".html"))
    )


@pytest.mark.parametrize("part", TASK_AGNOSTIC)
def test_a_part_that_serves_every_task_names_none(part: str) -> None:
    """Which score is best, what is drawn and what a loss is come from TASKS."""
    files = files_of(part)
    assert files
    for path in files:
        named = re.findall(r".*(?:semantic|miou).*", code_of(path), re.IGNORECASE)
        assert not named, f"{path.relative_to(ROOT)}: {named[0].strip()}"


def test_nothing_has_a_vague_name() -> None:
    names = {path.stem for path in PACKAGE.rglob("*") if path.suffix in ("", ".py")}
    assert not names & VAGUE


def test_yaml_is_read_in_one_place() -> None:
    """The library's own readers drop keys that are given twice, and follow aliases without end."""
    texts = {path.name: path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py")}
    readers = [name for name, text in texts.items() if re.search(r"^\s*(import|from) yaml\b", text, re.MULTILINE)]
    assert readers == ["trees.py"]


def test_a_verb_is_a_file() -> None:
    verbs = {command.name or command.callback.__name__ for command in app.registered_commands if command.callback}
    for verb in verbs - {"recipes"}:  # a folder of YAML
        assert importlib.util.find_spec(f"atrous.{verb}") is not None, verb


def test_the_layouts_contract_lists_every_layout() -> None:
    contracts = {contract["name"]: contract for contract in PROJECT["tool"]["importlinter"]["contracts"]}
    listed = set(contracts["Dataset layouts don't import one another"]["modules"])
    assert listed == {".".join(layout.config.__module__.split(".")[:3]) for layout in FORMATS.values()}


def test_the_version_is_stated_once_and_cited() -> None:
    assert PROJECT["project"]["dynamic"] == ["version"]
    assert PROJECT["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "atrous.__version__"}
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == atrous.__version__


def test_every_tool_is_pinned() -> None:
    pins = set(re.findall(r"^([\w-]+)(?:==|>=.*<)", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    wanted = PROJECT["project"]["optional-dependencies"]["dev"]
    tools = {name.partition(";")[0] for name in wanted if not name.startswith("atrous")}
    assert tools | {"torch"} <= pins


def test_the_changelog_begins_with_what_is_unreleased() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    sections = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert sections[0] == "[Unreleased]"
    kinds = set(re.findall(r"^### (.*)$", text, re.MULTILINE))
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security", "Not yet"}


def test_continuous_integration_runs_the_projects_own_script() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yaml").read_text())
    assert {"run": ".ci/run"} in workflow["jobs"]["run"]["steps"]
