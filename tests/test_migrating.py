"""docs/migrating.md has every option of the originals, and what it says to set can be set."""

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import typer

from atrous import config as configs
from atrous import other_words
from atrous.commands.app import app
from atrous.config import Config
from atrous.errors import ConfigError
from tests.conftest import SHARED

PAGE = Path(__file__).parents[1] / "docs" / "migrating.md"
SPECS = SHARED / "specs"
NAME = r"[a-z][a-z0-9]*(?:_[a-z0-9]+)*"
FOLDER, PANOPTIC = "folder/deeplab_v3plus", "synthetic/panoptic_demo"
CONTEXTS = (  # that a setting may need: a model, a layout, a file
    (FOLDER,),
    (PANOPTIC,),
    (FOLDER, "train.init=model.safetensors"),
    (FOLDER, "data.format=list"),
    *((FOLDER, f"model.backbone={name}") for name in ("resnet50", "pnasnet", "wide_resnet41")),
    *((FOLDER, f"model.name={name}") for name in ("deeplab_v2", "pspnet", "psanet")),
    (FOLDER, "model.image_pyramid=0.5,1"),
    (FOLDER, "model.output_stride=8"),
    (FOLDER, "augment.resize_min=513"),
    (PANOPTIC, "augment.padding=random"),
)
SECTIONS = {  # of the specification: of the page
    "## 3.1": "### Flags of all programs",
    "## 3.2": "### train.py",
    "## 3.3": "### eval.py",
    "## 3.4": "### vis.py",
}
AMBIGUOUS = ("dataset", "atrous_rates", "weight")  # other programs mean a folder, another model, a file
needs_specs = pytest.mark.skipif(not SPECS.exists(), reason="the specifications of the originals are not here")


def section(page: Path, start: str, end: str) -> str:
    """The lines from the one that begins with `start` to the one that begins with `end`."""
    text = page.read_text(encoding="utf-8")
    return text[text.index(f"\n{start}") : text.index(f"\n{end}")]


def names_in_list(text: str) -> Iterator[str]:
    """`a 1; b, c required` are three names with their defaults."""
    for piece in re.split(r"[;,]", text):
        match = re.match(rf"\s*({NAME})\b", piece)
        if match and match[1] not in ("required", "fork"):
            yield match[1]


def names_of_tensorflow(start: str, end: str) -> set[str]:
    """Of tables 3.1 to 3.3, and of the text of 3.4."""
    text = section(SPECS / "tf-deeplab.md", start, end)
    rows = [row for row in re.findall(r"^\| (.+?) \|", text, re.MULTILINE) if row != "flag"]
    rows = rows or [text.partition("plus:")[2].partition("Output folders")[0]]
    return {name for row in rows for name in names_in_list(row)}


def names_of_deeplab2() -> set[str]:
    """The fields of the messages in 5.1, and the flags in 5.2; quoted words are values."""
    text = section(SPECS / "deeplab2.md", "### 5.1", "Rules:").partition("\n### ")[2].partition("\n")[2]
    text = re.sub(r"kMaX is selected.*|'[^']*'|\*\*\w+\*\*", "", text)
    flags = re.findall(r"--(\w+)", section(SPECS / "deeplab2.md", "### 5.2", "### 5.3"))
    names = set(re.findall(rf"(?<![\w…]){NAME}\b(?!-)", text))
    return (names | set(flags)) - {"true", "false", "oneof", "global", "h", "w"}


def names_of_semseg() -> set[str]:
    text = re.sub(r"\(.*?\)|\[.*?\]", "", section(SPECS / "semseg.md", "Common to all", "Iterations implied"))
    lists = re.findall(r"^(?:TRAIN|Distributed|TEST|psanet only): (.*)$", text, re.MULTILINE)
    lists += re.findall(r"^(arch = .*?)\. Branch", text, re.MULTILINE)
    lists += re.findall(r"additionally: (.*?)\.", text)
    names = {name for line in lists for name in names_in_list(line)}
    rows = " ".join(re.findall(r"^\| ([a-z].*?) \|", text, re.MULTILINE))
    return (names | set(re.findall(NAME, rows)) | {"mask_w"}) - {"key", "same", "psp", "psa"}


# ---- the page


def rows(text: str) -> list[tuple[str, str, str]]:
    """Theirs, ours, and what differs."""
    found: list[tuple[str, str, str]] = re.findall(r"^\| (`.*?) \| (.*?) \| (.*?) \|$", text, re.MULTILINE)
    return found


