"""What decides an allocation or a loop is bounded: a header or recipe of others is refused in one line, at once."""

import copy
import json
import random
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from atrous import config as configs
from atrous import model_file, models
from atrous.config import Config
from atrous.data import FORMATS
from atrous.data.label_space import LabelSpace
from atrous.errors import AtrousError, ConfigError, ModelFileError
from atrous.model_file import Header
from atrous.models import MODELS
from atrous.tasks import TASKS
from tests.conftest import tiny_config

SPACE = LabelSpace(names=("a", "b", "c"), colors=((1, 2, 3),) * 3, things=(1,), raw_ids=((3, 0), (4, 255)))
pytestmark = pytest.mark.timeout(60)  # of each test: what is refused takes milliseconds, and once took minutes

# ---- the fields themselves

UNBOUNDED = {  # field: where it is checked instead
    "ignore",  # named_space, which knows what label files hold
    "input",  # of a branch: the cell, whose earlier branches it must be one of
}


def kinds() -> list[Any]:
    sections = [kind for task in TASKS.values() for kind in (task.loss, task.decoding)]
    return [Header, Config, *sections, *(layout.config for layout in FORMATS.values())]


def holes(schema: Any, field: str = "") -> Iterator[str]:  # noqa: ANN401 - JSON
    """Fields whose numbers or lists may be of any size."""
    if isinstance(schema, list):
        for part in schema:
            yield from holes(part, field)
    if not isinstance(schema, dict):
        return
    limits = {"integer": {"maximum", "exclusiveMaximum", "enum", "const"}, "array": {"maxItems"}}
    limit = limits.get(schema["type"], set()) if isinstance(schema.get("type"), str) else set()
    if limit and not limit & schema.keys() and field not in UNBOUNDED:
        yield field
    for name, part in schema.items():
        inside = part.items() if name in ("properties", "$defs") and isinstance(part, dict) else [(field, part)]
        for inner, value in inside:
            if name not in ("default", "enum", "examples"):
                yield from holes(value, inner)


def test_every_whole_number_and_every_list_has_a_limit() -> None:
    assert len(kinds()) > 10
    for kind in kinds():
        assert list(holes(kind.model_json_schema())) == [], kind


def test_a_limit_that_is_missing_is_noticed() -> None:
    schema = {"properties": {"a": {"type": "integer"}, "b": {"anyOf": [{"type": "array"}]}, "c": {"maximum": 1}}}
    assert list(holes(schema)) == ["a", "b"]


# ---- headers


def header_of(name: str) -> dict[str, Any]:
    results = {"miou": 1.0, "scores": {"a": 1}}
    header = Header(
        model=MODELS[name].Config.model_validate({}),
        label_space=SPACE,
        training=tiny_config(),
        results=results,
        origin={"source": "here"},
    )
    return {section: json.loads(text) for section, text in header.to_metadata().items()}


def parse(tree: dict[str, Any], number: str = model_file.FORMAT) -> Header:
    """Also builds the network, as opening the file does, without memory for its weights."""
    metadata = {"atrous_format": number, **{name: json.dumps(part) for name, part in tree.items()}, "checksum": ""}
    metadata["header_checksum"] = model_file.header_checksum(metadata)
    header = model_file.parse(metadata, Path("f.safetensors"))
    with torch.device("meta"):
        models.build(header.model, header.num_classes)
    return header


def changed(tree: Any, place: tuple[Any, ...], value: Any) -> Any:  # noqa: ANN401 - JSON
    if not place:
        return value
    tree = copy.copy(tree)
    tree[place[0]] = changed(tree[place[0]], place[1:], value)
    return tree


