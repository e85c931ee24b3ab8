"""What the README and docs/ tell people to type works: commands and Python are run, in order, on small data.

A page is run in a folder that has what its reader has (MYDATA, photos/, a trained run). `QUICK` makes commands small.
What needs other people's data or a download is only checked: the command's options and settings must exist.
"""

import ast
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import typer

import atrous
from atrous import cli
from atrous import config as configs
from atrous.commands.app import app
from atrous.config import Config
from atrous.data.ade20k import ADE20K
from atrous.data.cityscapes import CITYSCAPES
from atrous.data.coco_panoptic import COCO_PANOPTIC
from atrous.data.voc import VOC
from atrous.settings import Settings
from atrous.tasks import TASKS
from tests.conftest import SMALL_MODEL, SMALL_PANOPTIC, save, write_folder_data

ROOT = Path(__file__).parents[1]
GUIDES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
RESULTS = sorted((ROOT / "docs" / "results").glob("*.md"))
PAGES = [*GUIDES, ROOT / "CHANGELOG.md", *RESULTS]
RECIPE = "folder/deeplab_v3plus"

SMALL_RUN = ("augment.crop=33,49", "train.batch=2", "train.steps=2", "train.eval_every=2")
QUICK = {
    "train": (*SMALL_MODEL, *SMALL_RUN, "--workers", "0", "--device", "cpu"),
    "evaluate": ("--workers", "0", "--device", "cpu"),
    "predict": ("--device", "cpu"),
}
QUICK_PANOPTIC = (*SMALL_PANOPTIC, *SMALL_RUN, *QUICK["evaluate"])  # to train
NOT_RUN = {  # a part of the command: why it is only checked
    "convert ": "needs weights of other people",
    "atrous demo": "takes minutes; tests/test_demo.py runs it",
    "atrous bench": "measures for minutes; tests/test_bench.py runs it",
    "atrous plan": "measures for minutes; tests/test_plan.py runs it",
    "NAME.safetensors": "needs a download",
    "=imagenet.safetensors": "needs weights of other people",
    "VOCdevkit": "needs PASCAL VOC",
    "timm:": "the weights must be fetched",
    "train RECIPE": "stands for any recipe",
    "torchrun ": "starts many processes",
    "mosaic.tif": "needs a large image",
    "--bands ": "needs a raster of many bands",
    "--engine ray": "starts many processes; tests/engines runs it",
    "--runtime ": "exports into the user's cache; tests/runtimes/test_exports.py runs it",
    "--truth ": "needs predictions in COCO's format",
    "predictions.json": "needs predictions in COCO's format",
}
ELSEWHERE = {ROOT / "docs" / "converting.md": ROOT / "tests" / "convert" / "test_converting_page.py"}  # what runs it
OFFICIAL_IMAGES = (  # by the names that benchmarks give them
    "val2017/000000142238.jpg",
    "val2017/000000439180.jpg",
    "leftImg8bit/test/berlin/berlin_000000_000019_leftImg8bit.png",
    "JPEGImages/2008_000006.jpg",
    "testing/ADE_test_00000001.jpg",
)
STAND_INS = {"RECIPE": RECIPE, "mine.yaml": RECIPE, "runs/mine/config.yaml": RECIPE}  # for files that aren't there


class Block(NamedTuple):
    language: str
    text: str
    is_run: bool