def theirs(text: str) -> set[str]:
    return {name for one, _, _ in rows(text) for name in re.findall(rf"`({NAME})`", one)}


def page_section(title: str) -> str:
    """From a heading to the next one of its level."""
    text = PAGE.read_text(encoding="utf-8").partition(f"\n{title}\n")[2]
    return re.split(rf"\n#{{2,{title.index(' ')}}} ", text)[0]


@needs_specs
@pytest.mark.parametrize("start", SECTIONS)
def test_every_flag_of_tensorflow_deeplab_is_there(start: str) -> None:
    end = f"{start[:-1]}{int(start[-1]) + 1}"
    names = names_of_tensorflow(start, end)
    assert len(names) > 6
    assert names - theirs(page_section(SECTIONS[start])) == set()


@needs_specs
def test_every_field_of_deeplab2_is_there() -> None:
    names = names_of_deeplab2()
    assert len(names) > 130
    assert names - theirs(page_section("## deeplab2")) == set()


@needs_specs
def test_every_key_of_semseg_is_there() -> None:
    names = names_of_semseg()
    assert len(names) > 55
    assert names - theirs(page_section("## semseg")) == set()


@needs_specs
def test_nothing_is_there_that_the_originals_have_not() -> None:
    """A name that nobody has is a slip of the pen."""
    tensorflow = {
        name for start in SECTIONS for name in names_of_tensorflow(start, f"{start[:-1]}{int(start[-1]) + 1}")
    }
    assert theirs(page_section("## TensorFlow DeepLab")) - tensorflow == set()
    assert theirs(page_section("## deeplab2")) - names_of_deeplab2() == set()
    assert theirs(page_section("## semseg")) - names_of_semseg() == set()


SETTING = r"(?:model|data|augment|loss|optim|train|evaluate|decode)(?:\.\w+)+"
SPANS = re.findall(r"`([^`\n]+)`", PAGE.read_text(encoding="utf-8"))
SETTINGS = sorted({span for span in SPANS if re.match(rf"{SETTING}(=|$)", span) and "..." not in span})


@cache
def context(number: int) -> Config:
    recipe, *overrides = CONTEXTS[number]
    return configs.load(recipe, overrides)


def is_accepted(setting: str, number: int) -> bool:
    try:
        configs.override(context(number), [setting], "a context")
    except ConfigError:
        return False
    return True


@pytest.mark.parametrize("span", SETTINGS)
def test_every_setting_that_is_named_takes_the_value_that_is_shown(span: str) -> None:
    if "=" in span:
        assert any(is_accepted(span, number) for number in range(len(CONTEXTS)))
    else:
        assert any(
            span in configs.known_keys(configs.to_tree(context(number))) or "cell" in span for number in (0, 1, 3)
        )


def test_the_words_of_the_originals_that_are_answered_mean_what_the_page_says() -> None:
    """A row's first setting is in the answer to its flag, as far as there is an answer."""
    answered = 0
    for one, ours, _ in rows(PAGE.read_text(encoding="utf-8")):
        for name in re.findall(rf"`({NAME})`", one):
            answer, settings = other_words.meaning(name), re.findall(rf"`({SETTING})=", ours)
            if answer and settings and name not in AMBIGUOUS:
                assert any(setting in answer for setting in settings), (name, answer, settings)
                answered += 1
    assert answered > 80


def test_settings_that_are_not_there_are_not_accepted() -> None:
    for span in ("train.stepps=3", "train.steps=many", "augment.crop=513", "model.name=deeplab", "loss.hard_pixels=20"):
        assert not any(is_accepted(span, number) for number in range(len(CONTEXTS)))


def test_every_option_that_is_named_exists() -> None:
    commands = typer.main.get_group(app).commands.values()
    options = {name for command in commands for parameter in command.params for name in parameter.opts}
    named = {span.partition("=")[0].partition(" ")[0] for span in SPANS if span.startswith("--")}
    assert len(named) > 8
    assert named - options - {"--nnodes", "--rdzv-endpoint"} == set()  # torchrun's


def test_each_row_names_ours_or_says_why_there_is_none() -> None:
    for one, ours, difference in rows(PAGE.read_text(encoding="utf-8")):
        spans = re.findall(r"`([^`]+)`", ours)
        assert all(re.match(rf"{SETTING}=|--", span) for span in spans), one
        assert spans or (ours == "–" and len(difference.split()) > 2), one  # noqa: RUF001 - as the page has it
        assert difference, one
