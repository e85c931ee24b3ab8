"""Parts of a mix: read by their own layouts, refused with what would be right."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import atrous.data
from atrous.data import mix
from atrous.data.inventory import inventory
from atrous.data.overlap import shared_images
from atrous.errors import AtrousError, AtrousWarning, ConfigError
from tests.data.conftest import complaint, names, save, semantic, write, write_folder


def write_parts(root: Path) -> dict[str, Any]:
    """The same classes in another order and with another name."""
    write_folder(root / "a")
    for split in ("train", "val"):
        save(root / "b" / "images" / split / "x.png", np.zeros((4, 6, 3), np.uint8))
        save(root / "b" / "masks" / split / "x.png", np.eye(4, 6, dtype=np.uint8) * 2)
    write(root / "b" / "classes.yaml", "names: [man, woman, ground]\n")
    return {
        "a": {"format": "folder", "root": str(root / "a")},
        "b": {"format": "folder", "root": str(root / "b"), "map": {"person": ["man", "woman"], "background": "ground"}},
    }


def test_classes_are_those_of_the_first_part(tmp_path: Path) -> None:
    config = mix.Config(parts=write_parts(tmp_path))
    assert atrous.data.label_space(config).names == ("background", "person")
    samples = atrous.data.samples(config, "train", needs=("semantic",))
    assert [sample.name for sample in samples] == ["a/a", "b/x"]
    assert semantic(samples[0])[0].tolist() == [1, 0, 0, 0, 0, 0]
    assert semantic(samples[1])[0].tolist() == [0, 1, 1, 1, 1, 1]
    renamed = config.model_copy(update={"names": ("ground", "human")})
    assert atrous.data.label_space(renamed).names == ("ground", "human")


def test_files_of_all_parts_are_known(tmp_path: Path) -> None:
    config = mix.Config(parts=write_parts(tmp_path))
    train, val = (atrous.data.samples(config, split) for split in ("train", "val"))
    assert list(inventory(train)) == ["a/a", "b/x"]
    assert shared_images(train, val) == ["a/a", "b/x"]


def test_validation_may_be_on_some_parts(tmp_path: Path) -> None:
    parts = write_parts(tmp_path)
    config = mix.Config(parts=parts, validate_on=("b",))
    assert names(config, "val") == ["b/x"]
    assert names(config, "train") == ["a/a", "b/x"]
    unknown = mix.Config(parts=parts, validate_on=("c",))
    assert complaint(unknown, error=ConfigError) == "data.validate_on: no part 'c'; parts are a, b"


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (
            {"b": {"root": "B", "format": "folder"}},
            "data.parts.b: its classes are not those of a: it lacks background, person and has man",
        ),
        ({"b": {"root": "B", "format": "vco"}}, "data.parts.b.format=vco: expected one of ade20k, camvid"),
        ({"b": {"root": "B", "format": "mix"}}, "data.parts.b.format=mix: expected one of"),
        (
            {"b": {"root": "B", "format": "folder", "nmaes": []}},
            "data.parts.b.nmaes: data.format=folder has no such setting; did you mean names?",
        ),
        ({"b": {"root": "/absent"}}, "data.parts.b.root: no such folder: /absent"),
        ({"b": {}}, "data.parts.b.format=None: expected one of"),
        ({"b": {"weight": 0}}, "data.parts.b.weight: expected a number above 0, up to 1,000,000, got 0"),
        ({"b": {"weight": 1e300}}, "data.parts.b.weight: expected a number above 0, up to 1,000,000, got 1e+300"),
        ({"b": {"weight": True}}, "data.parts.b.weight: expected a number above 0"),
        ({"a": {"weight": 1}}, "data.parts.b.weight is missing: give all parts a weight, or none"),
    ],
)
def test_wrong_parts_are_refused(change: dict[str, dict[str, object]], text: str, tmp_path: Path) -> None:
    parts = write_parts(tmp_path)
    for name, settings in change.items():
        settings = {key: str(tmp_path / "b") if value == "B" else value for key, value in settings.items()}
        parts[name] = {**parts[name], **settings} if "weight" in settings else settings
    if "weight" in str(change) and "a" not in change:
        parts["a"]["weight"] = 1
    assert complaint(mix.Config(parts=parts), error=AtrousError).startswith(text)


def test_a_part_without_a_format_is_recognised(tmp_path: Path) -> None:
    parts = write_parts(tmp_path)
    del parts["b"]["format"]
    with pytest.warns(AtrousWarning, match=r"^data.parts.b: .*/b is data.format=folder; train: 1 images"):
        assert names(mix.Config(parts=parts)) == ["a/a", "b/x"]


def test_one_part_is_no_mix(tmp_path: Path) -> None:
    parts = {"a": write_parts(tmp_path)["a"]}
    assert complaint(mix.Config(parts=parts), error=ConfigError).startswith("data.parts: name two datasets or more")