def blocks(page: Path) -> Iterator[Block]:
    """The fenced blocks of a page; `<!-- not run: why -->` in the line before one excepts it."""
    pattern = r"^(<!-- not run: .+ -->\n)?```(\w*)\n(.*?)^```$"
    for note, language, text in re.findall(pattern, page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
        yield Block(language, text, is_run=not note)


def commands(text: str) -> Iterator[str]:
    """The commands in a block: comments removed, continued lines joined, `[optional parts]` included."""
    for line in text.replace("\\\n", " ").splitlines():
        words = re.sub(r"(?<=\s)\[(.*)\]$", r"\1", line.strip())
        if re.match(r"([A-Z_]+=\S+ )?(atrous|make|pip|torchrun|python|\.venv/bin/\w+) ", words):
            yield shlex.join(shlex.split(words, comments=True))


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


# ---- run


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a reader has: a dataset, photographs, a trained run, and converted weights."""
    place = tmp_path_factory.mktemp("reader")
    write_folder_data(place / "MYDATA")
    shutil.copytree(place / "MYDATA", place / "OTHER")
    photo = np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)
    for path in ("street.jpg", "photos/a.jpg", "photos/b.jpg"):
        save(place / path, photo)
    for path in OFFICIAL_IMAGES:
        save(place / path, photo)
    config = configs.load(RECIPE, [*SMALL_MODEL, "data.root=MYDATA"])
    panoptic = configs.load("synthetic/panoptic_demo", SMALL_PANOPTIC)
    for name, space in {"voc": VOC, "ade20k": ADE20K}.items():
        atrous.create(config.model, label_space=space).save(place / f"{name}.safetensors")
    for name, space in {"cityscapes": CITYSCAPES, "coco": COCO_PANOPTIC}.items():
        atrous.create(panoptic.model, label_space=space).save(place / f"{name}.safetensors")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        assert cli.run(["train", RECIPE, "data.root=MYDATA", *QUICK["train"], "--out", "runs/mine"]) == 0
    return place


@pytest.mark.usefixtures("timm")
@pytest.mark.parametrize("page", [page for page in GUIDES if page not in ELSEWHERE and any(blocks(page))], ids=name_of)
def test_a_page_can_be_followed(
    page: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for block in blocks(page):
        if block.language == "python":
            code = compile(block.text, name_of(page), "exec")
            if block.is_run:
                exec(code, names)
        elif block.language == "":
            for command in commands(block.text):
                follow(command, capsys)


def follow(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Run an `atrous` command with what QUICK adds; check one that can't be run here, or is of another program."""
    if not command.startswith("atrous ") or any(part in command for part in NOT_RUN):
        check(command)
        return
    _, verb, *words = shlex.split(command)
    words, target = (words[: words.index(">")], Path(words[-1])) if ">" in words else (words, None)
    if "--out" in words and "--resume" not in words:
        shutil.rmtree(words[words.index("--out") + 1], ignore_errors=True)  # a reader starts afresh
    capsys.readouterr()
    quick = QUICK_PANOPTIC if verb == "train" and any("panoptic" in word for word in words) else QUICK.get(verb, ())
    code = cli.run([verb, *words, *quick])
    output = capsys.readouterr()
    assert code == 0, f"{command}: {output.err}"
    if target is not None:
        target.write_text(output.out)


def test_pages_that_are_run_elsewhere_are() -> None:
    for page, test in ELSEWHERE.items():
        assert name_of(page) in test.read_text(encoding="utf-8")


def test_a_run_writes_the_files_that_its_page_lists(trained: Path) -> None:
    table = (ROOT / "docs" / "training.md").read_text(encoding="utf-8").partition("## What a run writes")[2]
    names = re.findall(r"^\| `(\S+)` \|", table.partition("\n## ")[0], re.MULTILINE)
    assert names
    missing = [name for name in names if not (trained / "runs" / "mine" / name).exists()]
    assert not missing


# ---- checked only


@pytest.mark.parametrize("page", RESULTS, ids=name_of)
def test_the_commands_of_results_are_still_right(page: Path) -> None:
    for block in blocks(page):
        for command in commands(block.text):
            check(command)


def check(command: str) -> None:
    """Its options, settings, files and targets exist. Raises or asserts where one doesn't."""
    program, *words = [word for word in shlex.split(command) if not re.fullmatch(r"[A-Z_]+=\S+", word)]
    if program == "torchrun":
        program, *words = words[words.index("atrous") :]
    if program == "atrous":
        check_settings(*words)
    elif program == "make":
        targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert words[0] in targets, command
    else:
        files = [word for word in words if word.endswith((".py", ".txt")) or word.startswith("tests/")]
        missing = [name for name in files if not (ROOT / name).exists()]
        assert not missing, command


def check_settings(verb: str, *words: str) -> None:
    group = typer.main.get_command(app)
    context = group.commands[verb].make_context(verb, list(words))  # type: ignore[attr-defined]
    settings = context.params.get("overrides") or []
    source = context.params.get("recipe", RECIPE)
    if verb in ("train", "evaluate", "plan"):
        configs.load(STAND_INS.get(source, source), [*settings])


# ---- the tables of settings


def documented() -> dict[str, str]:
    """The default of each setting, from the tables of docs/ that people wrote; settings.md has a test of its own."""
    row = r"^\| `((?:data|augment|loss|decode|optim|train|evaluate)\.\w+)` \| (.*?) ?\| .+\|$"
    pages = [page for page in GUIDES if page.name != "settings.md"]
    rows = [match for page in pages for match in re.findall(row, page.read_text(encoding="utf-8"), re.MULTILINE)]
    assert len(dict(rows)) == len(rows), "a setting is listed twice"
    return dict(rows)


def test_every_setting_is_documented() -> None:
    settings = set()
    for recipe, overrides in ((RECIPE, ["data.root=MYDATA"]), ("synthetic/panoptic_demo", [])):
        tree = configs.to_tree(configs.load(recipe, overrides))
        own = () if recipe == RECIPE else ("loss", "decode")  # of the other task
        settings |= {f"{section}.{name}" for section in own or tree.keys() - {"model"} for name in tree[section]}
    of_folder = {f"data.{name}" for name in ("colors", "color_map", "images", "masks", "instances")}
    assert settings - of_folder == set(documented()) - of_folder


def test_documented_defaults_are_the_defaults() -> None:
    sections = [{"loss": task.loss(), "decode": task.decoding()} for task in TASKS.values()]
    for key, text in documented().items():
        section, name = key.split(".")
        values = [Config.model_fields[section].default, *(own[section] for own in sections if section in own)]
        values = [value for value in values if isinstance(value, Settings)]  # not of `data`: it depends on the layout
        own_values = {as_documented(getattr(value, name)) for value in values if hasattr(value, name)}
        assert own_values <= {text}, key


def as_documented(value: object) -> str:
    if value is None or isinstance(value, bool):
        return {None: "none", True: "true", False: "false"}[value]
    if isinstance(value, tuple):
        return ", ".join(map(as_documented, value))
    if isinstance(value, float):
        return f"{value:g}"
    return "" if value == {} else str(value)


# ---- the tables of errors


def test_documented_errors_exist() -> None:
    """`... the mask is RGB ...` stands for any message with these words."""
    messages = "\n".join(message for path in (ROOT / "atrous").rglob("*.py") for message in texts(path))
    for page in GUIDES:
        table = page.read_text(encoding="utf-8").partition("## Errors")[2]
        for row in re.findall(r"^\| `(.+?)` \|", table, re.MULTILINE):
            parts = [part.strip() for part in row.split("...") if part.strip()]
            missing = [part for part in parts if part not in messages]
            assert not missing, f"{page.name}: no message has {missing[0]!r}"


def texts(path: Path) -> Iterator[str]:
    """The string literals of a module, with what is written in one piece joined; a placeholder is a space."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else " " for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


# ---- links


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_page_is_in_the_index() -> None:
    for folder in (ROOT / "docs", ROOT / "docs" / "results"):
        index = (folder / "README.md").read_text(encoding="utf-8")
        for page in folder.glob("*.md"):
            assert page.name == "README.md" or f"({page.name})" in index, page.name
