"""Every setting has a line that says what it does, for the terminal, the schema and docs/settings.md."""

import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field, PositiveFloat, TypeAdapter

from atrous import cli, config, config_kinds, reference
from atrous.config import Config
from atrous.errors import ConfigError
from atrous.settings import MAX_COUNT, Settings, members
from atrous.tasks import TASKS

PAGE = Path(__file__).parents[1] / "docs" / "settings.md"


def settings_below(kind: type[Settings]) -> set[type[Settings]]:
    """The class and all others that its fields hold, found without `reference`."""
    inner = {part for field in kind.model_fields.values() for part in members(field.annotation)}
    classes = {part for part in inner if isinstance(part, type) and issubclass(part, Settings)}
    return {kind}.union(*(settings_below(part) for part in classes))


def reachable() -> list[type[Settings]]:
    tasks = (kind for task in TASKS for kind in config_kinds.kinds_of_task(task).values())
    tops: list[type[Settings]] = [Config, *tasks]
    kinds = {kind for top in tops for kind in settings_below(top)} - {Settings}
    return sorted(kinds, key=lambda kind: (kind.__module__, kind.__qualname__))


def words_of(text: str) -> set[str]:
    return set(re.findall(r"[a-z]+", text.lower()))


def faults(name: str, text: str) -> list[str]:
    """What is wrong with a description."""
    rules = {
        "longer than a line": len(text) > 105 or "\n" in text,
        "no sentence": not text.endswith(".") or text.endswith("..") or len(text.split()) < 2,
        "says no more than the name": len(words_of(text) - words_of(name) - {"the", "a", "of", "for", "is"}) < 2,
        "a placeholder": bool(re.search(r"\b(TODO|FIXME|XXX|setting|parameter|description)\b", text, re.IGNORECASE)),
    }
    return [rule for rule, is_broken in rules.items() if is_broken]


@pytest.mark.parametrize("kind", reachable(), ids=lambda kind: f"{kind.__module__}.{kind.__qualname__}")
def test_every_setting_says_what_it_does(kind: type[Settings]) -> None:
    texts = kind.descriptions()
    assert texts.keys() == kind.model_fields.keys()
    assert {name: faults(name, text) for name, text in texts.items() if faults(name, text)} == {}


def test_the_walk_and_the_rules_are_no_sham() -> None:
    assert len(reachable()) > 40
    assert {kind for kinds in reference.sections().values() for kind in kinds} | {Config} == set(reachable())
    for text in ("", "Steps.", "The number of steps", "TODO write this down now.", "x " * 60 + ".", "Train steps."):
        assert faults("train_steps", text), text
    assert not faults("steps", "Updates of the weights in the whole training.")


class Base(Settings):
    first: int = 1
    """The first of all."""
    second: int = 2
    """The second of all."""


class Narrow(Base):
    first: Literal[1] = 1
    second: int = 3  # a comment
    """Another second."""
    third: int = 3


def test_a_field_that_is_only_narrowed_keeps_the_description_of_its_base() -> None:
    assert Narrow.descriptions() == {"first": "The first of all.", "second": "Another second."}
    properties = Narrow.model_json_schema()["properties"]
    assert properties["first"]["description"] == "The first of all."
    assert "description" not in properties["third"]


def test_the_schema_has_every_description() -> None:
    tree = config.schema()
    sections = [
        *tree["$defs"].values(),
        *(part for name in ("loss", "decode") for part in tree["properties"][name]["anyOf"]),
    ]
    fields = [(name, field) for part in [tree, *sections] for name, field in part.get("properties", {}).items()]
    assert len(fields) > 250
    assert [name for name, field in fields if not field.get("description") and name not in ("loss", "decode")] == []


def test_the_page_is_that_of_the_fields() -> None:
    assert PAGE.read_text(encoding="utf-8") == reference.page(), "python -m atrous.reference > docs/settings.md"


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        (bool, "true or false"),
        (bool | None, "true, false or none"),
        (Literal[8, 16, 32], "8, 16 or 32"),
        (Literal["sgd"], "sgd"),
        (Annotated[int, Field(gt=0, le=16)], "whole number, 1..16"),
        (Annotated[int, Field(ge=1, le=MAX_COUNT)], "whole number, at least 1"),
        (int, "whole number"),
        (PositiveFloat, "number, above 0"),
        (Annotated[float, Field(ge=0, lt=1)], "number, at least 0, below 1"),
        (Annotated[float, Field(gt=0, le=8)] | None, "number, above 0, up to 8 or none"),
        (tuple[float, float], "2 numbers"),
        (tuple[int, str], "[whole number, text]"),
        (tuple[str, ...], "list of texts"),
        (dict[str, float], "mapping to numbers"),
        (Path, "path"),
    ],
)
def test_values_are_in_words(annotation: Any, words: str) -> None:  # noqa: ANN401
    assert reference._values(TypeAdapter(annotation).json_schema()) == words


def test_a_section_a_kind_or_one_setting_is_shown() -> None:
    assert list(reference.lines("train.steps")) == [
        "train.steps=30000  (whole number, at least 1)",
        "    Updates of the weights in the whole training.",
        "",
    ]
    backbones = "\n".join(reference.lines("model.backbone"))
    assert "model.backbone, of mobilenet_v2:\nmodel.backbone." in backbones
    assert "\nmodel.backbone.depth_multiplier=1  (number, above 0, up to 8)" in backbones
    assert "model.backbone=" not in backbones
    pspnet = list(reference.lines("pspnet"))
    assert pspnet[0] == "model, of pspnet:"
    assert "model.bins=[1, 2, 3, 6]  (list of whole numbers, 1..1024)" in pspnet
    assert "model.backbone=resnet50s  (see model.backbone)" in pspnet
    assert next(iter(reference.lines("decode"))) == "decode, of panoptic:"  # other tasks have no such settings
    assert next(iter(reference.lines("data"))).startswith("data.format  (ade20k, camvid, ")


def test_without_a_name_all_are_shown() -> None:
    everything = "\n".join(reference.lines())
    for key in (
        "optim.lr=0.007",
        "augment.crop=[513, 513]",
        "model.aspp.channels=256",
        "data.root=none",
        "loss.labels=image",
    ):
        assert f"\n{key}  (" in everything


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("optm", "did you mean optim?"),
        ("model.backbon", "did you mean model.backbone?"),
        ("train.stepz", "did you mean train.steps?"),
        ("pspnett", "did you mean pspnet?"),
        ("zzz", "sections: model, data, augment, loss, optim, train, evaluate, decode"),
    ],
)
def test_an_unknown_section_is_answered_with_the_nearest(name: str, hint: str) -> None:
    with pytest.raises(ConfigError, match=f"^--settings {name}: no section, kind of section or setting") as error:
        list(reference.lines(name))
    assert hint in str(error.value)


def test_the_verb_shows_settings(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["recipes", "--settings", "optim"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("optim.name=sgd  (sgd, adamw or adam)\n    The optimizer: ")
    assert cli.run(["recipes", "--settings", "optm"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_recipe_in_utf_16_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.yaml").write_bytes("train: {steps: 5}\n".encode("utf-16"))
    assert cli.run(["recipes", str(tmp_path / "mine.yaml")]) == 0
    assert capsys.readouterr().out == "train: {steps: 5}\n"


def test_the_schema_is_json(tmp_path: Path) -> None:
    assert cli.run(["recipes", "--schema", str(tmp_path / "schema.json")]) == 0
    tree = json.loads((tmp_path / "schema.json").read_text())
    assert tree["$defs"]["TrainConfig"]["properties"]["steps"]["description"].startswith("Updates of the weights")