HOLES: list[tuple[str, Any, str]] = [
    ("model", [], "model is a list, not a mapping"),
    ("model", 5, "model is a number, not a mapping"),
    ("model.name", 255, "model.name=255: unknown model"),
    ("model.backbone", [1], "model.backbone"),
    ("model.backbone.name", "x" * 10**6, "unknown backbone"),
    ("model.backbone.multi_grid", [1] * 10**5, "model.backbone.multi_grid"),
    ("model.aspp.rates", [1] * 10**5, "model.aspp.rates"),
    ("model.aspp.rates", [10**9], "model.aspp.rates.0=1000000000: must be at most 1024"),
    ("model.aspp.channels", 10**9, "model.aspp.channels=1000000000: must be at most 16384"),
    ("model.decoder.strides", [4] * 10**5, "model.decoder.strides"),
    ("model.image_pyramid", [1.0] * 1000, "model.image_pyramid"),
    ("model.image_pyramid", [1e9], "must be at most 16"),
    ("model.num_classes", 10**9, "model.num_classes=1000000000: must be at most 65536"),
    ("label_space.names", [f"class {index}" for index in range(20_000)], "20000 class names but 3 colors"),
    ("label_space.names", ["a"] * 20_000, "class names must differ, but a is repeated"),
    ("label_space.names", list(range(20_000)), "label_space.names.0=0: must be text"),
    ("label_space.names", ["a", "b", ""], "a class has no name, only ''"),
    ("label_space.names", ["a", "b", " \t"], r"a class has no name, only ' \t'"),
    ("label_space.names", ["a", "b", "\x1b[31mred"], r"the name '\x1b[31mred' has a control character"),
    ("label_space.names", ["a", "b", "c\nd"], r"the name 'c\nd' has a control character"),
    ("label_space.names", ["a", "b", "\ud800"], r"\ud800, which is not text in UTF-8"),
    ("label_space.names", ["a", "b", "c" * 201], "must have at most 200 characters"),
    ("label_space.colors", [[0, 0, 256]] * 3, "label_space.colors.0.2=256: must be at most 255"),
    ("label_space.colors", [[-1, 0, 0]] * 3, "label_space.colors.0.0=-1: must be at least 0"),
    ("label_space.colors", [[0, 0]] * 3, "label_space.colors.0"),
    ("label_space.things", [-1], "label_space.things.0=-1: must be at least 0"),
    ("label_space.things", [3], "things: no class 3; there are 3"),
    ("label_space.things", [1, 1], "things must differ, but 1 is repeated"),
    ("label_space.ignore", 10**9, "label_space.ignore=1000000000: must be at most 65535"),
    ("label_space.panoptic_divisor", 0, "label_space.panoptic_divisor=0: must be at least 1"),
    ("label_space.raw_ids", [[-1, 0]], "label_space.raw_ids.0.0=-1: must be at least 0"),
    ("label_space.raw_ids", [[1, 0], [1, 1]], "raw_ids must differ, but 1 is repeated"),
    ("label_space.raw_ids", [[1, 9]], "raw_ids: no class 9; there are 3"),
    ("label_space.raw_ids", [[10**9, 0]], "must be at most 65535"),
    ("inference.window", [10**9, 10**9], "inference.window.0=1000000000: must be at most 32768"),
    ("inference.base_size", 10**9, "inference.base_size=1000000000: must be at most 32768"),
    ("inference.scales", [1.0] * 1000, "inference.scales"),
    ("inference.scales", [1e9], "inference.scales.0=1000000000.0: must be at most 16"),
    ("inference.scales", "[" * 10**5, "inference.scales"),
    ("inference.overlap", 0.999999, "inference.overlap=0.999999: must be at most 0.95"),
    ("training.augment.crop", [10**9, 5], "training.augment.crop.0=1000000000: must be at most 32768"),
    ("training.model.name", -1, "training.model.name=-1: unknown model"),
    ("training.train.batch", 10**9, "training.train.batch=1000000000: must be at most 65536"),
    ("training.data.root", "a\0b", r"root is a\x00b, which is not text"),
    ("results", [1], "results is a list, not a mapping"),
    ("results", 5, "results is a number, not a mapping"),
    ("origin", None, "origin is nothing, not a mapping"),
    ("decode", {"x" * 10**5: 1}, "decode"),
]


@pytest.mark.parametrize(("place", "value", "reason"), HOLES, ids=range(len(HOLES)))
def test_a_hole_in_a_header_is_refused_at_once(place: str, value: Any, reason: str) -> None:  # noqa: ANN401
    tree = header_of("deeplab_v3plus")
    parse(tree)
    with pytest.raises(ModelFileError) as error:
        parse(changed(tree, tuple(place.split(".")), value))
    assert reason in str(error.value)
    assert str(error.value).startswith("f.safetensors: ")
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 800


def test_thousands_of_classes_are_a_label_space_at_once() -> None:
    space = LabelSpace(names=tuple(f"class {index}" for index in range(20_000)))
    assert space.palette().shape == (20_000, 3)


# ---- mutations

VALUES: list[Any] = [
    *(None, True, -1, 0, 1, 2.5, 255, 10**9, 10**30, 1e308, float("nan"), "", "a", "\0", "\ud800", "[[[[", "[1,2]"),
    *("x" * 1000, "9" * 5000, [], [[]], {}, {"a": 1}, {"name": "x"}, {"name": None}, {"": {}}, ["a", "a"], [None]),
    *([1] * 20_000, [0.5] * 1000, [[1, 2, 3]] * 300, [[300, -1, 0]], [10**9] * 3, "{a: {a: {a: {}}}}"),
]  # fmt: skip


def places(tree: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:  # noqa: ANN401 - JSON
    inside = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in inside:
        yield (*above, key)
        yield from places(value, (*above, key))


def mutations(tree: Any, rng: random.Random) -> Any:  # noqa: ANN401 - JSON
    """The tree with one to three of its values, or of its whole sections, replaced."""
    for _ in range(rng.choice((1, 1, 2, 3))):
        tree = changed(tree, rng.choice(list(places(tree))), rng.choice(VALUES))
    return tree


def flat(tree: dict[str, Any]) -> dict[str, Any]:
    """A header of format 1."""
    model = {"name": "deeplab_v3plus", "backbone": "mobilenet_v2", "depth_multiplier": 1.0, "rates": [6, 12, 18]}
    loss = {"auxiliary": 0.4, "cascade": [0.1, 0.2], "presence": 0.1}
    training = {**tree["training"], "model": model, "loss": loss}
    return {**tree, "model": model, "training": training, "results": {"converted": {"a": 1}}}


@pytest.mark.parametrize("name", ["flat", *sorted(MODELS.keys() - {"image_classifier"})])
def test_only_errors_in_one_line_come_out_of_a_mutated_header(name: str) -> None:
    rng, number = random.Random(name), "1" if name == "flat" else "2"
    whole = flat(header_of("deeplab_v3plus")) if name == "flat" else header_of(name)
    for _ in range(30):
        tree = mutations(whole, rng)
        try:
            with warnings.catch_warnings(action="ignore"):
                parse(tree, number).to_metadata()
        except AtrousError as error:
            assert str(error).isprintable(), tree
            assert len(str(error)) < 800


def test_only_errors_in_one_line_come_out_of_a_mutated_recipe() -> None:
    rng, whole = random.Random(0), configs.to_tree(tiny_config())
    for _ in range(150):
        tree = mutations(whole, rng)
        try:
            configs.to_yaml(configs.check(tree, source="mine.yaml"))
        except ConfigError as error:
            assert str(error).isprintable(), tree
            assert len(str(error)) < 800
